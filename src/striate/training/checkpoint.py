"""A checkpoint: the whole state of a run in one safetensors file.

Tensors (weights and their moving average, the optimizer's state, the epoch's losses so far) are the file's tensors;
everything else is JSON in its metadata. A digest of both detects damaged files. Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from striate.errors import RunError
from striate.files import write_whole
from striate.training.recipe import Recipe
from striate.training.results import Epoch

FORMAT: Final = "striate checkpoint 3"

#: The older names of two measures, which files still use.
_STORED: Final = {"loss": "losses", "accuracy": "correct"}
_NAMES: Final = {stored: name for name, stored in _STORED.items()}


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run.

    Args:
        recipe: what is trained.
        versions: of python, torch and striate.
        history: the finished epochs.
        seconds: time spent on the current epoch.
        done: finished batches of the current epoch.
        measured: measures of each batch of the current epoch, tensors (batches,) by name.
        model: the model's state.
        average: the state of the moving average; empty without one.
        optimizer: the optimizer's state, for each parameter's index.
        scaler: the state of the loss's scale; empty except with fp16.
        best: the tested network's state after the best epoch; empty unless the recipe keeps it.
    """

    recipe: Recipe
    versions: dict[str, str]
    history: tuple[Epoch, ...]
    seconds: float
    done: int
    measured: dict[str, Tensor]
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    scaler: dict[str, float]
    best: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all.

        Raises:
            OSError: no space, no permission; an earlier file is kept.
        """
        tensors = {f"epoch/{_STORED.get(name, name)}": tensor for name, tensor in self.measured.items()}
        tensors |= {f"model/{name}": tensor for name, tensor in self.model.items()}
        tensors |= {f"average/{name}": tensor for name, tensor in self.average.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for index, state in self.optimizer.items():
            tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in state.items()}
        tensors = own_copies(tensors)
        facts = json.dumps(
            {
                "recipe": self.recipe.to_dict(),
                "versions": self.versions,
                "history": [epoch.to_dict() for epoch in self.history],
                "seconds": self.seconds,
                "done": self.done,
                "scaler": self.scaler,
            },
            allow_nan=False,
        )
        metadata = {"format": FORMAT, "facts": facts, "digest": _digest(facts, tensors)}
        write_whole(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Reads a checkpoint, on the CPU.

        Raises:
            RunError: the file is missing, cut, damaged or something else.
        """
        metadata, tensors = _read(path)
        if metadata.get("format") != FORMAT:
            raise RunError(str(path), f"format is {metadata.get('format')!r}", f"needed {FORMAT!r}")
        if metadata.get("digest") != _digest(metadata.get("facts", ""), tensors):
            raise RunError(str(path), "is damaged: its content doesn't match its digest", remedy=_REMEDY)
        facts: dict[str, Any] = json.loads(metadata["facts"])
        groups: dict[str, dict[str, Tensor]] = {name: {} for name in ("model", "average", "best", "optimizer", "epoch")}
        for name, tensor in tensors.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = tensor
        optimizer: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["optimizer"].items():
            index, _, rest = name.partition("/")
            optimizer.setdefault(int(index), {})[rest] = tensor
        return cls(
            Recipe.from_dict(facts["recipe"]),
            facts["versions"],
            tuple(map(Epoch.from_dict, facts["history"])),
            facts["seconds"],
            facts["done"],
            {_NAMES.get(name, name): tensor for name, tensor in groups["epoch"].items()},
            groups["model"],
            groups["average"],
            optimizer,
            facts["scaler"],
            groups["best"],
        )


_REMEDY: Final = "restore the file, or delete the run's folder and train anew"


def own_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: safetensors refuses tensors that share memory, as tied weights do.

    A tensor with one element may have a stride of 0, as the gradient of a bias for one class, and counts as contiguous.
    """
    dense = torch.contiguous_format
    return {name: tensor.detach().cpu().clone(memory_format=dense) for name, tensor in tensors.items()}


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            # Copies, because the file may be replaced while the tensors are in use.
            return file.metadata() or {}, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise RunError(str(path), f"can't be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise RunError(str(path), f"is no whole safetensors file ({error})", remedy=_REMEDY) from error
