"""Convolutions and batch normalisations in a row as one operation.

    m[0] = input,    m[k + 1] = link k of m[k],    the last one is the result

A link is a convolution, or ``activation(batch norm + residual)``. Each is computed, and its gradients are, as
:mod:`striate.ops.convolution` and :mod:`striate.ops.norm` do by themselves. What is saved is the way between them:
autograd's books and its calls of functions written in Python cost some 50 microseconds a link and direction, as much as
the kernels of a small map.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Final, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from striate.engine import Pass, ready, traced, tuning
from striate.engine.backends import Ready, fixed, has_memory, watched
from striate.engine.layout import is_channels_last
from striate.engine.llvm import norms
from striate.engine.llvm.normalization import Form
from striate.errors import StriateError
from striate.geometry import ConvShape
from striate.ops import convolution, norm
from striate.ops._autograd import upstream_in, wanted
from striate.ops._calls import settled
from striate.ops._left import is_plain


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


Link = Convolution | Normalization


@dataclass(slots=True)
class _Convolved:
    """A convolution of a map that lies as this one."""

    shape: ConvShape
    channels_last: bool
    local: bool
    forward: Ready
    grads: dict[tuple[Any, ...], Ready] = field(default_factory=dict)

    def grad(self, open_: Pass, first: Tensor, second: Tensor) -> Tensor:
        key = (open_, first.stride(), second.stride(), torch.get_num_threads(), tuning.generation)
        found = self.grads.get(key)
        if found is None:
            found = self.grads[key] = ready(self.shape, open_, first, second, None, self.channels_last, self.local)
        return found(first, second, None)

    def composed(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        operands = {Pass.INPUT_GRAD: x, Pass.WEIGHT_GRAD: weight}
        return convolution.contract(self.shape, self.channels_last, Pass.OUTPUT, operands, bias, self.local)


@dataclass(slots=True)
class _Normed:
    """A normalisation of a map that lies as this one."""

    plan: norms.Plan
    eps: float
    strides: tuple[int, ...]


@dataclass(slots=True)
class _Known:
    """A chain that has been met before: all of it that follows from shapes, strides and settings."""

    stages: list[_Convolved | _Normed]
    #: Which operands there are: input, then of every link two (weight and bias) or three (residual, weight and bias).
    present: list[bool]

    def spread(self, values: Iterable[Any], absent: Any) -> list[Any]:
        """What is said of those that there are, for all operands."""
        rest = iter(values)
        return [next(rest) if there else absent for there in self.present]

    def of_present(self, values: list[Any]) -> list[Any]:
        """What is said of all operands, for those that there are."""
        return list(compress(values, self.present))


class _Chain(torch.autograd.Function):
    """Only called where nothing but gradients is asked for: no transforms, no tangents."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, links, known = arguments
        maps, kept = [tensors[0]], []
        for stage, link in zip(known.stages, links, strict=True):
            if isinstance(stage, _Convolved):
                maps.append(stage.forward(maps[-1], link.weight, link.bias))
            else:
                running = link.mean, link.variance
                how = (link.weight, link.bias, running, link.momentum, link.eps)
                residual = None if link.residual is None else norm.laid_out_as(maps[-1], link.residual)
                y, statistics = stage.plan.forward(maps[-1], residual, *how)
                maps.append(y)
                kept.append(statistics)
        ctx.known, ctx.count = known, len(tensors)
        needed = known.spread(ctx.needs_input_grad, False)
        ctx.save_for_backward(*tensors, *kept, *_needed(known.stages, maps, needed))
        return cast(Tensor, maps[-1])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        known, stages, saved = ctx.known, ctx.known.stages, ctx.saved_tensors
        operands, asked = known.spread(saved, None), known.spread(wanted(ctx), False)
        kept, maps = list(saved[ctx.count : -len(stages)]), [operands[0], *saved[-len(stages) :]]
        if torch.is_grad_enabled() or not has_memory(upstream) or traced(upstream):
            return *known.of_present(_grads(stages, operands, kept, asked, upstream)), None, None
        found: list[Tensor | None] = [None] * len(operands)
        g, place, mine = upstream.resolve_neg(), len(operands), False
        for at in reversed(range(len(stages))):
            if not any(asked[:place]):
                break
            stage, x = stages[at], maps[at]
            if isinstance(stage, _Convolved):
                place -= 2
                g = upstream_in(stage.channels_last, g) if at + 1 == len(stages) else g
                if asked[place]:
                    found[place] = stage.grad(Pass.WEIGHT_GRAD, x, g)
                if asked[place + 1]:
                    found[place + 1] = g.sum([0, *range(2, g.dim())])
                if any(asked[:place]):
                    g, mine = stage.grad(Pass.INPUT_GRAD, operands[place], g), True
                continue
            place -= 3
            if x.stride() != stage.strides:
                # Hooks on what is kept may have put it elsewhere, in another order.
                x = x.new_empty_strided(x.shape, stage.strides).copy_(x)
            other = {"output": maps[at + 1], "residual": operands[place]}.get(stage.plan.form.keeps)
            other = None if other is None else norm.laid_out_as(x, other)
            g, *grads = stage.plan.backward(norm.laid_out_as(x, g), x, other, kept.pop(), mine)
            mine = True
            for offset, grad in enumerate(grads):
                found[place + offset] = grad if asked[place + offset] else None
        found[0] = g if asked[0] else None
        return *known.of_present(found), None, None


def _needed(
    stages: Sequence[_Convolved | _Normed], maps: Sequence[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    """Of the maps behind the input those that a gradient is computed from."""
    place, found = 1, [False] * len(maps)
    for at, stage in enumerate(stages):
        if isinstance(stage, _Convolved):
            found[at] |= needed[place]
            place += 2
        else:
            found[at] = True
            found[at + 1] = stage.plan.form.keeps == "output"
            place += 3
    return [each if keep else None for each, keep in zip(maps[1:], found[1:], strict=True)]


def _grads(
    stages: Sequence[_Convolved | _Normed],
    operands: Sequence[Tensor | None],
    kept: Sequence[Tensor],
    asked: Sequence[bool],
    upstream: Tensor,
) -> list[Tensor | None]:
    """The gradients as functions of what they are computed from, for whoever differentiates them or wants many."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # One tensor may stand in two places, which have gradients of their own.
        views = [None if operand is None else operand.view_as(operand) for operand in operands]
        rest, statistics = iter(views), iter(kept)
        y = cast(Tensor, next(rest))
        for stage in stages:
            if isinstance(stage, _Convolved):
                weight, bias = next(rest), next(rest)
                y = stage.composed(y, cast(Tensor, weight), bias)
            else:
                residual, weight, bias = next(rest), next(rest), next(rest)
                form = stage.plan.form
                y = norm.recomputed(form, stage.eps, y, residual, weight, bias, next(statistics))
    wants = [view for view, need in zip(views, asked, strict=True) if need]
    made = iter(torch.autograd.grad(y, cast("list[Tensor]", wants), upstream, create_graph=create))
    return [next(made) if need else None for need in asked]


#: Numbers of a map from which links are computed apart. Autograd gives memory back link by link, which for maps of
#: 16 MiB counts for more than what Python takes.
_LARGE: Final = 1 << 22
#: Chains that have been met in this process; None those that aren't computed as one.
_known: dict[tuple[Any, ...], _Known | None] = {}
_UNMET: Final[Any] = object()


def as_one(input: Tensor, links: Sequence[Link | None], local: bool = True) -> Tensor | None:
    """The chain's result where it is computed as one operation; None where it isn't, and nothing has been done.

    It is where a gradient is wanted of float32 maps on the CPU in one of the two layouts, none of them very large.

    Args:
        input: (N, C, ...).
        links: what is done with it, one after the other; None for something that no chain has.
        local: as :func:`striate.ops.convolution.contract` takes it.
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
    key: list[Any] = [torch.get_num_threads(), tuning.generation, local]
    for link in links:
        if link is None:
            return None
        if isinstance(link, Convolution):
            operands += link[:2]
            key.append(settled(link.how))
        else:
            operands += (link.residual, link.weight, link.bias)
            if not _lie((link.mean, link.variance), key):
                return None
            key += (link.training, link.momentum, link.eps, link.activation)
    if not _lie(operands, key):
        return None
    if not any(operand is not None and operand.requires_grad for operand in operands):
        return None
    by = tuple(key)
    found = _known.get(by, _UNMET)
    if found is _UNMET:
        if len(_known) >= 4096:
            _known.clear()
        found = _known[by] = _learned(
            input, cast("Sequence[Link]", links), local, [operand is not None for operand in operands]
        )
    return None if found is None else cast(Tensor, _Chain.apply(*found.of_present(operands), links, found))


def _lie(tensors: Iterable[Tensor | None], key: list[Any]) -> bool:
    """Adds to the key how tensors lie; False if one is no numbers in memory that kernels could read."""
    for tensor in tensors:
        if tensor is None:
            key.append(None)
        elif is_plain(tensor) and tensor.layout is torch.strided and tensor.is_cpu:
            key += (tensor.shape, tensor.stride(), tensor.requires_grad)
        else:
            return False
    return True


def _learned(input: Tensor, links: Sequence[Link], local: bool, present: list[bool]) -> _Known | None:
    """How the links are computed, found by doing so once; None if kernels for one are missing."""
    if fixed() not in (None, "llvm"):
        return None
    stages: list[_Convolved | _Normed] = []
    x = input.detach()
    with torch.no_grad():  # passes may be measured
        for link in links:
            stage: _Convolved | _Normed | None
            if isinstance(link, Convolution):
                stage = _convolved(x, link, local)
                x = x if stage is None else stage.forward(x, link.weight, link.bias)
            else:
                stage, x = _normed(x, link), torch.empty_like(x)
            if stage is None or x.numel() >= _LARGE:
                return None
            stages.append(stage)
    return _Known(stages, present)


def _convolved(x: Tensor, link: Convolution, local: bool) -> _Convolved | None:
    weight, bias, how = link
    try:
        shape = convolution.problem_of(x.shape, weight.shape, *how)
    except StriateError:
        return None  # for the operation itself to say
    if x.dim() != weight.dim() or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    last = is_channels_last(x) or is_channels_last(weight)
    return _Convolved(shape, last, local, ready(shape, Pass.OUTPUT, x, weight, bias, last, local))


def _normed(x: Tensor, link: Normalization) -> _Normed | None:
    weight, bias, mean, variance, training, momentum, eps, residual, activation = link
    form = Form(activation, residual is not None, training)
    if not norm.fit(x, residual, (weight, bias, mean, variance), training, momentum, eps):
        return None
    plan = norms.plan(form, x)
    return None if plan is None else _Normed(plan, eps, x.stride())
