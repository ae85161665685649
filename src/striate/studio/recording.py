"""A recording: one run of a network on a picture, with the contents of every tensor."""

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
    """One run of a network: its operators, as ``analysis.trace`` lists them, and the contents of every tensor.

    Args:
        trace: the operators, values and calls of layers.
        values: in the order of the run: inputs, parameters, buffers, results, and constants at their first use. The
            index of a value in this tuple is its number, in addresses and everywhere in the studio.
        numbers: the tensor of each value by its number. Tensors share memory as in the run; parameters share the
            network's own memory, so a network has to be recorded again after training.
        outputs: the network's return value, with numbers of values in place of tensors.
        training: whether it ran in training mode.
        seed: the seed of its random numbers.
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
        """The number of a value in this recording."""
        return self._places[value]

    @functools.cached_property
    def origins(self) -> Mapping[int, tuple[int, int]]:
        """For each value's number, the index of the operation that computed it, and the index of the result.

        A value that changed because another view of its memory was written to has the result index -1.
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
        """The operation that computed a value; None for inputs, parameters, buffers and constants."""
        found = self.origins.get(number)
        return None if found is None else self.trace.operations[found[0]]

    @functools.cached_property
    def uses(self) -> Mapping[int, tuple[int, ...]]:
        """For each value's number, the operations that read it."""
        found: dict[int, list[int]] = {}
        for place, operation in enumerate(self.trace.operations):
            for value in dict.fromkeys(operation.inputs):
                found.setdefault(self._places[value], []).append(place)
        return {number: tuple(places) for number, places in found.items()}

    @functools.cached_property
    def names(self) -> Mapping[int, str]:
        """Names by number: of an input, parameter or buffer; for a result its layer, or layer and operator."""
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
        """The memory that the recording keeps alive, each storage once, without the network's parameters."""
        own = {self.numbers[self._places[each]].untyped_storage()._cdata for each in self.trace.parameters.values()}
        held = {}
        for tensor in self.numbers.values():
            if tensor.layout is torch.strided:
                storage = tensor.untyped_storage()
                if storage._cdata not in own:
                    held[storage._cdata] = storage.nbytes()
        return sum(held.values())


def record(model: torch.nn.Module, inputs: InputSize, *, training: bool = False, seed: int = SEED) -> Recording:
    """Runs a copy of ``model`` on real inputs and keeps every tensor; the model itself is unchanged.

    Args:
        model: any network, on any device.
        inputs: a tensor, a list of positional inputs or a dictionary of inputs by name.
        training: whether to run in training mode; then the masks of dropout are among the values.
        seed: the seed of the network's random numbers; the same seed gives the same numbers.

    Raises:
        AnalysisError: the network doesn't accept the inputs, or can't be copied.

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
    """All values of a trace in the order of their numbers, which is the same for a trace without tensors."""
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
    """The tensor operands of an operation, with their names in the operator's schema."""
    found: list[tuple[str, Value]] = []
    names = [argument.name for argument in operation.target._schema.arguments]
    given = [*zip(names, operation.args, strict=False), *operation.kwargs.items()]
    for name, argument in given:
        leaves = [leaf for leaf in tree_flatten(argument)[0] if isinstance(leaf, Value)]
        one = isinstance(argument, Value)
        found += [(name if one else f"{name}[{place}]", leaf) for place, leaf in enumerate(leaves)]
    return found
