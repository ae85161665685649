"""What torchvision's network gives: run by a Python that has torchvision, which need not be the one that has striate.

    python3 there.py NAME FOLDER DTYPE SHORTER HxW [HxW ...]

makes the network of that name as one with weights is made, with random numbers, and writes ``weights.pth`` and
``results.pth`` into the folder: pictures, targets, outputs in evaluation, losses in training, versions. Networks that
resize their images make the shorter side SHORTER pixels long. (torchvision computes the factor in float32, newer
versions in float64, so a size that the two round to different pixels compares nothing.)

Random numbers alone would compare little: all scores would be alike, nothing would be found, statistics of
normalisation would be zeros and ones. So a pass through the network sets them, layer by layer, as the pictures need it:
what is normalised comes out with mean and deviation near 0 and 1, whatever its size before (which is small, so that
``eps`` shows), and what a head says varies from place to place by as much as is told below.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

torchvision = importlib.import_module("torchvision")

#: Of the layers that say something: mean and deviation of each number over the places of an image.
HEADS = {
    r"rpn\.head\.cls_logits": (0.0, 2.0),
    r"rpn\.head\.bbox_pred": (0.0, 0.3),
    r"roi_heads\.box_predictor\.cls_score": (0.0, 3.0),
    r"roi_heads\.box_predictor\.bbox_pred": (0.0, 1.0),
    r"roi_heads\.mask_predictor\.mask_fcn_logits": (0.0, 2.0),
    r"head\.classification_head\.cls_logits": (-4.0, 1.5),
    r"head\.regression_head\.(bbox_reg|bbox_ctrness)": (0.5, 0.5),
    r"head\.classification_head\.module_list\.\d+(\.1)?": (0.0, 2.0),
    r"head\.regression_head\.module_list\.\d+(\.1)?": (0.0, 1.0),
    r"(aux_)?classifier\.4": (0.0, 1.0),
    r"classifier\.(low|high)_classifier": (0.0, 1.0),
}

#: Weights of convolutions without offsets are made smaller by this, and what is normalised with them.
SMALLER = 0.05


@contextmanager
def as_if_loaded() -> Iterator[None]:
    """Builders that load weights go all the way, but load nothing."""
    from torchvision.models._api import WeightsEnum  # type: ignore[import-untyped, unused-ignore]

    kept = WeightsEnum.get_state_dict, torch.nn.Module.load_state_dict
    WeightsEnum.get_state_dict = lambda self, *_, **__: {}
    torch.nn.Module.load_state_dict = lambda self, *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        WeightsEnum.get_state_dict, torch.nn.Module.load_state_dict = kept  # type: ignore[method-assign]


def pictures(sizes: list[tuple[int, int]], generator: torch.Generator) -> list[Tensor]:
    """Random pictures (3, H, W), smooth with some noise, from 0 to 1."""
    made = []
    for height, width in sizes:
        total = torch.zeros(1, 3, height, width)
        for cells in (4, 16, 64):
            coarse = torch.rand(1, 3, cells, cells, generator=generator) - 0.5
            total += torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        made.append((0.5 + 0.6 * total[0]).clamp(0, 1))
    return made


def objects(
    sizes: list[tuple[int, int]], classes: int, dtype: torch.dtype, generator: torch.Generator
) -> list[dict[str, Tensor]]:
    """Random objects of each picture, 1 to 6, no side below 8 pixels; masks are ellipses."""
    targets = []
    for height, width in sizes:
        count = int(torch.randint(1, 7, (1,), generator=generator))
        sides = torch.tensor([width, height, width, height], dtype=torch.float32)
        corner = torch.rand(count, 2, generator=generator) * 0.6
        extent = 0.1 + torch.rand(count, 2, generator=generator) * 0.29
        boxes = torch.cat((corner, corner + extent), 1) * sides
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 8).minimum(sides[:2])
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centre, half = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        x = (columns - centre[:, 0, None, None]) / half[:, 0, None, None]
        y = (rows - centre[:, 1, None, None]) / half[:, 1, None, None]
        labels = torch.randint(1, classes, (count,), generator=generator)
        targets.append({"boxes": boxes.to(dtype), "labels": labels, "masks": (x**2 + y**2 <= 1).to(torch.uint8)})
    return targets


@torch.no_grad()
def settle(model: torch.nn.Module, images: Any) -> None:
    """Sets the numbers of normalisation and heads in one pass in evaluation mode."""
    hooks = []
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.bias is None:
            layer.weight *= SMALLER
        if "BatchNorm" in type(layer).__name__:
            hooks.append(layer.register_forward_pre_hook(_normalise))
        elif "GroupNorm" in type(layer).__name__:
            layer.weight.uniform_(0.8, 1.2)
            layer.bias.uniform_(-0.2, 0.2)
        for pattern, (mean, deviation) in HEADS.items():
            if re.fullmatch(pattern, name) and hasattr(layer, "weight"):
                hooks.append(layer.register_forward_hook(_Saying(mean, deviation)))
    model.eval()(images)
    for hook in hooks:
        hook.remove()


def _normalise(layer: Any, inputs: tuple[Tensor, ...]) -> None:
    if getattr(layer, "settled", False):
        return  # the head of a pyramid is called for each level
    layer.settled = True
    input = inputs[0].transpose(0, 1).flatten(1)
    several = input.shape[1] > 1
    deviation = input.std(1) if several else torch.full_like(input[:, 0], SMALLER)
    # What hardly varies isn't blown up, or rounding would decide what is found.
    deviation = torch.maximum(deviation, deviation.median() / 2)
    layer.running_mean.copy_(input.mean(1) + 0.3 * deviation * torch.randn_like(deviation))
    layer.running_var.copy_((deviation**2 * torch.empty_like(deviation).uniform_(0.7, 1.4)).clamp(min=1e-8))
    layer.weight.uniform_(0.8, 1.2)
    layer.bias.uniform_(-0.2, 0.2)


class _Saying:
    """Rescales a layer at its first call, so that each of its numbers has a mean and a deviation over the places."""

    def __init__(self, mean: float, deviation: float) -> None:
        self.mean, self.deviation, self.done = mean, deviation, False

    def __call__(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self.done or len(output) == 0:
            return None
        self.done = True
        numbers = output.transpose(0, 1).flatten(1)
        found = numbers.std(1) if numbers.shape[1] > 1 else torch.ones(len(numbers))
        scale = self.deviation / found.clamp(min=1e-6)
        mean = self.mean + 0.5 * self.deviation * torch.randn_like(scale)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)) if not _turned(layer) else 1)
        layer.bias.copy_((layer.bias - numbers.mean(1)) * scale + mean)
        return layer.forward(*inputs)  # type: ignore[no-any-return]


def _turned(layer: Any) -> bool:
    """Whether outputs are the second axis of the weight."""
    return isinstance(layer, torch.nn.ConvTranspose2d)


def every_sample(model: Any) -> None:
    """Nothing is chosen by chance: all proposals count in the loss, and nothing is dropped."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
        if hasattr(layer, "fg_bg_sampler"):
            layer.fg_bg_sampler.batch_size_per_image = 10**8


@contextmanager
def shrunk(model: Any, shorter: int, longer: int) -> Iterator[None]:
    """Networks that resize their images make them smaller."""
    transform = getattr(model, "transform", None)
    if transform is None:
        yield
        return
    kept = transform.min_size, transform.max_size
    transform.min_size, transform.max_size = (shorter,), longer
    try:
        yield
    finally:
        transform.min_size, transform.max_size = kept


def as_published(model: Any) -> dict[str, Tensor]:
    """The weights under the names that the file of this network on torchvision's site has.

    Detectors that were published before version 0.13 have older names there, and no ``eps`` beside their variances.
    """
    weights = dict(model.state_dict())
    if not any(getattr(layer, "eps", None) == 0 for layer in model.modules()):
        return weights
    older = (
        (r"(fpn\.(?:inner|layer)_blocks\.\d+)\.0\.(weight|bias)", lambda found: f"{found[1]}.{found[2]}"),
        (r"(.*rpn\.head\.conv)\.0\.0\.(weight|bias)", lambda found: f"{found[1]}.{found[2]}"),
        (r"(.*mask_fcn)(\d)\.0\.(weight|bias)", lambda found: f"{found[1]}{int(found[2]) + 1}.{found[3]}"),
        (r"(.*mask_head)\.(\d)\.0\.(weight|bias)", lambda found: f"{found[1]}.mask_fcn{int(found[2]) + 1}.{found[3]}"),
        (
            r"(.*(?:classification|regression)_head\.conv)\.(\d)\.0\.(weight|bias)",
            lambda found: f"{found[1]}.{2 * int(found[2])}.{found[3]}",
        ),
    )
    for pattern, renamed in older:
        weights = {re.sub(pattern, renamed, name): tensor for name, tensor in weights.items()}
    return weights


def main(name: str, folder: Path, dtype: torch.dtype, shorter: int, sizes: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    with as_if_loaded():
        model = torchvision.models.get_model(name, weights="DEFAULT")
    semantic = "segmentation" in type(model).__module__
    images = [image.to(dtype) for image in pictures(sizes, generator)]
    first = pictures([(96, 120)], generator)
    with shrunk(model, 96, 120):
        settle(model, first[0][None] if semantic else first)
    torch.save(as_published(model), folder / "weights.pth")
    results: dict[str, Any] = {
        "shorter": shorter,
        "images": images,
        "targets": objects(sizes, 91, dtype, generator),
        "pair": torch.stack(pictures([sizes[0]] * 2, generator)).to(dtype),
        "versions": {"torchvision": str(torchvision.__version__), "torch there": str(torch.__version__)},
    }
    model.to(dtype)
    with torch.no_grad(), shrunk(model, shorter, 2 * shorter):
        # Semantic networks take batches of one size.
        results["found"] = [dict(model(image[None])) for image in images] if semantic else model(images)
        every_sample(model.train())
        results["learnt"] = dict(model(results["pair"]) if semantic else model(images, results["targets"]))
    torch.save(results, folder / "results.pth")


if __name__ == "__main__":
    told = [tuple(int(side) for side in size.split("x")) for size in sys.argv[5:]]
    kind = {"float32": torch.float32, "float64": torch.float64}[sys.argv[3]]
    main(sys.argv[1], Path(sys.argv[2]), kind, int(sys.argv[4]), told)  # type: ignore[arg-type]
