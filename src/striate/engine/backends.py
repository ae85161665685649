"""The table of backends: who can compute a problem, who does, and why the others don't.

A convolution is one trilinear form T(x, w, g) of input, weight and output gradient (see
:class:`striate.geometry.ConvShape`). A backend implements *the contraction with one operand left open*: leave the
output open and it is the forward pass, the input and it is the input gradient (and transposed convolution), the weight
and it is the weight gradient. Pooling walks the same windows; output and input gradient are its two contractions.

``use`` may fix the backend; if that one refuses a problem, it is an error. Otherwise choice.py chooses among those that
accept and compete; among those that don't compete, the first one that accepts.

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

#: A contraction of two operands and a bias that lie in memory as those did that it was made for.
Ready = Callable[[Tensor, Tensor, Tensor | None], Tensor]


#: Why a backend has no steps of inference plans, which need kernels on memory that is planned before.
NO_STEPS: Final = "has no kernels for inference plans"


class Backend(ABC):
    """A way of computing problems.

    Laws, which the tests hold every backend to:

    - what it accepts it computes as :mod:`striate.engine.reference` does, up to the rounding of the operands' dtype;
    - the passes of one problem are adjoint to each other: ``<contract(OUTPUT, x, w), g>``, ``<x, contract(INPUT_GRAD,
      w, g)>`` and ``<w, contract(WEIGHT_GRAD, x, g)>`` are one number, T(x, w, g);
    - operands are never written to, and results share no memory with them.
    """

    name: str
    #: Whether it may be the fastest; if not, it only takes what everybody else refuses.
    competes: bool = True
    #: Whether an output depends on what its window sees and, to the last bit, on nothing else.
    local: bool = True

    @abstractmethod
    def refusal(self, problem: Problem, open_: Pass, dtype: torch.dtype, device: str) -> str | None:
        """Why this backend doesn't compute the problem, or None if it does."""

    def recommends(self, problem: Problem, open_: Pass, channels_last: bool) -> bool:
        """Whether it should be taken where nothing may be measured: its own rule of what it is good at."""
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
        """The convolution's form with one operand open, from the other two in the order input, weight, output.

        A bias, one number for each channel of the result, is added for the passes OUTPUT and INPUT_GRAD.
        ``channels_last`` is the layout that images have in this network, for whoever makes one.
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
        """:meth:`contract` with all looked up that follows from shapes, strides, dtypes and devices.

        What it gives back is called with these operands and others like them, none of them marked as negated.
        """
        return lambda first, second, bias: self.contract(shape, open_, first, second, bias, channels_last)

    @abstractmethod
    def average(self, shape: PoolShape, open_: Pass, operand: Tensor, channels_last: bool = False) -> Tensor:
        """Average pooling of the input (OUTPUT), or the gradient it sends back (INPUT_GRAD)."""

    def largest(self, shape: PoolShape, input: Tensor) -> Tensor:
        """Max pooling (OUTPUT)."""
        return self.maximum(shape, input)[0]

    @abstractmethod
    def maximum(self, shape: PoolShape, input: Tensor) -> tuple[Tensor, Tensor]:
        """Max pooling (POSITIONS): values, and each one's flat position within its channel, in any integer dtype."""

    @abstractmethod
    def maximum_grad(
        self, shape: PoolShape, indices: Tensor, grad_output: Tensor, channels_last: bool = False
    ) -> Tensor:
        """The gradient that max pooling sends back: every output's to the position in ``indices``."""


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


#: In the order in which they are asked.
_TABLE: dict[str, Backend] = {}
_forced: str | None = None


def register(backend: Backend) -> None:
    """Puts a backend at the end of the table; a name that stands there already is an error."""
    if backend.name in _TABLE:
        raise BackendError("engine", f"a backend named {backend.name!r} exists", "needed a new name")
    _TABLE[backend.name] = backend
    forget()


def backends() -> tuple[str, ...]:
    """Names of the backends, in the order in which they are asked."""
    return tuple(_TABLE)


def table() -> dict[str, Backend]:
    """The backends by name, in the order in which they are asked."""
    return dict(_TABLE)


class use:  # noqa: N801 - a statement, like torch.no_grad
    """Fixes the backend: ``use("reference")`` from now on, or ``with use("reference"): ...`` for a block.

    The choice is the process's, since gradients may be computed in other threads than the one that asked for them.
    Code that a compiler or an exporter traces isn't touched: it is made of PyTorch's own operators.

    Args:
        name: a name from :func:`backends`, or ``"auto"`` for the fastest of those that accept.

    With a fixed backend a problem that it refuses is a BackendError rather than somebody else's work.

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
    """The backend that :func:`use` has fixed."""
    return _forced


def forget() -> None:
    """Forgets what has been chosen in this process."""
    choice.forget()
    _ready.clear()
    tuning.forget()


@choice.family(ConvShape)
@choice.family(PoolShape)
def _family(asked: Asked) -> list[Implementation]:
    """The backends, in the order of the table; those that don't compete compute what all others refuse."""
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
    """The backend that computes ``problem`` on a tensor like ``operand``.

    Args:
        problem, open_: what is computed.
        operand: its dtype and device count.
        channels_last: the layout of images.
        runs: what computes the pass with a backend, for measuring.
        local: leaves out backends that aren't (see :class:`Backend`), unless :func:`use` has fixed one.

    Raises:
        BackendError: every backend refuses, or the one does that :func:`use` has fixed.
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


#: What contractions have come to in this process, by all that they depend on but the numbers.
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
    """The contraction by the backend that :func:`choose` finds, for operands like these; see :meth:`Backend.ready`."""
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


#: Share of PyTorch's time that isn't believed to be saved: passes are measured by themselves, and caches remember more.
_DOUBT = 0.05
#: What :func:`gain` found, by all that it depends on.
_gains: dict[tuple[object, ...], float] = {}


def gain(
    problem: Problem,
    passes: tuple[Pass, ...],
    operand: Tensor,
    channels_last: bool,
    local: bool = True,
    by: str | None = None,
) -> float | None:
    """Seconds that the backends chosen for these passes save over PyTorch's kernels; None as long as one isn't chosen.

    Infinite where the choice was fixed or went by a rule, and isn't PyTorch's kernels throughout. ``by``: what this one
    saves if it computes all of them; minus infinity where that isn't known.
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
        chosen = choice.known(asked)
        if chosen is None:
            if tuning.measuring():
                return None
            # The rule can be asked before the first call, which is then computed as all others are.
            chosen = choice.choose(asked, None)
        times = tuning.known(asked.question()) or {}
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
    """Whether a compiler, exporter, tracer or counter looks on."""
    return bool(torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._len_torch_dispatch_stack())


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has numbers of its own: batches of gradients in one have none, and zeros needn't."""
    return torch._C._has_storage(tensor) and not tensor._is_zerotensor()


def traced(*tensors: Tensor) -> bool:
    """Whether somebody looks on who knows PyTorch's own operators: a compiler, exporter, tracer, counter, or a tensor
    that stands for something else than numbers in memory (fake, distributed, opaque). They get to see just those.
    """
    if watched():
        return True
    for tensor in tensors:
        kind = type(tensor)
        # A proxy is no tensor, and would answer all other questions with a proxy.
        is_plain = kind is Tensor or kind is Parameter
        if not is_plain and getattr(kind, "__torch_dispatch__", None) is not Tensor.__torch_dispatch__:
            return True
        if tensor._has_symbolic_sizes_strides or tensor.layout is not torch.strided or not has_memory(tensor):
            return True
    return False
