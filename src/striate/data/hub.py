"""Images in Hugging Face's format: parquet files on this machine, or a data set by its name on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from striate.data.decoding import Encoded
from striate.data.images import expanded
from striate.data.streamed import Stored, opened
from striate.errors import DataError, readable

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

_PARTS: Final = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}


def read_hub(where: str | Path) -> dict[str, Stored]:
    """The images of a data set by Hugging Face's ``datasets``: its one column of images, its one column of classes.

    Args:
        where: a parquet file, a folder with some, or a name on the Hub, each with or without ``:SPLIT``. With a split,
            the images are that one's, undivided (``""``); without one, the parts are those of ``train``, ``val``
            (``validation``, ``valid``) and ``test`` that are there.

    Raises:
        DataError: the library isn't installed, nothing of that name can be had, no such split, no such columns, a row
            without a class.
    """
    place, split = _parted(str(where))
    found = _load(place)
    if split and split not in found:
        raise DataError(f"hf:{place}", f"has no split {split!r}", f"needed one of {', '.join(found)}")
    if not split and "train" not in found and len(found) > 1:
        raise DataError(
            f"hf:{place}", f"has the splits {', '.join(found)}, no train", remedy=f"name one: hf:{place}:SPLIT"
        )
    train = split or ("train" if "train" in found else next(iter(found)))
    if split or "train" not in found:
        return {"": _read(found[train], f"hf:{place}:{train}")}
    parts = {part: name for name in found if (part := _PARTS.get(name)) is not None}
    for name in parts.values():
        if found[train].features != found[name].features:
            raise DataError(f"hf:{place}", f"{train} and {name} have different columns or classes", "needed the same")
    return {part: _read(found[name], f"hf:{place}:{name}") for part, name in parts.items()}


def _parted(where: str) -> tuple[str, str]:
    """The place and the split, which may be empty."""
    place, _, split = where.rpartition(":")
    return (where, "") if not place or Path(where).exists() else (place, split)


def _load(place: str) -> DatasetDict:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"hf:{place}", "the library datasets isn't installed", remedy="pip install 'striate[data]'"
        ) from error
    path = expanded(place)
    try:
        if path.is_file():
            found = datasets.load_dataset("parquet", data_files={"train": str(path)})
        else:
            found = datasets.load_dataset(str(path) if path.exists() else place)
        assert isinstance(found, datasets.DatasetDict)
        return (
            found
            if any(isinstance(each, datasets.ClassLabel) for each in _features(found).values())
            else _encoded(found)
        )
    # Exceptions of the library, of pyarrow and of the network for invalid files and names.
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"hf:{place}",
            f"can't be loaded ({str(error).partition(chr(10))[0]})",
            "needed parquet files on this machine, or a name on the Hub and a network to reach it",
        ) from error


def _features(found: DatasetDict) -> Features:
    return next(iter(found.values())).features


def _encoded(found: DatasetDict) -> DatasetDict:
    """With the column ``label`` made one of classes, if there is one."""
    return found.class_encode_column("label") if "label" in _features(found) else found


def _read(table: Dataset, name: str) -> Stored:
    import datasets

    columns = {
        kind: [column for column, feature in table.features.items() if isinstance(feature, kind)]
        for kind in (datasets.Image, datasets.ClassLabel)
    }
    images, classes = columns.values()
    if len(images) != 1 or not classes:
        raise DataError(
            name,
            f"has the columns {', '.join(table.features)}",
            "needed one of images, and one of classes (or one called label)",
        )
    # If there are several columns of classes, as CIFAR-100's fine and coarse ones, the first is used.
    labels = table.with_format("numpy", columns=[classes[0]])[classes[0]][:]
    if len(labels) == 0 or labels.min() < 0:
        raise DataError(name, "has images without a class" if len(labels) else "is empty", "needed labelled images")
    encoded = _Column(
        table.select_columns(images).cast_column(images[0], datasets.Image(decode=False)), images[0], name
    )
    names = tuple(table.features[classes[0]].names)
    rows = [f"{name.rpartition(':')[2]} row {number}" for number in range(len(encoded))]
    return Stored(encoded, torch.from_numpy(labels.astype(np.int64)), tuple(map(readable, names)), rows)


@dataclass(frozen=True)
class _Column(Sequence[Encoded]):
    """A column of encoded images."""

    table: Dataset
    column: str
    name: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self.table):
            raise IndexError(index)  # ends an iteration over a sequence
        image = self.table[index][self.column]
        if image is None:
            raise DataError(f"{self.name} row {index}", "no image", "needed one in every row")
        return Path(image["path"]) if image["bytes"] is None else opened(image["bytes"], f"{self.name} row {index}")
