"""A chain of convolutions, batch normalisations and activations as one operation.

    m[0] = input,    m[k + 1] = link k of m[k],    the last one is the result

A link is a convolution, ``activation(batch norm + residual)``, or an activation with the average pooling after it, if
there is one. The first two and their gradients are computed as in :mod:`striate.ops.convolution` and
:mod:`striate.ops.norm`. With p(m) = average pooling of f(m), the third has the gradient

    dL/dm = f'(m) * (transposed average of dL/dp)

in one pass over m (:mod:`striate.engine.llvm.pooling.activated`). The chain avoids the cost between them: autograd's
bookkeeping and its calls of Python functions take some 50 microseconds per link and direction, as much as the kernels
of a small map.

The chain saves for backward what the single links save (see the tables there): a convolution's input if its weight has
a gradient, its weight if its input has one; a normalisation's input and weight, and its result if it has a residual and
relu; an activation's operand, or its result if that stands in the operand's place (relu, tanh, sigmoid without
pooling). An activation never comes first, so its operand is a map that callers don't see. Links whose result gets no
gradient save nothing; residuals and biases are never saved. Of the tensors that callers can see (the first map, the
last map and the operands), PyTorch's functions save at least as much.

The saved intermediate maps are outputs of the autograd function, too, but only gradients see them: second derivatives
go back through these maps as functions of the operands.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from striate.engine import FORM, Pass, ready, traced, tuning
from striate.engine.backends import Ready, fixed, watched
from striate.engine.layout import is_channels_last
from striate.engine.llvm.codegen import launch
from striate.engine.llvm.normalization import dispatch as normalization
from striate.engine.llvm.normalization.formulas import NormVariant
from striate.engine.llvm.pooling import activated
from striate.errors import StriateError
from striate.geometry import ConvShape
from striate.ops import convolution, norm
from striate.ops._autograd import own, upstream_in, wanted
from striate.ops._calls import settled
from striate.ops._dispatch import is_plain
from striate.ops._pools import Average
from striate.ops.pooling import problem_of as pooling_problem_of


class Convolution(NamedTuple):
    """A link by the arguments of :func:`striate.ops.conv2d`; ``how``: stride, padding, dilation, groups."""

    weight: Tensor
    bias: Tensor | None
    how: tuple[Any, Any, Any, Any]


class Normalization(NamedTuple):
    """A link by the arguments of :func:`striate.ops.norm.batch_norm`."""

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    variance: Tensor | None
    training: bool
    momentum: float
    eps: float
    residual: Tensor | None
    activation: str


class Activated(NamedTuple):
    """A link that applies an activation and average pooling.

    Args:
        name: as :func:`striate.ops.norm.activate` takes it; ``""`` for none.
        window: of :func:`striate.ops.avg_pool2d` kernel_size, stride, padding, ceil_mode and count_include_pad; None
            for no pooling.
    """

    name: str
    window: tuple[Any, ...] | None = None


Link = Convolution | Normalization | Activated


@dataclass(slots=True)
class _Convolved:
    """A convolution of maps with this one's memory layout. Its operands are weight and bias."""

    shape: ConvShape
    channels_last: bool
    local: bool
    forward: Ready
    grads: dict[tuple[Any, ...], Ready] = field(default_factory=dict)
    operands: ClassVar[int] = 2

    def grad(self, open_: Pass, first: Tensor, second: Tensor, composed: bool) -> Tensor:
        """The contraction with another operand open; ``composed``: as a differentiable function of the other two."""
        if composed:
            one, other = (role for role in FORM if role is not open_)
            operands = {one: first, other: second}
            return convolution.contract(self.shape, self.channels_last, open_, operands, local=self.local)
        key = (open_, first.stride(), second.stride(), torch.get_num_threads(), tuning.generation)
        found = self.grads.get(key)
        if found is None:
            found = self.grads[key] = ready(self.shape, open_, first, second, None, self.channels_last, self.local)
        return found(first, second, None)


@dataclass(slots=True)
class _Normed:
    """A normalisation of maps with this one's memory layout. Its operands are residual, weight and bias."""

    plan: normalization.NormKernels
    eps: float
    strides: tuple[int, ...]
    operands: ClassVar[int] = 3


@dataclass(slots=True)
class _Activated:
    """An activation and average pooling of maps with this one's memory layout."""

    plan: activated.Activation
    operands: ClassVar[int] = 0

    def composed(self, g: Tensor, kept: Tensor) -> Tensor:
        """The gradient as a differentiable function of the upstream one, and of the operand or result."""
        name, pool = self.plan.name, self.plan.pool
        if self.plan.in_place:
            return norm.sent_back_from_result(name, g, kept)
        if pool is not None:
            g = Average.of(g, pool, Pass.INPUT_GRAD, self.plan.channels_last)
        return norm.sent_back(name, g, kept) if name else g


_Stage: TypeAlias = _Convolved | _Normed | _Activated
#: An index into a list without the absent entries.
_Place: TypeAlias = int | None


class _Places(NamedTuple):
    """Where a stage finds the tensors that its gradients need."""

    operands: list[_Place]  #: among the chain's
    before: int  #: operands of the chain that come before those
    upstream: _Place  #: of its result, among the upstream gradients
    #: Among the saved tensors: the stage's input map, its weight, its statistics, and its result.
    kept: tuple[_Place, _Place, _Place, _Place]


class _Prepared:
    """A cached dispatch of a chain: everything that follows from shapes, strides and settings.

    Saved for backward are operands, maps and statistics, in this order. Intermediate maps are results too, after the
    one that the caller gets.
    """

    def __init__(self, stages: list[_Stage], operands: Sequence[Tensor | None]) -> None:
        self.stages, self.present = stages, [operand is not None for operand in operands]
        graded = [_graded(operand) for operand in operands]
        kept, maps, statistics = [False] * len(operands), [False] * (len(stages) + 1), [False] * len(stages)
        first = 1
        for at, stage in enumerate(stages):
            goes_back = any(graded[: first + stage.operands])
            if isinstance(stage, _Convolved):
                maps[at] |= graded[first]
                kept[first] = any(graded[:first])
            elif isinstance(stage, _Activated) and stage.plan.in_place:
                maps[at + 1] = goes_back
            else:
                maps[at] |= goes_back
            if isinstance(stage, _Normed):
                maps[at + 1] = goes_back and stage.plan.form.keeps
                kept[first + 1] = goes_back and self.present[first + 1]
                statistics[at] = goes_back
            first += stage.operands
        # The first map is an operand.
        kept[0], *maps = maps
        self.operands, self.maps, self.statistics = self.of_present(kept), maps, statistics
        #: Which maps are results, beside the last one.
        self.between = [*maps[:-1], False]
        every, upstreams = _numbered(self.present), [*_numbered(maps[:-1], 1), 0]
        numbers = _numbered([*kept, *maps, *statistics])
        kept_maps, kept_statistics = [numbers[0], *numbers[len(kept) : -len(stages)]], numbers[-len(stages) :]
        self.places: list[_Places] = []
        #: The biases of stages whose activation's slope depends on them.
        self.biases: list[_Place] = []
        first = 1
        for at, stage in enumerate(stages):
            own_places, weight, bias = every[first : first + stage.operands], None, None
            if isinstance(stage, _Convolved):
                weight = numbers[first]
            elif isinstance(stage, _Normed):
                weight = numbers[first + 1]
                bias = own_places[2] if graded[first + 2] and not stage.plan.form.residual else None
            before = sum(self.present[:first])
            x, y = kept_maps[at : at + 2]
            self.places.append(_Places(own_places, before, upstreams[at], (x, weight, kept_statistics[at], y)))
            self.biases.append(bias)
            first += stage.operands

    def of_present(self, values: Sequence[Any]) -> list[Any]:
        """The entries for the operands that are present."""
        return list(compress(values, self.present))


def _numbered(there: Iterable[bool], start: int = 0) -> list[_Place]:
    """The index of each present entry among the present ones."""
    numbers = itertools.count(start)
    return [next(numbers) if each else None for each in there]


class _Chain(torch.autograd.Function):
    """Called only for ordinary gradients: no transforms, no tangents.

    The result comes first, then the saved intermediate maps, which only :meth:`backward` reads.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, parts, known = arguments
        x, maps, statistics = tensors[0], [], []
        for stage, part in zip(known.stages, parts, strict=True):
            kept = None
            if isinstance(stage, _Convolved):
                x = stage.forward(x, part.weight, part.bias)
            elif isinstance(stage, _Normed):
                residual = None if part.residual is None else norm.laid_out_as(x, part.residual)
                how = (part.weight, part.bias, (part.mean, part.variance), part.momentum, part.eps)
                x, kept = stage.plan.forward(x, residual, *how)
            else:
                x = stage.plan.forward(x)
            maps.append(x)
            statistics.append(kept)
        ctx.known = known
        # Biases aren't saved, because PyTorch doesn't save them either: callers may overwrite them.
        ctx.biases = [None if place is None else tensors[place] for place in known.biases]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            *compress(tensors, known.operands), *compress(maps, known.maps), *compress(statistics, known.statistics)
        )
        return x, *compress(maps, known.between)

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor | None) -> tuple[Tensor | None, ...]:
        known, saved, asked = ctx.known, ctx.saved_tensors, wanted(ctx)
        composed = torch.is_grad_enabled() or traced(*(each for each in upstreams if each is not None))
        found: list[Tensor | None] = [None] * len(asked)
        end = len(asked) - 2  # after the tensors come the parts and the cache entry
        g: Tensor | None = None
        mine = False  # nobody else reads it
        for at in reversed(range(len(known.stages))):
            if not any(asked[:end]):
                break
            stage, places = known.stages[at], known.places[at]
            end = places.before
            more = None if places.upstream is None else upstreams[places.upstream]
            if more is not None:
                g, mine = (more.resolve_neg(), False) if g is None else (g + more, True)
            if g is None:
                continue
            needs: list[Any] = [None if place is None else saved[place] for place in places.kept]
            x, weight, statistics, y = needs
            wants = [place is not None and asked[place] for place in places.operands]
            grads: Sequence[Tensor | None] = ()
            if isinstance(stage, _Convolved):
                g = g if mine else upstream_in(stage.channels_last, g)
                grads = (
                    stage.grad(Pass.WEIGHT_GRAD, x, g, composed) if wants[0] else None,
                    g.sum([0, *range(2, g.dim())]) if wants[1] else None,
                )
                g = stage.grad(Pass.INPUT_GRAD, weight, g, composed) if any(asked[:end]) else None
            elif isinstance(stage, _Activated):
                kept = y if stage.plan.in_place else x
                if composed:
                    g = stage.composed(g, kept)
                else:
                    given = _laid_out(g, stage.plan.result_strides)
                    g = stage.plan.backward(given, _laid_out(kept, stage.plan.strides), mine or given is not g)
            elif composed:
                how = (stage.plan.form, stage.eps, g, x, weight, ctx.biases[at], statistics)
                g, *grads = norm.gradients(*how, y if stage.plan.form.keeps else None)
            else:
                x = _laid_out(x, stage.strides)
                result = norm.laid_out_as(x, y) if stage.plan.form.keeps else None
                g, *grads = stage.plan.backward(norm.laid_out_as(x, g), x, result, statistics, mine)
            mine = True
            for place, grad, want in zip(places.operands, grads, wants, strict=False):
                if want:
                    found[place] = grad
        found[0] = g if asked[0] else None
        return tuple(found)


#: Elements of a map from which on links are computed separately. Autograd frees memory link by link, which for maps of
#: 16 MiB is worth more than Python's cost.
_LARGE: Final = 1 << 22
#: Chains that this process has seen; None for those that aren't computed as one.
_prepared: dict[tuple[Any, ...], _Prepared | None] = {}
_UNMET: Final[Any] = object()


def as_one(
    input: Tensor, links: Sequence[Link | None], local: bool = True, mixed_layouts: bool = True
) -> Tensor | None:
    """The chain's result if it is computed as one operation; otherwise None, and nothing has been computed.

    A chain is computed as one operation if gradients are needed and its maps are float32 on the CPU, in one of the two
    layouts, none of them very large.

    Args:
        input: (N, C, ...).
        links: the links in order; None for an operation that no chain has.
        local: as :func:`striate.ops.convolution.contract` takes it.
        mixed_layouts: whether a residual may have another memory layout than the map that it is added to. The result
            then lies as the map does, whereas PyTorch's addition follows its first operand.
    """
    if (
        not torch.is_grad_enabled()
        or watched()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    ):
        return None
    operands: list[Tensor | None] = [input]
    key: list[Any] = [torch.get_num_threads(), tuning.generation, local, mixed_layouts]
    parts: list[Link] = []
    for link in links:
        if link is None:
            return None
        if isinstance(link, Convolution):
            operands += link[:2]
            key.append(settled(link.how))
            parts.append(link)
            continue
        if isinstance(link, Activated):
            if not parts:
                return None  # its operand may be overwritten by callers
            key += (link.name, settled(link.window))
            parts.append(link)
            continue
        tables = (link.weight, link.bias, link.mean, link.variance)
        if not _lie(tables[2:], key) or (link.training and norm.aliased(*tables)):
            return None
        operands += (link.residual, link.weight, own(link.bias))
        key += (link.training, link.momentum, link.eps, link.activation)
        if link.residual is None or link.activation in norm.AFTER_RESIDUALS:
            parts.append(link)
        else:
            parts += (link._replace(activation=""), Activated(link.activation))
    if not _lie(operands, key):
        return None
    if not _graded(*operands):
        return None
    by = tuple(key)
    found = _prepared.get(by, _UNMET)
    if found is _UNMET:
        if len(_prepared) >= 4096:
            _prepared.clear()
        found = _prepared[by] = _prepare(input, parts, local, mixed_layouts, operands)
    return None if found is None else cast(Tensor, _Chain.apply(*found.of_present(operands), parts, found)[0])


def _lie(tensors: Iterable[Tensor | None], key: list[Any]) -> bool:
    """Adds the tensors' memory layouts to the key; False if one isn't plain memory that kernels can read."""
    for tensor in tensors:
        if tensor is None:
            key.append(None)
        elif is_plain(tensor) and tensor.layout is torch.strided and tensor.is_cpu:
            key += (tensor.shape, tensor.stride(), tensor.requires_grad)
        else:
            return False
    return True


def _prepare(
    input: Tensor, parts: Sequence[Link], local: bool, mixed_layouts: bool, operands: Sequence[Tensor | None]
) -> _Prepared | None:
    """How the parts are computed, found by computing them once; None if one has no kernels."""
    if fixed() not in (None, "llvm"):
        return None
    stages: list[_Stage] = []
    x, graded = input.detach(), input.requires_grad
    with torch.no_grad():  # passes may be measured
        for part in parts:
            stage: _Stage | None
            if isinstance(part, Activated):
                stage = _activated(x, part, stages[-1])
                x = x if stage is None else stage.plan.forward(x)
            elif isinstance(part, Convolution):
                stage = _convolved(x, part, local)
                x = x if stage is None else stage.forward(x, part.weight, part.bias)
                graded |= _graded(part.weight, part.bias)
            else:
                graded |= _graded(part.weight, part.bias)
                if part.residual is not None and not mixed_layouts and part.residual.stride() != x.stride():
                    return None
                # If only the residual has a gradient, nothing is saved, see norm.py.
                stage = _normed(x, part) if graded or not _graded(part.residual) else None
                x = torch.empty_like(x)
            if stage is None or x.numel() >= _LARGE:
                return None
            stages.append(stage)
    return _Prepared(stages, operands)


def _graded(*operands: Tensor | None) -> bool:
    return any(operand is not None and operand.requires_grad for operand in operands)


def _convolved(x: Tensor, link: Convolution, local: bool) -> _Convolved | None:
    weight, bias, how = link
    try:
        shape = convolution.problem_of(x.shape, weight.shape, *how)
    except StriateError:
        return None  # the operation itself raises the error
    if x.dim() != weight.dim() or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    last = is_channels_last(x) or is_channels_last(weight)
    return _Convolved(shape, last, local, ready(shape, Pass.OUTPUT, x, weight, bias, last, local))


def _activated(x: Tensor, link: Activated, before: _Stage) -> _Activated | None:
    pool = None
    if link.window is not None:
        kernel, stride, padding, ceil_mode, count_include_pad = link.window
        try:
            pool = pooling_problem_of("avg", x.shape, kernel, stride, padding, 1, ceil_mode, count_include_pad, None)
        except StriateError:
            return None  # the operation itself raises the error
    if isinstance(before, _Convolved):
        unread = True
    else:
        # Its gradient may need its result.
        unread = not (before.plan.form.keeps if isinstance(before, _Normed) else before.plan.in_place)
    plan = activated.activation(link.name, x.shape, x.stride(), pool, unread, launch.threads())
    return None if plan is None else _Activated(plan)


def _laid_out(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The numbers with these strides. Upstream gradients may have others, and so may saved tensors behind hooks."""
    if tensor.stride() == strides and not tensor.is_neg():
        return tensor
    return tensor.new_empty_strided(tensor.shape, strides).copy_(tensor)


def _normed(x: Tensor, link: Normalization) -> _Normed | None:
    weight, bias, mean, variance, training, momentum, eps, residual, activation = link
    form = NormVariant(activation, residual is not None, training)
    if not norm.fit(x, residual, (weight, bias, mean, variance), training, momentum, eps):
        return None
    plan = normalization.plan(form, x)
    return None if plan is None else _Normed(plan, eps, x.stride())
