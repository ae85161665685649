"""Computes the dependence of each tensor of a traced network, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from striate.analysis import support
from striate.analysis.dependence import Dependence, Maybe, Notes, Track
from striate.analysis.lines import Line
from striate.analysis.rules import CUTS, RECURRENT, RULES, View, follow, overwritten, parts_of, region_of
from striate.analysis.support import bits
from striate.analysis.trace import ROOT, Operation, Trace, Value


def dependences(traced: Trace, source: Value, notes: Notes) -> dict[Value, Maybe]:
    """The dependence of each tensor of a traced network on one input; None if a tensor doesn't depend on it."""
    try:
        return _Following(traced, source, notes).found
    finally:
        support.forget()


class _Following:
    """One walk along the operators, from an input's own dependence."""

    def __init__(self, traced: Trace, source: Value, notes: Notes) -> None:
        self.found: dict[Value, Maybe] = {source: _identity(source)}
        self._notes = notes
        self._views: dict[Value, View] = {}
        # Views of memory that was overwritten since; they are evaluated again when they are read.
        self._stale: set[Value] = set()
        for operation in traced.operations:
            where = traced.calls[operation.call].path or ROOT
            self._keep(operation, operation.outputs, follow(operation, self._lookup, notes, where))
            changed = dict(operation.written)
            for number, output in enumerate(() if changed else operation.outputs):
                if operation.inputs and output.storage == operation.inputs[0].storage:
                    self._views[output] = View(operation, operation.inputs[0], number)
            if changed:
                self._write(operation, changed, where)
        for call in traced.calls:
            for output in call.outputs:
                self._lookup(output)

    def _lookup(self, value: Value) -> Maybe:
        if value in self._stale:
            self._stale.discard(value)
            operation, behind, number = self._views[value]
            known = self._lookup(behind)
            result = follow(operation, lambda each: known if each is operation.inputs[0] else None, self._notes, "")
            if result is not None and operation.name.removeprefix("aten.") in CUTS:
                result = parts_of(operation, result)[number]
            self.found[value] = result
        return self.found.get(value)

    def _keep(self, operation: Operation, outputs: Sequence[Value], result: Maybe) -> None:
        if result is None:
            return
        if operation.name.removeprefix("aten.") in CUTS:
            self.found.update(zip(outputs, parts_of(operation, result), strict=True))
        elif operation.name in RECURRENT:
            self.found[outputs[0]] = result
            for state in outputs[1:3]:  # the last state has seen what any step has
                self.found[state] = result if result.unknown else result.mixed(0).reshaped(state.shape)
        elif operation.name in RULES and outputs:
            # Indices and statistics beside the result aren't maps that gradients go through.
            self.found[outputs[0]] = result
        else:
            self.found.update(dict.fromkeys(outputs, result))

    def _write(self, operation: Operation, changed: dict[Value, Value], where: str) -> None:
        """What lies in memory that was written: the written view has its result, and all others see that through it."""
        results = set(operation.outputs)
        targets = [old for old, new in changed.items() if new in results]
        root, region = region_of(targets[0], self._views) if len(targets) == 1 else (None, None)
        roots = {old: region_of(old, self._views)[0] for old in changed}
        sources = [value for value in operation.inputs if self.found.get(value) is not None]
        alone = len(operation.inputs) == 1 and torch.Tag.pointwise in operation.target.tags
        for old, new in changed.items():
            if old in self._views:
                view = self._views[old]
                self._views[new] = view._replace(behind=changed.get(view.behind, view.behind))
            if new in results:
                continue
            if region is not None and roots[old] is root and old is not root:
                self._stale.add(new)
            elif region is not None and old is root:
                part = self.found.get(changed[targets[0]])
                self.found[new] = overwritten(self._lookup(old), part, region, where)
            elif alone or (not sources and self._lookup(old) is None):
                self.found[new] = self._lookup(old)
            else:
                self.found[new] = Dependence.unclear(f"{operation.name} in {where} writes into a part of a tensor")


def _identity(source: Value) -> Dependence:
    """What an input depends on: each position on itself."""
    dims = range(2, len(source.shape))
    box = tuple(
        bits(
            [1 << place for place in range(source.shape[dim])],
            [-1 if d == dim else 1 for d in range(len(source.shape))],
        )
        for dim in dims
    )
    return Dependence(source.shape, support.simplified([box]), tuple(Track(dim, Line.identity()) for dim in dims))
