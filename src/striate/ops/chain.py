"""Convolutions and batch normalisations in a row as one operation.

    m[0] = input,    m[k + 1] = link k of m[k],    the last one is the result

A link is a convolution, or ``activation(batch norm + residual)``. Each is computed, and its gradients are, as
:mod:`striate.ops.convolution` and :mod:`striate.ops.norm` do by themselves. What is saved is the way between them:
autograd's books and its calls of functions written in Python cost some 50 microseconds a link and direction, as much as
the kernels of a small map.

What is kept is what the links by themselves keep, whose tables see there: a convolution's input if its weight has a
gradient, its weight if its input has one; a normalisation's input and weight, and its result where a residual and relu
made it. Links from whose result no gradient goes back keep nothing, and residuals and biases nobody keeps. PyTorch's
functions keep no less of what others see, which are the first map, the last one and the operands.

The maps between that are kept are results too, which nobody gets to see but the gradients: as functions of the operands
they are what derivatives of gradients go back through.
"""

from __future__ import annotations

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
from striate.engine.llvm import norms
from striate.engine.llvm.normalization import Form
from striate.errors import StriateError
from striate.geometry import ConvShape
from striate.ops import convolution, norm
from striate.ops._autograd import own, upstream_in, wanted
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
#: A link, or the activation of one that is computed after it.
_Part: TypeAlias = Link | str


@dataclass(slots=True)
class _Convolved:
    """A convolution of a map that lies as this one. Its operands are weight and bias."""

    shape: ConvShape
    channels_last: bool
    local: bool
    forward: Ready
    grads: dict[tuple[Any, ...], Ready] = field(default_factory=dict)
    operands: ClassVar[int] = 2

    def grad(self, open_: Pass, first: Tensor, second: Tensor, composed: bool) -> Tensor:
        """The contraction with another operand open; ``composed`` as a function of the two that there are."""
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
    """A normalisation of a map that lies as this one. Its operands are residual, weight and bias."""

    plan: norms.Plan
    eps: float
    strides: tuple[int, ...]
    operands: ClassVar[int] = 3


@dataclass(slots=True)
class _Activated:
    """An activation that isn't one operation with the residual's addition before it."""

    name: str
    operands: ClassVar[int] = 0


_Stage: TypeAlias = _Convolved | _Normed | _Activated


@dataclass(slots=True)
class _Known:
    """A chain that has been met before: all of it that follows from shapes, strides and settings."""

    stages: list[_Stage]
    #: Which operands there are: input, then those of every stage.
    present: list[bool]
    #: Which of these are kept; of which stages the statistics and the result are.
    operands_kept: list[bool]
    statistics_kept: list[bool]
    maps_kept: list[bool]

    @classmethod
    def of(cls, stages: list[_Stage], operands: Sequence[Tensor | None]) -> _Known:
        """By which of the operands have gradients."""
        graded = [operand is not None and operand.requires_grad for operand in operands]
        kept, maps, statistics, place = [False] * len(operands), [False] * (len(stages) + 1), [], 1
        for at, stage in enumerate(stages):
            end = place + stage.operands
            goes_back = any(graded[:end])
            if isinstance(stage, _Convolved):
                maps[at] |= graded[place]
                kept[place] = any(graded[:place])
            else:
                maps[at] |= goes_back
            if isinstance(stage, _Normed):
                maps[at + 1] = goes_back and stage.plan.form.keeps
                kept[place + 1] = goes_back
            statistics.append(goes_back and isinstance(stage, _Normed))
            place = end
        kept[0], *results = maps
        return cls(stages, [operand is not None for operand in operands], kept, statistics, results)

    def spread(self, values: Iterable[Any], absent: Any) -> list[Any]:
        """What is said of those that there are, for all operands."""
        rest = iter(values)
        return [next(rest) if there else absent for there in self.present]

    def of_present(self, values: Sequence[Any]) -> list[Any]:
        """What is said of all operands, for those that there are."""
        return list(compress(values, self.present))


class _Chain(torch.autograd.Function):
    """Only called where nothing but gradients is asked for: no transforms, no tangents.

    The result comes first, then those maps between that are kept, for :meth:`backward` alone to see.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor | None, ...]:
        *tensors, links, known = arguments
        operands = known.spread(tensors, None)
        maps, statistics, biases, place = [operands[0]], [], [], 1
        for stage, link in zip(known.stages, links, strict=True):
            x, kept, bias = maps[-1], None, None
            if isinstance(stage, _Convolved):
                y = stage.forward(x, link.weight, link.bias)
            elif isinstance(stage, _Normed):
                residual = None if link.residual is None else norm.laid_out_as(x, link.residual)
                how = (link.weight, link.bias, (link.mean, link.variance), link.momentum, link.eps)
                y, kept = stage.plan.forward(x, residual, *how)
                bias = operands[place + 2]
            else:
                y = norm.ACTIVATIONS[stage.name](x)
            maps.append(y)
            statistics.append(kept)
            biases.append(bias if bias is not None and bias.requires_grad else None)
            place += stage.operands
        results = _where(known.maps_kept, maps[1:])
        ctx.save_for_backward(
            *_where(known.operands_kept, operands), *_where(known.statistics_kept, statistics), *results
        )
        # Biases aren't saved: their numbers may change, as PyTorch doesn't keep them.
        ctx.known, ctx.biases = known, biases
        ctx.set_materialize_grads(False)
        return maps[-1], *results[:-1]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *between: Tensor | None) -> tuple[Tensor | None, ...]:
        known, stages, saved = ctx.known, ctx.known.stages, ctx.saved_tensors
        many, asked = len(stages), known.spread(wanted(ctx), False)
        operands, statistics, results = saved[: -2 * many], saved[-2 * many : -many], saved[-many:]
        maps, upstreams = (operands[0], *results), (*between, upstream)
        composed = torch.is_grad_enabled() or traced(*(each for each in upstreams if each is not None))
        found: list[Tensor | None] = [None] * len(operands)
        g: Tensor | None = None
        place, mine = len(operands), False  # mine: nobody else reads the gradient
        for at in reversed(range(many)):
            if not any(asked[:place]):
                break
            stage, x, more = stages[at], maps[at], upstreams[at]
            if more is not None:
                g, mine = (more.resolve_neg(), False) if g is None else (g + more, True)
            place -= stage.operands
            if g is None:
                continue
            grads: Sequence[Tensor | None] = ()
            if isinstance(stage, _Convolved):
                g = g if mine else upstream_in(stage.channels_last, g)
                of_weight, of_bias = asked[place : place + 2]
                grads = (
                    stage.grad(Pass.WEIGHT_GRAD, x, g, composed) if of_weight else None,
                    g.sum([0, *range(2, g.dim())]) if of_bias else None,
                )
                g = stage.grad(Pass.INPUT_GRAD, operands[place], g, composed) if any(asked[:place]) else None
            elif isinstance(stage, _Activated):
                g = norm.sent_back(stage.name, g, x)
            else:
                y = maps[at + 1] if stage.plan.form.keeps else None
                if composed:
                    how = (stage.plan.form, stage.eps, g, x, operands[place + 1], ctx.biases[at])
                    g, *grads = norm.gradients(*how, statistics[at], y)
                else:
                    if x.stride() != stage.strides:
                        # Hooks on what is kept may have put it elsewhere, in another order.
                        x = x.new_empty_strided(x.shape, stage.strides).copy_(x)
                    y = None if y is None else norm.laid_out_as(x, y)
                    g, *grads = stage.plan.backward(norm.laid_out_as(x, g), x, y, statistics[at], mine)
            mine = True
            for offset, grad in enumerate(grads):
                found[place + offset] = grad if asked[place + offset] else None
        found[0] = g if asked[0] else None
        return *known.of_present(found), None, None


def _where(kept: Iterable[bool], tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    return [tensor if keep else None for keep, tensor in zip(kept, tensors, strict=True)]


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
    parts: list[_Part] = []
    for link in links:
        if link is None:
            return None
        if isinstance(link, Convolution):
            operands += link[:2]
            key.append(settled(link.how))
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
            parts += (link._replace(activation=""), link.activation)
    if not _lie(operands, key):
        return None
    if not _graded(*operands):
        return None
    by = tuple(key)
    found = _known.get(by, _UNMET)
    if found is _UNMET:
        if len(_known) >= 4096:
            _known.clear()
        found = _known[by] = _learned(input, parts, local, operands)
    return None if found is None else cast(Tensor, _Chain.apply(*found.of_present(operands), parts, found)[0])


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


def _learned(input: Tensor, parts: Sequence[_Part], local: bool, operands: Sequence[Tensor | None]) -> _Known | None:
    """How the parts are computed, found by doing so once; None if kernels for one are missing."""
    if fixed() not in (None, "llvm"):
        return None
    stages: list[_Stage] = []
    x, graded = input.detach(), input.requires_grad
    with torch.no_grad():  # passes may be measured
        for part in parts:
            stage: _Stage | None
            if isinstance(part, str):
                stage = _Activated(part)
            elif isinstance(part, Convolution):
                stage = _convolved(x, part, local)
                x = x if stage is None else stage.forward(x, part.weight, part.bias)
                graded |= _graded(part.weight, part.bias)
            else:
                graded |= _graded(part.weight, part.bias)
                # Of a residual that alone has a gradient nothing is kept, see norm.py.
                stage = _normed(x, part) if graded or not _graded(part.residual) else None
                x = torch.empty_like(x)
            if stage is None or x.numel() >= _LARGE:
                return None
            stages.append(stage)
    return _Known.of(stages, operands)


def _graded(*operands: Tensor | None) -> bool:
    return any(operand is not None and operand.requires_grad for operand in operands)


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
