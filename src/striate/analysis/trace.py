"""One run of a network as a list of PyTorch's operators, without computing a number.

A copy of the network runs on fake tensors (shape, dtype and device, no memory) under a dispatch mode, which sees each
operator, wherever it is called: in layers, functional calls, layers used twice, autograd functions. Python isn't
traced, so loops and branches on shapes work. A branch on values is reported as an error, because there are no values.
Costs and receptive fields are computed from the list of operators.

Because a copy runs, mode, hooks, gradients and buffers of the network itself don't change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

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

from striate import engine
from striate.analysis.examples import Example, InputSize, first_line, prepared, tensors_in
from striate.analysis.operators import ROOT, Call, Operation, Trace, Value
from striate.analysis.recorder import Recorder, copied, plain_attention, shapes
from striate.errors import AnalysisError, StriateError, is_out_of_memory

__all__ = ["ROOT", "Call", "Operation", "Trace", "Value", "layer_paths", "trace"]


@contextmanager
def _unlogged() -> Iterator[None]:
    """Silences PyTorch's log of errors, which precedes striate's own one-line error for a size that doesn't fit."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def trace(model: torch.nn.Module, input_size: InputSize, *, training: bool = False) -> Trace:
    """Runs a copy of ``model`` on an input without memory and records each operator.

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
    twin = copied(model, FakeCopyMode(fake)).train(training)
    recorder = _Numberless(twin, model, fake)
    made = _without_numbers(example, fake)
    with ExitStack() as stack:
        stack.enter_context(plain_attention())
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
                f"{shapes(list(inputs.values()))} doesn't go through ({type(error).__name__}: {first_line(error)})",
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


class _Numberless(Recorder):
    """Records a copy that runs on fake tensors."""

    def __init__(self, twin: torch.nn.Module, original: torch.nn.Module, fake: FakeTensorMode) -> None:
        self._fake = fake
        super().__init__(twin, original)

    def flows(self, tensor: Tensor) -> bool:
        return isinstance(tensor, FakeTensor)

    def own(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        twin = self._twins.get(id(tensor))
        return self._fake.from_tensor(tensor) if twin is None else twin

    def plainly(self) -> AbstractContextManager[Any]:
        return unset_fake_temporarily()

    def empty(self, value: Value, inputs: Sequence[Value]) -> None:
        raise AnalysisError(
            self.where,
            f"{shapes(inputs[:1])} becomes {shapes([value])}, which holds nothing",
            "needed at least one position on each axis",
            "give a larger input, or take a stride away",
        )


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
