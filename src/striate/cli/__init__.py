"""The command line: parse, call, print. The work of a command is done elsewhere, in modules imported when needed."""

from __future__ import annotations

import sys
from typing import NoReturn


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs ``striate ARGUMENTS`` (those of the process by default) and leaves with its exit code."""
    try:
        # In here, so that Ctrl-C ends the program as it does later on while this is still being read.
        from striate.cli.commands import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    run(arguments)


__all__ = ["main"]
