"""The default subject of a studio: the run of ``make demo``, or a LeNet-5 that is trained on the digits once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from striate.engine import cache
from striate.errors import RunError
from striate.studio.subject import Subject, find, of_run

#: The folder of the run of ``make demo``.
DEMO: Final = Path("runs") / "demo"
#: The name of the LeNet-5's run in the cache.
_KEPT: Final = "studio-lenet5-1"
_EPOCHS: Final = 6


def default_subject(say: Callable[[str], object] = lambda text: None) -> Subject:
    """The run of ``make demo`` if there is one; else LeNet-5 on the digits, from the cache, or trained now.

    Args:
        say: called with a message if a network has to be trained.
    """
    from striate.training.folder import is_finished

    if is_finished(DEMO):
        return find(str(DEMO))
    home = cache.folder()
    kept = None if home is None else home / _KEPT
    if kept is not None and is_finished(kept):
        try:
            return _named(find(str(kept)))
        except RunError:
            shutil.rmtree(kept, ignore_errors=True)  # from another version of striate
    say("training LeNet-5 on the digits, once; this takes some seconds")
    return _trained(kept)


def _trained(kept: Path | None) -> Subject:
    from striate.training import Recipe, fit

    folder = Path(tempfile.mkdtemp(prefix="striate-studio-"))
    try:
        run = fit(Recipe("lenet5", data="digits", out=str(folder / "lenet5"), epochs=_EPOCHS), quiet=True)
        if kept is not None and not kept.exists():
            try:
                kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copytree(run.path, kept.with_suffix(f".{folder.name}"))
                kept.with_suffix(f".{folder.name}").rename(kept)
                return _named(find(str(kept)))
            except OSError:
                pass  # the cache can't be written, or another process was faster
        return _named(of_run(run.path))
    finally:
        # The subject has the weights in memory; samples are read later from the data, not from this folder.
        shutil.rmtree(folder, ignore_errors=True)


def _named(subject: Subject) -> Subject:
    return replace(subject, weights="trained on the digits")
