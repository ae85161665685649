"""Example inputs of a network, in any form, as one call of its ``forward``."""

from __future__ import annotations

import copy
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map

from striate.analysis import arguments
from striate.analysis.arguments import Array
from striate.errors import AnalysisError, StriateError, is_out_of_memory

#: One example's size, (F,), (C, L) or (C, H, W), a whole shape with the batch in front, or example inputs: a tensor or
#: array, a list of positional inputs, a dictionary of inputs by name. Sizes may stand for the inputs as well.
InputSize: TypeAlias = "Sequence[int] | Array | Sequence[Any] | Mapping[str, Any] | PackedSequence | Example"

_NEEDED: Final = "needed a size as (C, H, W) or (N, C, H, W), tensors or arrays"


@contextmanager
def as_written(model: torch.nn.Module) -> Iterator[None]:
    """Makes a compiled or accelerated network run its own code.

    Then every layer is called, each operation has its own gradient, and outputs depend only on the inputs in their
    windows. Compiled code fuses operations, and would be compiled again for the hooks of every analysis.
    """
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    if not compiled and "torch._dynamo" not in sys.modules:
        yield  # nothing has been compiled, and the import takes longer than most questions
        return
    with _eager:
        yield


class _Eager:
    """PyTorch's stance ``force_eager``, while any thread is inside.

    The stance is global to the process. If two threads set and restored it independently, one could restore the other's
    setting, and nothing would be compiled any more. So the first thread sets it and the last thread restores it.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._stance = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._stance.enter_context(torch.compiler.set_stance("force_eager"))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._stance.close()


_eager: Final = _Eager()


@dataclass(frozen=True)
class Example:
    """The arguments of a network's ``forward``.

    Args:
        args: positional inputs; they may hold tensors in lists, tuples and dictionaries.
        kwargs: inputs by name.
        names: of the tensors among them, in order: the parameter of ``forward``, ``"state[0]"`` within one.
        sized: whether only sizes were given, so that the numbers are arbitrary.
        remedy: advice if the network doesn't accept them.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...] = ()
    sized: bool = False
    remedy: str = "give the size of the images that the network takes, channels first"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, in order."""
        return dict(zip(self.names, tensors_in((self.args, self.kwargs)), strict=True))

    def mapped(self, act: Callable[[Tensor], Tensor]) -> Example:
        """The same with other tensors."""
        args, kwargs = mapped((self.args, self.kwargs), act)
        return replace(self, args=args, kwargs=kwargs)

    def replaced(self, name: str, other: Tensor) -> Example:
        """The same with one other tensor."""
        names = iter(self.names)
        return self.mapped(lambda tensor: other if next(names) == name else tensor)

    def call(self, model: torch.nn.Module) -> Any:
        """The network's output, computed by its own code."""
        with as_written(model):
            return model(*self.args, **self.kwargs)


def chosen(shapes: Mapping[str, tuple[int, ...]], name: str | int | None) -> str:
    """The input that ``name`` means, its name or number; for None the first with axes to look along, or the first."""
    known = list(shapes)
    if name is None:
        name = next((each for each, shape in shapes.items() if len(shape) >= 3), known[0])
    if isinstance(name, str):
        return arguments.word("input", name, known)
    return known[arguments.whole("input", name, 0, len(known) - 1)]


def prepared(model: torch.nn.Module, given: InputSize) -> tuple[torch.nn.Module, Example]:
    """A network that can run, and its inputs on its device, in its floating-point format.

    Args:
        model: any network. If it has lazy layers, a copy is returned whose layers have taken their sizes from the
            inputs, with initial values drawn like the network's own would be, from a generator that isn't advanced.
        given: (C, H, W) and the like of one example, or a whole shape; a tensor or array; a list or tuple of
            positional inputs; a dictionary. Its entries are inputs by name if ``forward`` has parameters of these
            names, and otherwise the one argument of a ``forward`` that takes one. A list is the one argument of a
            ``forward`` that takes a single one. Where no tensor is given, sequences of whole numbers are sizes.

    Raises:
        AnalysisError: no network, no such inputs, or lazy layers that the inputs don't go through.
    """
    if not isinstance(model, torch.nn.Module):
        raise AnalysisError("model", f"got {type(model).__name__}", "needed a torch.nn.Module")
    example = given if isinstance(given, Example) else _example(model, given)
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        model = _materialised(model, example)
    return model, example


def input_shape(size: Sequence[int]) -> tuple[int, ...]:
    """(N, C, ...) of an input size: one to three numbers are one example, more have the batch in front.

    >>> input_shape((3, 224, 224)), input_shape([8, 3, 224, 224])
    ((1, 3, 224, 224), (8, 3, 224, 224))
    """
    needed = "needed whole numbers of 1 or more; (C, H, W) or (N, C, H, W), say"
    found = arguments.wholes("input size", size, needed, 1)
    if not 1 <= len(found) <= 5:
        raise AnalysisError("input size", f"got {found}", needed)
    return (1, *found) if len(found) <= 3 else found


def is_size(value: object) -> bool:
    """Whether this is a size: a sequence of numbers without tensors."""
    if isinstance(value, (Tensor, np.ndarray, str, PackedSequence)):
        return False
    listed = arguments.items(value)
    return listed is not None and all(isinstance(each, (int, float, np.number)) for each in listed)


def mapped(value: Any, act: Callable[[Tensor], Tensor]) -> Any:
    """Lists, tuples and dictionaries with other tensors; what a packed sequence knows of its lengths stays."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, PackedSequence):
            return PackedSequence(act(leaf.data), leaf.batch_sizes, leaf.sorted_indices, leaf.unsorted_indices)
        return act(leaf) if isinstance(leaf, Tensor) else leaf

    return tree_map(one, value, is_leaf=_is_packed)


def _is_packed(value: Any) -> bool:
    return isinstance(value, PackedSequence)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in an answer, in order; of a packed sequence its data."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(value, keep)
    return found


def _example(model: torch.nn.Module, given: Any) -> Example:
    signature = _Signature.of(model)
    arrays = _holds_arrays(given)
    # A sequence of numbers among tensors is an argument like any other.
    leaves = _tensors_of(given, arrays, model)
    args, kwargs = _arguments(leaves, signature)
    names = tuple(_names(args, kwargs, signature))
    if not names:
        raise AnalysisError("input size", f"got {type(given).__name__} without tensors", _NEEDED)
    example = Example(args, kwargs, names, not arrays)
    if len(args) == 1 and isinstance(args[0], Mapping):
        example = replace(example, remedy=f"inputs by name would be called {', '.join(signature.named)}")
    return _moved(example, model)


def _holds_arrays(given: Any) -> bool:
    if isinstance(given, (Tensor, np.ndarray, PackedSequence)):
        return True
    if isinstance(given, Mapping):
        return any(_holds_arrays(each) for each in given.values())
    return isinstance(given, (list, tuple)) and any(_holds_arrays(each) for each in given)


def _tensors_of(given: Any, arrays: bool, model: torch.nn.Module) -> Any:
    """The same with tensors in place of arrays, and of sizes where nothing but sizes is given."""
    if isinstance(given, (Tensor, PackedSequence)):
        return given
    if isinstance(given, np.ndarray):
        return arguments.tensor("input", given, _NEEDED)
    if not arrays and is_size(given):
        like = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
        # Nothing is allocated: a network may be traced for more images than memory holds.
        return torch.zeros(1, dtype=like.dtype, device=like.device).expand(input_shape(given))
    if isinstance(given, Mapping):
        return {key: _tensors_of(each, arrays, model) for key, each in given.items()}
    if isinstance(given, (list, tuple)):
        made = [_tensors_of(each, arrays, model) for each in given]
        return type(given)(*made) if hasattr(given, "_fields") else type(given)(made)
    if arrays:
        return given  # a number, a word or None beside the tensors
    raise AnalysisError("input size", f"got {type(given).__name__} {given!r}"[:80], _NEEDED)


@dataclass(frozen=True)
class _Signature:
    """What a network's ``forward`` takes.

    Args:
        positional: parameters that take inputs by their order; beyond them there are more if ``more``.
        named: parameters that take inputs by name; any if ``any_name``.
        required: parameters without defaults.
    """

    positional: tuple[str, ...] = ()
    more: bool = True
    named: tuple[str, ...] = ()
    any_name: bool = True
    required: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: torch.nn.Module) -> _Signature:
        try:
            found = list(inspect.signature(model.forward).parameters.values())
            if all(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in found):
                # A wrapper around the forward of its class.
                found = list(inspect.signature(type(model).forward).parameters.values())[1:]
        except (TypeError, ValueError):
            return cls()
        by_order = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return cls(
            tuple(each.name for each in found if each.kind in by_order),
            any(each.kind is each.VAR_POSITIONAL for each in found),
            tuple(each.name for each in found if each.kind in by_name),
            any(each.kind is each.VAR_KEYWORD for each in found),
            tuple(each.name for each in found if each.kind in by_order + by_name and each.default is each.empty),
        )

    @property
    def single(self) -> bool:
        """Whether one argument is all that it takes."""
        return len(self.positional) == 1 and not self.more


def _arguments(given: Any, takes: _Signature) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named inputs of what was given."""
    if isinstance(given, Mapping):
        keys = list(given)
        known = [key for key in keys if key in takes.named]
        missing = [name for name in takes.required if name not in keys]
        words = all(isinstance(key, str) for key in keys)
        if words and not missing and (len(known) == len(keys) or takes.any_name):
            return (), {name: given[name] for name in (*(name for name in takes.named if name in keys), *keys)}
        if not known and (takes.positional or takes.more) and len(takes.required) <= 1:
            return (given,), {}
        needed = f"needed {', '.join(takes.required)}" + (", or one argument" if not takes.required else "")
        others = [name for name in takes.positional if name not in takes.required]
        raise AnalysisError(
            "inputs",
            f"got {', '.join(map(str, keys)) or 'none'}",
            needed,
            f"forward also takes {', '.join(others)}" if others else "",
        )
    if isinstance(given, (list, tuple)) and not isinstance(given, PackedSequence):
        if takes.single and len(given) > 1:
            return (given,), {}
        args: tuple[Any, ...] = tuple(given)
    else:
        args = (given,)
    least = [name for name in takes.positional if name in takes.required]
    if len(args) < len(least) or (len(args) > len(takes.positional) and not takes.more):
        many = least if len(args) < len(least) else takes.positional
        raise AnalysisError(
            "inputs",
            f"got {len(args)}",
            f"needed {len(many)} ({', '.join(many)})",
            "give a list in this order, or a dictionary by these names",
        )
    return args, {}


def _names(args: tuple[Any, ...], kwargs: dict[str, Any], takes: _Signature) -> list[str]:
    """A name for each tensor, in the order in which :func:`mapped` meets them."""
    positional = [*takes.positional, *(f"input {n}" for n in range(len(takes.positional), len(args)))]
    found: list[str] = []
    for path, leaf in tree_flatten_with_path((args, kwargs), is_leaf=_is_packed)[0]:
        if not isinstance(leaf, (Tensor, PackedSequence)):
            continue
        by_name = path[0].idx == 1  # type: ignore[attr-defined]
        name, within = (str(path[1].key) if by_name else positional[path[1].idx]), path[2:]  # type: ignore[attr-defined]
        if not by_name and len(args) == 1 and isinstance(args[0], Mapping) and len(within) == 1:
            name, within = str(within[0].key), ()  # type: ignore[attr-defined] # the one dictionary's own names
        found.append(name + keystr(within))
    return found


def _moved(example: Example, model: torch.nn.Module) -> Example:
    """On the network's device; floating-point numbers in its format, unless it has several."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if not is_lazy(t)]
    formats = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    device = next((tensor.device for tensor in tensors), None)
    dtype = next(iter(formats)) if len(formats) == 1 else None
    seen: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        # The same tensor twice stays one: attention asks whether its query is its key.
        if id(tensor) not in seen:
            seen[id(tensor)] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        return seen[id(tensor)]

    return example.mapped(move)


def _materialised(model: torch.nn.Module, example: Example) -> torch.nn.Module:
    """A copy whose lazy layers have their sizes and initial values."""
    name = type(model).__name__
    try:
        # PyTorch copies lazy parameters, but not lazy buffers.
        lazy = [buffer for buffer in model.buffers() if is_lazy(buffer)]
        made = {id(each): UninitializedBuffer(device=each.device, dtype=each.dtype) for each in lazy}  # type: ignore[call-arg]
        twin = copy.deepcopy(model, made)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise AnalysisError(name, f"can't be copied ({error})", "needed a network that copy.deepcopy takes") from error
    twin.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            example.mapped(lambda tensor: tensor.contiguous()).call(twin)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise AnalysisError(
            name,
            f"its lazy layers don't take the input ({type(error).__name__}: {first_line(error)})",
            remedy="give an input that the network takes",
        ) from error
    for layer, original in zip(twin.modules(), model.modules(), strict=True):
        layer.training = original.training
    return twin


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line."""
    if isinstance(error, StriateError):
        return str(error)
    return (str(error).strip().splitlines() or ["no reason given"])[0]
