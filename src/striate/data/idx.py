"""The IDX format of MNIST and its relatives (Fashion-MNIST, KMNIST, EMNIST).

A file is a magic number (two zero bytes, one for the element type, one for the number of dimensions), a big-endian
32-bit size for each dimension, and the elements in row-major order (defined at http://yann.lecun.com/exdb/mnist/).
Usually it is gzipped. Damaged downloads are common, and a network would train on wrong pixels silently. So a file is
accepted only if all its sizes agree to the byte.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from striate.data.images import ImageSet
from striate.errors import DataError

_UINT8 = 0x08
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20
_NAME = re.compile(r"(?P<prefix>(.+[-_.])?)(?P<side>train|t10k|test)-(?P<what>images|labels)[-.]idx\d-ubyte(\.gz)?")


def read_idx(path: str | Path) -> torch.Tensor:
    """The uint8 tensor in an IDX file, plain or gzipped (detected by its first bytes, since downloads lose suffixes).

    Raises:
        DataError: a missing file, another format or element type, a length other than the sizes say, a damaged
            compression. The sizes in the header alone don't allocate memory.
    """
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == _GZIP
            file.seek(0)
            if not zipped:
                return _read(file, str(path))
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _read(unzipped, str(path))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(str(path), f"damaged gzip file: {error}", remedy="fetch it again") from error
    except OSError as error:
        raise DataError(str(path), error.strerror or str(error), "needed an IDX file") from error


def read_idx_folder(path: str | Path) -> tuple[ImageSet, ImageSet | None]:
    """The training and the test set among the IDX files in a folder; the latter is None when only the former is there.

    The files are found by the names they are published under: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
    ``t10k-...`` or ``test-...`` for the test set, each with any prefix (``emnist-letters-``), with ``.idx3`` for
    ``-idx3``, with or without ``.gz``. One that lies there both plain and gzipped counts once, and is read plain.

    Classes are named by their number, 0 up to the largest training label. Images are taken as they are stored; those of
    EMNIST are stored transposed.

    Raises:
        DataError: files that are missing, ambiguous, damaged, or don't belong together.
    """
    files = _find(Path(path))
    train = _read_side(files["train", "images"], files["train", "labels"], None)
    if ("test", "images") not in files:
        return train, None
    return train, _read_side(files["test", "images"], files["test", "labels"], train.classes)


def _read(file: BinaryIO | gzip.GzipFile, where: str) -> torch.Tensor:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != _UINT8 or not magic[3]:
        raise DataError(
            where, f"starts with {magic.hex(' ') or 'nothing'}", "needed 00 00 08 and a number of dimensions"
        )
    dimensions = magic[3]
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(where, f"ends within its header of {dimensions} sizes", remedy="fetch it again")
    sizes = struct.unpack(f">{dimensions}I", header)
    needed = math.prod(sizes)
    if not needed:
        raise DataError(where, f"holds no elements: its sizes are {'x'.join(map(str, sizes))}")
    # Memory grows with the actual contents, up to one byte more than expected.
    content = bytearray()
    while len(content) <= needed and (part := file.read(min(_CHUNK, needed + 1 - len(content)))):
        content += part
    if len(content) != needed:
        got = f"{len(content)}" if len(content) < needed else "more"
        raise DataError(
            where,
            f"got {got} bytes after the header",
            f"needed {needed} ({'x'.join(map(str, sizes))})",
            "fetch it again",
        )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8)).view(sizes)


def _find(folder: Path) -> dict[tuple[str, str], Path]:
    """The files by (side, what): both of train, and both or none of test."""
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(str(folder), error.strerror or str(error), "needed a folder of IDX files") from error
    found: dict[tuple[str, str], str] = {}
    prefix = None
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None or (name.endswith(".gz") and name.removesuffix(".gz") in names):
            continue
        key = ("train" if match["side"] == "train" else "test", match["what"])
        if key in found or prefix not in (None, match["prefix"]):
            other = found.get(key) or next(iter(found.values()))
            raise DataError(
                str(folder),
                f"{other} and {name} are of different sets",
                "needed the files of one",
                "put each set into a folder of its own",
            )
        found[key], prefix = name, match["prefix"]
    for side, words in (("train", ["train"]), ("test", ["t10k", "test"])):
        missing = [what for what in ("images", "labels") if (side, what) not in found]
        if missing and (side == "train" or len(missing) == 1):
            dimensions = {"images": 3, "labels": 1}[missing[0]]
            looked_for = " or ".join(f"{word}-{missing[0]}-idx{dimensions}-ubyte[.gz]" for word in words)
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            got = f"no {side} {missing[0]}: looked for {looked_for}"
            raise DataError(str(folder), got, f"the folder holds {shown or 'nothing'}")
    return {key: folder / name for key, name in found.items()}


def _read_side(images_file: Path, labels_file: Path, classes: tuple[str, ...] | None) -> ImageSet:
    labels, images = read_idx(labels_file).to(torch.int64), read_idx(images_file)
    for file, tensor, dimensions in ((labels_file, labels, 1), (images_file, images, 3)):
        if tensor.ndim != dimensions:
            raise DataError(
                str(file), f"got {tensor.ndim} dimensions ({'x'.join(map(str, tensor.shape))})", f"needed {dimensions}"
            )
    if len(images) != len(labels):
        got = f"got {len(images)} images, but {len(labels)} labels in {labels_file.name}"
        raise DataError(str(images_file), got, "needed as many")
    if classes is None:
        largest, used = int(labels.max()), len(labels.unique())
        # A damaged byte makes a label far above the rest. Few classes may be empty (EMNIST's letters start at 1).
        if largest + 1 > 2 * used:
            raise DataError(
                str(labels_file),
                f"got label {largest} at index {int(labels.argmax())}, where only {used} labels are in use",
                f"needed labels counted from 0, so none far above {used - 1}",
            )
        classes = tuple(str(label) for label in range(largest + 1))
    unknown = (labels >= len(classes)).nonzero()
    if len(unknown):
        index = int(unknown[0])
        raise DataError(
            str(labels_file),
            f"got label {int(labels[index])} at index {index}",
            f"needed the labels of the training set, 0 to {len(classes) - 1}",
        )
    return ImageSet(images.unsqueeze(1), labels, classes)
