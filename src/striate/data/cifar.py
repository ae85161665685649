"""CIFAR-10 and CIFAR-100 as published, in both formats (Krizhevsky, "Learning multiple layers of features from tiny
images", 2009; the formats are described at https://www.cs.toronto.edu/~kriz/cifar.html).

Binary: records of a label byte (CIFAR-100: a coarse one and a fine one) and 3072 pixels, 32x32 of red, then green, then
blue. Python: pickled dictionaries. A pickle is a program, so it is read by an unpickler that accepts only the parts of
arrays of numbers.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from striate.data.images import ImageSet
from striate.errors import DataError

_PIXELS: Final = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """The files of one data set in one format, and where the labels are in them."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    labels: str = ""  # the key of the labels in a pickle
    classes: str = ""  # the key of their names
    label_bytes: int = 0  # of a record, of which the last is the label


_LAYOUTS: Final = (
    _Layout(
        tuple(f"data_batch_{n}" for n in range(1, 6)), ("test_batch",), "batches.meta", "labels", classes="label_names"
    ),
    _Layout(("train",), ("test",), "meta", "fine_labels", classes="fine_label_names"),
    _Layout(tuple(f"data_batch_{n}.bin" for n in range(1, 6)), ("test_batch.bin",), "batches.meta.txt", label_bytes=1),
    _Layout(("train.bin",), ("test.bin",), "fine_label_names.txt", label_bytes=2),
)


def read_cifar_folder(path: str | Path) -> tuple[ImageSet, ImageSet]:
    """The training and the test images among the files of CIFAR-10 or CIFAR-100 in a folder, by their published names.

    The files may also be in the folder that the published archives unpack to. Nothing that is read is executed.

    Raises:
        DataError: no such files, some of them missing, damaged ones, a pickle that wants more than arrays.
    """
    root = Path(path)
    inner = sorted(root.glob("cifar-*/")) if root.is_dir() else []
    for folder in (root, *inner):
        for layout in _LAYOUTS:
            files = (*layout.train, *layout.test, layout.names)
            missing = [name for name in files if not (folder / name).is_file()]
            if len(missing) < len(files) and not any((folder / name).is_file() for name in layout.train):
                continue  # another layout has these names, too
            if missing and len(missing) < len(files):
                raise DataError(str(folder), f"no {', '.join(missing)}", "needed all files of the published archive")
            if not missing:
                classes = _class_names(folder, layout)
                train, test = (_read_all(folder, names, layout, classes) for names in (layout.train, layout.test))
                return train, test
    raise DataError(
        str(path),
        "no files of CIFAR-10 or CIFAR-100",
        "needed data_batch_1 to _5, test_batch and batches.meta; or train, test and meta; or the same as .bin and .txt",
    )


def _read_all(folder: Path, names: Iterable[str], layout: _Layout, classes: tuple[str, ...]) -> ImageSet:
    parts = [_read(folder / name, layout) for name in names]
    pixels, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    return ImageSet(torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.from_numpy(labels), classes)


def _class_names(folder: Path, layout: _Layout) -> tuple[str, ...]:
    path = folder / layout.names
    if layout.label_bytes:
        return tuple(path.read_text(encoding="utf-8").split())
    names = _unpickled(path).get(layout.classes)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(str(path), f"no list of names under {layout.classes!r}", "needed the file as published")
    return tuple(names)


def _read(path: Path, layout: _Layout) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pixels, uint8 (N, 3072), and labels, int64 (N,)."""
    if layout.label_bytes:
        size = layout.label_bytes + _PIXELS
        content = np.fromfile(path, np.uint8)
        if not len(content) or len(content) % size:
            raise DataError(str(path), f"{len(content):,} bytes", f"needed records of {size} bytes", "fetch it again")
        records = content.reshape(-1, size)
        return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1].astype(np.int64)
    found = _unpickled(path)
    pixels, labels = found.get("data"), found.get(layout.labels)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise DataError(str(path), "no pixels under 'data'", f"needed uint8 (N, {_PIXELS})", "fetch it again")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(each) is int for each in labels):
        raise DataError(str(path), f"no labels under {layout.labels!r}", "needed one for each image", "fetch it again")
    return pixels, np.array(labels, np.int64)


#: The only names in the published files: the parts of a NumPy array. Python 2 wrote them, with NumPy's older names.
_HARMLESS: Final[dict[tuple[str, str], Any]] = {
    (module, name): value
    for name, value in (
        ("_reconstruct", np.ndarray((0,)).__reduce__()[0]),
        ("ndarray", np.ndarray),
        ("dtype", np.dtype),
        # How newer pickles of Python 2's kind write bytes: not the codec machinery, only Latin letters.
        ("encode", lambda text, encoding: _latin(text, encoding)),
    )
    for module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy", "_codecs")
}


#: Exceptions for damaged pickles: those in pickle's documentation, and those that wrong lengths and types cause.
_DAMAGED: Final = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError),
    *(ValueError, TypeError, KeyError, MemoryError, OverflowError),
)


def _latin(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it wants the encoding {encoding!r}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it wants {module}.{name}")
        return _HARMLESS[module, name]


def _unpickled(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of arrays, lists, texts and numbers; its keys as texts."""
    content = path.read_bytes()
    try:
        found = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    except _DAMAGED as error:
        raise DataError(
            str(path), f"can't be read as a pickle of arrays ({error})", "needed the file as published"
        ) from error
    if not isinstance(found, dict):
        raise DataError(str(path), f"a pickle of {type(found).__name__}", "needed a dictionary")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}
