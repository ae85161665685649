"""Runs any network and captures the outputs of layers, with gradients; the network's state is restored afterwards."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from striate.analysis.examples import as_written
from striate.errors import ExplainError, is_out_of_memory
from striate.explain.arguments import layer as layer_text
from striate.explain.arguments import network
from striate.explain.inputs import Call, Input, arguments_of, call_of, input_of
from striate.explain.names import find
from striate.explain.places import Grid, grid_of

__all__ = ["Probe", "grid_at", "grids_in", "input_of", "layer_named", "probing", "survey"]


class Probe:
    """A network in evaluation mode whose layers' outputs are kept in each run; made by :func:`probing`.

    A layer is named by its path, ``"layer4.1.conv2"``. Of a layer that is called more than once the path means the last
    call, and ``"relu@1"`` the first, ``"relu@2"`` the second one.

    Layers pass on a copy of the captured output. So an in-place operation (such as an in-place ReLU) doesn't change the
    captured output, and gradients are those of the layer's own output.
    """

    def __init__(self, model: torch.nn.Module, layers: Sequence[str], call: Call | None = None) -> None:
        self.model = network("model", model)
        self.layers = tuple(layers)
        self.name = type(model).__name__
        self._call = call
        self._modules = {layer: _module(model, layer) for layer in layers}
        self._kept: dict[torch.nn.Module, list[Tensor]] = {}

    def __call__(self, images: Any, which: Tensor | None = None) -> Any:
        """The network's output for images; its layers' outputs are kept until the next run.

        Args:
            images: (B, C, H, W), beside which the other inputs go, if :func:`probing` was given any; or all that the
                network takes, as a tuple or a dict.
            which: (B,), of which of the images that the probe was made for each is a copy.

        Raises:
            ExplainError: the network can't take these images.
        """
        self._kept = {module: [] for module in self._modules.values()}
        if self._call is not None and isinstance(images, Tensor):
            args, kwargs = self._call.of(images, which)
        else:
            # The network may write into its input, which is the caller's.
            args, kwargs = arguments_of(self.model, images.clone() if isinstance(images, Tensor) else images)
        try:
            return self.model(*args, **kwargs)
        except Exception as error:  # a forward may raise anything
            if is_out_of_memory(error):
                raise
            raise self._refused(error, args, kwargs) from error

    def _refused(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExplainError:
        leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        shapes = " and ".join("x".join(map(str, leaf.shape)) or "one number" for leaf in leaves)
        said = str(error).partition("\n")[0]
        if not isinstance(error, RuntimeError | ValueError | TypeError):
            said = f"{type(error).__name__}: {said}"
        remedy = ""
        if isinstance(error, torch.OutOfMemoryError):
            remedy = "give fewer images, or a smaller batch_size"
        elif isinstance(error, TypeError) and len(leaves) == 1:
            remedy = "several inputs go as a tuple, or as a dict of keywords"
        elif leaves and leaves[0].dim() == 4 and leaves[0].shape[3] in (1, 3) and leaves[0].shape[1] not in (1, 3):
            remedy = "channels go first: image.permute(0, 3, 1, 2)"
        return ExplainError(self.name, f"can't take {shapes} images ({said})", remedy=remedy)

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
                    leaf = leaf.detach().requires_grad_()  # all layers up to here are frozen: the graph begins here
                self._kept[module].append(leaf)
                leaves[place] = leaf.clone()
                return tree_unflatten(leaves, form)
        return None


@contextmanager
def probing(model: torch.nn.Module, *layers: str, call: Call | None = None) -> Iterator[Probe]:
    """A :class:`Probe` of the layers; gradients are on inside, and afterwards the network is as it was.

    That is also so after an exception: each module's mode, hooks, ``requires_grad`` and ``grad``.

    Args:
        model: any network.
        layers: paths, with ``@k`` for the k-th call.
        call: the inputs that go beside images, by :func:`striate.explain.inputs.call_of`; none by default.

    Raises:
        ExplainError: no such layer; the nearest names are told.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(inplace=True))
    >>> with probing(network, "0") as probe:
    ...     output = probe(torch.rand(1, 1, 5, 5))
    ...     probe["0"].shape, probe.gradient(output.sum(), "0").shape
    (torch.Size([1, 2, 3, 3]), torch.Size([1, 2, 3, 3]))
    """
    probe = Probe(model, layers, call)
    modes = [(module, module.training) for module in model.modules()]
    handles = []
    try:
        model.eval()
        handles = [module.register_forward_hook(probe.keep) for module in set(probe._modules.values())]
        with as_written(model), torch.inference_mode(False), torch.enable_grad():
            yield probe
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training


@torch.no_grad()
def survey(model: torch.nn.Module, given: Input) -> dict[str, tuple[int, ...]]:
    """The shapes of all layers' outputs for the first image, in the order in which the layers finish.

    If a layer is called more than once, the last call has the plain name, the k-th call has ``@k`` after it.
    """
    calls: list[tuple[str, tuple[int, ...]]] = []
    paths = {module: path for path, module in reversed(list(model.named_modules())) if path}

    def note(module: torch.nn.Module, _: Any, output: Any) -> None:
        leaves = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        calls.extend((paths[module], tuple(leaf.shape)) for leaf in leaves[:1])

    handles = []
    call = call_of(model, given)
    try:
        handles = [module.register_forward_hook(note) for module in paths]
        with probing(model, call=call) as probe, torch.no_grad():
            probe(call.images[:1])
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


def grids_in(model: torch.nn.Module, given: Input) -> dict[str, Grid]:
    """How the outputs of those layers that have places lie on images, in the order of computation."""
    call = call_of(model, given)
    size = (call.images.shape[-2], call.images.shape[-1])
    shapes = survey(model, call)
    # Tokens come from the patches of a convolution, whose output says how these lie.
    known = {shape[2:] for shape in shapes.values() if len(shape) == 4}
    found = {layer: grid_of(shape, size, known) for layer, shape in shapes.items()}
    return {layer: grid for layer, grid in found.items() if grid is not None}


def grid_at(model: torch.nn.Module, given: Input, layer: str) -> Grid:
    """How the output of a layer lies on the images.

    Raises:
        ExplainError: no such layer, or one whose output has no places.
    """
    module = _module(model, layer)
    grids = grids_in(model, given)
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


def layer_named(model: torch.nn.Module, layer: str) -> str:
    """The path of a layer, as the network has it: by that path, or by one that is unique but for case and hyphens.

    Raises:
        ExplainError: no such layer; the nearest names are told.

    >>> layer_named(torch.nn.ModuleDict({"Conv_1": torch.nn.ReLU()}), "conv-1@2")
    'Conv_1@2'
    """
    text = layer_text("layer", layer)
    path, at, number = text.partition("@")
    paths: list[str] = [path for path, _ in network("model", model).named_modules(remove_duplicate=False) if path]
    place = find(path, paths, "layer") if not at or number.isdecimal() else None
    if place is not None:
        return paths[place] + at + number
    near = difflib.get_close_matches(text, paths, n=3, cutoff=0.3) or paths[-3:]
    needed = f"needed a layer of {type(model).__name__}" + ("" if near else ", which has none")
    raise ExplainError("layer", f"got {text!r}", needed, "near: " + ", ".join(near) if near else "")


def _module(model: torch.nn.Module, layer: str) -> torch.nn.Module:
    path = layer_named(model, layer).partition("@")[0]
    modules: dict[str, torch.nn.Module] = dict(model.named_modules(remove_duplicate=False))
    return modules[path]
