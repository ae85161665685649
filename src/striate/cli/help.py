"""The layout of help: no line is longer than the terminal, and no word, number or default is broken."""

from __future__ import annotations

import inspect
import os
import re
import textwrap
from collections.abc import Iterable
from typing import Any, Final

from typer.core import TyperArgument, TyperCommand, TyperGroup

from striate.variables import VARIABLES

#: A word of a command line, which quotes hold together, and with an option its value.
_QUOTED: Final = r"""(?:[^\s"']|"[^"]*"|'[^']*')+"""
_WORD: Final = re.compile(rf"--?[a-z][\w-]*\s+(?!-){_QUOTED}|{_QUOTED}")
#: A default stays on one line with its word if it isn't longer than this.
_DEFAULT: Final = re.compile(r"\[default: [^\]]{,24}\]\.?")
_KEPT: Final = "\N{NO-BREAK SPACE}"
#: Where the second column begins, at most.
_MARGIN: Final = 32


class _Laid:
    """Help whose usage, text and options are laid out by this file."""

    help: str | None

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        _write_usage(self, ctx, formatter)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)


class Command(_Laid, TyperCommand):
    """A command whose help shows its options under the headings that they name."""


class FileCommand(Command):
    """A command whose arguments are files, which may be called as options are: ``-1.jpg``, ``-h.png``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        files = [os.path.join(os.curdir, each) if each[:1] == "-" and os.path.lexists(each) else each for each in args]
        return super().parse_args(ctx, files)


class Commands(_Laid, TyperGroup):
    """The program's own help: its commands, each with what it does in full, and the environment variables."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        told = [(name, inspect.cleandoc(found.help or "").partition("\n\n")[0]) for name, found in commands if found]
        _write_list("Commands", told, formatter)
        _write_list("Environment variables", VARIABLES.items(), formatter)


def _write_usage(command: Any, ctx: Any, formatter: Any) -> None:
    pieces = ["[OPTIONS]"]
    for parameter in command.get_params(ctx):
        if isinstance(parameter, TyperArgument):
            name = _argument(parameter)
            pieces.append(name if parameter.required else f"[{name}]")
    if isinstance(command, TyperGroup):
        pieces += ["COMMAND", "[ARGUMENTS]..."]
    formatter.write_usage(ctx.command_path, " ".join(pieces))


def _argument(parameter: TyperArgument) -> str:
    several = "..." if parameter.nargs == -1 else ""
    return (parameter.metavar or (parameter.name or "").upper()).removesuffix(several) + several


def _write_text(text: str, formatter: Any) -> None:
    r"""Paragraphs, filled; those under ``\b`` line by line, and long commands as a shell goes on with them."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        formatter.write("\n")
        if paragraph.startswith("\b"):
            lines = [part for line in paragraph.splitlines()[1:] for part in _folded(line, formatter.width - 2)]
        else:
            lines = _filled(paragraph, formatter.width - 2)
        formatter.write("".join(f"  {line}\n" for line in lines))


def _folded(line: str, width: int) -> list[str]:
    r"""A command on several lines, if it must be, which end in ``\`` but for the last.

    >>> print("\n".join(_folded('run it --with "two words" --out here', 30)))
    run it --with "two words" \
        --out here
    """
    indent = " " * (len(line) - len(line.lstrip()))
    lines = [indent]
    for word in _WORD.findall(line):
        begun = lines[-1].strip()
        if begun and len(f"{lines[-1]} {word}") > width - 2 and len(line) > width:
            lines.append(f"{indent}    {word}")
        else:
            lines[-1] += f" {word}" if begun else word
    return [f"{each} \\" for each in lines[:-1]] + lines[-1:]


def _filled(text: str, width: int) -> list[str]:
    def kept(found: re.Match[str]) -> str:
        return found[0].replace(" ", _KEPT) if len(found[0]) <= width else found[0]

    text = _DEFAULT.sub(kept, " ".join(text.split()))
    # textwrap takes only ASCII's white space for a place to break.
    lines = textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
    return [line.replace(_KEPT, " ") for line in lines]


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        if isinstance(parameter, TyperArgument):
            sections.setdefault("Arguments", []).append((_argument(parameter), parameter.help or ""))
        elif (record := parameter.get_help_record(ctx)) is not None:
            sections.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(record)
    for heading, records in sections.items():
        _write_list(heading, records, formatter)


def _write_list(heading: str, rows: Iterable[tuple[str, str]], formatter: Any) -> None:
    rows = list(rows)
    margin = min(max(len(name) for name, _ in rows) + 4, _MARGIN)
    formatter.write(f"\n{heading}:\n")
    for name, text in rows:
        lines = _filled(text, formatter.width - margin) or [""]
        if len(name) + 4 > margin:
            formatter.write(f"  {name}\n")
        else:
            formatter.write(f"  {name:{margin - 2}}{lines.pop(0)}".rstrip() + "\n")
        formatter.write("".join(f"{'':{margin}}{line}\n" for line in lines))
