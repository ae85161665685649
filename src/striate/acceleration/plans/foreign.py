"""Views, concatenations, and foreign steps (calls of PyTorch's operators) in a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from striate.acceleration.plans.builder import Builder, operand_of
from striate.acceleration.plans.capture import Graph, Node, Refusal, Value
from striate.acceleration.plans.constants import Constants, Make, Owned
from striate.acceleration.plans.fusing import Followers, FusedSum, filled
from striate.acceleration.plans.placement import Placement, is_dense, is_nhwc
from striate.engine.llvm.codegen.program import Buffer, Foreign, Operand
from striate.engine.llvm.memory.views import Strides

#: Operators whose results depend on strides, which plans choose themselves.
_OF_MEMORY: Final = ("as_strided", "as_strided_copy", "as_strided_scatter", "_reshape_alias")
#: PyTorch operators that accept operands in any layout.
_OF_ANY_LAYOUT: Final = frozenset(
    ("_softmax", "_log_softmax", "_to_copy", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_prelu_kernel")
    + ("_unsafe_view", "_unsafe_index", "_weight_norm_interface")
)
#: PyTorch operators that are less precise in channels last (see variants.py).
_OF_PLANES: Final = frozenset(("native_group_norm",))
_VIEWS: Final = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


class ForeignSteps(Builder):
    """A plan of a graph under construction, with the constants of the graph."""

    def __init__(self, graph: Graph, constants: Constants, threads: int) -> None:
        super().__init__(threads)
        self.graph, self.constants = graph, constants
        self.followers = Followers(graph, self.places)
        #: Padded images that aren't computed, because convolutions pad themselves: their source, and the padding.
        self.padded: dict[Value, tuple[Value, tuple[tuple[int, int], ...]]] = {}
        self.held: list[Any] = []
        #: The results of concatenations to which sums have already written.
        self.concatenated: dict[Node, Placement] = {}

    @property
    def owned(self) -> Owned:
        return self.constants.owned

    def constant(self, key: Any, make: Make) -> Tensor:
        made = self.constants(key, make)
        self.held.append(made)
        return made

    def foreign(self, node: Node) -> None:
        """Adds a foreign step for a node."""
        if node.name in _OF_MEMORY:
            raise Refusal(f"{node.name} depends on the memory layout of a tensor")
        function = torch.ops.aten.reshape.default if node.function in _VIEWS else node.function
        self.call(node.name, function, node.args, node.kwargs, node.results)

    def call(
        self, name: str, function: Any, given: tuple[Any, ...], named: dict[str, Any], values: Sequence[Value]
    ) -> None:
        """Adds a call of a PyTorch operator, on tensors in the plan's layouts, which computes these values.

        The operator is called once with zeros, which shows the layouts of its results.
        """
        if (name.startswith("_") and name not in _OF_ANY_LAYOUT) or name in _OF_PLANES:
            # The model's code may have chosen the operator for the layout of its operands, so restore that layout.
            for value in dict.fromkeys(each for each in tree_leaves((given, named)) if isinstance(each, Value)):
                if not value.fixed:
                    self.as_captured(value)
        args, kwargs = tree_map_only(Value, self.operand, (given, named))
        shown = tree_map_only(Value, self.zeros, (given, named))
        memory = {each.untyped_storage().data_ptr() for each in tree_leaves(shown) if isinstance(each, Tensor)}
        try:
            made = [each for each in tree_leaves(function(*shown[0], **shown[1])) if isinstance(each, Tensor)]
        except RuntimeError as error:
            raise Refusal(f"{name} of zeros: {error}") from error
        results: list[Operand | None] = []
        for value, result in zip(values, made, strict=True):
            if not value.users and value not in self.graph.results:
                results.append(None)
                continue
            dense = torch.ops.aten.is_non_overlapping_and_dense(result)
            stride = result.stride() if dense else torch.empty(result.shape, device="meta").stride()
            meta = torch.empty_strided(result.shape, stride, dtype=result.dtype, device="meta")
            self.places[value] = Placement(Buffer(result.numel()), meta)
            made_ = Operand(self.places[value].buffer, tuple(result.shape), stride)
            self.made_outside[made_.buffer] = made_
            results.append(made_)
        # Results that are views of an operand have to be copied, because the operand's memory is reused later.
        copied = any(each.untyped_storage().data_ptr() in memory for each in made)
        operands = (each for each in tree_leaves((given, named)) if isinstance(each, (Value, Tensor)))
        shapes = ", ".join("x".join(map(str, each.shape)) or "1" for each in operands)
        self.steps.append(Foreign(f"{name} of {shapes}", function, args, kwargs, tuple(results), copied))

    def as_captured(self, value: Value) -> None:
        """Copies a tensor to the layout that it had at capture, or to a contiguous one."""
        self.operand(value)
        place = self.place(value)
        steps = zip(value.shape, place.meta.stride(), value.stride, strict=True)
        if all(size == 1 or one == other for size, one, other in steps):
            return
        if place.meta.dtype != torch.float32:
            raise Refusal("an operand of a PyTorch operator has another dtype and another layout")
        wanted = self.fresh(value.shape, value.stride)
        if not is_dense(wanted):
            wanted = self.fresh(value.shape, _steps(value.shape))
        self.copy(place, wanted)
        self.places[value] = wanted

    def operand(self, value: Value) -> Any:
        """The argument of a PyTorch operator for a value: a tensor if the value is fixed, or an operand."""
        if value.fixed:
            return self.constant(("tensor", value.key), partial(_kept, value))
        if value in self.padded and value.maker is not None:
            del self.padded[value]
            self.foreign(value.maker)
        return operand_of(self.place(value))

    def zeros(self, value: Value) -> Tensor:
        """A tensor of zeros with the layout of a value."""
        if value.fixed:
            made: Tensor = self.operand(value)
            return made
        meta = self.place(value).meta
        count = 1 + sum((size - 1) * stride for size, stride in zip(meta.shape, meta.stride(), strict=True))
        return torch.zeros(count, dtype=meta.dtype).as_strided(meta.shape, meta.stride())

    def lower_cat(self, node: Node) -> None:
        """Concatenation: copies the rows of the parts into the result, unless a sum has written them there."""
        parts, axis, *_ = filled(node.args, (None, 0))
        parts = [each for each in parts if each.shape != (0,)]
        result = node.results[0]
        axis %= len(result.shape)
        images = len(result.shape) == 4 and any(not each.fixed and self._is_image(each) for each in parts)
        images = images or node in self.concatenated
        made = self.concatenated.get(node)
        if made is None:
            made = self.fresh_image(result.shape) if images else self.fresh(result.shape, _steps(result.shape))
        order = sorted(range(len(result.shape)), key=made.meta.stride().__getitem__, reverse=True)
        at = order.index(axis)
        rows = math.prod(result.shape[each] for each in order[:at])
        pitch, start = math.prod(result.shape[each] for each in order[at:]), 0
        for part in parts:
            if part.fixed:
                raise Refusal("concatenation with a tensor that doesn't depend on the inputs")
            length = math.prod(part.shape[each] for each in order[at:])
            if self.place(part).buffer is made.buffer:
                start += length
                continue
            place = self.nhwc(part) if images else self.rows(part)
            name = f"part from {start} of rows of {pitch}: {'x'.join(map(str, part.shape))}"
            if length and rows:
                self.copy_rows(name, rows, length, (place.buffer, 0, length), (made.buffer, start, pitch))
            start += length
        self.places[result] = made

    def into_concatenation(self, last: Value, made: FusedSum) -> None:
        """Places the result of a sum where a concatenation of channels, its only user, needs it."""
        user = self.followers.only_user(last)
        if user is None or user.name != "cat" or user.kwargs or made.added is not None:
            return
        parts, axis, *_ = filled(user.args, (None, 0))
        images = all(len(part.shape) == 4 and not part.fixed for part in parts)
        if not images or axis % 4 != 1 or parts.count(last) != 1 or made.place.shape != last.shape:
            return
        if not is_nhwc(made.place.meta):
            return
        whole = self.concatenated.setdefault(user, self.fresh_image(user.results[0].shape))
        start = sum(part.shape[1] for part in parts[: parts.index(last)])
        meta = whole.meta.narrow(1, start, last.shape[1])
        made.place = Placement(whole.buffer, meta)
        made.strides = Strides(meta.stride(0), meta.stride(2), meta.stride(3), start)

    def _is_image(self, value: Value) -> bool:
        return is_nhwc(self.place(value).meta)

    def views(self, node: Node) -> None:
        """Operators with several views of a tensor as results, such as a split."""
        source = self.place(node.args[0])
        metas = node.function(source.meta, *node.args[1:], **node.kwargs)
        for value, meta in zip(node.results, metas, strict=True):
            self.places[value] = Placement(source.buffer, meta)

    def view(self, node: Node) -> None:
        value, made = node.args[0], node.results
        source = self.place(value)
        try:
            meta = node.function(source.meta, *node.args[1:], **node.kwargs)
        except RuntimeError:
            image = source.shape
            if len(image) == 4 and is_nhwc(source.meta) and made[0].shape == (image[0], math.prod(image[1:])):
                self.flattened[made[0]] = source
                return
            if (placed := self._as_image(source, made[0])) is not None:
                self.places[made[0]] = placed
                return
            source = self.rows(value)
            meta = node.function(source.meta, *node.args[1:], **node.kwargs)
        self.places[made[0]] = Placement(source.buffer, meta)

    def _as_image(self, source: Placement, value: Value) -> Placement | None:
        """Copies a tensor so that its view is an image in channels last, for example after a channel shuffle."""
        if len(value.shape) != 4 or len(source.shape) < 5:
            return None
        image = self.fresh_image(value.shape)
        try:
            self.copy(source, Placement(image.buffer, image.meta.view(source.shape)))
        except (RuntimeError, Refusal):
            return None
        return image


def _kept(value: Value, owned: Owned, into: Tensor | None) -> Tensor:
    """A copy of a fixed value, with images in channels last."""
    made = owned(value)
    if into is not None:
        return into.copy_(made)
    return made.clone(memory_format=torch.channels_last if made.dim() == 4 else torch.preserve_format)


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    return torch.empty(shape, device="meta").stride()
