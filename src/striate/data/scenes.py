"""Scenes of digits: synthetic annotated pictures in any number and size, so that nothing has to be downloaded.

A scene shows some of scikit-learn's 1,797 handwritten digits, at several sizes, rotated, coloured and overlapping, on
parts of scikit-learn's two photographs. A scene depends only on the seed, the part and the scene's number.

The annotations are exact, since they are computed from the drawing: a mask consists of the visible pixels of a digit, a
pixel belongs to a digit that covers at least half of it, and a box is the smallest around a mask. A digit that would be
less than half visible is placed elsewhere, since people couldn't read it either.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from striate.data.annotated import PARTS, AnnotatedSet, Sample
from striate.data.annotation import IGNORED, Annotation
from striate.data.digits import read_digits
from striate.data.found import Found
from striate.data.images import Identity, digest
from striate.data.moving import boxes_of
from striate.errors import DataError

#: Version of the drawing: scenes of another version are other pictures.
VERSION: Final = 1
#: Scenes of each part, unless others are asked for. An epoch of them takes a small network half a minute on two cores;
#: 300 of them have some 1,300 digits, which puts the standard error of a share of digits at about a point.
TRAIN, TEST = 2000, 300
#: Bytes of scenes that stay in memory once they are drawn: 10,000 of 128x128.
KEPT: Final = 1 << 30
USAGE: Final = "scenes[:SIZE[,TRAIN[,TEST]][,crowd][,ignore][,seed=N]]"
#: Sides of a digit's square, pixels, in a scene of 128x128; they grow with the root of the scene's area.
_SIDES: Final = (18, 48)
_SMALLEST: Final = 11  # pixels, whatever the scene's size: a smaller one can't be read
_TURN: Final = 25.0  # degrees either way: a 6 stays a 6
_SEEN: Final = 0.5  # share of a digit's pixels that stays visible
_TRIES: Final = 20  # places for a digit, until it is left out
_CONTRAST: Final = 70.0  # grey levels between a digit and what lies under it
_FINE: Final = 40  # digits are kept enlarged to so many pixels
_PLAIN: Final = 0.15  # share of scenes on one colour
_TRAIN_WIDTH: Final = 0.66  # share of the photographs' width that is for training; a strip of 2 % is for neither

_Pixels = NDArray[np.uint8]
_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """The appearance of scenes.

    Args:
        size: (H, W), pixels, at least 32.
        objects: fewest and most digits in a scene.
        crowds: share of scenes with a crowd: many small digits of a class, too many to be told apart, as one object
            with ``crowd`` set.
        ignored: share of scenes with an unlabelled region: :data:`~striate.data.IGNORED` in the class map, and no boxes
            for the scraps of digits in it.
        seed: of all random numbers.

    Raises:
        DataError: a size or numbers that scenes can't have.
    """

    size: tuple[int, int] = (128, 128)
    objects: tuple[int, int] = (1, 8)
    crowds: float = 0.0
    ignored: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.size) < 32:
            raise DataError("scenes", f"got size {self.size[0]}x{self.size[1]}", "needed 32x32 or more")
        low, high = self.objects
        if not 0 <= low <= high:
            raise DataError("scenes", f"got {low} to {high} objects", "needed 0 or more, the fewest first")
        if self.seed < 0:
            raise DataError("scenes", f"got seed {self.seed}", "needed 0 or more")


@dataclass(frozen=True)
class Scenes:
    """Samples of an :class:`~striate.data.annotated.AnnotatedSet` that are drawn on access.

    Args:
        look: their appearance.
        part: ``"train"`` or ``"test"``: which digits and which parts of the photographs.
        count: how many scenes.
        drawn: a cache of scenes, of up to :data:`KEPT` bytes.
    """

    look: Look
    part: str
    count: int
    drawn: dict[int, Drawn] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "drawn": {}}  # drawing in another process is faster than sending scenes to it

    def sample(self, index: int, holds: frozenset[str] = frozenset(PARTS)) -> Sample:
        drawn = self.drawn.get(index)
        if drawn is None:
            key = (VERSION, int(self.part == "test"), index)
            random = np.random.default_rng(np.random.SeedSequence(self.look.seed, spawn_key=key))
            drawn = _Drawing(self.look, self.part, random).finished()
            if (len(self.drawn) + 1) * drawn.bytes <= KEPT:
                self.drawn[index] = drawn
        return drawn.sample(holds)


@dataclass(frozen=True)
class Drawn:
    """A scene, stored compactly.

    Args:
        picture: uint8 (H, W, 3).
        owner: int16 (H, W), the number of the object that is visible at a pixel; -1 for the background, -2 where the
            class is unknown.
        labels: of the objects.
        crowd: whether they are crowds.
    """

    picture: _Pixels
    owner: NDArray[np.int16]
    labels: tuple[int, ...]
    crowd: tuple[bool, ...]

    @property
    def bytes(self) -> int:
        return self.picture.nbytes + self.owner.nbytes

    def sample(self, holds: frozenset[str]) -> Sample:
        owner = torch.from_numpy(self.owner)
        masks = owner == torch.arange(len(self.labels))[:, None, None]
        values = [IGNORED if crowd else label + 1 for label, crowd in zip(self.labels, self.crowd, strict=True)]
        class_map = torch.tensor([*values, IGNORED, 0], dtype=torch.uint8)[owner.long()] if "map" in holds else None
        truth = Annotation(
            self.size,
            boxes_of(masks),
            torch.tensor(self.labels, dtype=torch.int64),
            torch.tensor(self.crowd, dtype=torch.bool),
            masks if "masks" in holds else None,
            class_map,
        )
        return torch.from_numpy(self.picture).permute(2, 0, 1).contiguous(), truth

    @property
    def size(self) -> tuple[int, int]:
        return self.owner.shape[0], self.owner.shape[1]


def scenes(look: Look, part: str, count: int) -> AnnotatedSet:
    """``count`` scenes.

    Raises:
        DataError: no scenes.

    >>> scenes(Look(), "train", 3)
    AnnotatedSet(3 pictures with boxes, masks, map, 10 classes)
    """
    if count < 1:
        raise DataError("scenes", f"got {count} scenes", "needed 1 or more")
    known = tuple(
        Identity(f"{part}/{number}", digest(f"scene {VERSION} {look} {part} {number}".encode()))
        for number in range(count)
    )
    classes = tuple("0123456789")
    return AnnotatedSet(Scenes(look, part, count), classes, ("background", *classes), frozenset(PARTS), 3, known)


def read_scenes(options: str) -> Found:
    """The scenes that ``[SIZE[,TRAIN[,TEST]]]`` asks for, then any of ``crowd``, ``ignore`` (in every second scene) and
    ``seed=N``: ``"128,2000,300,crowd,seed=1"``, ``"96x160"``.

    Raises:
        DataError: anything else.
    """
    counts = {"train": TRAIN, "test": TEST}
    places, look = ["size", *counts], Look()
    for word in filter(None, options.split(",")):
        name, _, value = word.partition("=")
        if name in ("crowd", "ignore") and not value:
            look = replace(look, crowds=0.5) if name == "crowd" else replace(look, ignored=0.5)
        elif name == "seed" and value.isdecimal():
            look = replace(look, seed=int(value))
        elif places and places[0] == "size" and (sides := word.split("x")) and all(map(str.isdecimal, sides[:2])):
            look = replace(look, size=(int(sides[0]), int(sides[-1])))
            places.pop(0)
        elif places and places[0] in counts and word.isdecimal():
            counts[places.pop(0)] = int(word)
        else:
            raise DataError(f"scenes:{options}", f"got {word!r}", f"needed {USAGE}, as in 'scenes:128,2000,300'")
    return Found({part: scenes(look, part, count) for part, count in counts.items()})


class _Drawing:
    """A scene that is being drawn."""

    def __init__(self, look: Look, part: str, random: np.random.Generator) -> None:
        self.look, self.part, self.random = look, part, random
        self.picture = self._ground()
        self.owner = np.full(look.size, -1, dtype=np.int64)  # which object is seen at a pixel
        self.labels: list[int] = []
        self.crowd: list[bool] = []
        self.whole: list[int] = []  # pixels of each object if nothing lay over it
        self.unknown = np.zeros(look.size, dtype=bool)
        self.scale = math.sqrt(math.prod(look.size)) / 128

    def finished(self) -> Drawn:
        low, high = self.look.objects
        if self.random.random() < self.look.ignored:
            self._draw_unknown()
        if self.random.random() < self.look.crowds:
            self._draw_crowd()
        for _ in range(int(self.random.integers(low, high + 1))):
            self._draw_digit()
        self.owner[self.unknown & (self.owner < 0)] = -2
        picture = self.picture.round().clip(0, 255).astype(np.uint8)
        return Drawn(picture, self.owner.astype(np.int16), tuple(self.labels), tuple(self.crowd))

    def _ground(self) -> _Floats:
        """Part of a photograph, mirrored or not, lighter or darker; or one colour with a little noise."""
        rows, columns = self.look.size
        if self.random.random() < _PLAIN:
            colour = self.random.uniform(0, 255, 3)
            noise = self.random.normal(0, 6, (rows, columns, 1))
            return (colour + noise).clip(0, 255).astype(np.float32)
        photographs = _photographs(self.part)
        photograph = photographs[int(self.random.integers(len(photographs)))]
        height, width = photograph.shape[:2]
        # Both parts of a photograph use the same scales, although the part for testing is narrower.
        largest = min(
            each.shape[axis] / side for axis, side in enumerate((rows, columns)) for each in _photographs("test")
        )
        share = largest * self.random.uniform(0.4, 1.0)
        cut = (max(1, round(rows * share)), max(1, round(columns * share)))
        top, left = (
            int(self.random.integers(whole - part + 1)) for whole, part in zip((height, width), cut, strict=True)
        )
        part = Image.fromarray(photograph[top : top + cut[0], left : left + cut[1]])
        ground: _Floats = np.asarray(part.resize((columns, rows), Image.Resampling.BILINEAR)).astype(np.float32)
        if self.random.random() < 0.5:
            ground = ground[:, ::-1]
        contrast, light = self.random.uniform(0.5, 1.0), self.random.uniform(0.7, 1.2)
        mean = float(ground.mean())
        changed: _Floats = ((ground - mean) * np.float32(contrast) + np.float32(mean * light)).clip(0, 255)
        return changed

    def _draw_digit(self) -> None:
        low, high = (math.log(max(_SMALLEST, side * self.scale)) for side in _SIDES)
        side = math.exp(self.random.uniform(low, high))
        glyphs, labels = _glyphs(self.part)
        chosen = int(self.random.integers(len(labels)))
        cover = self._turned(glyphs[chosen], min(side, *self.look.size))
        for _ in range(_TRIES):
            place = self._place(cover.shape)
            if self._fits(cover, place):
                self._paint(cover, place, self._new(int(labels[chosen]), crowd=False), self._ink(place, cover))
                return

    def _draw_crowd(self) -> None:
        """A dozen and more small digits of one class, close together."""
        glyphs, labels = _glyphs(self.part)
        label = int(self.random.integers(10))
        (members,) = np.nonzero(labels == label)
        number, ink = self._new(label, crowd=True), None
        side = 11 * self.scale
        reach = [min(round(side * 3.2), length) for length in self.look.size]
        corner = self._place(tuple(reach))
        for _ in range(int(self.random.integers(12, 20))):
            cover = self._turned(glyphs[int(self.random.choice(members))], side)
            room = [max(1, length - taken + 1) for length, taken in zip(reach, cover.shape, strict=True)]
            place = tuple(
                slice(start + shift, start + shift + taken)
                for start, shift, taken in zip(
                    (each.start for each in corner), map(int, self.random.integers(room)), cover.shape, strict=True
                )
            )
            ink = self._ink(place, cover) if ink is None else ink
            self._paint(cover, place, number, ink)
        self.whole[number] = int((self.owner == number).sum())

    def _draw_unknown(self) -> None:
        """An ellipse with scraps of digits, half transparent."""
        glyphs, _ = _glyphs(self.part)
        height, width = (max(12, round(length * self.random.uniform(0.2, 0.4))) for length in self.look.size)
        rows, columns = self._place((height, width))
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        inside = (y**2 + x**2 <= 1).astype(np.float32)
        scraps = np.zeros((height, width), dtype=np.float32)
        for _ in range(8):
            side = max(4, min(round(20 * self.scale), height, width))
            scrap = self._turned(glyphs[int(self.random.integers(len(glyphs)))], side)[: side // 2 + 1, :side]
            top, left = (
                int(self.random.integers(whole - part + 1))
                for whole, part in zip(scraps.shape, scrap.shape, strict=True)
            )
            area = scraps[top : top + scrap.shape[0], left : left + scrap.shape[1]]
            np.maximum(area, scrap, out=area)
        region = self.picture[rows, columns]
        grey = self.random.uniform(90, 165)
        region += (inside * 0.6)[..., None] * (grey + scraps[..., None] * self.random.uniform(-70, 70, 3) - region)
        self.unknown[rows, columns] |= inside > 0

    def _new(self, label: int, *, crowd: bool) -> int:
        self.labels.append(label)
        self.crowd.append(crowd)
        self.whole.append(0)
        return len(self.labels) - 1

    def _place(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        starts = (
            int(self.random.integers(whole - part + 1)) for whole, part in zip(self.look.size, shape, strict=True)
        )
        return tuple(slice(start, start + part) for start, part in zip(starts, shape, strict=True))

    def _fits(self, cover: _Floats, place: tuple[slice, ...]) -> bool:
        """Whether everything under a digit at this place stays visible enough."""
        taken = self.owner[place][(cover >= 0.5) & (self.owner[place] >= 0)]
        if not len(taken):
            return True
        lost = np.bincount(taken, minlength=len(self.whole))
        seen = np.bincount(self.owner[self.owner >= 0], minlength=len(self.whole))
        return bool(np.all((seen - lost >= _SEEN * np.array(self.whole)) | (lost == 0)))

    def _turned(self, glyph: _Floats, side: float) -> _Floats:
        """How much of each pixel a digit of that height covers, (h, w), cut to what it covers."""
        angle = math.radians(self.random.uniform(-_TURN, _TURN))
        squeeze = self.random.uniform(0.85, 1.1)
        reach = math.ceil(side * 1.3) | 1
        middle = (reach - 1) / 2
        y, x = np.mgrid[:reach, :reach].astype(np.float32) - np.float32(middle)
        cosine, sine = math.cos(angle), math.sin(angle)
        step = (_FINE - 1) / side
        across, down = (cosine * x + sine * y) * (step / squeeze), (cosine * y - sine * x) * step
        cover = _sampled(glyph, down + (_FINE - 1) / 2, across + (_FINE - 1) / 2)
        # The enlarged digit is smooth; the factor makes its edges one pixel wide at this size.
        cover = ((cover - 0.5) * max(1.0, 8 / step) + 0.5).clip(0, 1)
        rows, columns = (np.nonzero(cover.max(axis=axis) >= 0.5)[0] for axis in (1, 0))
        cut = cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cut[: self.look.size[0], : self.look.size[1]]

    def _ink(self, place: tuple[slice, ...], cover: _Floats) -> _Floats:
        """A colour that stands out from what lies under a digit."""
        under = self.picture[place][cover >= 0.5]
        grey = float(under.mean())
        away = _CONTRAST + self.random.uniform(0, 60)
        lighter = grey + away <= 255 and (grey - away < 0 or self.random.random() < 0.5)
        target = grey + away if lighter else max(0.0, grey - away)
        tint = self.random.uniform(-60, 60, 3)
        return np.asarray((target + tint - tint.mean()).clip(0, 255), dtype=np.float32)

    def _paint(self, cover: _Floats, place: tuple[slice, ...], number: int, ink: _Floats) -> None:
        region = self.picture[place]
        region += cover[..., None] * (ink - region)
        seen = cover >= 0.5
        self.owner[place][seen] = number
        self.whole[number] = int(seen.sum())


def _sampled(glyph: _Floats, y: _Floats, x: _Floats) -> _Floats:
    """Values between a glyph's pixels, bilinear; 0 outside."""
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, across = y - top, x - left
    inside = (top >= 0) & (left >= 0) & (top < _FINE - 1) & (left < _FINE - 1)
    at = np.where(inside, top * _FINE + left, 0)
    flat = glyph.reshape(-1)
    upper = flat[at] * (1 - across) + flat[at + 1] * across
    lower = flat[at + _FINE] * (1 - across) + flat[at + _FINE + 1] * across
    return np.where(inside, upper * (1 - down) + lower * down, 0).astype(np.float32)


@functools.cache
def _glyphs(part: str) -> tuple[_Floats, NDArray[np.int64]]:
    """The digits of a part, float32 (N, side, side) from 0 to 1, smoothly enlarged, and their labels: of every four of
    a class the last is for testing."""
    pixels, labels = read_digits()
    for_testing = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        for_testing[np.nonzero(labels == label)[0][3::4]] = True
    chosen = for_testing if part == "test" else ~for_testing
    framed = F.pad(torch.from_numpy(pixels[chosen]).float().div(255), (1, 1, 1, 1))
    fine = F.interpolate(framed, (_FINE, _FINE), mode="bicubic", align_corners=False)
    return fine.squeeze(1).clamp_(0, 1).numpy(), labels[chosen]


@functools.cache
def _photographs(part: str) -> list[_Pixels]:
    """A part's part of the two photographs, (H, W, 3)."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("scenes", "scikit-learn, which has the photographs, isn't installed")
    folder = Path(found.origin).parent / "datasets" / "images"
    pixels = [np.asarray(Image.open(folder / name).convert("RGB")) for name in ("china.jpg", "flower.jpg")]
    cut = [round(each.shape[1] * _TRAIN_WIDTH) for each in pixels]
    if part == "train":
        return [each[:, :edge] for each, edge in zip(pixels, cut, strict=True)]
    return [each[:, edge + each.shape[1] // 50 :] for each, edge in zip(pixels, cut, strict=True)]
