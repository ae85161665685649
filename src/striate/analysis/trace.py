"""One run of a network as a list of PyTorch's operators, without computing a number.

A copy of the network runs on fake tensors (shape, dtype and device, no memory) under a dispatch mode, which sees each
operator that would have run, whoever called it: layers, functional calls, layers used twice, autograd functions.
Python isn't traced, so loops and branches on shapes are fine; a branch on values has no values to look at and is
reported. What follows (cost, receptive fields) interprets the list.

Since the copy is what runs, mode, hooks, gradients and buffers of the network itself stay as they are.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from striate import engine
from striate.analysis.examples import Example, InputSize, first_line, prepared, tensors_in
from striate.errors import AnalysisError, StriateError, is_out_of_memory

#: The name of the network itself among its layers.
ROOT: Final = "(network)"

#: Operators that hand on the numbers they get.
_KEEPING: Final = (torch.ops.aten.lift_fresh, torch.ops.aten.alias, torch.ops.aten.detach, torch.ops.aten.clone)


#: Constants of whole numbers up to this many are computed with; more of them are no lengths of sequences.
_LENGTHS: Final = 1 << 16


@dataclass(eq=False)
class Value:
    """A tensor at one moment; what is written in place becomes a new value in the same storage.

    Args:
        shape: its sizes.
        dtype: its number format.
        bytes: of its storage, which views share.
        storage: a number that values in the same memory share.
        kind: ``"input"``, ``"parameter"``, ``"buffer"`` or ``"activation"``.
        learns: whether a gradient is wanted for it or for something that it comes from.
        known: the numbers, where they don't depend on the input.
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


@contextmanager
def _unlogged() -> Iterator[None]:
    """A size that doesn't fit is told by an error of ours; PyTorch would log its own with a page of frames before."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def trace(model: torch.nn.Module, input_size: InputSize, *, training: bool = False) -> Trace:
    """Runs a copy of ``model`` on an input without memory and writes down each operator.

    Args:
        model: any network; it is left as it is.
        input_size: a size or example inputs, as :func:`~striate.analysis.examples.prepared` takes them.
        training: run as in training, and note what autograd keeps.

    Raises:
        AnalysisError: the size doesn't fit, values steer the computation, or the network can't be copied.

    >>> [operation.name for operation in trace(torch.nn.Conv2d(1, 2, 3), (1, 5, 5)).operations]
    ['aten.convolution']
    """
    model, example = prepared(model, input_size)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    twin = _copied(model, fake).train(training)
    recorder = _Recorder(twin, model, fake)
    made = _without_numbers(example, fake)
    with ExitStack() as stack:
        stack.enter_context(_plain_attention())
        stack.enter_context(_unlogged())
        # Kernels of other backends take pointers, and fake tensors have none.
        stack.enter_context(engine.use("aten"))
        stack.enter_context(fake)
        # In inference mode composite operators would come as a whole, matmul and linear among them.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(training))
        if training:
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(recorder.save, lambda kept: kept))
        stack.enter_context(recorder)
        inputs = {name: recorder.value(tensor, "input") for name, tensor in made.tensors.items()}
        try:
            result = made.call(twin)
        except AnalysisError:
            raise
        except StriateError as error:
            raise AnalysisError(recorder.where, f"{error.where}: {error.got}", error.needed, error.remedy) from error
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise AnalysisError(
                recorder.where,
                f"values steer the computation ({first_line(error)})",
                "needed a path that depends on shapes only",
                "analyse the parts before and after, or decide by a setting of the layer instead of a tensor",
            ) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise AnalysisError(
                recorder.where,
                f"{_shapes(list(inputs.values()))} doesn't go through ({type(error).__name__}: {first_line(error)})",
                remedy=example.remedy,
            ) from error
    outputs = tuple(map(recorder.known, tensors_in(result)))
    return Trace(
        inputs,
        outputs,
        recorder.operations,
        recorder.calls,
        recorder.parameters,
        recorder.buffers,
        recorder.saved,
    )


def layer_paths(model: torch.nn.Module) -> list[str]:
    """The names of all layers, in order."""
    return [path for path, _ in model.named_modules(remove_duplicate=False) if path]


class _Recorder(TorchDispatchMode):
    """Writes down operators, and which layer they belong to."""

    def __init__(self, twin: torch.nn.Module, original: torch.nn.Module, fake: FakeTensorMode) -> None:
        super().__init__()
        self._fake = fake
        self._twins = {id(tensor): other for tensor, other in zip(_tensors(original), _tensors(twin), strict=True)}
        self.operations: list[Operation] = []
        self.calls: list[Call] = []
        self.saved: dict[int, int] = {}
        self._stack: list[int] = []
        self._values: dict[int, Value] = {}
        self._aliases: dict[int, list[Tensor]] = {}
        self._kept: list[Tensor] = []  # an id is only a name as long as its tensor lives
        self._paths: dict[int, list[str]] = {}
        for path, layer in twin.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(layer), []).append(path)
        for layer in twin.modules():
            layer.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)
            layer.register_forward_hook(self._leave, with_kwargs=True)
        real = dict(original.named_buffers(remove_duplicate=False))
        self.parameters = {
            name: self.value(tensor, "parameter") for name, tensor in twin.named_parameters(remove_duplicate=False)
        }
        self.buffers = {
            name: self.value(tensor, "buffer", real.get(name))
            for name, tensor in twin.named_buffers(remove_duplicate=False)
        }

    @property
    def where(self) -> str:
        """The layer that is running."""
        return (self.calls[self._stack[-1]].path if self._stack else "") or ROOT

    def value(self, tensor: Tensor, kind: str, known: Tensor | None = None) -> Value:
        """The value that a tensor stands for, made if it is new."""
        if id(tensor) not in self._values:
            made = self._made(tensor, kind)
            made.learns = kind == "parameter" and tensor.requires_grad
            made.known = made.known if known is None else known
        return self._values[id(tensor)]

    def known(self, tensor: Tensor) -> Value:
        return self.value(tensor, "activation")

    def save(self, tensor: Tensor) -> Tensor:
        value = self.known(tensor)
        if value.kind == "activation" or value.kind == "input":
            self.saved.setdefault(value.storage, len(self.operations))
        return tensor

    def _made(self, tensor: Tensor, kind: str) -> Value:
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._kept.append(tensor)
        aliases = self._aliases.setdefault(key, [])
        aliases.append(tensor)
        if kind == "activation" and len(aliases) > 1:  # a view of a parameter is none of the activations
            first = self._values[id(aliases[0])].kind
            kind = first if first in ("parameter", "buffer") else kind
        # A tensor that isn't fake is a constant written in the code.
        known = None if isinstance(tensor, FakeTensor) else tensor
        value = Value(tuple(tensor.shape), tensor.dtype, storage.nbytes(), key, kind, known=known)
        self._values[id(tensor)] = value
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in _KEEPING:
            if not func._schema.is_mutable and self._constant((args, kwargs)):
                with unset_fake_temporarily():
                    result = func(*args, **kwargs)
                return self._recorded(func, args, kwargs, result)
            args, kwargs = tree_map_only(Tensor, self._faked, (args, kwargs))
        return self._recorded(func, args, kwargs, func(*args, **kwargs))

    def _constant(self, arguments: Any) -> bool:
        """Whether whole numbers that don't depend on the input go in and nothing else, as lengths of sequences."""
        tensors = [leaf for leaf in tree_flatten(arguments)[0] if isinstance(leaf, Tensor)]
        return bool(tensors) and not any(
            isinstance(tensor, FakeTensor)
            or id(tensor) in self._twins
            or tensor.is_floating_point()
            or tensor.numel() > _LENGTHS
            for tensor in tensors
        )

    def _recorded(self, func: Any, args: Any, kwargs: Any, result: Any) -> Any:
        """The result, after the operator was written down."""
        made = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
        if not made and not func._schema.is_mutable:
            return result
        recorded, named = tree_map_only(Tensor, self.known, (args, kwargs))
        inputs = [leaf for leaf in tree_flatten((recorded, named))[0] if isinstance(leaf, Value)]
        learns = any(value.learns for value in inputs)
        written = self._written(func, args, kwargs, learns)
        outputs = []
        for rank, tensor in enumerate(made):
            value = self._values.get(id(tensor)) or self._made(tensor, "activation")
            value.learns = value.learns or (learns and tensor.is_floating_point())
            # Batch normalisation's statistics, beside the result, may well be empty.
            if rank == 0 and 0 in value.shape and inputs and not any(0 in each.shape for each in inputs):
                raise AnalysisError(
                    self.where,
                    f"{_shapes(inputs[:1])} becomes {_shapes([value])}, which holds nothing",
                    "needed at least one position on each axis",
                    "give a larger input, or take a stride away",
                )
            if func.overloadpacket in _KEEPING and inputs:
                value.known = inputs[0].known
            outputs.append(value)
        call = self._stack[-1] if self._stack else 0
        self.operations.append(Operation(func, recorded, named, tuple(outputs), tuple(written), call))
        return result

    def _faked(self, tensor: Tensor) -> Tensor:
        """The copy's tensor for one of the network itself, which a function's closure can hold on to, and may write."""
        if isinstance(tensor, FakeTensor):
            return tensor
        twin = self._twins.get(id(tensor))
        return self._fake.from_tensor(tensor) if twin is None else twin

    def _written(self, func: Any, args: Any, kwargs: Any, learns: bool) -> Iterator[tuple[Value, Value]] | Any:
        """What an operator overwrote; all tensors in that memory get new values."""
        changed: list[tuple[Value, Value]] = []
        if not func._schema.is_mutable:
            return changed
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            target = kwargs.get(argument.name, args[place] if place < len(args) else None)
            for tensor in [leaf for leaf in tree_flatten(target)[0] if isinstance(leaf, Tensor)]:
                before = self.known(tensor)
                for alias in self._aliases[before.storage]:
                    old = self._values[id(alias)]
                    new = Value(tuple(alias.shape), old.dtype, old.bytes, old.storage, old.kind, old.learns or learns)
                    self._values[id(alias)] = new
                    changed.append((old, new))
        return changed

    def _enter(self, layer: torch.nn.Module, args: Any, kwargs: Any) -> None:
        parent = self._stack[-1] if self._stack else -1
        inside = self.calls[parent].path if parent >= 0 else ""
        names = self._paths[id(layer)]
        # A layer with several names goes by the one that the caller knows.
        path = next((name for name in names if name.rpartition(".")[0] == inside and name), names[0])
        if parent >= 0:
            self.calls[parent].leaf = False
        self._stack.append(len(self.calls))
        self.calls.append(Call(path, layer, parent, first=len(self.operations)))

    def _leave(self, layer: torch.nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        call = self.calls[self._stack.pop()]
        call.last = len(self.operations)
        call.outputs = tuple(map(self.known, tensors_in(result)))


def _tensors(model: torch.nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _copied(model: torch.nn.Module, fake: FakeTensorMode) -> torch.nn.Module:
    for path, layer in model.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise AnalysisError(
                path or ROOT,
                "is compiled by TorchScript",
                "needed layers in Python",
                "analyse what it was compiled from",
            )
    try:
        with FakeCopyMode(fake):
            return copy.deepcopy(model)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise AnalysisError(
            type(model).__name__,
            f"can't be copied ({type(error).__name__}: {first_line(error)})",
            "needed a network that copy.deepcopy takes",
            "take locks, files and handles out of its attributes",
        ) from error


def _without_numbers(example: Example, fake: FakeTensorMode) -> Example:
    """The same inputs without memory."""
    seen: dict[int, Tensor] = {}

    def empty(tensor: Tensor) -> Tensor:
        if id(tensor) not in seen:
            dense = 0 not in tensor.stride()
            how: Any = {"dtype": tensor.dtype, "device": tensor.device}
            with fake:
                seen[id(tensor)] = (
                    torch.empty_strided(tensor.shape, tensor.stride(), **how)
                    if dense
                    else torch.empty(tensor.shape, **how)
                )
        return seen[id(tensor)]

    return example.mapped(empty)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keeps attention layers from their fused inference kernel, which does in one operator what several layers do."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _shapes(values: Sequence[Value]) -> str:
    return " and ".join("x".join(map(str, value.shape)) or "a number" for value in values)
