"""The table of backends: which backends accept a problem, which one computes it, and why the others refuse.

A convolution is one trilinear form T(x, w, g) of input, weight and output gradient (see
:class:`striate.geometry.ConvShape`). A backend implements *the contraction with one operand open*. With the output
open it is the forward pass; with the input open, the input gradient (and transposed convolution); with the weight open,
the weight gradient. Pooling uses the same windows; its two contractions are the output and the input gradient.

``use`` may fix the backend; then a problem that this backend refuses is an error. Otherwise choice.py chooses among
the competing backends that accept the problem. If there are none, the first other backend that accepts computes it.

explanation.py shows the choice and its reasons.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Final

import torch
from torch import Tensor
from torch.nn import Parameter

from striate.engine import choice, tuning
from striate.engine.choice import Asked, Implementation
from striate.engine.passes import FORM, Pass, passes
from striate.errors import BackendError
from striate.geometry import ConvShape, PoolShape, Problem

__all__ = [
    "FORM",
    "Backend",
    "ConvolutionBackend",
    "Pass",
    "Ready",
    "backends",
    "choose",
    "fixed",
    "forget",
    "gain",
    "has_memory",
    "passes",
    "ready",
    "register",
    "table",
    "traced",
    "use",
    "watched",
]

#: A contraction, prepared for operands and a bias of given shapes and strides.
Ready = Callable[[Tensor, Tensor, Tensor | None], Tensor]


#: The reason for refusing steps of inference plans, which need kernels that write to memory planned in advance.
NO_STEPS: Final = "has no kernels for inference plans"


class Backend(ABC):
    """An implementation of convolution and pooling.

    The tests require of every backend:

    - for every problem that it accepts, its results equal those of :mod:`striate.engine.reference`, up to the rounding
      of the operands' dtype;
    - the passes of one problem are adjoint to each other: ``<contract(OUTPUT, x, w), g>``, ``<x, contract(INPUT_GRAD,
      w, g)>`` and ``<w, contract(WEIGHT_GRAD, x, g)>`` are the same number, T(x, w, g);
    - it never writes to operands, and its results share no memory with them.
    """

    name: str
    #: Whether the chooser compares its speed; if False, it only computes problems that all other backends refuse.
    competes: bool = True
    #: Whether an output depends, to the last bit, only on the inputs in its window.
    local: bool = True

    @abstractmethod
    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        """The reason for refusing the problem, or None if the backend accepts it."""

    def recommends(self, problem: Problem, open_: Pass, channels_last: bool) -> bool:
        """Whether to choose this backend where measuring isn't allowed: its own rule for the problems it is fast at."""
        return True

    @abstractmethod
    def contract(
        self,
        shape: ConvShape,
        open_: Pass,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        channels_last: bool = False,
    ) -> Tensor:
        """The contraction of two operands, given in the order input, weight, output, with the third one open.

        The passes OUTPUT and INPUT_GRAD add the bias, one number for each channel of the result. ``channels_last`` is
        the layout in which a backend should return images.
        """

    def ready(
        self,
        shape: ConvShape,
        open_: Pass,
        first: Tensor,
        second: Tensor,
        bias: Tensor | None,
        channels_last: bool = False,
    ) -> Ready:
        """Prepares :meth:`contract` for operands of these shapes, strides, dtypes and devices.

        The returned function is called with these operands and others like them, none with the negative bit set.
        """
        return lambda first, second, bias: self.contract(shape, open_, first, second, bias, channels_last)

    @abstractmethod
    def average(self, shape: PoolShape, open_: Pass, operand: Tensor, channels_last: bool = False) -> Tensor:
        """Average pooling (OUTPUT), or its input gradient (INPUT_GRAD)."""

    def largest(self, shape: PoolShape, input: Tensor) -> Tensor:
        """Max pooling (OUTPUT)."""
        return self.maximum(shape, input)[0]

    @abstractmethod
    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        """Max pooling (POSITIONS): the maxima, and their flat positions within the channel, in any integer dtype."""

    @abstractmethod
    def maximum_grad(
        self, shape: PoolShape, indices: Tensor, grad_output: Tensor, channels_last: bool = False
    ) -> Tensor:
        """The input gradient of max pooling: adds the gradient of each output at its position in ``indices``."""


class ConvolutionBackend(Backend):
    """A backend that refuses all pooling."""

    def average(self, shape: PoolShape, open_: Pass, operand: Tensor, channels_last: bool = False) -> Tensor:
        raise BackendError(str(shape), f"backend {self.name} doesn't pool")

    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        raise BackendError(str(shape), f"backend {self.name} doesn't pool")

    def maximum_grad(
        self, shape: PoolShape, indices: Tensor, grad_output: Tensor, channels_last: bool = False
    ) -> Tensor:
        raise BackendError(str(shape), f"backend {self.name} doesn't pool")


#: Backends by name, in the order in which the chooser considers them.
_TABLE: dict[str, Backend] = {}
_forced: str | None = None


def register(backend: Backend) -> None:
    """Appends a backend to the table; a name that is already registered is an error."""
    if backend.name in _TABLE:
        raise BackendError("engine", f"a backend named {backend.name!r} exists", "needed a new name")
    _TABLE[backend.name] = backend
    forget()


def backends() -> tuple[str, ...]:
    """Names of the backends, in the order in which the chooser considers them."""
    return tuple(_TABLE)


def table() -> dict[str, Backend]:
    """The backends by name, in the order in which the chooser considers them."""
    return dict(_TABLE)


class use:  # noqa: N801 - a statement, like torch.no_grad
    """Fixes the backend: ``use("reference")`` from now on, or ``with use("reference"): ...`` for a block.

    The setting applies to the whole process, because autograd may compute gradients in threads of its own. Code that a
    compiler or an exporter traces isn't affected: it consists of PyTorch's own operators.

    Args:
        name: a name from :func:`backends`, or ``"auto"`` for the fastest backend that accepts.

    With a fixed backend, a problem that this backend refuses raises a BackendError; there is no fallback.

    >>> import striate
    >>> with striate.engine.use("reference"):
    ...     striate.ops.max_pool1d(torch.tensor([[[1.0, 3.0, 2.0, 4.0]]]), 2)
    tensor([[[3., 4.]]])
    """

    def __init__(self, name: str) -> None:
        global _forced
        if name != "auto" and name not in _TABLE:
            raise BackendError("engine.use", f"got {name!r}", "needed auto or one of " + ", ".join(_TABLE))
        self._before = _forced
        _forced = None if name == "auto" else name
        tuning.generation += 1

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _forced
        _forced = self._before
        tuning.generation += 1


def fixed() -> str | None:
    """The backend that :func:`use` has fixed, or None."""
    return _forced


def forget() -> None:
    """Clears all cached choices, prepared contractions and measured times of this process."""
    choice.forget()
    _ready.clear()
    tuning.forget()


@choice.family(ConvShape)
@choice.family(PoolShape)
def _family(asked: Asked) -> list[Implementation]:
    """The backends in the order of the table, then those that don't compete, which accept only if no other does."""
    problem, open_, dtype, device, channels_last, local = asked
    assert isinstance(problem, (ConvShape, PoolShape))
    listed, taken = [], False
    for name, backend in sorted(_TABLE.items(), key=lambda entry: not entry[1].competes):
        refusal = backend.refusal(problem, open_, dtype, device)
        if refusal is None and local and not backend.local:
            refusal = "an output depends on more than its window, so only accelerated models use this"
        if refusal is None and taken and not backend.competes:
            refusal = "computes what all others refuse"
        recommended = refusal is None and backend.recommends(problem, open_, channels_last)
        listed.append(Implementation(name, refusal, recommended))
        taken = taken or refusal is None
    return listed


def choose(
    problem: Problem,
    open_: Pass,
    operand: Tensor,
    channels_last: bool,
    runs: Callable[[Backend], Callable[[], object]],
    local: bool = True,
) -> Backend:
    """Chooses the backend that computes ``problem`` on a tensor like ``operand``.

    Args:
        problem, open_: the problem and the pass.
        operand: a tensor with the dtype and the device.
        channels_last: whether images are in channels last.
        runs: returns a function that computes the pass with a backend, for measuring.
        local: leaves out non-local backends (see :class:`Backend`), unless :func:`use` has fixed one.

    Raises:
        BackendError: every backend refuses, or the backend that :func:`use` has fixed refuses.
    """
    dtype, device = operand.dtype, operand.device.type
    if _forced is not None:
        refusal = _TABLE[_forced].refusal(problem, open_, dtype, device)
        if refusal is None:
            return _TABLE[_forced]
        raise BackendError(
            str(problem), f"backend {_forced} refuses: {refusal}", remedy='let another do it: use("auto")'
        )
    asked = Asked(problem, open_, dtype, device, channels_last, local)
    return _TABLE[choice.choose(asked, lambda name: runs(_TABLE[name])).name]


#: Prepared contractions by call signature: everything that they depend on, except the numbers in the tensors.
_ready: dict[tuple[object, ...], Ready] = {}


def ready(
    shape: ConvShape,
    open_: Pass,
    first: Tensor,
    second: Tensor,
    bias: Tensor | None,
    channels_last: bool,
    local: bool,
) -> Ready:
    """The contraction prepared by the backend that :func:`choose` returns; see :meth:`Backend.ready`."""
    if tuning.put_off:
        tuning.resume()
    operands = (first.shape, first.stride(), second.shape, second.stride(), first.dtype, second.dtype)
    how = (shape, open_, bias is None, channels_last, local, torch.get_num_threads(), tuning.generation)
    key = (how, operands, first.device, second.device)
    found = _ready.get(key)
    if found is None:

        def runs(backend: Backend) -> Callable[[], Tensor]:
            made = backend.ready(shape, open_, first, second, bias, channels_last)
            return partial(made, first, second, bias)

        chosen = choose(shape, open_, first, channels_last, runs, local)
        if len(_ready) >= 16384:
            _ready.clear()
        found = _ready[key] = chosen.ready(shape, open_, first, second, bias, channels_last)
    return found


#: Share of PyTorch's time that is subtracted from every gain: passes are measured one by one, with warmer caches than
#: in a network.
_DOUBT = 0.05
#: Results of :func:`gain`, by everything that they depend on.
_gains: dict[tuple[object, ...], float] = {}


def gain(
    problem: Problem,
    passes: tuple[Pass, ...],
    operand: Tensor,
    channels_last: bool,
    local: bool = True,
    by: str | None = None,
) -> float | None:
    """Seconds that the backends chosen for these passes save over PyTorch's kernels; None while a choice is missing.

    The gain is infinite if the choice was fixed or made by the rule, and isn't ``aten`` for all passes. With ``by``, it
    is the gain of that backend computing all passes, and minus infinity if it hasn't been measured.
    """
    if _forced is not None:
        if _forced == "aten":
            return None
        return math.inf if by is None else -math.inf
    rest = (operand.dtype, operand.device.type, channels_last, local)
    key = (problem, passes, by, *rest, torch.get_num_threads(), tuning.generation)
    if key in _gains:
        return _gains[key]
    total = 0.0
    for open_ in passes:
        asked = Asked(problem, open_, *rest)
        chosen = choice.cached(asked)
        if chosen is None:
            if tuning.measuring():
                return None
            # The rule needs no operands, so it can decide before the first call.
            chosen = choice.choose(asked, None)
        times = tuning.known(asked.timing_key()) or {}
        name = chosen.name if by is None else by
        both = tuning.measuring() and times.keys() >= {"aten", name}
        if not both and name != chosen.name:
            total = -math.inf
            break
        total -= _DOUBT * times["aten"] if both else 0.0
        if name != "aten":
            total += times["aten"] - times[name] if both else math.inf
    if len(_gains) >= 16384:
        _gains.clear()
    _gains[key] = total
    return total


def watched() -> bool:
    """Whether a compiler, exporter, tracer or operator counter is active."""
    return bool(torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._len_torch_dispatch_stack())


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own: batched gradients have none, and zero tensors may have none."""
    return torch._C._has_storage(tensor) and not tensor._is_zerotensor()


def traced(*tensors: Tensor) -> bool:
    """Whether a call has to run PyTorch's own operators instead of kernels.

    This is so under a compiler, exporter, tracer or operator counter, and for tensors that aren't plain numbers in
    memory (fake, distributed, opaque).
    """
    if watched():
        return True
    for tensor in tensors:
        kind = type(tensor)
        # Check the type first: a proxy isn't a tensor, and its attributes are proxies, too.
        is_plain = kind is Tensor or kind is Parameter
        if not is_plain and getattr(kind, "__torch_dispatch__", None) is not Tensor.__torch_dispatch__:
            return True
        if tensor._has_symbolic_sizes_strides or tensor.layout is not torch.strided or not has_memory(tensor):
            return True
    return False
