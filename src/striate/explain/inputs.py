"""Inputs of a network: images alone, or images among other inputs, which are held fixed.

All methods vary one input, the explained one: the first floating-point tensor (N, C, H, W) among the network's inputs.
The others don't change. If another input has an entry for each of the N images, a method that makes copies of an image,
as occlusion does, gives each copy the entry of its image.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._pytree import tree_flatten, tree_flatten_with_path, tree_map, tree_unflatten

from striate.errors import ExplainError
from striate.explain.arguments import array, kind_of, network

#: The place of an input: a position, a keyword, or a path of several of these.
Place: TypeAlias = int | str | tuple[int | str, ...]


@dataclass(frozen=True, eq=False)
class Inputs:
    """All that a network takes, where the first floating tensor of four axes isn't the one to explain.

    Args:
        given: a tuple of positional inputs, or a dict: of keywords if the network's forward has them, else its only
            input.
        explained: where in it the explained input lies: 1, ``"image"``, or ``(0, "image")`` in a dict in a tuple.

    >>> class Both(torch.nn.Module):
    ...     def forward(self, depth, colour):
    ...         return (depth.mean(1, keepdim=True) * colour).flatten(1)
    >>> from striate.explain import saliency
    >>> saliency(Both(), Inputs((torch.rand(1, 1, 4, 4), torch.rand(1, 3, 4, 4)), explained=1)).values.shape
    torch.Size([1, 3, 4, 4])
    """

    given: tuple[Any, ...] | Mapping[str, Any]
    explained: Place | None = None


@dataclass(frozen=True, eq=False)
class Call:
    """Inputs of a network, settled; made by :func:`call_of`.

    Args:
        images: (N, C, H, W), the explained input, in the network's dtype and on its device.
        leaves: all inputs.
        form: ``(args, kwargs)`` as they lie in these, with the number of a leaf for each.
        place: of the explained one among the leaves.
    """

    images: Tensor
    leaves: tuple[Any, ...]
    form: Any
    place: int

    @property
    def alone(self) -> bool:
        """Whether images are all that the network takes, by position."""
        return bool(self.form == ((0,), {}))

    def of(self, images: Tensor, which: Tensor | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the network for varied images.

        Args:
            images: (B, C, H, W).
            which: (B,), of which of the N images each is a copy; by default the first B of them, of one image all.
        """
        count = len(self.images)
        if which is None:
            which = torch.arange(len(images)) if count > 1 else torch.zeros(len(images), dtype=torch.int64)
        leaves = list(self.leaves)
        for place, leaf in enumerate(leaves):
            # The network may write into its inputs, which are the caller's.
            if place == self.place:
                leaves[place] = images.clone()
            elif isinstance(leaf, Tensor):
                shared = leaf.dim() > 0 and len(leaf) in (1, count)
                rows = which.to(leaf.device) if shared and len(leaf) > 1 else None
                if rows is not None:
                    leaves[place] = leaf.index_select(0, rows)
                else:
                    leaves[place] = leaf.expand(len(images), *leaf.shape[1:]).clone() if shared else leaf.clone()
        args, kwargs = tree_map(leaves.__getitem__, self.form)
        return args, kwargs


#: The input to explain: images (C, H, W) or (N, C, H, W), as a tensor or a NumPy array; a tuple or a dict of inputs; or
#: :class:`Inputs`.
Input: TypeAlias = Tensor | NDArray[Any] | tuple[Any, ...] | Mapping[str, Any] | Inputs | Call


def call_of(model: nn.Module, given: Input) -> Call:
    """The call of a network with given inputs.

    Raises:
        ExplainError: no image, one of another shape, no floating point, numbers that aren't finite; a network whose
            weights don't exist yet.
    """
    if isinstance(given, Call):
        return given
    home = home_of(network("model", model))
    explained = given.explained if isinstance(given, Inputs) else None
    given = given.given if isinstance(given, Inputs) else given
    several = isinstance(given, tuple | Mapping)
    args, kwargs = arguments_of(model, given if several else array("image", given))
    with torch.inference_mode(False):
        leaves, form = tree_flatten((args, kwargs))
        leaves = [array("input", leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
        place = _place(leaves, (args, kwargs), explained) if several else 0
        leaves[place] = _images(leaves[place], several)
        settled = tuple(at_home(leaves, home))
    return Call(settled[place], settled, tree_unflatten(range(len(settled)), form), place)


def input_of(model: nn.Module, image: Input) -> Tensor:
    """The explained input as the network computes: (N, C, H, W), in its dtype, on its device.

    Raises:
        ExplainError: as :func:`call_of`.
    """
    return call_of(model, image).images


def arguments_of(model: nn.Module, given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a forward is called with: a tuple by position, a dict by keywords if it has them, all else as it is."""
    if isinstance(given, tuple):
        return given, {}
    if not isinstance(given, Mapping):
        return (given,), {}
    named = {str(key): value for key, value in given.items()}
    try:
        inspect.signature(model.forward).bind(**named)
    except (TypeError, ValueError):  # a forward of other parameters, or one written in C
        return (dict(given),), {}
    return (), named


def home_of(model: nn.Module) -> Tensor | None:
    """A weight of the network, whose dtype and device are those that it computes with; None if it has none.

    Raises:
        ExplainError: lazy layers that haven't seen an input yet.
    """
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(weight, UninitializedParameter | UninitializedBuffer):
            needed = "needed a network whose weights exist"
            raise ExplainError(name.rpartition(".")[0] or name, "is lazy and has no weights yet", needed, "run it once")
    weights = (*model.parameters(), *model.buffers())
    return next((weight for weight in weights if weight.is_floating_point()), None)


def at_home(given: Any, home: Tensor | None) -> Any:
    """Tensors, however they are packed, on the network's device, and floating ones in its dtype; differentiable."""
    if home is None:
        return given
    return tree_map(lambda leaf: _brought(leaf, home) if isinstance(leaf, Tensor) else leaf, given)


def _brought(leaf: Tensor, home: Tensor) -> Tensor:
    return leaf.to(device=home.device, dtype=home.dtype if leaf.is_floating_point() else leaf.dtype)


def _images(given: Any, several: bool) -> Tensor:
    images = array("image", given)
    shape = "x".join(map(str, images.shape))
    if images.dim() not in ((4,) if several else (3, 4)) or 0 in images.shape:
        needed = "needed (N, C, H, W)" if several else "needed (C, H, W) or (N, C, H, W)"
        raise ExplainError("image", f"got a tensor of {shape or 'no axes'}", needed)
    if not images.is_floating_point():
        raise ExplainError(
            "image",
            f"got {str(images.dtype).removeprefix('torch.')}",
            "needed numbers normalised as the network wants",
            "bytes: image / 255, then (image - mean) / std as in training",
        )
    if not bool(images.isfinite().all()):
        raise ExplainError("image", "got NaN or infinite numbers", "needed finite ones")
    images = images.detach() if images.dim() == 4 else images.detach()[None]
    return images.clone() if images.is_inference() else images


def _place(leaves: list[Any], arguments: Any, explained: Place | None) -> int:
    """Which of several inputs is the explained one."""
    paths = [path for path, _ in tree_flatten_with_path(arguments)[0]]
    # Without the first key, which tells positions from keywords.
    ways = [tuple(getattr(key, "key", getattr(key, "idx", None)) for key in path[1:]) for path in paths]
    described = ", ".join(f"{_way(way)}: {kind_of(leaf)}" for way, leaf in zip(ways, leaves, strict=True))
    if explained is not None:
        wanted = explained if isinstance(explained, tuple) else (explained,)
        for place, way in enumerate(ways):
            if wanted in (way, way[1:]) or (len(wanted) == 1 and wanted == way[-1:]):
                return place
        raise ExplainError("explained", f"got {explained!r}", f"needed the place of an input; there are {described}")
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.dim() == 4 and leaf.is_floating_point():
            return place
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and leaf.dim() == 4:
            return place  # bytes, which are refused with a remedy
    raise ExplainError(
        "image",
        f"got {described or 'no input'}",
        "needed a floating tensor (N, C, H, W) among the inputs",
        "Inputs(..., explained=...) names one",
    )


def _way(way: tuple[Any, ...]) -> str:
    return ".".join(map(str, way))
