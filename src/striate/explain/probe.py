"""Runs of any network in which the outputs of layers are kept, with gradients; the network stays as it was found."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from striate.errors import ExplainError
from striate.explain.places import Grid, grid_of


class Probe:
    """A network in evaluation mode whose layers' outputs are kept in each run; made by :func:`probing`.

    A layer is named by its path, ``"layer4.1.conv2"``. Of a layer that is called more than once the path means the last
    call, and ``"relu@1"`` the first, ``"relu@2"`` the second one.

    Layers hand on a copy of what is kept. So an operation that writes into it (an in-place ReLU) doesn't change what
    was captured, and gradients with respect to it are those of the layer's own output.
    """

    def __init__(self, model: torch.nn.Module, layers: Sequence[str]) -> None:
        self.model = model
        self.layers = tuple(layers)
        self.name = type(model).__name__
        self._modules = {layer: _module(model, layer) for layer in layers}
        self._kept: dict[torch.nn.Module, list[Tensor]] = {}

    def __call__(self, images: Tensor) -> Any:
        """What the network makes of images (N, C, H, W); its layers' outputs are kept until the next run.

        Raises:
            ExplainError: the network can't take these images.
        """
        self._kept = {module: [] for module in self._modules.values()}
        try:
            # The network may write into its input, which is the caller's.
            return self.model(images.clone())
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            shape = "x".join(map(str, images.shape))
            raise ExplainError(self.name, f"can't take {shape} images ({str(error).partition(chr(10))[0]})") from error

    def __getitem__(self, layer: str) -> Tensor:
        """A layer's output in the last run, as it came out (the first tensor, of several)."""
        calls = self._kept[self._modules[layer]]
        number = _call(layer)
        if not calls:
            raise ExplainError(layer, f"isn't called, or gives no numbers, when {self.name} runs")
        if number is not None and not 1 <= number <= len(calls):
            raise ExplainError(layer, f"got call {number}", f"needed 1 to {len(calls)}, as often as it is called")
        return calls[-1 if number is None else number - 1]

    def gradient(self, score: Tensor, layer: str) -> Tensor:
        """The derivative of a scalar by a layer's output, zero where it doesn't depend on it. The graph is kept."""
        activation = self[layer]
        if not score.requires_grad:
            return torch.zeros_like(activation)
        (gradient,) = torch.autograd.grad(score, activation, retain_graph=True, allow_unused=True)
        return torch.zeros_like(activation) if gradient is None else gradient

    def keep(self, module: torch.nn.Module, _: Any, output: Any) -> Any:
        """The forward hook."""
        leaves, form = tree_flatten(output)
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                if torch.is_grad_enabled() and not leaf.requires_grad:
                    leaf = leaf.detach().requires_grad_()  # frozen up to here: the graph begins here
                self._kept[module].append(leaf)
                leaves[place] = leaf.clone()
                return tree_unflatten(leaves, form)
        return None


@contextmanager
def probing(model: torch.nn.Module, *layers: str) -> Iterator[Probe]:
    """A :class:`Probe` of the layers; gradients are on inside, and afterwards the network is as it was.

    That is also so after an exception: each module's mode, hooks, ``requires_grad`` and ``grad``.

    Args:
        model: any network.
        layers: paths, with ``@k`` for the k-th call.

    Raises:
        ExplainError: no such layer; the nearest names are told.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(inplace=True))
    >>> with probing(network, "0") as probe:
    ...     output = probe(torch.rand(1, 1, 5, 5))
    ...     probe["0"].shape, probe.gradient(output.sum(), "0").shape
    (torch.Size([1, 2, 3, 3]), torch.Size([1, 2, 3, 3]))
    """
    probe = Probe(model, layers)
    modes = [(module, module.training) for module in model.modules()]
    handles = []
    try:
        model.eval()
        handles = [module.register_forward_hook(probe.keep) for module in set(probe._modules.values())]
        with torch.inference_mode(False), torch.enable_grad():
            yield probe
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training


def input_of(model: torch.nn.Module, image: Tensor) -> Tensor:
    """An image (C, H, W) or images (N, C, H, W) as the network computes: a batch in its dtype, on its device.

    Raises:
        ExplainError: another shape, no floating point, numbers that aren't finite.
    """
    shape = "x".join(map(str, image.shape))
    if image.dim() not in (3, 4) or 0 in image.shape:
        raise ExplainError("image", f"got a tensor of {shape}", "needed (C, H, W) or (N, C, H, W)")
    if not image.is_floating_point():
        raise ExplainError(
            "image", f"got {str(image.dtype).removeprefix('torch.')}", "needed numbers normalised as the network wants"
        )
    if not bool(image.isfinite().all()):
        raise ExplainError("image", "got NaN or infinite numbers", "needed finite ones")
    images = image.detach() if image.dim() == 4 else image.detach()[None]
    weights = next((p for p in model.parameters() if p.is_floating_point()), images)
    with torch.inference_mode(False):
        images = images.clone() if images.is_inference() else images
        return images.to(device=weights.device, dtype=weights.dtype)


@torch.no_grad()
def survey(model: torch.nn.Module, image: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes that all layers put out for one image (1, C, H, W), in the order in which they are done.

    Of a layer that is called more than once the last call has the plain name, the k-th ``@k`` after it.
    """
    calls: list[tuple[str, tuple[int, ...]]] = []
    paths = {module: path for path, module in reversed(list(model.named_modules())) if path}

    def note(module: torch.nn.Module, _: Any, output: Any) -> None:
        leaves = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        calls.extend((paths[module], tuple(leaf.shape)) for leaf in leaves[:1])

    handles = []
    try:
        handles = [module.register_forward_hook(note) for module in paths]
        with probing(model) as probe, torch.no_grad():
            probe(image)
    finally:
        for handle in handles:
            handle.remove()
    total = Counter(path for path, _ in calls)
    seen: Counter[str] = Counter()
    found = {}
    for path, shape in calls:
        seen[path] += 1
        found[path if seen[path] == total[path] else f"{path}@{seen[path]}"] = shape
    return found


def grids_in(model: torch.nn.Module, images: Tensor) -> dict[str, Grid]:
    """How the outputs of those layers that have places lie on images (N, C, H, W), in the order of computation."""
    size = (images.shape[-2], images.shape[-1])
    shapes = survey(model, images[:1])
    # Tokens come from the patches of a convolution, whose output says how these lie.
    known = {shape[2:] for shape in shapes.values() if len(shape) == 4}
    found = {layer: grid_of(shape, size, known) for layer, shape in shapes.items()}
    return {layer: grid for layer, grid in found.items() if grid is not None}


def grid_at(model: torch.nn.Module, images: Tensor, layer: str) -> Grid:
    """How the output of a layer lies on the images.

    Raises:
        ExplainError: no such layer, or one whose output has no places.
    """
    module = _module(model, layer)
    grids = grids_in(model, images)
    if layer in grids:
        return grids[layer]
    # A layer with two names, or the last call by its number: the same places as its other name.
    for name, grid in grids.items():
        if _module(model, name) is module:
            return grid
    near = [name for name in grids if "@" not in name][-3:]
    raise ExplainError(
        layer,
        "its output has no places",
        "needed a layer that runs and whose output is a map (N, C, H, W), or tokens of a grid",
        "the last ones: " + ", ".join(near) if near else f"{type(model).__name__} has none",
    )


def _call(layer: str) -> int | None:
    _, _, number = layer.partition("@")
    return int(number) if number.isdecimal() else None


def _module(model: torch.nn.Module, layer: str) -> torch.nn.Module:
    path, at, number = layer.partition("@")
    modules: dict[str, torch.nn.Module] = dict(model.named_modules(remove_duplicate=False))
    del modules[""]
    if path in modules and (not at or number.isdecimal()):
        return modules[path]
    near = difflib.get_close_matches(layer, modules, n=3, cutoff=0.3) or list(modules)[-3:]
    raise ExplainError(
        "layer", f"got {layer!r}", f"needed a layer of {type(model).__name__}", "near: " + ", ".join(near)
    )
