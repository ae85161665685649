"""The same weights in striate's network, and how far its results are from those that were written."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from striate import models, nn

#: Relative differences up to here are rounding.
TOLERANCE: Final = 1e-4
#: The script that runs beside torchvision.
THERE: Final = Path(__file__).with_name("there.py")


@dataclass(frozen=True)
class Agreement:
    """How far two networks are apart, largest differences divided by the largest number of the same kind.

    Args:
        network: its name.
        images: how many.
        found: objects that torchvision's found on them; of semantic networks the images.
        unmatched: objects that one found and the other didn't.
        differences: by what is compared.
        versions: of torchvision and of its PyTorch.
    """

    network: str
    images: int
    found: int
    unmatched: int
    differences: dict[str, float]
    versions: dict[str, str]

    @property
    def agrees(self) -> bool:
        """Whether anything was found, all of it by both, and no difference is more than rounding."""
        return self.found > 0 and self.unmatched == 0 and max(self.differences.values()) <= TOLERANCE


def agreement(name: str, folder: Path, python: str, dtype: str, shorter: int, sizes: list[str]) -> Agreement:
    """Runs the network of that name there and here.

    Args:
        name: of striate and torchvision.
        folder: for weights and results, which are large.
        python: an interpreter that imports torchvision.
        dtype: what is computed in, ``float32`` or ``float64``.
        shorter: to how many pixels networks resize the shorter side of images.
        sizes: of the images, as ``HxW``.
    """
    subprocess.run([python, str(THERE), name, str(folder), dtype, str(shorter), *sizes], check=True)
    written = torch.load(folder / "results.pth", weights_only=True)
    model: Any = models.create(name)
    models.load_weights(model, folder / "weights.pth")
    model.to(getattr(torch, dtype))
    transform = getattr(model, "transform", None)
    if transform is not None:
        transform.min_size, transform.max_size = (shorter,), 2 * shorter
    with torch.no_grad():
        if models.task_of(name) == "semantic":
            return _maps(name, model, written)
        return _objects(name, model, written)


def _maps(name: str, model: Any, written: dict[str, Any]) -> Agreement:
    found = [model.eval()(image[None]) for image in written["images"]]
    kinds = written["found"][0].keys()
    assert all(each.keys() == kinds for each in found)
    differences = {
        kind: max(relative(here[kind], there[kind]) for here, there in zip(found, written["found"], strict=True))
        for kind in kinds
    }
    learnt = _without_chance(model.train())(written["pair"])
    differences |= {f"{kind} in training": relative(learnt[kind], written["learnt"][kind]) for kind in kinds}
    return Agreement(name, len(found), len(found), 0, differences, written["versions"])


def _objects(name: str, model: Any, written: dict[str, Any]) -> Agreement:
    found = model.eval()(written["images"])
    differences: dict[str, float] = {}
    unmatched = 0
    for here, there, image in zip(found, written["found"], written["images"], strict=True):
        pairs = matched(here, there)
        unmatched += len(here["boxes"]) + len(there["boxes"]) - 2 * len(pairs)
        mine, theirs = pairs[:, 0], pairs[:, 1]
        scale = {"boxes": float(max(image.shape[1:])), "scores": 1.0, "masks": 1.0}
        for kind in (kind for kind in scale if kind in there):
            far = (here[kind][mine] - there[kind][theirs]).abs().flatten()
            apart = far.max().item() / scale[kind] if len(far) else 0.0
            differences[kind] = max(differences.get(kind, 0.0), apart)
    losses = _without_chance(model.train())(written["images"], written["targets"])
    assert losses.keys() == written["learnt"].keys(), f"{sorted(losses)} instead of {sorted(written['learnt'])}"
    differences |= {loss: relative(losses[loss], value) for loss, value in written["learnt"].items()}
    count = sum(len(each["boxes"]) for each in written["found"])
    return Agreement(name, len(found), count, unmatched, differences, written["versions"])


def relative(here: Tensor, there: Tensor) -> float:
    """The largest difference divided by the largest number of ``there``."""
    assert here.shape == there.shape, f"{tuple(here.shape)} instead of {tuple(there.shape)}"
    return ((here - there).abs().max() / there.abs().max()).item()


def matched(here: dict[str, Tensor], there: dict[str, Tensor], near: float = 0.5, alike: float = 1e-3) -> Tensor:
    """Pairs of objects, (M, 2) indices: of one label, boxes within ``near`` pixels and scores within ``alike``."""
    close = torch.cdist(here["boxes"], there["boxes"], p=torch.inf) <= near
    close &= (here["scores"][:, None] - there["scores"]).abs() <= alike
    close &= here["labels"][:, None] == there["labels"]
    pairs, taken = [], set()
    for index, row in enumerate(close):
        free = [other for other in row.nonzero()[:, 0].tolist() if other not in taken]
        if free:
            best = min(free, key=lambda other: (here["boxes"][index] - there["boxes"][other]).abs().max().item())
            taken.add(best)
            pairs.append((index, best))
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2)


def _without_chance(model: Any) -> Any:
    """Nothing is dropped, and all samples count in the loss, not some that are drawn."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
        if isinstance(getattr(layer, "sampler", None), nn.BalancedSampler):
            layer.sampler = nn.BalancedSampler(10**8, layer.sampler.positive_fraction)
    return model
