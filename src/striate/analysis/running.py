"""One run of a network with numbers: the same list of operators as the trace, and each tensor's numbers.

A copy of the network runs. It shares the network's parameters unless something writes into them; buffers, inputs and
constants are copied. Numbers that an operator overwrites are saved first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_map

from striate import engine
from striate.analysis.examples import Example, InputSize, first_line, prepared, tensors_in
from striate.analysis.operators import Trace, Value
from striate.analysis.recorder import Recorder, copied, plain_attention, shapes
from striate.errors import AnalysisError, StriateError, is_out_of_memory

#: The default seed of random numbers (dropout, stochastic depth).
SEED: Final = 0


@dataclass(frozen=True, eq=False)
class Run:
    """A run with numbers.

    Args:
        trace: the operators, as :func:`striate.analysis.trace.trace` lists them.
        numbers: of every value. Parameters are the network's own memory.
        answer: what the network returned, with values in place of tensors.
        edges: where each value's gradient passes in autograd's graph, if the run was made for gradients.
    """

    trace: Trace
    numbers: Mapping[Value, Tensor]
    answer: Any
    edges: Mapping[Value, GradientEdge] = field(default_factory=dict)


def run(
    model: torch.nn.Module,
    inputs: InputSize,
    *,
    training: bool = False,
    gradients: bool = False,
    seed: int = SEED,
) -> Run:
    """Runs a copy of ``model`` on real inputs and keeps every tensor's numbers.

    Args:
        model: any network; it is left as it is, mode, buffers, hooks and gradients included.
        inputs: example inputs, as :func:`~striate.analysis.examples.prepared` takes them; zeros where sizes are given.
        training: run as in training: dropout drops, batch normalisation takes the batch's statistics.
        gradients: keep autograd's graph, for gradients of every value.
        seed: of the random numbers that the network draws; the caller's generators are not advanced.

    Raises:
        AnalysisError: inputs that the network doesn't take, or a network that can't be copied.
    """
    model, example = prepared(model, inputs)
    try:
        return _run(model, example, training, gradients, seed, shared=True)
    except _WritesParameters:
        return _run(model, example, training, gradients, seed, shared=False)


class _WritesParameters(BaseException):
    """The network writes into its parameters, so they have to be copied. No Exception, which a network may catch."""


def _run(model: torch.nn.Module, example: Example, training: bool, gradients: bool, seed: int, shared: bool) -> Run:
    own = {id(parameter): parameter for parameter in model.parameters()} if shared else {}
    twin = copied(model, _Copying(), own).train(training)
    recorder = _Numbers(twin, model, shared, gradients)
    devices = {tensor.device.index for tensor in example.tensors.values() if tensor.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(sorted(each for each in devices if each is not None)))
        torch.manual_seed(seed)
        stack.enter_context(plain_attention())
        stack.enter_context(engine.use("aten"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        made = _own_inputs(example, gradients)
        stack.enter_context(recorder)
        given = {name: recorder.input(tensor) for name, tensor in made.tensors.items()}
        try:
            result = made.call(twin)
        except AnalysisError:
            raise
        except StriateError as error:
            raise AnalysisError(recorder.where, f"{error.where}: {error.got}", error.needed, error.remedy) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise AnalysisError(
                recorder.where,
                f"{shapes(list(given.values()))} doesn't go through ({type(error).__name__}: {first_line(error)})",
                remedy=example.remedy,
            ) from error
        outputs = tuple(map(recorder.known, tensors_in(result)))
        answer = _valued(result, recorder)
    traced = Trace(given, outputs, recorder.operations, recorder.calls, recorder.parameters, recorder.buffers)
    return Run(traced, recorder.numbers, answer, recorder.edges)


class _Copying(TorchFunctionMode):
    """Copies tensors' numbers and format, without the history that autograd keeps and that deepcopy refuses."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.is_leaf and tensor.requires_grad)
        return memo[id(tensor)]


class _Numbers(Recorder):
    """Records a copy that runs on real tensors, and keeps them."""

    def __init__(self, twin: torch.nn.Module, original: torch.nn.Module, shared: bool, gradients: bool) -> None:
        self.numbers: dict[Value, Tensor] = {}
        self.edges: dict[Value, GradientEdge] = {}
        self._shared, self._gradients = shared, gradients
        self._flowing = {id(tensor) for tensor in (*twin.parameters(), *twin.buffers())}
        super().__init__(twin, original)
        for name, parameter in twin.named_parameters(remove_duplicate=False) if gradients else ():
            if parameter.requires_grad:
                self.edges[self.parameters[name]] = get_gradient_edge(parameter)

    def input(self, tensor: Tensor) -> Value:
        """The value of one of the network's inputs."""
        self._flowing.add(id(tensor))
        value = self.value(tensor, "input")
        self.met(value, tensor)
        return value

    def flows(self, tensor: Tensor) -> bool:
        return id(tensor) in self._flowing

    def own(self, tensor: Tensor) -> Tensor:
        twin = self._twins.get(id(tensor))
        if twin is not None:
            return twin
        if self.flows(tensor) or id(tensor) in self._values:
            return tensor
        # Written in the code, or kept in a closure: the caller's, which a network may write into.
        twin = self._twins[id(tensor)] = tensor.detach().clone()
        self._kept.append(tensor)
        self._flowing.add(id(twin))
        return twin

    def ran(self, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        # A number written in the code is lifted to a tensor of its own, which for real tensors is the same object.
        return result.detach() if func.overloadpacket is torch.ops.aten.lift_fresh else result

    def made(self, value: Value, tensor: Tensor) -> None:
        with no_dispatch():  # layers' own constants get here outside of an operator, where this would be one
            self.numbers[value] = tensor.detach()

    def met(self, value: Value, tensor: Tensor) -> None:
        # Autograd attaches its node after the operator has run, so the first use is the first time that it is there.
        # Leaves have none; those of parameters are known already.
        if self._gradients and value not in self.edges and tensor.grad_fn is not None:
            self.edges[value] = get_gradient_edge(tensor)

    def computed(self, result: Sequence[Tensor], constant: bool) -> None:
        if not constant:
            self._flowing.update(map(id, result))
            # An id is only a name as long as its tensor lives.
            self._kept.extend(result)

    def overwriting(self, values: Sequence[Value], tensors: Sequence[Tensor]) -> None:
        if self._shared and any(value.kind == "parameter" for value in values):
            raise _WritesParameters
        before: dict[int, Tensor] = {}
        for value, tensor in zip(values, tensors, strict=True):
            self.met(value, tensor)
            self.numbers[value] = _held(self.numbers[value], before)


def _held(tensor: Tensor, copies: dict[int, Tensor]) -> Tensor:
    """The same numbers in memory of their own; views of one storage are views of one copy."""
    if tensor.is_conj() or tensor.is_neg() or tensor.layout is not torch.strided:
        return tensor.clone()
    storage = tensor.untyped_storage()
    if storage._cdata not in copies:
        whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
        whole.set_(storage, 0, (storage.nbytes(),), (1,))
        copies[storage._cdata] = whole.clone()
    made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    other = copies[storage._cdata].untyped_storage()
    made.set_(other, int(tensor.storage_offset()), tensor.shape, tensor.stride())
    return made


def _own_inputs(example: Example, gradients: bool) -> Example:
    """Inputs that the network may write into, and that gradients reach."""
    seen: dict[int, Tensor] = {}

    def own(tensor: Tensor) -> Tensor:
        if id(tensor) not in seen:
            twin = tensor.detach().clone()
            if gradients and (twin.is_floating_point() or twin.is_complex()):
                # A leaf that wants a gradient refuses to be written into; a copy of one doesn't.
                twin = twin.requires_grad_().clone()
            seen[id(tensor)] = twin
        return seen[id(tensor)]

    return example.mapped(own)


def _valued(result: Any, recorder: _Numbers) -> Any:
    """The answer with values in place of tensors; of a packed sequence its data's."""

    def one(leaf: Any) -> Any:
        tensor = leaf.data if isinstance(leaf, PackedSequence) else leaf
        return recorder.known(tensor) if isinstance(tensor, Tensor) else leaf

    return tree_map(one, result, is_leaf=lambda leaf: isinstance(leaf, PackedSequence))
