"""Writes predictions for pictures to files: objects as JSON lines or as COCO's results, class maps as PNG.

A line of JSON is a picture: ``image``, its name; ``height`` and ``width``; ``objects``, surest first, each with its
``class``, ``score``, ``box`` (x0 y0 x1 y1, pixels) and, of a network that draws outlines, ``mask``: ``size`` (H, W) and
``counts``, compressed run lengths as COCO's files have them. Numbers have 6 digits, masks every pixel.

COCO's results are one list for all pictures, which pycocotools and evaluation servers read: ``image_id``,
``category_id``, ``bbox`` (x y width height), ``score`` and, where there are masks, ``segmentation``.

A class map is a PNG of class indices, as the source ``masks:`` reads them; its palette has the colours of the classes,
so it can be looked at. 255 is a pixel whose class isn't known.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from striate.data import IGNORED, Detections
from striate.errors import DataError, RunError, did_you_mean
from striate.files import whole_file, write_whole
from striate.tasks import coco
from striate.tasks.colours import map_colours, rgb

_SUFFIXES: Final = (".jsonl", ".json")
_UNKNOWN: Final = (224, 224, 224)


@dataclass(frozen=True)
class CocoIds:
    """By which numbers COCO's files call pictures and classes.

    Args:
        images: the ids by the pictures' names.
        categories: the ids by the classes' names.
    """

    images: Mapping[str, int]
    categories: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class ObjectRow:
    """The objects found on one picture, as a row of a file of JSON lines."""

    image: str
    found: Detections


class ObjectWriter:
    """Writes detections picture by picture. The complete file appears when the ``with`` block ends without an error.

    Args:
        path: where; ``.jsonl`` for JSON lines, ``.json`` for COCO's results, which need ``ids``.
        classes: names of the labels.
        ids: of pictures and classes in COCO's files.

    Raises:
        RunError: another suffix, no ids, a class without an id.
        OSError: no room, no permission, no such folder.

    >>> import tempfile
    >>> box, label = torch.tensor([[1.0, 2, 5, 6]]), torch.tensor([0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with ObjectWriter(f"{folder}/found.jsonl", ("cat",)) as writer:
    ...         writer.write("a.png", Detections((8, 8), box, label, torch.tensor([0.5])))
    ...     rows = read_objects(f"{folder}/found.jsonl", ("cat",))
    >>> rows[0].image, rows[0].found.boxes.tolist()
    ('a.png', [[1.0, 2.0, 5.0, 6.0]])
    """

    def __init__(self, path: str | Path, classes: Sequence[str], ids: CocoIds | None = None) -> None:
        self.path, self.classes, self.ids = Path(path), tuple(classes), ids
        if self.path.suffix not in _SUFFIXES:
            needed = "needed .jsonl, or .json for COCO's results"
            raise RunError(str(path), f"got the suffix {self.path.suffix!r}", needed)
        self._lines = self.path.suffix == ".jsonl"
        if not self._lines:
            if ids is None:
                remedy = "write .jsonl, which has names"
                raise RunError(str(path), "got no ids", "needed those of COCO's file, for its results", remedy)
            missing = [name for name in self.classes if name not in ids.categories]
            if missing:
                raise RunError(str(path), f"got no id of the class {missing[0]!r}", "needed one for each class")
        self._written = 0

    def __enter__(self) -> ObjectWriter:
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(whole_file(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None and not self._lines:
            self._file.write(b"\n]\n" if self._written else b"[]\n")
        return self._stack.__exit__(kind, error, trace)

    def write(self, image: str, found: Detections) -> None:
        """Writes what was found on a picture.

        Raises:
            RunError: a picture without an id.
            DataError: a label without a name, a number that isn't finite.
        """
        for numbers in (found.boxes, found.scores):
            if not bool(numbers.isfinite().all()):
                raise DataError(image, "got a box or a score that isn't finite", "needed numbers")
        if any(not 0 <= label < len(self.classes) for label in found.labels.tolist()):
            raise DataError(
                image, f"got labels up to {int(found.labels.max())}", f"needed 0 to {len(self.classes) - 1}"
            )
        if self._lines:
            self._file.write((json.dumps(self._row(image, found), ensure_ascii=False) + "\n").encode())
        else:
            for each in self._results(image, found):
                self._file.write((",\n" if self._written else "[\n").encode() + json.dumps(each).encode())
                self._written += 1

    def _row(self, image: str, found: Detections) -> dict[str, Any]:
        objects = []
        for label, score, box, mask in _each(found):
            name = _printable(self.classes[label])
            each = {"class": name, "score": _digits(score), "box": [_digits(number) for number in box]}
            objects.append(each | ({} if mask is None else {"mask": mask}))
        return {"image": _printable(image), "height": found.size[0], "width": found.size[1], "objects": objects}

    def _results(self, image: str, found: Detections) -> Iterator[dict[str, Any]]:
        assert self.ids is not None
        if image not in self.ids.images:
            remedy = did_you_mean(image, self.ids.images)
            raise RunError(str(self.path), f"got the picture {image!r}", "needed one of COCO's file", remedy)
        for label, score, (x0, y0, x1, y1), mask in _each(found):
            each: dict[str, Any] = {
                "image_id": self.ids.images[image],
                "category_id": self.ids.categories[self.classes[label]],
                "bbox": [_digits(number) for number in (x0, y0, x1 - x0, y1 - y0)],
                "score": _digits(score),
            }
            yield each | ({} if mask is None else {"segmentation": mask})


def _each(found: Detections) -> Iterator[tuple[int, float, list[float], dict[str, Any] | None]]:
    """Label, score, box and mask of each detection, the mask as JSON has it."""
    masks: list[dict[str, Any] | None] = [None] * len(found)
    if found.masks is not None:
        encoded = coco.encode(found.masks.cpu())
        masks = [{"size": list(map(int, each["size"])), "counts": each["counts"].decode()} for each in encoded]
    yield from zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), masks, strict=True)


def read_objects(path: str | Path, classes: Sequence[str]) -> list[ObjectRow]:
    """The pictures of a file of JSON lines that :class:`ObjectWriter` wrote.

    Args:
        path: of the file.
        classes: names of the labels.

    Raises:
        RunError: no such file, or one of something else, naming the line; a class that isn't among these.
    """
    labels = {_printable(name): label for label, name in enumerate(classes)}
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        raise RunError(str(path), f"can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RunError(str(path), "is no UTF-8", "needed the file as striate wrote it") from error
    rows: list[ObjectRow] = []
    try:
        for line in text.removesuffix("\n").split("\n") if text else []:
            rows.append(_from_json(json.loads(line), labels))  # noqa: PERF401 - an error says after how many
    except (ValueError, KeyError, TypeError) as error:
        got = f"line {len(rows) + 1} has no picture's objects ({type(error).__name__}: {error})"
        raise RunError(str(path), got, "needed the file as striate wrote it") from error
    return rows


def _from_json(fields: Mapping[str, Any], labels: Mapping[str, int]) -> ObjectRow:
    size = (int(fields["height"]), int(fields["width"]))
    objects = fields["objects"]
    for each in objects:
        if each["class"] not in labels:
            raise ValueError(f"unknown class {each['class']!r}")
    masks = None
    if objects and all("mask" in each for each in objects):
        masks = coco.decode([each["mask"] for each in objects], size)
    found = Detections(
        size,
        torch.tensor([each["box"] for each in objects], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([labels[each["class"]] for each in objects], dtype=torch.int64),
        torch.tensor([each["score"] for each in objects], dtype=torch.float32),
        masks,
    )
    return ObjectRow(str(fields["image"]), found)


def write_class_map(path: str | Path, class_map: Tensor, map_classes: Sequence[str]) -> None:
    """Writes a class map as a PNG of class indices, whole or not at all.

    Args:
        path: where.
        class_map: integers (H, W), 255 where the class isn't known.
        map_classes: their names, at most 255, which decide the colours.

    Raises:
        DataError: too many classes, or one without a name.
        OSError: no room, no permission, no such folder.
    """
    from PIL import Image

    if len(map_classes) > IGNORED:
        raise DataError(str(path), f"got {len(map_classes)} classes", f"needed at most {IGNORED}, for a byte a pixel")
    labels = class_map.cpu().numpy()
    strange = labels[(labels != IGNORED) & ((labels < 0) | (labels >= len(map_classes)))]
    if labels.ndim != 2 or strange.size:
        got = f"got class {int(strange[0])}" if strange.size else f"got {labels.shape}"
        raise DataError(str(path), got, f"needed (H, W) of 0 to {len(map_classes) - 1}, or {IGNORED}")
    palette = np.zeros((256, 3), dtype=np.uint8)
    for label, colour in enumerate(map_colours(tuple(map_classes))):
        palette[label] = rgb(colour)
    palette[IGNORED] = _UNKNOWN
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_whole(Path(path), buffer.getvalue())


def read_class_map(path: str | Path) -> Tensor:
    """A class map uint8 (H, W) that :func:`write_class_map` wrote.

    Raises:
        DataError: no such file, or no picture of indices.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise DataError(
                    str(path), f"got pixels of mode {image.mode}", "needed a palette or grey: class indices"
                )
            return torch.from_numpy(np.array(image))
    except OSError as error:
        reason = error.strerror or "no picture"
        raise DataError(str(path), f"can't be read ({reason})", "needed a PNG of class indices") from error


def _digits(number: float) -> float:
    return float(f"{number:.6g}")


def _printable(text: str) -> str:
    """The same without halves of characters, which UTF-8 hasn't."""
    return text.encode("utf-8", "backslashreplace").decode()
