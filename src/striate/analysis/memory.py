"""Bytes of activations: the lifetime of each piece of memory, and the largest amount in use at once."""

from __future__ import annotations

from striate.analysis.trace import Trace, Value


def peak(traced: Trace) -> int:
    """Most bytes of activations alive at once, if each is freed after its last use; saved ones are never freed.

    Views and what is written in place share memory; the input and the outputs live to the end. Parameters, buffers and
    the kernels' own workspace are not in it.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    size: dict[int, int] = {}

    def touch(value: Value, moment: int) -> None:
        if value.kind in ("parameter", "buffer"):
            return
        first.setdefault(value.storage, moment)
        last[value.storage] = moment
        size[value.storage] = value.bytes

    for value in traced.inputs.values():
        touch(value, 0)
    for moment, operation in enumerate(traced.operations):
        for value in (*operation.inputs, *operation.outputs):
            touch(value, moment)
    end = len(traced.operations)
    for value in (*traced.inputs.values(), *traced.outputs):
        touch(value, end)
    for storage in traced.saved:
        if storage in last:
            last[storage] = end
    changes = [0] * (end + 2)
    for storage, begin in first.items():
        changes[begin] += size[storage]
        changes[last[storage] + 1] -= size[storage]
    most = alive = 0
    for change in changes:
        alive += change
        most = max(most, alive)
    return most


def saved(traced: Trace) -> int:
    """Bytes of activations that autograd saves for the backward pass, including the input if it is saved."""
    size = {
        value.storage: value.bytes
        for value in (
            *traced.inputs.values(),
            *(each for operation in traced.operations for each in (*operation.inputs, *operation.outputs)),
        )
        if value.kind not in ("parameter", "buffer")
    }
    return sum(size.get(storage, 0) for storage in traced.saved)
