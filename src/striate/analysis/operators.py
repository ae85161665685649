"""A network's run as data: operators, the tensors between them, and the layer calls that contain them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

#: The name of the network itself among its layers.
ROOT: Final = "(network)"


@dataclass(eq=False)
class Value:
    """A tensor at one moment; after an in-place write, the tensor is a new value in the same storage.

    Args:
        shape: its sizes.
        dtype: its number format.
        bytes: of its storage, which views share.
        storage: a number that values in the same memory share.
        kind: ``"input"``, ``"parameter"``, ``"buffer"`` or ``"activation"``.
        learns: whether it, or a value that it is computed from, requires a gradient.
        known: the numbers, if they don't depend on the input.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int
    storage: int
    kind: str
    learns: bool = False
    known: Tensor | None = None

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass(eq=False)
class Operation:
    """One operator call.

    Args:
        target: the operator's overload.
        args, kwargs: as called, with a :class:`Value` for each tensor.
        outputs: what came out.
        written: values that were overwritten, and the one that took each one's place.
        call: number of the layer's call that it happened in.
    """

    target: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Value, ...]
    written: tuple[tuple[Value, Value], ...]
    call: int

    @functools.cached_property
    def name(self) -> str:
        """``aten.convolution``: the operator without its overload."""
        return str(self.target.overloadpacket)

    @functools.cached_property
    def inputs(self) -> tuple[Value, ...]:
        """The tensors among its arguments."""
        return tuple(leaf for leaf in tree_flatten((self.args, self.kwargs))[0] if isinstance(leaf, Value))

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument with a schema's name, or its default there."""
        if name in self.kwargs:
            return self.kwargs[name]
        for place, known in enumerate(self.target._schema.arguments):
            if known.name == name:
                if place < len(self.args):
                    return self.args[place]
                return known.default_value if known.has_default_value() else default
        return default


@dataclass(eq=False)
class Call:
    """One call of a layer.

    Args:
        path: the layer's name in the network, ``"layer4.0.conv1"``; of the network itself ``""``.
        layer: the copy of the layer.
        parent: number of the call that it happened in, -1 for the network itself.
        outputs: the tensors it returned.
        first, last: its operations, from the one up to and without the other.
        leaf: whether it called no other layer.
    """

    path: str
    layer: torch.nn.Module
    parent: int
    outputs: tuple[Value, ...] = ()
    first: int = 0
    last: int = 0
    leaf: bool = True


@dataclass(eq=False)
class Trace:
    """The operators that a network runs for inputs of one size, in order.

    Args:
        inputs: the network's input tensors, by name (:class:`~striate.analysis.examples.Example`).
        outputs: the tensors it returns.
        operations: all operators that made or changed a tensor.
        calls: all calls of layers, in the order in which they began; the first one is the network's own.
        parameters, buffers: by name; one that is shared has several names.
        saved: storages that autograd keeps for the backward pass, and the operation after which it does. Empty unless
            traced for training.
    """

    inputs: dict[str, Value]
    outputs: tuple[Value, ...]
    operations: list[Operation]
    calls: list[Call]
    parameters: dict[str, Value]
    buffers: dict[str, Value]
    saved: dict[int, int] = field(default_factory=dict)
