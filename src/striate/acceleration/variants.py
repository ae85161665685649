"""Chooses the fastest variant of a captured graph: PyTorch's functions or blocks, each in either memory layout.

Whether blocks and channels last are faster depends on the network, the sizes and the machine. So a graph is measured
when inputs of some sizes occur for the third time: all variants in turns, forward and, if gradients are on, backward.
Measurements run on copies: parameters without their hooks, copies of buffers, and a random generator that is restored
afterwards. A variant in channels last converts the inputs, and those results whose layout would differ.

Measuring requires that every function of the graph is known to be pure, except for writes to memory that the graph has
allocated and to the statistics of a normalisation. Other graphs, and graphs that must not be measured, run as blocks in
their own layout.
"""

from __future__ import annotations

import copy
import inspect
import operator
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import Parameter
from torch.utils._pytree import tree_leaves

from striate import ops
from striate.acceleration.blocks.fusion import INTO_FIRST, counts_batches
from striate.engine import tuning
from striate.engine.backends import fixed

Run = Callable[..., Any]

#: The number of calls with inputs of some sizes before the first measurement, so that short scripts don't pay for it.
_BEFORE: Final = 2
#: The factor by which a variant has to be faster than the blocks; medians of whole graphs are that stable.
_MARGIN: Final = 1.03
#: The seconds for measuring a variant, unless a single run takes longer.
_BUDGET: Final = 0.1
#: The most sizes that are stored, and the largest ratio of sizes between which a measurement is reused.
_KEPT, _SIMILAR = 256, 2
#: The largest deviation of results in the other layout, relative to the largest result; sums have another order.
_CLOSE: Final = 1e-2

BLOCKS: Final = "blocks"
_PLAIN, _LAST = "PyTorch's functions", "channels last"

_words = str.split
#: Names that are both functions and methods.
_OF_BOTH: Final = _words("""
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d max_pool1d max_pool2d avg_pool1d
    avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d batch_norm group_norm instance_norm
    layer_norm rms_norm normalize linear bilinear relu relu6 relu_ silu gelu elu selu celu mish hardswish
    hardsigmoid hardtanh leaky_relu prelu sigmoid tanh softplus softmax log_softmax interpolate upsample pad
    pixel_shuffle pixel_unshuffle channel_shuffle glu logsigmoid add sub mul div neg matmul bmm cat stack
    flatten mean sum amax var permute transpose reshape unsqueeze squeeze chunk split exp log sqrt rsqrt pow
    clamp abs square erf where maximum minimum einsum concat movedim roll scaled_dot_product_attention
    cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss binary_cross_entropy_with_logits
    binary_cross_entropy dropout alpha_dropout dropout1d dropout2d dropout3d feature_alpha_dropout empty zeros
    ones full arange tensor
    """)
#: Pure functions, whose results don't depend on the memory layout of their operands.
_FUNCTIONS: Final = frozenset(
    [getattr(room, name) for room in (F, torch, ops) for name in _OF_BOTH if hasattr(room, name)]
    + [operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow, operator.matmul]
    + [operator.iadd, operator.imul, operator.getitem, operator.floordiv, operator.mod, getattr]
)
_METHODS: Final = frozenset(
    _OF_BOTH
    + _words("""
    add_ bernoulli_ contiguous dim div_ expand expand_as flip float mT max min mul_ narrow new_empty new_full
    new_ones new_zeros numel repeat repeat_interleave size t type_as unbind unflatten view view_as
    """)
)
#: Those of them whose results may be views of their operand, so that writes to the result change the operand.
_VIEWS: Final = frozenset(
    _words("""
    alpha_dropout channel_shuffle chunk contiguous dropout einsum expand expand_as dropout1d dropout2d dropout3d
    feature_alpha_dropout flatten float getattr getitem interpolate mT movedim narrow pad permute pixel_shuffle reshape
    split squeeze t transpose type_as unbind unflatten unsqueeze view view_as
    """)
)
#: Functions that PyTorch 2.13 only computes correctly for planes. In channels last, group_norm loses the digits of
#: numbers that lie far from zero (its variance is a difference of sums), and its gradient writes to address 0 if some
#: gradients aren't needed.
_PLANES_ALONE: Final = ("group_norm",)


@dataclass(slots=True)
class _Entry:
    """The state of inputs of some sizes."""

    calls: int = 0
    run: Run | None = None


@dataclass(frozen=True, slots=True)
class VariantChoice:
    """A measurement of a graph: the seconds of each variant, and the ``name`` of the chosen one."""

    inputs: tuple[tuple[int, ...], ...]
    training: bool
    name: str
    seconds: dict[str, float] = field(compare=False)

    def __str__(self) -> str:
        inputs = ", ".join("x".join(map(str, shape)) for shape in self.inputs)
        times = ", ".join(f"{name} {taken * 1e3:.3g} ms" for name, taken in self.seconds.items())
        return f"{inputs}, {'forward and backward' if self.training else 'inference'}: {self.name} (measured: {times})"


class Variants:
    """The variants of one captured graph; calling this object computes the graph.

    Args:
        graph: the captured graph of PyTorch's functions.
        blocks: the graph with fused blocks, which is used unless a measurement favours another variant.
        owned: which of its arguments are the model's own tensors.
        training: whether gradients were on at capture.
    """

    def __init__(self, graph: GraphModule, blocks: GraphModule, owned: Sequence[bool], training: bool) -> None:
        self._graphs = {BLOCKS: blocks, _PLAIN: graph}
        self.blocks, self._owned, self._training = blocks.forward, tuple(owned), training
        self._given = [at for at, own in enumerate(owned) if not own]
        self._known = computes_only(graph)
        lies = self._known and not any(_name(node) in _PLANES_ALONE for node in graph.graph.nodes)
        self._images = [at for at in self._given if _may_lie_otherwise(graph, at)] if lies else []
        #: Entries by the kind of the inputs without the batch size, then by batch size.
        self._kinds: OrderedDict[tuple[Any, ...], dict[tuple[int, ...], _Entry]] = OrderedDict()
        self._lock = threading.Lock()
        #: All measurements, in order.
        self.choices: list[VariantChoice] = []

    def __call__(self, *arguments: Any) -> Any:
        if not self._known or not tuning.measuring() or fixed() is not None:
            return self.blocks(*arguments)
        if tuning.put_off:
            tuning.resume()
        entry = self._entry(arguments)
        if entry.run is None:
            entry.calls += 1
            # Measure blocks only after the single problems in them have been measured.
            if entry.calls > _BEFORE and not tuning.put_off:
                self.settle(arguments)
        return (entry.run or self.blocks)(*arguments)

    def plain(self, arguments: tuple[Any, ...]) -> dict[str, Run]:
        """PyTorch's functions for such arguments in both layouts, as far as results lie as they are expected to.

        Of a graph that is known to compute only.
        """
        images = [at for at in self._images if _is_plane(arguments[at])] if self._known else []
        made: dict[str, Run] = {_PLAIN: self._graphs[_PLAIN].forward}
        if images:
            with torch.no_grad():
                expected = made[_PLAIN](*arguments)
                turned = _in_channels_last(made[_PLAIN], images, arguments, expected)
            if turned is not None:
                made[f"{_PLAIN}, {_LAST}"] = turned
        return made

    def settle(self, arguments: tuple[Any, ...]) -> None:
        """Measures the variants for inputs of these sizes, unless this was done, isn't allowed, or is in progress."""
        if not self._known or not tuning.measuring() or fixed() is not None:
            return
        entry = self._entry(arguments)
        if entry.run is None and self._lock.acquire(blocking=False):
            try:
                with torch.random.fork_rng(devices=[]):
                    entry.run = self._fastest(arguments)
            except Exception as error:
                # Measuring is optional, so its errors must not make a call fail.
                entry.run = self.blocks
                told = f"{type(error).__name__}: {error}"
                warnings.warn(f"striate: variants of a graph weren't measured: {told}", stacklevel=2)
            finally:
                self._lock.release()

    def _entry(self, arguments: Sequence[Any]) -> _Entry:
        kind: list[Any] = [torch.get_num_threads()]
        sizes: list[int] = []
        for at in self._given:
            each = arguments[at]
            if isinstance(each, Tensor) and each.dim():
                shape = each.shape
                sizes.append(shape[0])
                kind.append((shape[1:], each.stride()[1:], each.requires_grad))
            elif isinstance(each, int):
                sizes.append(each)
        known = self._kinds.setdefault(tuple(kind), {})
        found = known.get(tuple(sizes))
        if found is None:
            # Copy to lists, because other threads may add entries meanwhile.
            if sum(map(len, list(self._kinds.values()))) >= _KEPT:
                self._kinds.popitem(last=False)
                known = self._kinds.setdefault(tuple(kind), {})
            found = known[tuple(sizes)] = _Entry(run=_alike(known, sizes))
        return found

    def _fastest(self, arguments: tuple[Any, ...]) -> Run:
        given = tuple(_copied(each, own) for each, own in zip(arguments, self._owned, strict=True))
        runs: dict[str, Run] = {name: graph.forward for name, graph in self._graphs.items()}
        images = [at for at in self._images if _is_plane(arguments[at])]
        if images:
            state = torch.get_rng_state()
            with torch.no_grad():  # saved maps of several runs would take too much memory
                expected = self.blocks(*given)
                for name, graph in self._graphs.items():
                    torch.set_rng_state(state)
                    run = _drawing_as_planes(graph)
                    made = None if run is None else _in_channels_last(run, images, given, expected)
                    if made is not None:
                        runs[f"{name}, {_LAST}"] = made
            del expected
        steps: dict[str, Callable[[], object]]
        steps = {name: partial(self._step, run, given) for name, run in runs.items()}
        try:
            times = tuning.in_turns(steps, _BUDGET)
        except RuntimeError:
            # PyTorch's functions fail if a tensor that a gradient needs is overwritten; blocks may not need that
            # tensor.
            self._step(self.blocks, given)
            return self.blocks
        best = min(times, key=times.__getitem__)
        name = BLOCKS if times[BLOCKS] <= _MARGIN * times[best] else best
        shapes = tuple(
            tuple(each.shape) for each in map(arguments.__getitem__, self._given) if isinstance(each, Tensor)
        )
        self.choices.append(VariantChoice(shapes, self._training, name, times))
        return runs[name]

    def _step(self, run: Run, given: Sequence[Any]) -> None:
        results = run(*given)
        if not self._training:
            return
        made = [each for each in results if isinstance(each, Tensor) and each.requires_grad]
        wanted = [each for each in given if isinstance(each, Tensor) and each.requires_grad]
        if made and wanted:
            torch.autograd.grad(made, wanted, [torch.ones_like(each) for each in made], allow_unused=True)


def _alike(known: dict[tuple[int, ...], _Entry], sizes: Sequence[int]) -> Run | None:
    """The variant chosen for a similar batch size, if there is one."""
    for others, entry in list(known.items()):
        near = (max(one, other) <= _SIMILAR * min(one, other) for one, other in zip(others, sizes, strict=True))
        if entry.run is not None and all(near):
            return entry.run
    return None


def _copied(argument: Any, own: bool) -> Any:
    """A copy of an argument, so that measuring has no side effects on it."""
    if not isinstance(argument, Tensor):
        return argument
    # Statistics are overwritten, and may be attributes that aren't buffers.
    if not isinstance(argument, Parameter) and (own or argument.dim() < 2):
        return argument.detach().clone().requires_grad_(argument.requires_grad)
    return argument.detach().requires_grad_(argument.requires_grad) if argument.is_floating_point() else argument


def _is_plane(tensor: Any) -> bool:
    """Whether a tensor has images in NCHW for which channels last would be a different layout."""
    plain = isinstance(tensor, Tensor) and tensor.dim() == 4 and tensor.dtype is torch.float32 and tensor.is_cpu
    return plain and tensor.is_contiguous() and not tensor.is_contiguous(memory_format=torch.channels_last)


def _in_channels_last(run: Run, images: Sequence[int], given: Sequence[Any], expected: Sequence[Any]) -> Run | None:
    """The graph with these arguments in channels last, and results in the expected layout; None if results differ."""

    def turned(arguments: Sequence[Any]) -> list[Any]:
        made = list(arguments)
        for at in images:
            made[at] = made[at].contiguous(memory_format=torch.channels_last)
        return made

    try:
        results = run(*turned(given))
    except RuntimeError:
        # ``view`` requires NCHW memory.
        return None
    planes = []
    memory = [each.untyped_storage().data_ptr() for each in expected if isinstance(each, Tensor)]
    for at, (found, wanted) in enumerate(zip(results, expected, strict=True)):
        if not isinstance(found, Tensor):
            continue
        if found.stride() != wanted.stride():
            # A converted result is a contiguous copy, which shares no memory with other results.
            if not wanted.is_contiguous() or memory.count(wanted.untyped_storage().data_ptr()) > 1:
                return None
            planes.append(at)
        if not _is_close(found, wanted):
            return None

    def call(*arguments: Any) -> Any:
        results = run(*turned(arguments))
        if not planes:
            return results
        made = list(results)
        for at in planes:
            made[at] = made[at].contiguous()
        return tuple(made)

    return call


def _is_close(found: Tensor, wanted: Tensor) -> bool:
    """Whether results are equal up to rounding, and have the same infinities and NaN."""
    if not wanted.is_floating_point() or not wanted.numel():
        return found.shape == wanted.shape
    finite = wanted.isfinite()
    largest = wanted.where(finite, 0).abs().max()
    near = torch.where(finite, (found - wanted).abs() <= _CLOSE * largest, found.isfinite().logical_not())
    return bool(near.all())


# ------------------------------------------------------------------------------------------ what may be measured


def computes_only(graph: GraphModule) -> bool:
    """Whether a graph only computes its results and updates statistics of normalisations."""
    nodes = list(graph.graph.nodes)
    given = set[int]().union(*(_storages(node) for node in nodes if _is_given(node)))
    return all(_computes(node, given) for node in nodes if not _is_given(node) and node.op != "output")


def _computes(node: Node, given: set[int]) -> bool:
    if node.op == "call_method":
        known = node.target in _METHODS
    else:
        known = node.op == "call_function" and node.target in _FUNCTIONS
    if not known or "out" in node.kwargs:
        return False
    return counts_batches(node) or not _writes(node) or _is_own_memory(node, given)


def _is_own_memory(node: Node, given: set[int]) -> bool:
    """Whether a node writes to memory that the graph has allocated, and of which no node takes a view.

    Args:
        node: the node.
        given: the memory of the graph's arguments, see :func:`_storages`.
    """
    root: Any = node
    while isinstance(root, Node) and root.op != "placeholder" and _writes(root):
        root = root.args[0] if root.args else root.kwargs.get("input")
    if not isinstance(root, Node) or root.op in ("placeholder", "get_attr") or _name(root) in _VIEWS:
        return False
    made = _storages(root)
    if not made or made & given:
        return False
    same = [root]
    for each in same:  # grows during the loop
        if any(_name(user) in _VIEWS for user in each.users):
            return False
        same += [user for user in each.users if _writes(user) and user.args[:1] == (each,)]
    return True


def _is_given(node: Node) -> bool:
    return node.op in ("placeholder", "get_attr")


def _storages(node: Node) -> set[int]:
    """The storages of a node's result at capture."""
    leaves = tree_leaves(node.meta.get("example_value"))
    return {each.untyped_storage()._cdata for each in leaves if isinstance(each, Tensor)}


def _writes(node: Node) -> bool:
    """Whether a node writes to its first operand."""
    if _name(node).endswith("_") or node.target in (*INTO_FIRST, operator.imul) or node.kwargs.get("inplace"):
        return True
    at = _place_of_inplace(node.target)
    return at is not None and len(node.args) > at and bool(node.args[at])


@cache
def _place_of_inplace(function: Any) -> int | None:
    """The position of a function's ``inplace`` argument, or None."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None


def _name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


def _may_lie_otherwise(graph: GraphModule, at: int) -> bool:
    """Whether no result is a view of the argument; after a conversion it would be a view of the copy."""
    nodes = list(graph.graph.nodes)
    seen = [[node for node in nodes if node.op == "placeholder"][at]]
    for each in seen:  # grows during the loop
        if any(user.op == "output" for user in each.users):
            return False
        seen += [user for user in each.users if _name(user) in _VIEWS and _holds_tensors(user)]
    return True


def _holds_tensors(node: Node) -> bool:
    return isinstance(node.meta.get("example_value"), Tensor | tuple | list)


def _drawing_as_planes(graph: GraphModule) -> Run | None:
    """A graph that draws the same random numbers for the same positions in any layout; None if that isn't possible."""
    draws = [node for node in graph.graph.nodes if _draws(node)]
    if not draws:
        return graph.forward
    if not all(_draws_for_planes(node) for node in draws):
        return None
    made = GraphModule(graph, copy.deepcopy(graph.graph))
    for node in made.graph.nodes:
        if _draws(node):
            node.target = _DRAWS[node.target]
    made.recompile()
    return made.forward


def _draws(node: Node) -> bool:
    """Whether a node draws random numbers in memory order, for a tensor that isn't just rows."""
    if node.op != "call_function" or node.target not in _DRAWS:
        return False
    value = node.meta.get("example_value")
    training = node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)
    return bool(training) and not (isinstance(value, Tensor) and value.dim() <= 2)


def _draws_for_planes(node: Node) -> bool:
    """Whether a node draws for a tensor in NCHW, and no other node reads a tensor that it overwrites."""
    operand = node.args[0] if node.args else None
    value = node.meta.get("example_value")
    if not isinstance(operand, Node) or not isinstance(value, Tensor) or value.dim() != 4 or not value.is_contiguous():
        return False
    return not _writes(node) or len(operand.users) == 1


def _dropout(input: Tensor, *how: Any, **named: Any) -> Tensor:
    """Dropout of a map in channels last, with the random numbers that the map in NCHW would get."""
    return F.dropout(input.contiguous(), *how, **named).contiguous(memory_format=torch.channels_last)


def _alpha_dropout(input: Tensor, *how: Any, **named: Any) -> Tensor:
    return F.alpha_dropout(input.contiguous(), *how, **named).contiguous(memory_format=torch.channels_last)


#: Functions that draw a random number for each element in memory order, and their replacements.
_DRAWS: Final[dict[Any, Run]] = {F.dropout: _dropout, F.alpha_dropout: _alpha_dropout}
