"""Lowers the operators of a captured graph to steps of kernels.

Every tensor is a view of a buffer, with strides that the plan chooses: images are in channels last, whatever layout the
model's tensors have. A view of a tensor only has other strides over the same buffer. Values that depend only on the
model (transposed weights, connection tables) are computed by PyTorch when weights are packed.

Operators after a sum are fused into it if possible (see fusing.py). Flattening images before a linear layer costs
nothing, because its weights are packed in the memory order of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from striate.acceleration.plans.builder import PASS
from striate.acceleration.plans.capture import Graph, Node, Refusal, Value
from striate.acceleration.plans.constants import Constants, Owned
from striate.acceleration.plans.foreign import ForeignSteps
from striate.acceleration.plans.functions import function, is_function
from striate.acceleration.plans.fusing import FusedSum, filled, max_pooling, normalisation
from striate.acceleration.plans.placement import Placement, along, innermost, innermost_axes, of_channels, stretched
from striate.engine import Pass, choice, fresh
from striate.engine.backends import table
from striate.engine.choice import Asked
from striate.engine.llvm.codegen.ir import real_word
from striate.engine.llvm.codegen.program import Buffer, Foreign, Step
from striate.engine.llvm.conv_pool import dispatch as conv_pool_kernels
from striate.engine.llvm.convolution.sums import nhwc_sum
from striate.engine.llvm.functions import elementwise
from striate.engine.llvm.functions.epilogue import Epilogue
from striate.engine.llvm.memory.rows import Axis, phase
from striate.engine.llvm.memory.views import Strides, axes
from striate.engine.llvm.memory.weights import Weights, pack
from striate.engine.llvm.normalization import layer as layer_normalization
from striate.engine.llvm.pooling import dispatch as pooling_kernels
from striate.engine.llvm.winograd import backend as winograd_backend
from striate.engine.llvm.winograd.backend import WinogradBackend
from striate.geometry import ConvShape, PoolShape, Problem
from striate.ops import convolution, pooling

_ONE = Axis(1, 1, 0, 1)


@dataclass(frozen=True)
class Lowered:
    """The steps of a plan, the buffers of inputs and results, and the layouts of the results."""

    steps: list[Step | Foreign]
    sources: list[Buffer]
    results: list[Buffer]
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]  #: shapes and strides of the results
    held: list[Any]  #: references to the memory that the steps' addresses point at


def lowered(graph: Graph, constants: Constants, threads: int) -> Lowered:
    """Lowers a graph to steps for at most ``threads`` threads.

    Raises:
        Refusal: an operator can't be lowered.
    """
    return _Lowering(graph, constants, threads).all()


class _Lowering(ForeignSteps):
    def all(self) -> Lowered:
        for value in self.graph.inputs:
            meta = torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device="meta")
            self.places[value] = Placement(Buffer(meta.numel()), meta)
        sources = [self.places[value].buffer for value in self.graph.inputs]
        told = [value for value in self.graph.outputs if isinstance(value, Value)]
        if any(0 in value.shape for value in (*told, *(each for node in self.graph.nodes for each in node.values()))):
            # Kernels don't handle empty tensors, which only occur where there is little to compute.
            # Unused results may be empty: batch normalisation with running statistics has two of them.
            raise Refusal("there are empty tensors")
        for node in self.graph.nodes:
            if node not in self.followers.done and not all(value.fixed for value in node.results):
                self.lower_or_call(node)
        results: list[Buffer] = []
        for value in self.graph.results:
            results.append(self.result(self.place(value), [*sources, *results], value.stride))
        shapes = [(value.shape, value.stride) for value in self.graph.results]
        return Lowered(self.steps, sources, results, shapes, self.held)

    def filled(self, key: Any, count: int, numbers: Callable[[Owned], Tensor]) -> Tensor:
        """A constant of ``count`` numbers that depends only on the model's tensors."""

        def make(owned: Owned, into: Tensor | None) -> Tensor:
            kept = fresh.empty(count) if into is None else into
            return kept.copy_(numbers(owned).expand(count))

        return self.constant((key, count), make)

    # ---------------------------------------------------------------- operators

    def lower_or_call(self, node: Node) -> None:
        """Lowers an operator to kernels, or to a foreign step if there are none."""
        before = len(self.steps), dict(self.places), dict(self.flattened), set(self.followers.done)
        try:
            self.lower(node)
        except Refusal:
            count, places, flattened, done = before
            del self.steps[count:]
            for held, kept in ((self.places, places), (self.flattened, flattened)):
                held.clear()
                held.update(kept)
            self.followers.done.intersection_update(done)
            self.foreign(node)

    def lower(self, node: Node) -> None:
        if any(value.dtype != torch.float32 for value in (*node.values(), node.results[0])):
            raise Refusal(f"{node.name} of another dtype than float32")
        own = getattr(self, f"lower_{node.name}", None)
        if own is not None:
            own(node)
        elif is_function(node):
            self.function(node)
        elif node.is_same:
            self.places[node.results[0]] = self.place(node.args[0])
        elif node.is_view:
            self.view(node)
        elif node.function.is_view and len(node.results) > 1:
            self.views(node)
        else:
            raise Refusal(f"{node.name} has no kernel here")

    def lower_convolution(self, node: Node) -> None:
        input, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
        if len(input.shape) != 4 or not weight.fixed or not (bias is None or bias.fixed):
            raise Refusal("a convolution that is not of two axes, or whose weights are computed")
        if transposed:
            self.transposed_convolution(node)
            return
        sides: Any = padding
        if input in self.padded:
            input, before_after = self.padded[input]
            sides = tuple((low + p, high + p) for (low, high), p in zip(before_after, padding, strict=True))
        problem = convolution.problem_of(input.shape, weight.shape, stride, sides, dilation, groups)
        self.check(problem)
        x, shape = self.nhwc(input), problem.output_shape
        made = FusedSum(self.fresh_image(shape), lambda owned: owned(weight), weight.key, bias, shape[1], Epilogue())
        last = self.followers.absorb(made, node.results[0])
        pool = self.followers.pooling(last, made)
        if pool is not None and self.pooled(pool, made, x, problem):
            return
        if groups == 1:
            self.into_concatenation(last, made)
        if self.by_winograd(problem):
            self.winograd(last, made, x, problem, made.epilogue)
            return
        batch, channels, size = input.shape[0], input.shape[1], input.shape[2:]
        outputs, windows = (shape[2], shape[3]), axes(problem)
        inner, outer = problem.in_channels // groups, problem.out_channels // groups
        lies = made.strides
        if groups == 1 and windows == (_ONE, _ONE):
            # One long row, which can be divided freely among threads and for the caches.
            batch, size, outputs = 1, (1, batch * math.prod(size)), (1, batch * math.prod(size))
            lies = lies and Strides(0, 0, lies.column, lies.start)
        elif groups == 1 and outputs == (1, 1) and problem.kernel == tuple(size) and not any(map(any, problem.pads)):
            inner, size, outputs, batch = channels * math.prod(size), (1, batch), (1, batch), 1
            windows, lies = (_ONE, _ONE), lies and Strides(0, 0, lies.image, lies.start)
        sizes = (batch, groups, outer, inner, size, windows, outputs)
        self.sum(last, made, x, sizes, groups, problem.macs, result=lies)

    def transposed_convolution(self, node: Node) -> None:
        """A transposed convolution: for each phase of its stride, an ordinary sum whose results lie a stride apart."""
        input, weight, bias, stride, padding, dilation, _, _, groups = node.args
        if groups != 1 or node.results[0].dtype != torch.float32:
            raise Refusal("a transposed convolution in groups")
        inner, outer, *kernel = weight.shape
        size, outputs = input.shape[2:], (node.results[0].shape[2], node.results[0].shape[3])
        how = zip(kernel, *((*each, *each)[:2] for each in (stride, padding, dilation)), strict=True)
        windows = [Axis(*each) for each in how]
        phases = [[phase(axis, at) for at in range(axis.stride)] for axis in windows]
        if not all(taps for axis in phases for _, taps in axis):
            raise Refusal("a transposed convolution that leaves outputs without a term")
        x = self.nhwc(input)
        key = ("transposed", weight.key)
        place = self.fresh_image(tuple(node.results[0].shape))
        made = FusedSum(place, lambda owned: owned(weight).transpose(0, 1), key, bias, outer, Epilogue())
        last = self.followers.absorb(made, node.results[0])
        self.into_concatenation(last, made)
        lies = made.strides or Strides.dense(outputs, outer)
        for (top, (rows, row_taps)), (left, (columns, column_taps)) in product(*map(enumerate, phases)):
            down, across = (axis.stride for axis in windows)
            count = -(-(outputs[0] - top) // down), -(-(outputs[1] - left) // across)
            if min(count) < 1:
                continue
            start = lies.start + top * lies.row + left * lies.column
            result = Strides(lies.image, down * lies.row, across * lies.column, start)
            sizes = (input.shape[0], 1, outer, inner, size, (rows, columns), count)
            macs = input.shape[0] * math.prod(count) * len(row_taps) * len(column_taps) * inner * outer
            self.sum(last, made, x, sizes, 1, macs, (row_taps, column_taps), result)

    def lower_constant_pad_nd(self, node: Node) -> None:
        """Zero padding, which is skipped if convolutions can do it themselves."""
        input, sides, *rest = node.args
        convolutions = all(user.name == "convolution" and not user.args[6] for user in node.results[0].users)
        if not convolutions or len(input.shape) != 4 or len(sides) > 4 or min(sides) < 0 or any(rest):
            raise Refusal("padding that isn't zeros before a convolution")
        left, right, top, bottom = filled(tuple(sides), (0, 0, 0, 0))
        self.padded[node.results[0]] = input, ((top, bottom), (left, right))

    def lower_addmm(self, node: Node) -> None:
        bias, input, weight = node.args
        if node.kwargs or bias.shape != (weight.shape[1],):
            raise Refusal("addmm that scales, or adds other than a number for each column")
        self.linear(node, bias, input, weight)

    def lower_mm(self, node: Node) -> None:
        self.linear(node, None, *node.args)

    def linear(self, node: Node, bias: Value | None, input: Value, weight: Value) -> None:
        """A product with a matrix (in, out) of the model, as a convolution of images with one position."""
        if not weight.fixed or not (bias is None or bias.fixed):
            raise Refusal(f"{node.name} of two computed matrices")
        (rows, inner), outer = input.shape, weight.shape[1]
        image = self.flattened.get(input)
        if image is not None:
            # Use the memory order of the image, (height, width, channels).
            x, sizes = image, image.shape[1:]
        else:
            x, sizes = self.rows(input), (inner, 1, 1)
        place = self.fresh((rows, outer), (outer, 1))
        key = ("matrix", weight.key, tuple(sizes))
        made = FusedSum(place, lambda owned: owned(weight).t().reshape(outer, *sizes), key, bias, outer, Epilogue())
        last = self.followers.absorb(made, node.results[0])
        whole = (1, 1, outer, inner, (1, rows), (_ONE, _ONE), (1, rows))
        self.sum(last, made, x, whole, 1, rows * inner * outer)

    def sum(
        self,
        last: Value,
        made: FusedSum,
        x: Placement,
        sizes: tuple[Any, ...],
        groups: int,
        macs: int,
        taps: tuple[range, range] | None = None,
        result: Strides | None = None,
    ) -> None:
        """Adds the step of a sum.

        ``taps``: only these of the weight; ``result``: where the result is written, if not densely.
        """
        what = nhwc_sum(self.isa, *sizes, self.shared(macs), made.epilogue, result)
        how = (groups, what.channels, True, what.together, taps)
        packed = self.packed(made, ("sum", *how), partial(self.pack, *how))
        scratch = Buffer(what.scratch)
        # In channels last without gaps, a row ends where the next one begins.
        row = sizes[4][1] * _width(sizes)
        strides = (row * sizes[4][0], row)
        added = None if made.added is None else made.added.buffer
        words = what.words(x.buffer, packed.data_ptr(), made.place.buffer, scratch, strides, added)
        shapes = ("x".join(map(str, shape)) for shape in (x.shape, made.weight(self.owned).shape))
        name = f"sum of {' times '.join(shapes)}{made.epilogue}"
        self.steps.append(Step(name, what.kernel, what.items, what.threads, words))
        self.places[last] = made.place

    def packed(
        self, made: FusedSum, how: Any, pack_: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    ) -> Tensor:
        """The packed weight and bias of a sum; ``how`` identifies the packing."""
        return self.constant((made.keys, how), lambda owned, into: pack_(*made.numbers(owned), into))

    def pack(
        self,
        groups: int,
        channels: int,
        innermost: bool,
        together: int,
        taps: tuple[range, range] | None,
        weight: Tensor,
        bias: Tensor | None,
        into: Tensor | None,
    ) -> Tensor:
        weights = Weights.of(weight.contiguous(), groups)
        weights = weights if taps is None else weights.taps(*taps)
        return pack(self.isa, weights, bias, channels, innermost, into, together)

    def by_winograd(self, problem: ConvShape) -> bool:
        asked = Asked(problem, Pass.PACKED, channels_last=True, local=False)
        return choice.choose(asked, None).name == WinogradBackend.name

    def pooled(self, node: Node, made: FusedSum, x: Placement, problem: ConvShape) -> bool:
        """Fuses max pooling into a convolution whose output is then never written; returns whether a kernel exists."""
        pool = max_pooling(node)
        by_winograd = self.by_winograd(problem) and winograd_backend.pools(problem, pool)
        # With one channel, planes and channels last are the same, and filters that don't fill a vector are worth it.
        few = problem.in_channels == 1 and problem.out_channels < self.isa.lanes and conv_pool_kernels.joins(pool)
        if not by_winograd and not few:
            return False
        self.followers.done.add(node)
        last, epilogue = self.followers.functions(node.results[0], made.epilogue)
        made.place = self.fresh_image(pool.output_shape)
        if by_winograd:
            self.winograd(last, made, x, problem, winograd_backend.Pooled(epilogue), f", {pool}")
            return True
        height, width = problem.size
        strides, threads = (height * width, height * width, width), self.shared(problem.macs)
        what = conv_pool_kernels.Nhwc.of(self.isa, problem, pool, threads, strides, epilogue)
        how = (1, what.together, False, 1, None)
        packed = self.packed(made, ("pooled", *how), partial(self.pack, *how))
        words = what.words(x.buffer, packed.data_ptr(), made.place.buffer, Buffer(what.threads * what.scratch))
        self.steps.append(Step(f"{problem}{epilogue}, {pool}", what.kernel, what.items, what.threads, words))
        self.places[last] = made.place
        return True

    def winograd(
        self,
        last: Value,
        made: FusedSum,
        x: Placement,
        problem: ConvShape,
        after: Epilogue | winograd_backend.Pooled,
        more: str = "",
    ) -> None:
        threads = self.shared(problem.macs)
        what = winograd_backend.WinogradSums.of(self.isa, problem, threads, after, True, result=made.strides)
        how = ("winograd", what.isa, what.form, what.vectors, what.channels)
        packed = self.packed(made, how, lambda weight, bias, into: what.pack(Weights.of(weight, 1), bias, into))
        added = None if made.added is None else made.added.buffer
        words = what.words(x.buffer, packed.data_ptr(), made.place.buffer, Buffer(what.scratch), added)
        name = f"Winograd's {problem}{after.after if isinstance(after, winograd_backend.Pooled) else after}{more}"
        self.steps.append(Step(name, what.kernel, what.items, what.threads, words))
        self.places[last] = made.place

    def lower_native_batch_norm(self, node: Node) -> None:
        """Batch normalisation that isn't folded into a sum."""
        fold = normalisation(node)
        input = node.args[0]
        if len(input.shape) not in (2, 4):
            raise Refusal("batch normalisation of neither rows nor images")
        x = self.nhwc(input) if len(input.shape) == 4 else self.rows(input)
        # With one channel, all numbers are normalised alike, whichever axis is innermost.
        count = innermost(x.meta)

        def numbers(owned: Owned) -> Tensor:
            return torch.cat([each.reshape(-1).expand(count) for each in fold.of(owned)])

        factor_and_term = self.filled((fold.key, "affine"), 2 * count, numbers)
        value, epilogue = self.followers.functions(node.results[0], Epilogue())
        self.places[value] = self.pair("affine", x, factor_and_term, epilogue)

    lower__native_batch_norm_legit_no_training = lower_native_batch_norm

    def lower_native_layer_norm(self, node: Node) -> None:
        input, normalised, weight, bias, epsilon = node.args
        if len(normalised) != 1 or any(value.users for value in node.results[1:]):
            raise Refusal("layer normalisation of more than one axis")
        if not all(value is None or value.fixed for value in (weight, bias)):
            raise Refusal("layer normalisation with a computed weight or bias")
        x = self.dense(input)
        if x.meta.stride(-1) != 1:
            x = self.rows(input)
        channels, count = x.shape[-1], x.meta.numel()
        scale, shift = (
            self.filled(("affine", value and value.key, default), channels, partial(_affine, value, default))
            for value, default in ((weight, 1.0), (bias, 0.0))
        )
        made, rows = self.fresh(x.shape, x.meta.stride()), count // channels
        threads = self.shared(count * PASS)
        block = -(-rows // (1 if threads == 1 else 4 * threads))
        kernel, items = layer_normalization.kernel(self.isa), -(-rows // block)
        maps = {"x": x.buffer, "scale": scale.data_ptr(), "shift": shift.data_ptr(), "y": made.buffer}
        words = kernel.words(**maps, channels=channels, rows=rows, block=block, epsilon=real_word(epsilon))
        name = f"layer norm of {'x'.join(map(str, x.shape))}"
        self.steps.append(Step(name, kernel, items, min(threads, items), words))
        self.places[node.results[0]] = made

    def lower_max_pool2d_with_indices(self, node: Node) -> None:
        if node.results[1].users or len(node.args[0].shape) != 4:
            raise Refusal("positions of max pooling are used, or an image has no batch axis")
        last, epilogue = self.followers.functions(node.results[0], Epilogue())
        self.pool(last, node.args[0], max_pooling(node), epilogue)

    def lower_avg_pool2d(self, node: Node) -> None:
        if len(node.args[0].shape) != 4:
            raise Refusal("pooling of an image without a batch axis")
        kernel, stride, padding, *how = filled(node.args[1:], (None, None, 0, False, True, None))
        problem = pooling.problem_of("avg", node.args[0].shape, kernel, stride or None, padding, 1, *how)
        self.pool(node.results[0], node.args[0], problem, Epilogue())

    def lower_mean(self, node: Node) -> None:
        input, axes_, *_ = filled(node.args, (None, None, False))
        if len(input.shape) != 4 or sorted(axis % 4 for axis in axes_ or ()) != [2, 3] or node.kwargs:
            raise Refusal("a mean over other axes than an image's two")
        self.pool(node.results[0], input, pooling.problem_of("avg", input.shape, input.shape[2:]), Epilogue())

    def lower__adaptive_avg_pool2d(self, node: Node) -> None:
        input, outputs = node.args
        if len(input.shape) != 4 or any(size % out for size, out in zip(input.shape[2:], outputs, strict=True)):
            raise Refusal("adaptive pooling whose windows differ in size")
        kernel = tuple(size // out for size, out in zip(input.shape[2:], outputs, strict=True))
        self.pool(node.results[0], input, pooling.problem_of("avg", input.shape, kernel, kernel), Epilogue())

    def pool(self, last: Value, input: Value, problem: PoolShape, epilogue: Epilogue) -> None:
        if problem.dims != 2 or 0 in problem.input_shape:
            raise Refusal("pooling of other than two axes, or of nothing")
        x, shape = self.nhwc(input), problem.output_shape
        what = pooling_kernels.nhwc_values(problem, epilogue)
        place = self.fresh_image(shape)
        size = problem.size
        words = what.words(x.buffer, place.buffer, (math.prod(size) * shape[1], size[1] * shape[1]))
        threads = min(what.items, self.shared(math.prod(problem.kernel) * math.prod(shape)))
        self.steps.append(Step(f"{problem}{epilogue}", what.kernel, what.items, threads, words))
        self.held.append(what.tables)
        # A mean may drop the axes over which it is taken.
        self.places[last] = Placement(place.buffer, place.meta.view(last.shape))

    def lower_add(self, node: Node) -> None:
        self.arithmetic(node, "fadd")

    def lower_sub(self, node: Node) -> None:
        self.arithmetic(node, "fsub")

    def lower_mul(self, node: Node) -> None:
        self.arithmetic(node, "fmul")

    def arithmetic(self, node: Node, operation: str) -> None:
        one, other = node.args
        if node.kwargs:
            raise Refusal(f"{node.name} with {', '.join(node.kwargs)}")
        if operation != "fsub" and (not isinstance(one, Value) or one.shape != node.results[0].shape or one.fixed):
            one, other = other, one
        if not isinstance(one, Value) or one.fixed or one.shape != node.results[0].shape:
            raise Refusal(f"{node.name} whose first operand is broadcast")
        x = self.dense(one)
        last, epilogue = self.followers.functions(node.results[0], Epilogue())
        if isinstance(other, Value) and not other.fixed:
            y = self.place(other)
            if not along(x.meta, y.meta) and y.meta.numel() != x.meta.shape[0] * innermost(x.meta):
                y = self.dense(other)
            self.places[last] = self.pair(operation, x, y, epilogue)
            return
        channels = innermost(x.meta)
        if isinstance(other, Value):
            key = ("channels", other.key, innermost_axes(x.meta))
            numbers = self.filled(key, channels, lambda owned: of_channels(owned(other), x.meta))
        else:
            numbers = self.filled(("number", float(other)), channels, lambda _: fresh.tensor(float(other)))
        self.places[last] = self.pair(operation, x, numbers, epilogue)

    def pair(self, operation: str, x: Placement, other: Placement | Tensor | None, epilogue: Epilogue) -> Placement:
        """Adds an elementwise step; ``other`` has the same shape, or a number for each channel (of each image)."""
        channels, count = innermost(x.meta), x.meta.numel()
        positions, period, step = count // channels, 1, channels
        address: int | Buffer = x.buffer
        if isinstance(other, Tensor):
            self.held.append(other)
            address, step = other.data_ptr(), 0
        elif other is not None:
            address = other.buffer
            if not along(x.meta, other.meta):
                if not stretched(other.meta, x.meta):
                    raise Refusal("operands that have neither the same shape nor a number for each channel")
                period = positions // x.meta.shape[0]
        threads = self.shared(count * PASS)
        block = -(-positions // (1 if threads == 1 else 4 * threads))
        items = -(-positions // block)
        made = self.fresh(x.shape, x.meta.stride())
        kernel = elementwise.pairs(self.isa, operation, epilogue)
        sizes = {"channels": channels, "positions": positions, "block": block, "period": period, "step": step}
        words = kernel.words(a=x.buffer, b=address, y=made.buffer, **sizes)
        name = f"{operation or 'function'} of {'x'.join(map(str, x.shape))}{epilogue}"
        self.steps.append(Step(name, kernel, items, min(threads, items), words))
        return made

    def function(self, node: Node) -> None:
        last, epilogue = self.followers.functions(node.results[0], function(node))
        self.places[last] = self.pair("", self.dense(node.args[0]), None, epilogue)

    def check(self, problem: Problem) -> None:
        refusal = table()["llvm"].refusal(problem, Pass.OUTPUT, torch.float32, "cpu")
        if refusal is not None:
            raise Refusal(f"a kernel {refusal}")


def _affine(value: Value | None, default: float, owned: Owned) -> Tensor:
    return fresh.tensor(default) if value is None else owned(value)


def _width(sizes: tuple[Any, ...]) -> int:
    """The number of channels at a position of a sum's operand."""
    _, groups, _, inner, *_ = sizes
    return int(groups * inner)
