"""One run of a network on pictures, every tensor with its number and its numbers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from striate.analysis.examples import InputSize
from striate.analysis.operators import Operation, Trace, Value
from striate.analysis.running import SEED, run


@dataclass(frozen=True, eq=False)
class Recording:
    """One run of a network: its operators, as ``analysis.trace`` lists them, and every tensor's numbers.

    Args:
        trace: the operators, values and calls of layers.
        values: in the order in which they came about: inputs, parameters, buffers, results, constants where they are
            first used. A value's place in this tuple is its number, in addresses and everywhere in the studio.
        numbers: the tensor of each value by its number. Memory is shared wherever the run shared it; parameters are the
            network's own memory, so a network that is trained on is recorded again.
        outputs: what the network returned, with values' numbers in place of tensors.
        training: whether it ran as in training.
        seed: of the noise that it drew.
    """

    trace: Trace
    values: tuple[Value, ...]
    numbers: Mapping[int, Tensor]
    outputs: Any
    training: bool = False
    seed: int = SEED

    @functools.cached_property
    def _places(self) -> dict[Value, int]:
        return {value: number for number, value in enumerate(self.values)}

    def number_of(self, value: Value) -> int:
        """The number of a value of this recording's trace."""
        return self._places[value]

    @functools.cached_property
    def origins(self) -> Mapping[int, tuple[int, int]]:
        """By a value's number: the operation that made it, and which of that one's results it is.

        A value that changed because another view of its memory was written into has the place -1.
        """
        found: dict[int, tuple[int, int]] = {}
        for place, operation in enumerate(self.trace.operations):
            for _, new in operation.written:
                found.setdefault(self._places[new], (place, -1))
            for rank, value in enumerate(operation.outputs):
                number = self._places[value]
                if found.get(number, (place, -1))[0] == place:
                    found[number] = (place, rank)
        return found

    def operation_of(self, number: int) -> Operation | None:
        """The operation that made a value; None for inputs, parameters, buffers and constants."""
        found = self.origins.get(number)
        return None if found is None else self.trace.operations[found[0]]

    @functools.cached_property
    def uses(self) -> Mapping[int, tuple[int, ...]]:
        """By a value's number: the operations that read it."""
        found: dict[int, list[int]] = {}
        for place, operation in enumerate(self.trace.operations):
            for value in dict.fromkeys(operation.inputs):
                found.setdefault(self._places[value], []).append(place)
        return {number: tuple(places) for number, places in found.items()}

    @functools.cached_property
    def names(self) -> Mapping[int, str]:
        """By number: an input's, parameter's or buffer's name; a result's layer, or layer and operator."""
        found: dict[int, str] = {}
        for named in (self.trace.inputs, self.trace.parameters, self.trace.buffers):
            for name, value in named.items():
                found.setdefault(self._places[value], name)
        for place, operation in enumerate(self.trace.operations):
            path = self.trace.calls[operation.call].path if self.trace.calls else ""
            kind = operation.name.removeprefix("aten.")
            for value in operation.outputs:
                found.setdefault(self._places[value], f"{path}:{kind}" if path else kind)
            for _, new in operation.written:
                found.setdefault(self._places[new], f"{path}:{kind}" if path else f"{kind} {place}")
        for call in self.trace.calls:
            if call.path and len(call.outputs) == 1 and call.leaf:
                value = call.outputs[0]
                if value.kind not in ("input", "parameter", "buffer"):
                    found[self._places[value]] = call.path
        for number, value in enumerate(self.values):
            found.setdefault(number, "constant " + ("x".join(map(str, value.shape)) or "number"))
        return found

    @functools.cached_property
    def bytes(self) -> int:
        """Memory that the recording holds on to, each storage once; the network's own parameters left out."""
        own = {self.numbers[self._places[each]].untyped_storage()._cdata for each in self.trace.parameters.values()}
        held = {}
        for tensor in self.numbers.values():
            if tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                if storage._cdata not in own:
                    held[storage._cdata] = storage.nbytes()
        return sum(held.values())


def record(model: torch.nn.Module, inputs: InputSize, *, training: bool = False, seed: int = SEED) -> Recording:
    """Runs a copy of ``model`` on real inputs and keeps every tensor; the model is left as it is.

    Args:
        model: any network, on any device.
        inputs: a tensor, a list of positional inputs or a dictionary of inputs by name.
        training: run as in training: dropout's masks are among the values.
        seed: of the noise that the network draws; the same seed gives the same numbers.

    Raises:
        AnalysisError: inputs that the network doesn't take, or a network that can't be copied.

    >>> recording = record(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU()), torch.ones(1, 1, 5, 5))
    >>> [recording.names[number] for number in range(len(recording.values))]
    ['input', '0.weight', '0.bias', '0', '1']
    >>> recording.outputs, bool((recording.numbers[4] == recording.numbers[3].clamp_min(0)).all())
    (4, True)
    """
    done = run(model, inputs, training=training, seed=seed)
    values = values_of(done.trace)
    places = {value: number for number, value in enumerate(values)}
    outputs = tree_map_only(Value, places.__getitem__, done.answer)
    numbers = {number: done.numbers[value] for number, value in enumerate(values)}
    return Recording(done.trace, values, numbers, outputs, training, seed)


def values_of(trace: Trace) -> tuple[Value, ...]:
    """All values of a trace in the order of their numbers, the same for a trace without numbers."""
    found: dict[Value, None] = {}
    for named in (trace.inputs, trace.parameters, trace.buffers):
        found.update(dict.fromkeys(named.values()))
    for operation in trace.operations:
        found.update(dict.fromkeys(operation.inputs))
        found.update(dict.fromkeys(operation.outputs))
        for old, new in operation.written:
            found.update({old: None, new: None})
    for call in trace.calls:
        found.update(dict.fromkeys(call.outputs))
    found.update(dict.fromkeys(trace.outputs))
    return tuple(found)


def operands(operation: Operation) -> list[tuple[str, Value]]:
    """The tensors that an operation takes, with the names that the operator's schema gives them."""
    found: list[tuple[str, Value]] = []
    names = [argument.name for argument in operation.target._schema.arguments]
    given = [*zip(names, operation.args, strict=False), *operation.kwargs.items()]
    for name, argument in given:
        leaves = [leaf for leaf in tree_flatten(argument)[0] if isinstance(leaf, Value)]
        one = isinstance(argument, Value)
        found += [(name if one else f"{name}[{place}]", leaf) for place, leaf in enumerate(leaves)]
    return found
