"""From a captured graph to kernels in a row: what each operator becomes, and what disappears.

Every tensor is a buffer with strides of the plan's own: images lie with their channels side by side, whatever layout
the model's own tensors would have. A view is then other strides over the same buffer. What only depends on the model
(transposed weights, a table's connections) is computed by PyTorch when weights are packed.

A sum takes along what follows it, as long as nobody else looks at what lies between: batch normalisation and factors of
channels change the weights; functions of single numbers, and adding a branch that is already there, are done before the
sum is written (see striate.engine.llvm.epilogue). Flattening images before a linear layer costs nothing: its weights
are packed in the order in which the image lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from striate.acceleration.capture import Graph, Node, Refusal, Value
from striate.acceleration.placed import Placed, along, innermost, is_dense, is_interleaved, of_channels, stretched
from striate.engine import Pass, winograd
from striate.engine.backends import table
from striate.engine.llvm import elementwise, layer_normalization, pools
from striate.engine.llvm.emit import real_word
from striate.engine.llvm.epilogue import Epilogue
from striate.engine.llvm.isa import the_isa
from striate.engine.llvm.packing import Axis
from striate.engine.llvm.program import Buffer, Step
from striate.engine.llvm.sums import interleaved_sum
from striate.engine.llvm.views import axes
from striate.engine.llvm.weights import Weights, pack
from striate.geometry import ConvShape, PoolShape, Problem
from striate.ops import convolution, pooling

#: Multiplications below which a step isn't worth waiting for another thread.
_SHARED = 60_000
#: What reading, changing and writing a number counts as.
_PASS = 4

_ONE = Axis(1, 1, 0, 1)


@dataclass(frozen=True)
class Lowered:
    steps: list[Step]
    source: Buffer
    result: Buffer
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    repack: Callable[[], None]  #: does again what depends on the model's numbers
    held: list[Any]  #: memory that the steps' addresses point at


@dataclass
class _Sum:
    """A sum over channels and taps that still takes along what follows."""

    place: Placed
    weight: Callable[[_Owned], Tensor]
    bias: Value | None
    channels: int
    epilogue: Epilogue
    added: Placed | None = None
    folded: list[_Fold] = field(default_factory=list)

    def numbers(self, owned: _Owned) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as they are multiplied with."""
        weight, bias = self.weight(owned), None if self.bias is None else owned(self.bias)
        for fold in self.folded:
            factor, term = fold(owned)
            weight = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
            bias = (factor * bias if bias is not None else torch.zeros(self.channels)) + term
        return weight, bias


class _Owned:
    """Values that follow from what the model owns, computed when first asked for."""

    def __init__(self, makers: dict[Value, Node]) -> None:
        self._makers, self._found = makers, dict[Value, Tensor]()

    def __call__(self, value: Value) -> Tensor:
        if value.tensor is not None:
            return value.tensor.detach()
        if value not in self._found:
            node = self._makers[value]
            args, kwargs = tree_map_only(Value, self, (node.args, node.kwargs))
            made = node.function(*args, **kwargs)
            made = made if isinstance(made, (tuple, list)) else [made]
            self._found.update(zip(node.results, (each for each in made if each is not None), strict=True))
        return self._found[value]


#: From what the model owns to a factor and a term for each channel.
_Fold = Callable[[_Owned], tuple[Tensor, Tensor]]


def lowered(graph: Graph, threads: int) -> Lowered:
    """The steps, for ``threads`` threads at most.

    Raises:
        Refusal: an operator has no kernel here.
    """
    return _Lowering(graph, threads).all()


class _Lowering:
    def __init__(self, graph: Graph, threads: int) -> None:
        self.graph, self.threads, self.isa = graph, threads, the_isa()
        self.makers = {value: node for node in graph.nodes for value in node.results}
        self.places: dict[Value, Placed] = {}
        self.flattened: dict[Value, Placed] = {}
        self.padded: dict[Value, tuple[Value, tuple[tuple[int, int], ...]]] = {}
        self.done: set[Node] = set()
        self.steps: list[Step] = []
        self.packing: list[Callable[[_Owned], None]] = []
        self.held: list[Any] = []
        self.owned = _Owned(self.makers)

    def all(self) -> Lowered:
        shape, stride = self.graph.input.shape, self.graph.input.stride
        meta = torch.empty_strided(shape, stride, device="meta")
        source = Buffer(meta.numel())
        self.places[self.graph.input] = Placed(source, meta)
        for node in self.graph.nodes:
            if node not in self.done and not all(value.fixed for value in node.results):
                self.lower(node)
        shape, stride = self.graph.output.shape, self.graph.output.stride
        result = self.result(self.place(self.graph.output), source, stride)
        packing, makers = self.packing, self.makers

        def repack() -> None:
            with torch.inference_mode(False), torch.no_grad():
                owned = _Owned(makers)
                for each in packing:
                    each(owned)

        return Lowered(self.steps, source, result, shape, stride, repack, self.held)

    # ---------------------------------------------------------------- operators

    def lower(self, node: Node) -> None:
        if any(value.dtype != torch.float32 for value in node.values()):
            raise Refusal(f"{node.name} of other numbers than float32")
        own = getattr(self, f"lower_{node.name}", None)
        if own is not None:
            own(node)
        elif node.name in _FUNCTIONS:
            self.function(node)
        elif node.name in _SAME:
            self.places[node.results[0]] = self.place(node.args[0])
        elif node.function.is_view or node.name == "_unsafe_view":
            self.view(node)
        else:
            raise Refusal(f"{node.name} has no kernel here")

    def lower_convolution(self, node: Node) -> None:
        input, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
        if transposed or len(input.shape) != 4 or not weight.fixed or not (bias is None or bias.fixed):
            raise Refusal("a convolution that is transposed, not of two axes, or whose weights are computed")
        sides: Any = padding
        if input in self.padded:
            input, before_after = self.padded[input]
            sides = tuple((low + p, high + p) for (low, high), p in zip(before_after, padding, strict=True))
        problem = convolution.problem_of(input.shape, weight.shape, stride, sides, dilation, groups)
        if groups > 1 and not groups == problem.in_channels == problem.out_channels:
            raise Refusal("a convolution in groups of several channels")
        self.check(problem)
        x, shape = self.interleaved(input), problem.output_shape
        made = _Sum(self.fresh_image(shape), lambda owned: owned(weight), bias, shape[1], Epilogue())
        last = self.absorb(made, node.results[0])
        if winograd.pays(problem):
            self.winograd(last, made, x, problem)
            return
        batch, channels, size = input.shape[0], input.shape[1], input.shape[2:]
        outputs, windows = (shape[2], shape[3]), axes(problem)
        inner, outer = problem.in_channels // groups, problem.out_channels // groups
        if groups == 1 and windows == (_ONE, _ONE):
            # One long row, of which threads and caches get what suits them.
            batch, size, outputs = 1, (1, batch * math.prod(size)), (1, batch * math.prod(size))
        elif groups == 1 and outputs == (1, 1) and problem.kernel == tuple(size) and not any(map(any, problem.pads)):
            inner, size, outputs, batch = channels * math.prod(size), (1, batch), (1, batch), 1
            windows = (_ONE, _ONE)
        self.sum(last, made, x, (batch, groups, outer, inner, size, windows, outputs), groups, problem.macs)

    def lower_constant_pad_nd(self, node: Node) -> None:
        """Zeros around an image that convolutions put there themselves."""
        input, sides, *rest = node.args
        convolutions = all(user.name == "convolution" and not user.args[6] for user in node.results[0].users)
        if not convolutions or len(input.shape) != 4 or len(sides) > 4 or min(sides) < 0 or any(rest):
            raise Refusal("padding that isn't zeros before a convolution")
        left, right, top, bottom = _filled(tuple(sides), (0, 0, 0, 0))
        self.padded[node.results[0]] = input, ((top, bottom), (left, right))

    def lower_addmm(self, node: Node) -> None:
        bias, input, weight = node.args
        if node.kwargs or len(bias.shape) != 1:
            raise Refusal("addmm that scales, or adds a matrix")
        self.linear(node, bias, input, weight)

    def lower_mm(self, node: Node) -> None:
        self.linear(node, None, *node.args)

    def linear(self, node: Node, bias: Value | None, input: Value, weight: Value) -> None:
        """A product with a matrix (in, out) of the model's: a convolution of images of one position."""
        if not weight.fixed or not (bias is None or bias.fixed):
            raise Refusal(f"{node.name} of two computed matrices")
        (rows, inner), outer = input.shape, weight.shape[1]
        image = self.flattened.get(input)
        if image is not None:
            # In the order of the image, which lies there as (height, width, channels).
            x, sizes = image, image.shape[1:]
        else:
            x, sizes = self.rows(input), (inner, 1, 1)
        place = self.fresh((rows, outer), (outer, 1))
        made = _Sum(place, lambda owned: owned(weight).t().reshape(outer, *sizes), bias, outer, Epilogue())
        last = self.absorb(made, node.results[0])
        whole = (1, 1, outer, inner, (1, rows), (_ONE, _ONE), (1, rows))
        self.sum(last, made, x, whole, 1, rows * inner * outer)

    def sum(self, last: Value, made: _Sum, x: Placed, sizes: tuple[Any, ...], groups: int, macs: int) -> None:
        what = interleaved_sum(self.isa, *sizes, self.shared(macs), made.epilogue)
        weight, bias = made.numbers(self.owned)
        packed = pack(self.isa, Weights.of(weight.contiguous(), groups), bias, what.channels, True)
        scratch = Buffer(what.scratch)
        # Positions lie side by side in an interleaved image, so a row ends where the next one begins.
        row = sizes[4][1] * _width(sizes)
        strides = (row * sizes[4][0], row)
        added = None if made.added is None else made.added.buffer
        words = what.words(x.buffer, packed.data_ptr(), made.place.buffer, scratch, strides, added)
        shape = "x".join(map(str, x.shape))
        name = f"sum of {shape} times {'x'.join(map(str, weight.shape))}{made.epilogue}"
        self.steps.append(Step(name, what.kernel, what.items, what.threads, words))
        self.held.append(packed)

        def repack(owned: _Owned) -> None:
            weight, bias = made.numbers(owned)
            pack(self.isa, Weights.of(weight.contiguous(), groups), bias, what.channels, True, packed)

        self.packing.append(repack)
        self.places[last] = made.place

    def winograd(self, last: Value, made: _Sum, x: Placed, problem: ConvShape) -> None:
        what = winograd.Sums.of(self.isa, problem, self.shared(problem.macs), made.epilogue, True)
        weight, bias = made.numbers(self.owned)
        packed = what.pack(self.isa, Weights.of(weight, 1), bias)
        added = None if made.added is None else made.added.buffer
        words = what.words(x.buffer, packed.data_ptr(), made.place.buffer, Buffer(what.scratch), added)
        name = f"Winograd's {problem}{made.epilogue}"
        self.steps.append(Step(name, what.kernel, what.items, what.threads, words))
        self.held.append(packed)

        def repack(owned: _Owned) -> None:
            weight, bias = made.numbers(owned)
            what.pack(self.isa, Weights.of(weight, 1), bias, packed)

        self.packing.append(repack)
        self.places[last] = made.place

    def lower_native_batch_norm(self, node: Node) -> None:
        """One that no sum took along."""
        fold = self.normalisation(node)
        channels = node.results[0].shape[1]
        factor, term = torch.empty(channels), torch.empty(channels)

        def fill(owned: _Owned) -> None:
            one, other = fold(owned)
            factor.copy_(one)
            term.copy_(other)

        fill(self.owned)
        self.packing.append(fill)
        scaled = self.pair("fmul", self.interleaved(node.args[0]), factor, Epilogue())
        value, epilogue = self.functions(node.results[0], Epilogue())
        self.places[value] = self.pair("fadd", scaled, term, epilogue)

    lower__native_batch_norm_legit_no_training = lower_native_batch_norm

    def lower_native_layer_norm(self, node: Node) -> None:
        input, normalised, weight, bias, epsilon = node.args
        if len(normalised) != 1 or any(value.users for value in node.results[1:]):
            raise Refusal("layer normalisation of more than one axis")
        if not all(value is None or value.fixed for value in (weight, bias)):
            raise Refusal("layer normalisation by computed numbers")
        x = self.dense(input)
        if x.meta.stride(-1) != 1:
            x = self.rows(input)
        channels, count = x.shape[-1], x.meta.numel()
        scale, shift = torch.ones(channels), torch.zeros(channels)

        def fill(owned: _Owned) -> None:
            for value, numbers in ((weight, scale), (bias, shift)):
                if value is not None:
                    numbers.copy_(owned(value))

        fill(self.owned)
        self.packing.append(fill)
        self.held += [scale, shift]
        made, rows = self.fresh(x.shape, x.meta.stride()), count // channels
        threads = self.shared(count * _PASS)
        block = -(-rows // (1 if threads == 1 else 4 * threads))
        items = -(-rows // block)
        words: list[int | Buffer] = [x.buffer, scale.data_ptr(), shift.data_ptr(), made.buffer]
        words += [channels, rows, block, real_word(epsilon)]
        name = f"layer norm of {'x'.join(map(str, x.shape))}"
        self.steps.append(Step(name, layer_normalization.kernel(self.isa), items, min(threads, items), words))
        self.places[node.results[0]] = made

    def lower_max_pool2d_with_indices(self, node: Node) -> None:
        if node.results[1].users:
            raise Refusal("positions of largest values are used")
        kernel, stride, padding, dilation, ceil_mode = _filled(node.args[1:], (None, None, 0, 1, False))
        problem = pooling.problem_of("max", node.args[0].shape, kernel, stride or None, padding, dilation, ceil_mode)
        last, epilogue = self.functions(node.results[0], Epilogue())
        self.pool(last, node.args[0], problem, epilogue)

    def lower_avg_pool2d(self, node: Node) -> None:
        kernel, stride, padding, *how = _filled(node.args[1:], (None, None, 0, False, True, None))
        problem = pooling.problem_of("avg", node.args[0].shape, kernel, stride or None, padding, 1, *how)
        self.pool(node.results[0], node.args[0], problem, Epilogue())

    def lower_mean(self, node: Node) -> None:
        input, axes_, *_ = _filled(node.args, (None, None, False))
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
        x, shape = self.interleaved(input), problem.output_shape
        what = pools.interleaved_values(problem, epilogue)
        place = self.fresh_image(shape)
        size = problem.size
        words = what.words(x.buffer, place.buffer, (math.prod(size) * shape[1], size[1] * shape[1]))
        threads = min(what.items, self.shared(math.prod(problem.kernel) * math.prod(shape)))
        self.steps.append(Step(f"{problem}{epilogue}", what.kernel, what.items, threads, words))
        self.held.append(what.tables)
        # A mean may drop the axes that it was taken over.
        self.places[last] = Placed(place.buffer, place.meta.view(last.shape))

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
            raise Refusal(f"{node.name} whose first operand is stretched")
        x = self.dense(one)
        last, epilogue = self.functions(node.results[0], Epilogue())
        if isinstance(other, Value) and not other.fixed:
            y = self.place(other)
            if not along(x.meta, y.meta) and y.meta.numel() != x.meta.shape[0] * innermost(x.meta):
                y = self.dense(other)
            self.places[last] = self.pair(operation, x, y, epilogue)
            return
        channels = innermost(x.meta)
        numbers = torch.empty(channels)

        def fill(owned: _Owned) -> None:
            told = owned(other) if isinstance(other, Value) else torch.tensor(float(other))
            numbers.copy_(of_channels(told, x.meta))

        fill(self.owned)
        self.packing.append(fill)
        self.places[last] = self.pair(operation, x, numbers, epilogue)

    def pair(self, operation: str, x: Placed, other: Placed | Tensor | None, epilogue: Epilogue) -> Placed:
        """A step over all numbers of a dense tensor, with as many others, or one for each channel (of each image)."""
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
                    raise Refusal("operands that fit in neither all numbers nor the channels of images")
                period = positions // x.meta.shape[0]
        threads = self.shared(count * _PASS)
        block = -(-positions // (1 if threads == 1 else 4 * threads))
        items = -(-positions // block)
        made = self.fresh(x.shape, x.meta.stride())
        words = [x.buffer, address, made.buffer, channels, positions, block, period, step]
        kernel = elementwise.pairs(self.isa, operation, epilogue)
        name = f"{operation or 'function'} of {'x'.join(map(str, x.shape))}{epilogue}"
        self.steps.append(Step(name, kernel, items, min(threads, items), words))
        return made

    def function(self, node: Node) -> None:
        last, epilogue = self.functions(node.results[0], _function(node))
        self.places[last] = self.pair("", self.dense(node.args[0]), None, epilogue)

    def view(self, node: Node) -> None:
        value, made = node.args[0], node.results
        if len(made) != 1:
            raise Refusal(f"{node.name} has several results")
        source = self.place(value)
        try:
            meta = node.function(source.meta, *node.args[1:], **node.kwargs)
        except RuntimeError:
            image = source.shape
            if len(image) == 4 and is_interleaved(source.meta) and made[0].shape == (image[0], math.prod(image[1:])):
                self.flattened[made[0]] = source
                return
            source = self.rows(value)
            meta = node.function(source.meta, *node.args[1:], **node.kwargs)
        self.places[made[0]] = Placed(source.buffer, meta)

    # ---------------------------------------------------------------- taking along

    def absorb(self, made: _Sum, value: Value) -> Value:
        """Lets a sum take along what follows it; the last value that it makes."""
        while (user := self.only_user(value)) is not None:
            if user.function.is_view or user.name == "_unsafe_view":
                try:
                    meta = user.function(made.place.meta, *user.args[1:], **user.kwargs)
                except RuntimeError:
                    break
                made.place = Placed(made.place.buffer, meta)
            elif user.name in _SAME:
                pass
            elif made.epilogue == Epilogue() and (fold := self.fold(user, made)) is not None:
                made.folded.append(fold)
            elif made.epilogue == Epilogue() and (added := self.addend(user, value, made)) is not None:
                made.epilogue, made.added = Epilogue(adds=True), added
            elif not made.epilogue.function and user.name in _FUNCTIONS:
                function = _function(user)
                made.epilogue = Epilogue(function.function, function.numbers, made.epilogue.adds)
            else:
                break
            self.done.add(user)
            value = user.results[0]
        return value

    def functions(self, value: Value, epilogue: Epilogue) -> tuple[Value, Epilogue]:
        """A function that follows and can be taken along, and the value after it."""
        user = self.only_user(value)
        if user is None or epilogue.function or user.name not in _FUNCTIONS:
            return value, epilogue
        self.done.add(user)
        return user.results[0], _function(user)

    def only_user(self, value: Value) -> Node | None:
        return value.users[0] if len(value.users) == 1 and value is not self.graph.output else None

    def fold(self, node: Node, made: _Sum) -> _Fold | None:
        """What changes the weights instead: batch normalisation, or a factor of each channel."""
        if node.name in ("native_batch_norm", "_native_batch_norm_legit_no_training"):
            return self.normalisation(node) if made.place.meta.dim() == 4 else None
        if node.name != "mul" or not isinstance(node.args[1], Value) or not node.args[1].fixed:
            return None
        factor, meta = node.args[1], made.place.meta
        if innermost(meta) != made.channels or node.results[0].shape != tuple(meta.shape):
            return None
        try:
            of_channels(torch.empty(factor.shape), meta)
        except Refusal:
            return None
        return lambda owned: (of_channels(owned(factor), meta).clone(), torch.zeros(()))

    def normalisation(self, node: Node) -> _Fold:
        _, weight, bias, mean, variance, *rest = node.args
        if node.name == "native_batch_norm" and rest[0]:
            raise Refusal("batch normalisation by the batch's own numbers")
        if mean is None or variance is None or any(value.users for value in node.results[1:]):
            raise Refusal("batch normalisation without numbers of its own")
        epsilon = rest[-1]

        def fold(owned: _Owned) -> tuple[Tensor, Tensor]:
            factor = torch.rsqrt(owned(variance) + epsilon)
            if weight is not None:
                factor = factor * owned(weight)
            term = -factor * owned(mean)
            return factor, term if bias is None else term + owned(bias)

        return fold

    def addend(self, node: Node, value: Value, made: _Sum) -> Placed | None:
        """The other operand of an addition, if it is there already and lies as the sum does."""
        if node.name != "add" or node.kwargs or len(node.args) != 2:
            return None
        other = node.args[1] if node.args[0] is value else node.args[0]
        if other is value or not isinstance(other, Value) or other.fixed or other not in self.places:
            return None
        place = self.places[other]
        fits = place.shape == tuple(made.place.meta.shape) and along(place.meta, made.place.meta)
        return place if fits else None

    # ---------------------------------------------------------------- places

    def place(self, value: Value) -> Placed:
        if value in self.flattened and value not in self.places:
            image = self.rows_of(self.flattened[value])
            self.places[value] = Placed(image.buffer, image.meta.view(value.shape))
        if value not in self.places:
            raise Refusal("a tensor is asked for before it is made")
        return self.places[value]

    def fresh(self, shape: tuple[int, ...], stride: tuple[int, ...]) -> Placed:
        meta = torch.empty_strided(shape, stride, device="meta")
        return Placed(Buffer(meta.numel()), meta)

    def fresh_image(self, shape: tuple[int, ...]) -> Placed:
        _, channels, height, width = shape
        return self.fresh(shape, (height * width * channels, 1, width * channels, channels))

    def interleaved(self, value: Value) -> Placed:
        """An image with its channels side by side and nothing between positions."""
        place = self.place(value)
        if is_interleaved(place.meta):
            return place
        wanted = self.fresh_image(place.shape)
        self.copy(place, wanted)
        self.places[value] = wanted
        return wanted

    def dense(self, value: Value) -> Placed:
        """A tensor that fills its buffer, in whatever order."""
        place = self.place(value)
        return place if is_dense(place) else self.rows(value)

    def rows(self, value: Value) -> Placed:
        """A tensor in the order of its axes."""
        self.places[value] = self.rows_of(self.place(value))
        return self.places[value]

    def rows_of(self, place: Placed) -> Placed:
        if place.meta.is_contiguous() and place.meta.storage_offset() == 0:
            return place
        made = self.fresh(place.shape, torch.empty(place.shape, device="meta").stride())
        self.copy(place, made)
        return made

    def copy(self, source: Placed, target: Placed) -> None:
        """A step that copies numbers into another order."""
        if source.meta.dim() > 4 or source.meta.storage_offset():
            raise Refusal("a view whose numbers have to be moved")
        order = sorted(range(source.meta.dim()), key=target.meta.stride().__getitem__, reverse=True)
        shape = [1] * (4 - len(order)) + [source.meta.shape[axis] for axis in order]
        strides = [0] * (4 - len(order)) + [source.meta.stride(axis) for axis in order]
        items = shape[0] * shape[1]
        threads = min(items, self.shared(source.meta.numel() * _PASS))
        words: list[int | Buffer] = [source.buffer, target.buffer, *shape[1:], *strides]
        name = f"copy of {'x'.join(map(str, source.shape))} from {source.meta.stride()} to {target.meta.stride()}"
        self.steps.append(Step(name, elementwise.copy(self.isa), items, threads, words))

    def result(self, place: Placed, source: Buffer, stride: tuple[int, ...]) -> Buffer:
        """The buffer that is the result, in the strides that it is asked for in."""
        wanted = self.fresh(place.shape, stride)
        if not is_dense(wanted):
            raise Refusal("a result that doesn't fill its memory")
        if place.buffer is not source and is_dense(place) and along(place.meta, wanted.meta):
            return place.buffer
        self.copy(place, wanted)
        return wanted.buffer

    def shared(self, cost: int) -> int:
        """The threads that a step is worth."""
        return self.threads if cost >= _SHARED else 1

    def check(self, problem: Problem) -> None:
        refusal = table()["llvm"].refusal(problem, Pass.OUTPUT, torch.float32, "cpu")
        if refusal is not None:
            raise Refusal(f"a kernel {refusal}")


def _width(sizes: tuple[Any, ...]) -> int:
    """Numbers at a position of a sum's operand."""
    _, groups, _, inner, *_ = sizes
    return int(groups * inner)


def _filled(given: tuple[Any, ...], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*given, *defaults[len(given) :])


#: Operators that leave numbers as they are; the order in memory is the plan's own.
_SAME = frozenset({"clone", "contiguous", "alias", "detach", "lift_fresh"})


def _function(node: Node) -> Epilogue:
    """A function of single numbers, with its settings."""
    return _FUNCTIONS[node.name](*node.args[1:], **node.kwargs)


def _clamp(low: float | None = None, high: float | None = None) -> Epilogue:
    if isinstance(low, Value) or isinstance(high, Value):
        raise Refusal("clamping by tensors")
    return Epilogue("clamp", (-math.inf if low is None else float(low), math.inf if high is None else float(high)))


def _gelu(approximate: str = "none") -> Epilogue:
    if approximate != "none":
        raise Refusal(f"GELU approximated by {approximate}")
    return Epilogue("gelu")


_FUNCTIONS: dict[str, Callable[..., Epilogue]] = {
    "relu": lambda: _clamp(0.0),
    "hardtanh": lambda low=-1.0, high=1.0: _clamp(low, high),
    "clamp": _clamp,
    "clamp_min": _clamp,
    "gelu": _gelu,
    "hardsigmoid": lambda: Epilogue("hard_sigmoid"),
    "hardswish": lambda: Epilogue("hard_swish"),
    "leaky_relu": lambda slope=0.01: Epilogue("leaky_relu", (float(slope),)),
    "sigmoid": lambda: Epilogue("sigmoid"),
    "silu": lambda: Epilogue("silu"),
    "tanh": lambda: Epilogue("tanh"),
}
