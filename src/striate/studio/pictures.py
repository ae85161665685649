"""Pictures from uploads and drawings, and moved pictures: shift, rotation, noise, a rectangle in front.

A moved picture needn't be stored: its id, for example ``p3~x2r30``, names its original and its moves. So addresses with
it can be shared, and views request it like any other picture.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
from torch import Tensor

from striate.analysis.robustness import disturbed
from striate.analysis.shifts import shifted
from striate.data import load_image
from striate.errors import DataError, StudioError, readable
from striate.studio.samples import reduced
from striate.studio.subject import Subject
from striate.studio.workspace import MARK, Picture

#: The limits of an uploaded picture.
MOST_BYTES: Final = 24 << 20
MOST_PIXELS: Final = 50_000_000
_MOST_SIDE: Final = 512


class _Sent(io.BytesIO):
    """An uploaded file, with the name that messages use."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._said = name

    def __str__(self) -> str:
        return self._said


def uploaded(content: bytes, name: str, subject: Subject, id: str) -> Picture:
    """The picture in an uploaded file, rotated upright by its EXIF orientation.

    Raises:
        DataError: the file isn't a picture, is damaged, or has too many pixels.
        StudioError: the network's input isn't a picture.
    """
    said = readable(name).strip()[:80] or "the file"
    if not content:
        raise DataError(said, "is empty", "needed an image file")
    channels = subject.preprocessing.channels if subject.preprocessing is not None else 3
    pixels = load_image(_Sent(content, said), channels=1 if channels == 1 else 3, max_pixels=MOST_PIXELS)
    return subject.picture(reduced(pixels), said, id=id, made="a file")


def drawn(content: bytes, channels: int, height: int, width: int, subject: Subject, id: str) -> Picture:
    """The picture of a drawing, given as bytes in the order (channel, row, column), 0 black and 255 white.

    Raises:
        DataError: the number of bytes doesn't match channels, height and width.
    """
    if channels not in (1, 3) or not (1 <= height <= _MOST_SIDE and 1 <= width <= _MOST_SIDE):
        raise DataError("drawing", f"got {channels}x{height}x{width}", f"needed 1 or 3 channels, {_MOST_SIDE} pixels")
    if len(content) != channels * height * width:
        raise DataError("drawing", f"got {len(content)} bytes", f"needed {channels * height * width}")
    pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(channels, height, width)
    return subject.picture(pixels, "a drawing", id=id, made="drawn")


# ------------------------------------------------------------------------------------------------------------ moves


@dataclass(frozen=True)
class Moves:
    """Changes of a picture at the network's size, applied in this order.

    Args:
        turn: degrees, counter-clockwise, about the middle; linear interpolation, filled with black.
        across, down: pixels, to larger positions; filled with black. Whole numbers are exact.
        noise: standard deviation of Gaussian noise for pixels from 0 to 1; results are clamped to this range.
        seed: seed of the noise.
        cover: (top, left, height, width) of a black rectangle; all 0 for none.

    Raises:
        StudioError: a number is out of range.

    >>> str(Moves(across=2, down=-3, turn=30))
    'r30x2y-3'
    >>> Moves.parse("r30x2y-3") == Moves(across=2, down=-3, turn=30)
    True
    """

    turn: float = 0.0
    across: float = 0.0
    down: float = 0.0
    noise: float = 0.0
    seed: int = 0
    cover: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        for name, most in (("turn", 360), ("across", _MOST_SIDE), ("down", _MOST_SIDE)):
            if not -most <= getattr(self, name) <= most:
                raise StudioError(name, f"got {getattr(self, name)}", f"needed -{most} to {most}")
        if not 0 <= self.noise <= 2:
            raise StudioError("noise", f"got {self.noise}", "needed 0 to 2")
        if not 0 <= self.seed < 1_000_000:
            raise StudioError("seed", f"got {self.seed}", "needed 0 to 999,999")
        if any(not 0 <= each <= 8 * _MOST_SIDE for each in self.cover):
            raise StudioError("cover", f"got {self.cover}", f"needed top, left, height, width up to {8 * _MOST_SIDE}")

    @classmethod
    def parse(cls, text: str) -> Moves:
        """The moves that ``str`` wrote.

        Raises:
            StudioError: the text doesn't describe moves.
        """
        found = _WRITTEN.fullmatch(text[:120])
        if found is None or len(text) > 120:
            raise StudioError("picture", f"got the moves {text[:40]!r}", "needed such as r30x2y-3n0.1s0c4.4.8.8")
        given: dict[str, Any] = {}
        for name, value in found.groupdict().items():
            if value is None:
                continue
            if name == "cover":
                top, left, height, width = (int(each) for each in value.split("."))
                given[name] = (top, left, height, width)
            else:
                given[name] = int(value) if name == "seed" else float(value)
        return cls(**given)

    def __str__(self) -> str:
        parts = [
            f"{letter}{getattr(self, name):g}"
            for letter, name in (("r", "turn"), ("x", "across"), ("y", "down"), ("n", "noise"))
            if getattr(self, name)
        ]
        parts += [f"s{self.seed}"] * bool(self.noise and self.seed)
        parts += ["c" + ".".join(map(str, self.cover))] * bool(self.cover[2] and self.cover[3])
        return "".join(parts)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Moves pixels, uint8 (C, H, W)."""
        if not str(self):
            return pixels
        images = self.along(pixels[None].float() / 255, (1, 1))
        if self.noise:
            images = disturbed(images, "noise", self.noise, self.seed)
        made = (images * 255).round().clamp(0, 255).to(torch.uint8)[0]
        top, left, height, width = self.cover
        made[:, top : top + height, left : left + width] = 0
        return made

    def along(self, maps: Tensor, strides: tuple[float, float]) -> Tensor:
        """Turns and shifts maps (N, C, H, W) like the picture; ``strides`` (y, x) are the pixels between positions.

        The result is that of an equivariant layer for the moved picture.
        """
        if self.turn:
            maps = disturbed(maps, "rotation", self.turn)
        return shifted(maps, (_short(self.down / strides[0]), _short(self.across / strides[1])))

    @property
    def imports(self) -> list[str]:
        """The import lines that :meth:`lines` and :meth:`lines_along` need."""
        return ["import torch"] + [
            f"from {module} import {name}"
            for module, name, needed in (
                ("striate.analysis.robustness", "disturbed", self.turn or self.noise),
                ("striate.analysis.shifts", "shifted", self.down or self.across),
            )
            if needed
        ]

    @property
    def lines(self) -> list[str]:
        """Python code that moves ``pixels``, uint8 (C, H, W)."""
        lines = ["images = pixels[None].float() / 255", *self._along("images", self.down, self.across)]
        if self.noise:
            lines.append(f'images = disturbed(images, "noise", {self.noise:g}, seed={self.seed})')
        lines.append("pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)[0]")
        top, left, height, width = self.cover
        if height and width:
            lines.append(f"pixels[:, {top} : {top + height}, {left} : {left + width}] = 0")
        return lines

    def lines_along(self, name: str, strides: tuple[float, float]) -> list[str]:
        """Python code that moves maps, a variable (N, C, h, w), like the picture."""
        return self._along(name, self.down / strides[0], self.across / strides[1])

    def _along(self, name: str, down: float, across: float) -> list[str]:
        lines = [f'{name} = disturbed({name}, "rotation", {self.turn:g})'] if self.turn else []
        return lines + ([f"{name} = shifted({name}, ({_short(down)!r}, {_short(across)!r}))"] if down or across else [])


def _short(value: float) -> float:
    """Converts a float without a fraction to an integer, so that shifting by it stays exact."""
    return int(value) if value == int(value) else value


_FLOAT: Final = r"-?[0-9]{1,4}(?:\.[0-9]{1,4})?"
_WRITTEN: Final = re.compile(
    rf"(?:r(?P<turn>{_FLOAT}))?(?:x(?P<across>{_FLOAT}))?(?:y(?P<down>{_FLOAT}))?(?:n(?P<noise>{_FLOAT}))?"
    r"(?:s(?P<seed>[0-9]{1,6}))?(?:c(?P<cover>[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}))?",
    re.ASCII,
)


def moved(picture: Picture, moves: Moves, subject: Subject) -> Picture:
    """A moved picture, whose id contains the moves.

    Raises:
        StudioError: the input isn't a picture.
    """
    if picture.pixels is None or subject.preprocessing is None:
        raise StudioError(picture.name, "is no picture that can be moved", "needed one with pixels")
    if not str(moves):
        return picture
    id = f"{picture.id}{MARK}{moves}"
    made = subject.fitted(moves(picture.pixels), f"{picture.name}, moved", id=id, label=picture.label)
    told = {field.name: getattr(moves, field.name) for field in fields(moves)} | {"of": picture.id}
    begin, _, last = picture.code.rpartition("inputs = ")
    code = made.code
    if last.endswith(".inputs") and subject.found:
        moving = f"moved({last.removesuffix('.inputs')}, Moves.parse({str(moves)!r}), {subject.found})"
        code = f"from striate.studio.pictures import Moves, moved\n{begin}inputs = {moving}.inputs"
    return replace(made, made=told, code=code)


def pixels_code(picture: Picture) -> str:
    """Python code that creates ``pixels``, uint8 (C, H, W), a picture at the network's size."""
    begin, _, last = picture.code.rpartition("inputs = ")
    if last.endswith(".inputs"):
        return f"{begin}pixels = {last.removesuffix('.inputs')}.pixels"
    return "pixels = ...  # uint8 (C, H, W), the picture as the network sees it"


def preprocessing_code(subject: Subject) -> str:
    """Python code that creates ``preprocessing``, which converts pictures to the network's input."""
    if not subject.found:
        return "preprocessing = ...  # the network's, a striate.data.Preprocessing"
    return f"from striate.studio.subject import find\n\npreprocessing = {subject.found}.preprocessing"
