"""Figures that show texts literally: names aren't parsed as mathematics, and every character gets a suitable font."""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from matplotlib import font_manager, ft2font
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter, LogFormatterMathtext

from striate.report.text import printable

#: Fonts that have only a placeholder box for every character.
_BOXES: Final = ("last resort", "lastresort", "adobe blank", "adobenotdef")


class FontWarning(UserWarning):
    """No font on this machine has characters that a figure shows."""


@contextlib.contextmanager
def literal(figure: Figure) -> Iterator[None]:
    """A context in which a figure can be drawn with any texts.

    Matplotlib parses text between two dollar signs as mathematics; here it does so only for its own axis labels.
    Control characters and surrogates are escaped. Characters that the figure's fonts lack come from any installed font
    that has them; a FontWarning names those for which there is none, once.
    """
    # It says which weight of a font it took instead of another, for every font that is looked at.
    logger = logging.getLogger("matplotlib.font_manager")
    before = logger.disabled
    logger.disabled = True
    try:
        _spell(figure)
        _supply(figure)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
            yield
    finally:
        logger.disabled = before


def _spell(figure: Figure) -> None:
    """Sees to it that every text stands for itself and can be drawn."""
    for text in _texts(figure):
        text.set_parse_math(False)
        text.set_text("\n".join(map(printable, text.get_text().split("\n"))))
    for axes in _found(figure, Axes):
        for axis in (axes.xaxis, axes.yaxis):
            for minor in (False, True):
                formatter = axis.get_minor_formatter() if minor else axis.get_major_formatter()
                labels = axis.get_ticklabels(minor=minor)  # which makes them of what the formatter says
                if isinstance(formatter, FixedFormatter | FuncFormatter):
                    said = [label.get_text() for label in labels]
                    if (spelt := list(map(printable, said))) != said:
                        axis.set_ticks(axis.get_ticklocs(minor=minor), spelt, minor=minor)
                for label in labels:
                    label.set_parse_math(isinstance(formatter, LogFormatterMathtext))


def _supply(figure: Figure) -> None:
    """Gives each text that needs them further fonts, which matplotlib turns to for what the first one lacks."""
    lacking = {text: absent for text in _texts(figure) if (absent := _absent(text))}
    if not lacking:
        return
    families = _covering(frozenset().union(*lacking.values()))
    for text in lacking:
        text.set_fontfamily([*text.get_fontfamily(), *families])
    _tell(sorted(frozenset().union(*(_absent(text) for text in lacking))))


def _texts(figure: Figure) -> list[Text]:
    return _found(figure, Text)


def _found(figure: Figure, kind: type[Any]) -> list[Any]:
    found: list[Artist] = figure.findobj(kind)
    return found


def _absent(text: Text) -> frozenset[str]:
    """The characters of a text that none of its fonts has."""
    letters = frozenset(text.get_text())
    if all(letter <= "~" for letter in letters):
        return frozenset()
    properties: FontProperties = text.get_fontproperties()
    for family in properties.get_family():
        single = properties.copy()
        single.set_family(family)
        with contextlib.suppress(ValueError):  # no font of that name
            letters = _lacked(font_manager.findfont(single, fallback_to_default=False), letters)
    return frozenset(letter for letter in letters if not letter.isspace())


@functools.cache
def _covering(letters: frozenset[str]) -> tuple[str, ...]:
    """Few families of installed fonts that have as many of the characters as all of them have."""
    known = font_manager.fontManager
    listed = {entry.fname for entry in known.ttflist}
    for path in font_manager.findSystemFonts():  # one that was installed after matplotlib made its list
        if path not in listed:
            with contextlib.suppress(Exception):  # a broken file, which is no reason to show nothing
                known.addfont(path)
    families = {entry.name for entry in known.ttflist if not entry.name.lower().lstrip(".").startswith(_BOXES)}
    chosen: list[str] = []
    missing = {family: _lacked_by(family, letters) for family in sorted(families)}
    while letters and missing:
        best = min(missing, key=lambda family: len(missing[family] & letters))
        if missing[best] >= letters:
            break
        letters &= missing[best]
        chosen.append(best)
    return tuple(chosen)


def _lacked_by(family: str, letters: frozenset[str]) -> frozenset[str]:
    # The very file that matplotlib takes for the name.
    with contextlib.suppress(ValueError):
        return _lacked(font_manager.findfont(FontProperties(family=[family]), fallback_to_default=False), letters)
    return letters


@functools.lru_cache(maxsize=4096)
def _lacked(path: str | Path, letters: frozenset[str]) -> frozenset[str]:
    """Those that a font's file lacks, or has in a form that can't be drawn, as emoji made of pixels."""
    lacked = set(letters)
    # Fonts come from everywhere; one that can't be read has no characters.
    with contextlib.suppress(RuntimeError, OSError):
        font = ft2font.FT2Font(str(path))
        font.set_size(10, 100)
        for letter in letters:
            if font.get_char_index(ord(letter)):
                with contextlib.suppress(RuntimeError):
                    font.load_char(ord(letter))
                    lacked.discard(letter)
    return frozenset(lacked)


_told: set[str] = set()


def _tell(letters: list[str]) -> None:
    """Warns of characters that no font has; of each once."""
    new = [letter for letter in letters if letter not in _told]
    if not new:
        return
    _told.update(new)
    shown = " ".join(new[:12]) + (f" and {len(new) - 12} more" if len(new) > 12 else "")
    warnings.warn(
        f"no font here has {shown}, so figures show boxes for them; install a font that has, such as Noto Sans CJK for "
        "Chinese, Japanese and Korean, Noto Emoji for emoji, Noto Sans for others",
        FontWarning,
        stacklevel=6,
    )
