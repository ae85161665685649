"""A dispatch mode that records a network's operators, and the layer that each belongs to.

The mode sees operators below autograd, wherever they are called: in layers, functional calls, layers used twice,
autograd functions. It doesn't depend on the tensors' numbers: :mod:`striate.analysis.trace` runs a network on tensors
without numbers, :mod:`striate.analysis.running` on real ones, and both get the same list.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from striate.analysis.examples import first_line, tensors_in
from striate.analysis.operators import ROOT, Call, Operation, Value
from striate.errors import AnalysisError, is_out_of_memory

#: Operators that return the numbers of their input.
_KEEPING: Final = (torch.ops.aten.lift_fresh, torch.ops.aten.alias, torch.ops.aten.detach, torch.ops.aten.clone)

#: Constants of whole numbers up to this many are computed with; more of them are no lengths of sequences.
_LENGTHS: Final = 1 << 16


class Recorder(TorchDispatchMode):
    """Records operators and the layers that they belong to.

    Args:
        twin: the copy that runs.
        original: the network itself, of which closures may hold tensors.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch would otherwise import its compiler, which takes longer than most runs

    def __init__(self, twin: torch.nn.Module, original: torch.nn.Module) -> None:
        super().__init__()
        self._twins = {id(tensor): other for tensor, other in zip(tensors_of(original), tensors_of(twin), strict=True)}
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
        """The value of a tensor that is used or returned."""
        value = self.value(tensor, "activation")
        self.met(value, tensor)
        return value

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
        if kind == "activation" and len(aliases) > 1:  # a view of a parameter isn't an activation
            first = self._values[id(aliases[0])].kind
            kind = first if first in ("parameter", "buffer") else kind
        known = None if self.flows(tensor) else tensor
        value = Value(tuple(tensor.shape), tensor.dtype, storage.nbytes(), key, kind, known=known)
        self._values[id(tensor)] = value
        self.made(value, tensor)
        return value

    # ---------------------------------------------------------------- differences between the two kinds of runs

    def flows(self, tensor: Tensor) -> bool:
        """Whether a tensor may depend on the input or on what is learnt, rather than being written in the code."""
        raise NotImplementedError

    def own(self, tensor: Tensor) -> Tensor:
        """The copy's tensor for one of the network itself, which a function's closure can hold on to, and may write."""
        raise NotImplementedError

    def plainly(self) -> AbstractContextManager[Any]:
        """Where constants are computed with."""
        return nullcontext()

    def ran(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operator returns."""
        return func(*args, **kwargs)

    def made(self, value: Value, tensor: Tensor) -> None:
        """A tensor got a value."""

    def met(self, value: Value, tensor: Tensor) -> None:
        """A tensor that has a value is used by an operator, or returned by a layer."""

    def computed(self, result: Sequence[Tensor], constant: bool) -> None:
        """An operator returned these tensors."""

    def overwriting(self, values: Sequence[Value], tensors: Sequence[Tensor]) -> None:
        """An operator is about to write into the memory of these."""

    def empty(self, value: Value, inputs: Sequence[Value]) -> None:
        """An operator returned a tensor without elements, though its inputs have some."""

    # ---------------------------------------------------------------- the mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in _KEEPING:
            if not func._schema.is_mutable and self._constant((args, kwargs)):
                with self.plainly():
                    result = func(*args, **kwargs)
                return self._recorded(func, args, kwargs, result, True)
            args, kwargs = tree_map_only(Tensor, self.own, (args, kwargs))
        written = self._targets(func, args, kwargs)
        for target in written:
            aliases = self._aliases[self.known(target).storage]
            self.overwriting([self._values[id(alias)] for alias in aliases], aliases)
        return self._recorded(func, args, kwargs, self.ran(func, args, kwargs), False, written)

    def _constant(self, arguments: Any) -> bool:
        """Whether whole numbers that don't depend on the input go in and nothing else, as lengths of sequences."""
        tensors = [leaf for leaf in tree_flatten(arguments)[0] if isinstance(leaf, Tensor)]
        return bool(tensors) and not any(
            self.flows(tensor) or id(tensor) in self._twins or tensor.is_floating_point() or tensor.numel() > _LENGTHS
            for tensor in tensors
        )

    def _recorded(
        self, func: Any, args: Any, kwargs: Any, result: Any, constant: bool, targets: Sequence[Tensor] = ()
    ) -> Any:
        """The result, after the operator was written down."""
        made = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
        if not made and not func._schema.is_mutable:
            return result
        recorded, named = tree_map_only(Tensor, self.known, (args, kwargs))
        self.computed(made, constant)
        inputs = [leaf for leaf in tree_flatten((recorded, named))[0] if isinstance(leaf, Value)]
        learns = any(value.learns for value in inputs)
        written = self._written(targets, learns)
        outputs = []
        for rank, tensor in enumerate(made):
            value = self._values.get(id(tensor)) or self._made(tensor, "activation")
            value.learns = value.learns or (learns and tensor.is_floating_point())
            # Batch normalisation's statistics, beside the result, may well be empty.
            if rank == 0 and 0 in value.shape and inputs and not any(0 in each.shape for each in inputs):
                self.empty(value, inputs)
            if func.overloadpacket in _KEEPING and inputs:
                value.known = inputs[0].known
            outputs.append(value)
        call = self._stack[-1] if self._stack else 0
        self.operations.append(Operation(func, recorded, named, tuple(outputs), tuple(written), call))
        return result

    def _targets(self, func: Any, args: Any, kwargs: Any) -> list[Tensor]:
        """The tensors that an operator writes over."""
        found: list[Tensor] = []
        if func._schema.is_mutable:
            for place, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    target = kwargs.get(argument.name, args[place] if place < len(args) else None)
                    found += [leaf for leaf in tree_flatten(target)[0] if isinstance(leaf, Tensor)]
        return found

    def _written(self, targets: Sequence[Tensor], learns: bool) -> list[tuple[Value, Value]]:
        """What an operator overwrote; all tensors in that memory get new values."""
        changed: list[tuple[Value, Value]] = []
        for tensor in targets:
            before = self.known(tensor)
            for alias in self._aliases[before.storage]:
                old = self._values[id(alias)]
                new = Value(tuple(alias.shape), old.dtype, old.bytes, old.storage, old.kind, old.learns or learns)
                self._values[id(alias)] = new
                self.made(new, alias)
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


def tensors_of(model: torch.nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once."""
    return [*model.parameters(), *model.buffers()]


def copied(model: torch.nn.Module, mode: TorchFunctionMode, shared: dict[int, Any] | None = None) -> torch.nn.Module:
    """A copy of a network whose tensors are copied as ``mode`` does; what is ``shared``, by its id, isn't copied.

    Raises:
        AnalysisError: the network can't be copied.
    """
    for path, layer in model.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise AnalysisError(
                path or ROOT,
                "is compiled by TorchScript",
                "needed layers in Python",
                "analyse what it was compiled from",
            )
    try:
        with mode:
            return copy.deepcopy(model, {} if shared is None else dict(shared))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise AnalysisError(
            type(model).__name__,
            f"can't be copied ({type(error).__name__}: {first_line(error)})",
            "needed a network that copy.deepcopy takes",
            "take locks, files and handles out of its attributes",
        ) from error


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keeps attention from fused kernels, which do in one operator what several do, and show no row of weights."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def shapes(values: Sequence[Value]) -> str:
    """``1x3x8x8 and a number``."""
    return " and ".join("x".join(map(str, value.shape)) or "a number" for value in values)
