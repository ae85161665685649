"""Detects in microseconds whether the state that Dynamo's guards read has changed.

Dynamo evaluates its guards at every call: some 3,400 for MobileNetV2, which takes 0.3 ms, a fifth of the time of one
image. A guard is a function of the state that it reads. If guards have passed and that state hasn't changed since, they
would pass again. So the state of each guard is looked up once, and watched from then on:

    dictionaries                     CPython's version tag, which every write replaces
    lists                            their items, by address
    functions, cells, objects with slots, the class of any object
                                     their memory
    globals of Python modules        the objects under the guarded names
    parameters and buffers           PyTorch's own native comparison of dtype, shape, strides and requires_grad
    gradient mode, autocast, ...     PyTorch's GlobalStateGuard
    arguments of the call            compared with those for which the guards passed

This is at least as strict as the guards: writing an equal number may count as a change, but no change is missed. After
a change, Dynamo's guards decide. They also decide if a guard reads other state (:class:`UnwatchableError`), and on
Python versions without dictionary versions (:func:`striate.acceleration.guards.objects.tells` tests for them).
"""

from __future__ import annotations

import enum
import functools
import gc
from collections.abc import Iterable, Sequence
from functools import partial
from operator import is_
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
)
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch._C._dynamo.guards import GlobalStateGuard, TensorGuards
from torch._dynamo import eval_frame
from torch._dynamo import source as sources
from torch._guards import ChainedSource, Guard, Source
from torch.nn import Parameter

from striate.acceleration.guards import objects
from striate.engine.llvm.codegen.isa import host
from striate.engine.llvm.memory.words import Words

#: Types whose objects are immutable.
_FIXED: Final = frozenset(
    (NoneType, bool, int, float, complex, str, bytes, range, type(...), type(NotImplemented))
    + (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)
    + (CodeType, MethodType, BuiltinFunctionType)
)
#: Guards on the identity or the type of an object.
_IDENTITY: Final = frozenset(
    ("ID_MATCH", "TYPE_MATCH", "CLASS_MATCH", "MODULE_MATCH", "BUILTIN_MATCH", "NN_MODULE", "FUNCTION_MATCH")
    + ("NONE_MATCH", "NOT_NONE_MATCH")
)
#: Guards on the value of an object.
_VALUE: Final = frozenset(("CONSTANT_MATCH", "EQUALS_MATCH", "BOOL_MATCH"))
#: Guards on the length or the keys of an object.
_LENGTH: Final = frozenset(
    ("SEQUENCE_LENGTH", "DICT_KEYS_MATCH", "MAPPING_KEYS_CHECK", "DICT_CONTAINS", "DICT_NOT_CONTAINS")
    + ("EMPTY_NN_MODULE_HOOKS_DICT",)
)
#: Guards on the attributes of an object.
_ATTRIBUTES: Final = frozenset(("HASATTR", "NOT_PRESENT_IN_GENERIC_DICT"))
#: Guards on modes, and on sizes of arguments.
_MODES: Final = frozenset(
    ("GRAD_MODE", "DETERMINISTIC_ALGORITHMS", "FSDP_TRAINING_STATE", "GLOBAL_STATE", "TORCH_FUNCTION_STATE")
    + ("DEFAULT_DEVICE", "SHAPE_ENV", "AUTOGRAD_SAVED_TENSORS_HOOKS", "DUAL_LEVEL", "FUNCTORCH_STACK_MATCH")
)
#: Guards on arguments of the call that depend only on the result of :func:`described`.
_DESCRIBED: Final = _VALUE | frozenset(
    ("TYPE_MATCH", "TENSOR_MATCH", "SEQUENCE_LENGTH", "DICT_KEYS_MATCH", "DICT_CONTAINS", "DICT_NOT_CONTAINS")
    + ("NONE_MATCH", "NOT_NONE_MATCH")
)
#: A marker for the arguments of the call, and for everything inside them.
_GIVEN: Final = object()
_ABSENT: Final = object()


class UnwatchableError(Exception):
    """A guard reads state that can't be watched."""


class Read(NamedTuple):
    """The state that a guard reads."""

    kind: str
    place: Source
    other: Source | None  #: the second source, of guards that compare two
    attribute: str | None  #: of guards on an attribute


def reads(guards: Iterable[Guard]) -> list[Read]:
    """The state that each guard reads, without the guards themselves, which keep tracebacks alive."""
    found: dict[Read, None] = {}
    for guard in guards:
        more = guard.create_fn.keywords if isinstance(guard.create_fn, partial) else {}
        found[Read(guard.create_fn_name(), guard.originating_source, more.get("source_b"), more.get("attr"))] = None
    return list(found)


def described(args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> tuple[Any, ...] | None:
    """A key for a call's arguments, with everything that guards read of them except identity; None if there is none.

    Tensors among the arguments are appended to ``tensors``.
    """
    try:
        told = [_described(each, tensors) for each in args]
        for name, each in kwargs.items():
            told += (name, _described(each, tensors))
    except UnwatchableError:
        return None
    return (len(args), torch.is_inference_mode_enabled(), *told)


def _described(value: Any, tensors: list[Tensor]) -> Any:
    kind = type(value)
    if kind is Tensor:
        if value.__dict__:
            raise UnwatchableError("a tensor's attributes")
        tensors.append(value)
        keys = torch._C._dispatch_keys(value).raw_repr()
        lies = value.shape, value.stride(), value.storage_offset()
        return *lies, value.dtype, value.device, value.requires_grad, keys
    if value is None or kind in (bool, int, str):
        return kind, value
    if kind in (tuple, list):
        return kind, *(_described(each, tensors) for each in value)
    if kind is dict and all(type(key) is str for key in value):
        return kind, *((key, _described(each, tensors)) for key, each in value.items())
    raise UnwatchableError(kind.__name__)


class Unchanged:
    """A snapshot of the state that guards read.

    After creating it, the caller has to check that the guards pass and that nothing has changed meanwhile.

    Args:
        what: the state that each guard reads.
        names: local variables of the guarded code that don't change; its other local variables are the call's
        arguments. variables: the globals of the guarded code. dicts, classes: further dictionaries and classes to
        watch.

    Raises:
        UnwatchableError: a guard reads state that can't be watched.
    """

    def __init__(
        self,
        what: Iterable[Read],
        names: dict[str, Any],
        variables: dict[str, Any],
        dicts: Iterable[dict[str, Any]],
        classes: Iterable[type],
    ) -> None:
        isa = host()
        if isa is None or not objects.tells(isa):
            raise UnwatchableError("dictionaries of this Python have no version tag")
        self._names, self._variables = names, variables
        self._found: dict[Source, Any] = {}
        self._places: list[int] = []
        #: All watched objects, by the way of watching; the references keep them alive.
        self._held: dict[tuple[str, int], Any] = {}
        #: The objects that watched words refer to, kept alive so that their addresses aren't reused.
        self._kept: list[Any] = []
        self._entries: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._tensors: dict[int, Tensor] = {}
        self._entry(vars(eval_frame), "_stance")
        for each in dicts:
            self._dict(each)
        for kind in classes:
            self._class(kind)
        for read in what:
            self._take(read)
        self._words = Words(self._places, isa)
        self._state = GlobalStateGuard()
        #: For Python modules, the versions of their dictionaries; if these change, the guarded names are checked.
        self._versions = Words([objects.version(table) for table, _ in self._entries.values()], isa)
        self._values = self._looked()
        self._guarded = list(self._tensors.values())
        self._alike = TensorGuards(*self._guarded, dynamic_dims_sizes=None, dynamic_dims_strides=None).check

    def same(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the state is unchanged, and none of ``tensors``, the call's, is a watched tensor."""
        return (
            self._words.same()
            and (self._versions.same() or self._entries_same())
            and self._state.check()
            and torch._C._len_torch_function_stack() == 0
            and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
            and self._tensors.keys().isdisjoint(map(id, tensors))
            and self._alike(*self._guarded)
        )

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The watched tensors of the model."""
        return self._guarded

    def _entries_same(self) -> bool:
        """Whether the guarded names of Python modules still refer to the same objects, although other names changed."""
        self._versions.take()
        try:
            return all(map(is_, self._looked(), self._values))
        except KeyError:
            return False

    def _looked(self) -> list[Any]:
        return [table[name] for table, names in self._entries.values() for name in names]

    # ---------------------------------------------------------------------------------- how things are watched

    def _new(self, how: str, value: Any) -> bool:
        """Adds an object to those watched in this way; returns whether it is new."""
        if (how, id(value)) in self._held:
            return False
        self._held[how, id(value)] = value
        return True

    def _entry(self, table: dict[str, Any], name: str) -> Any:
        """Watches one name of a dictionary, whose other names may change."""
        if name not in table:
            raise UnwatchableError(f"{name}, which isn't there")
        self._entries.setdefault(id(table), (table, {}))[1][name] = None
        return table[name]

    def _dict(self, table: dict[Any, Any]) -> None:
        if self._new("version", table):
            self._places.append(objects.version(table))

    def _list(self, items: list[Any]) -> None:
        if self._new("items", items):
            self._places += objects.items(items)
            self._kept.append(list(items))

    def _memory(self, value: Any) -> None:
        """Watches an object's own fields."""
        if self._new("memory", value):
            self._places += objects.memory(value)
            self._kept += gc.get_referents(value)

    def _type(self, value: Any) -> None:
        if type(value) not in _FIXED and self._new("type", value):
            self._places.append(objects.kind(value))
            self._kept.append(type(value))

    def _class(self, kind: type) -> None:
        """Watches the attributes of a class and of its bases."""
        if self._new("class", kind):
            order = objects.order(kind)
            if not order:
                raise UnwatchableError(f"the bases of {kind.__name__}")
            self._places += order
            self._kept.append(kind.__mro__)
            for each in kind.__mro__:
                if not each.__flags__ & objects.IMMUTABLE:
                    self._dict(objects.behind(vars(each)))
            if type(kind) is not type:
                self._class(type(kind))

    def _object(self, value: Any) -> None:
        """Watches an object's class and its attributes, in dictionaries or slots."""
        self._type(value)
        self._class(type(value))
        if hasattr(value, "__dict__"):
            self._dict(vars(value))
        own = (each for kind in type(value).__mro__ for each in vars(kind).values())
        if any(isinstance(each, MemberDescriptorType) for each in own):
            self._memory(value)

    def _value(self, value: Any) -> None:
        """Watches the value of an object."""
        self._type(value)
        if isinstance(value, (tuple, frozenset)):
            for each in value:
                self._value(each)
        elif type(value) not in _FIXED and not isinstance(value, (enum.Enum, type, ModuleType)):
            raise UnwatchableError(f"the value of a {type(value).__name__}")

    def _length(self, value: Any) -> None:
        """Watches the length and the keys of an object."""
        self._type(value)
        if isinstance(value, MappingProxyType):
            self._length(objects.behind(value))
        elif isinstance(value, dict) and type(value).__len__ is dict.__len__:
            self._dict(value)
        elif isinstance(value, list) and type(value).__len__ is list.__len__:
            self._list(value)
        elif type(value) not in _FIXED and type(value) not in (tuple, frozenset):
            raise UnwatchableError(f"the length of a {type(value).__name__}")

    def _attributes(self, value: Any, name: str | None) -> None:
        """Watches which attributes an object has."""
        kind = type(value)
        if isinstance(value, ModuleType) and name is not None:
            self._entry(vars(value), name)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, torch.nn.Module) and kind.__getattr__ is torch.nn.Module.__getattr__:
            self._object(value)
            for table in ("_parameters", "_buffers", "_modules"):
                self._dict(vars(value)[table])
        elif isinstance(value, (Tensor, torch.nn.Module, ModuleType, FunctionType)) or hasattr(kind, "__getattr__"):
            raise UnwatchableError(f"the attributes of a {kind.__name__}")
        elif kind not in _FIXED:
            self._object(value)

    # ---------------------------------------------------------------------------------------- what guards read

    def _take(self, read: Read) -> None:
        if read.kind in _MODES:
            return
        value = self._at(read.place)
        if read.kind == "DUPLICATE_INPUT":
            other = self._at(read.other) if read.other is not None else _GIVEN
            if value is _GIVEN or other is _GIVEN:
                raise UnwatchableError("arguments that are the same object")
        elif value is _GIVEN:
            if read.kind not in _DESCRIBED:
                raise UnwatchableError(f"{read.kind} of an argument")
        elif read.kind == "TENSOR_MATCH":
            if type(value) not in (Tensor, Parameter):
                raise UnwatchableError(f"a {type(value).__name__}")
            self._tensors[id(value)] = value
        elif read.kind == "CLOSURE_MATCH" and isinstance(value, FunctionType):
            self._memory(value)
        elif read.kind in _IDENTITY or read.kind == "CLOSURE_MATCH":
            self._type(value)
        elif read.kind in _VALUE:
            self._value(value)
        elif read.kind in _LENGTH:
            self._length(value)
        elif read.kind in _ATTRIBUTES:
            self._attributes(value, read.attribute)
        else:
            raise UnwatchableError(read.kind)

    def _at(self, place: Source) -> Any:
        """The object at a source; watches everything on the path to it."""
        found = self._found.get(place, _ABSENT)
        if found is _ABSENT:
            found = self._found[place] = self._looked_up(place)
        return found

    def _looked_up(self, place: Source) -> Any:
        if isinstance(place, sources.LocalSource):
            return self._names.get(place.local_name, _GIVEN)
        if isinstance(place, sources.GlobalSource):
            return self._entry(self._variables, place.global_name)
        base = self._at(place.base) if isinstance(place, ChainedSource) else _ABSENT
        match place:
            case sources.NNModuleSource() | sources.TensorPropertySource():
                return base
            case sources.GetItemSource(index_is_slice=False) | sources.DictGetItemSource() if base is _GIVEN:
                return _GIVEN
            case _ if base is _GIVEN:
                raise UnwatchableError(f"{type(place).__name__} of an argument")
            case sources.AttrSource(member=name) | sources.GenericAttrSource(member=name):
                return self._attribute(base, name)
            case sources.TypeSource():
                return self._attribute(base, "__class__")
            case sources.TypeDictSource():
                return self._attribute(base, "__dict__")
            case sources.TypeMROSource():
                return self._attribute(base, "__mro__")
            case sources.CodeSource():
                return self._attribute(base, "__code__")
            case sources.ClosureSource():
                return self._attribute(base, "__closure__")
            case sources.DefaultsSource(idx_key=key, field=name):
                return self._item(self._attribute(base, name), key)
            case sources.ConstDictKeySource(index=at) if isinstance(base, dict):
                self._dict(base)
                return list(dict.keys(base))[at]
            case sources.DictGetItemSource(index=key) | sources.DictSubclassGetItemSource(index=key):
                return self._item(base, self._at(key) if isinstance(key, Source) else key)
            case sources.TupleIteratorGetItemSource():
                raise UnwatchableError("an iterator")
            case sources.GetItemSource(index=key, index_is_slice=False):
                return self._item(base, key)
        raise UnwatchableError(type(place).__name__)

    def _item(self, base: Any, key: Any) -> Any:
        if isinstance(base, dict):
            if "__name__" in base and "__spec__" in base:
                # A Python module, whose other names may change.
                return self._entry(base, key)
            self._dict(base)
            return dict.__getitem__(base, key)
        if isinstance(base, list):
            self._list(base)
            return list.__getitem__(base, key)
        if isinstance(base, tuple):
            return tuple.__getitem__(base, key)
        if isinstance(base, MappingProxyType):
            return self._item(objects.behind(base), key)
        raise UnwatchableError(f"an item of a {type(base).__name__}")

    def _attribute(self, base: Any, name: str) -> Any:
        if isinstance(base, ModuleType):
            return self._entry(vars(base), name)
        if name == "__class__":
            self._type(base)
            return type(base)
        if isinstance(base, type):
            return self._of_class(base, name)
        if isinstance(base, MethodType):
            return getattr(base, name) if name in ("__func__", "__self__") else self._attribute(base.__func__, name)
        if isinstance(base, FunctionType) and name not in _OF_FUNCTIONS:
            self._memory(base)
            return self._item(vars(base), name)
        if isinstance(base, (FunctionType, CellType, staticmethod, classmethod, property, functools.partial)):
            self._memory(base)
            return getattr(base, name)
        if isinstance(base, (Tensor, dict, list, tuple, set)) or type(base) in _FIXED:
            raise UnwatchableError(f"{name} of a {type(base).__name__}")
        return self._of_object(base, name)

    def _of_class(self, kind: type, name: str) -> Any:
        self._class(kind)
        if name == "__mro__":
            return kind.__mro__
        if name == "__dict__":
            return vars(kind)
        return self._bound(self._in_class(kind, name), kind, name)

    def _of_object(self, base: Any, name: str) -> Any:
        kind = type(base)
        if kind.__getattribute__ is not _LOOKUP:
            raise UnwatchableError(f"attributes of {kind.__name__}, which defines its own attribute lookup")
        self._object(base)
        own = vars(base) if hasattr(base, "__dict__") else {}
        if name == "__dict__":
            return own
        raw = self._in_class(kind, name)
        if isinstance(raw, MemberDescriptorType):
            return getattr(base, name)
        if hasattr(type(raw), "__set__"):
            raise UnwatchableError(f"{name}, a {type(raw).__name__} of {kind.__name__}")
        if name in own:
            return own[name]
        if raw is _ABSENT and isinstance(base, torch.nn.Module):
            for table in (own.get("_parameters", {}), own.get("_buffers", {}), own.get("_modules", {})):
                self._dict(table)
                if name in table:
                    return table[name]
        return self._bound(raw, base, name)

    def _in_class(self, kind: type, name: str) -> Any:
        return next((vars(each)[name] for each in kind.__mro__ if name in vars(each)), _ABSENT)

    def _bound(self, raw: Any, base: Any, name: str) -> Any:
        """The result of accessing a class attribute through an object."""
        if raw is _ABSENT:
            raise UnwatchableError(f"{name}, which isn't there")
        if isinstance(raw, FunctionType):
            return raw if isinstance(base, type) else MethodType(raw, base)
        if isinstance(raw, (staticmethod, classmethod)):
            self._memory(raw)
            return getattr(base, name)
        if hasattr(type(raw), "__get__"):
            raise UnwatchableError(f"{name}, a {type(raw).__name__}")
        return raw


#: Attributes that a function holds in its own memory; others are in its dictionary.
_OF_FUNCTIONS: Final = frozenset(
    ("__code__", "__defaults__", "__kwdefaults__", "__closure__", "__globals__", "__dict__")
    + ("__module__", "__name__", "__qualname__", "__doc__")
)


_LOOKUP: Final[Any] = object.__getattribute__


def identical(some: Any, others: Any) -> bool:
    """Whether two objects are identical, or are tuples of identical objects."""
    if some is others:
        return True
    both = isinstance(some, tuple) and isinstance(others, tuple)
    return both and len(some) == len(others) and all(map(is_, some, others))
