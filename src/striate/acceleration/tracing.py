"""A module's own ``forward`` as a graph, without running it on numbers and without touching the module.

    shadow = stands in for the module
        child of it:          another shadow; calling it becomes a node "call_module", or what its own forward does
        parameter, buffer:    a node "get_attr"
        plain attribute:      its value, and a fact: the graph holds as long as the attribute has this value
        method, property:     the class's own, run on the shadow
    type(module).forward(shadow, a proxy for each argument)
        PyTorch's functions, methods and operators of proxies become nodes

What Python does besides leaves no node. So each piece of code that comes by is read before it is run, and what might
do more than compute its result from what it got is refused: assignments to attributes, ``with``, ``print``, random
numbers of Python's. Control flow on data fails by itself, as a proxy has no truth. Who is refused loses nothing but
speed.
"""

from __future__ import annotations

import dis
import gc
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any, Final

import torch
from torch.fx import Graph, Node, Proxy
from torch.fx.proxy import Attribute, GraphAppendingTracer
from torch.overrides import TorchFunctionMode

#: A module within the traced one: its name, the names of those that hold it.
Path = tuple[str, ...]


class RefusalError(Exception):
    """Why a forward has no graph."""


@dataclass(frozen=True)
class Trace:
    """The graph, and what it rests upon.

    ``modules``: all that the forward met, each holder before what it holds, with the type that they had. ``facts``:
    plain attributes of these, with their values. ``orders``: names of the children of those that were gone through.
    ``absent``: parameters that were None. ``methods``: what was found in their classes. ``names``: global names that
    the code used, each with the dictionary that has it. ``opened``: children whose own forward is part of the graph,
    each with what it had as ``forward`` itself.
    """

    graph: Graph
    modules: dict[Path, type]
    facts: dict[tuple[Path, str], Any]
    orders: dict[Path, list[str]]
    absent: set[tuple[Path, str]]
    methods: dict[tuple[Path, str], Any]
    names: list[tuple[dict[str, Any], str]]
    opened: dict[Path, Any]

    def now(self) -> tuple[dict[Any, Any] | set[Any], ...]:
        """A copy of what one child rests upon, beside names; of these a few more than needed do no harm."""
        return tuple(map(copy, self._of_children()))

    def back_to(self, before: tuple[Any, ...]) -> None:
        for mine, was in zip(self._of_children(), before, strict=True):
            mine.clear()
            mine.update(was)

    def _of_children(self) -> tuple[Any, ...]:
        return self.modules, self.facts, self.orders, self.absent, self.methods, self.opened


def trace(module: torch.nn.Module, count: int, opens: Callable[[torch.nn.Module], bool] = lambda child: False) -> Trace:
    """The graph of ``module(x, y, ...)`` with ``count`` tensors.

    ``opens``: says of which children the own forward should be gone through, where that has a graph too.

    Raises:
        RefusalError: it has none that could be proven to do the same.
    """
    kind = type(module)
    made = Trace(Graph(), {}, {}, {}, set(), {}, [], {})
    watch = _Watch(made)
    tracer = _Tracer(made.graph, watch, opens)
    inputs = [tracer.create_proxy("placeholder", f"input_{place}", (), {}) for place in range(count)]
    shadow = Shadow(module, (), made, tracer)
    collects = gc.isenabled()
    gc.disable()  # it calls back, and that code is none of the forward's
    sys.setprofile(watch)
    try:
        with _Record(tracer):
            result = kind.forward(shadow, *inputs)  # as good as a module
            sys.setprofile(None)
            tracer.create_node("output", "output", (tracer.create_arg(result),), {})
    except Exception as error:
        sys.setprofile(None)  # before anything else is called
        raise RefusalError(watch.objection or f"{error}".strip().partition("\n")[0]) from error
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()
    if watch.objection is not None:  # somebody caught the error
        raise RefusalError(watch.objection)
    return made


class _InPlace:
    """``x += y`` changes x; torch.fx's own proxies make ``x = x + y`` of it."""


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    def change(self: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

    return change


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    setattr(_InPlace, f"__i{_name}__", _in_place(f"i{_name}" + "_" * (_name in ("and", "or"))))


class _Value(_InPlace, Proxy):
    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)


class _Attribute(_InPlace, Attribute):
    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)


class _Tracer(GraphAppendingTracer):
    def __init__(self, graph: Graph, watch: _Watch, opens: Callable[[torch.nn.Module], bool]) -> None:
        super().__init__(graph)
        self.watch, self.opens = watch, opens
        self._mode = _computing_mode()
        #: The children that have been called.
        self.called: set[Path] = set()

    def create_node(self, *args: Any, **kwargs: Any) -> Any:
        if self._mode != _computing_mode():
            raise RefusalError("it changes how PyTorch computes")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: Node) -> Proxy:
        return _Value(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor):
            raise RefusalError("a tensor that is neither argument nor attribute")
        if isinstance(a, Shadow):
            raise RefusalError("a module is passed on")
        return super().create_arg(a)


def _computing_mode() -> tuple[object, ...]:
    """What ``torch.no_grad``, ``inference_mode`` and ``autocast`` set."""
    enabled = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *enabled


class _Record(TorchFunctionMode):
    """Also functions without a proxy among their arguments, such as ``torch.rand``, are called anew each time."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "_set").startswith("_set"):  # torch._C._set_grad_enabled
            raise RefusalError("it changes how PyTorch computes")
        return self._tracer.create_proxy("call_function", func, tuple(args), kwargs or {})


class Shadow:
    """Stands in for a module while its forward is traced. By ``__class__`` it passes for one, also with ``super``."""

    def __init__(self, real: torch.nn.Module, path: Path, made: Trace, tracer: _Tracer) -> None:
        kind = type(real)
        if kind.__getattribute__ is not object.__getattribute__ or kind.__getattr__ is not torch.nn.Module.__getattr__:
            raise RefusalError(f"{kind.__name__} looks attributes up in its own way")
        if path:
            made.modules[path] = kind
        object.__setattr__(self, "_inside", _Inside(real, path, made, tracer))

    def __getattribute__(self, name: str) -> Any:
        return _inside(self).attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise RefusalError(f"{name} is assigned")

    def __delattr__(self, name: str) -> None:
        raise RefusalError(f"{name} is deleted")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inside = _inside(self)
        if not inside.path:
            raise RefusalError("it calls itself")
        if inside.tracer.opens(inside.real):
            try:
                return inside.open(self, args, kwargs)
            except RefusalError:
                pass  # it is called as it is
        inside.tracer.called.add(inside.path)
        return inside.tracer.create_proxy("call_module", ".".join(inside.path), args, kwargs)

    # Python looks these up in the type, which is the shadow's.

    def __bool__(self) -> bool:
        return len(self) > 0 if hasattr(_inside(self).kind, "__len__") else True

    def __len__(self) -> int:
        return int(_inside(self).kind.__len__(self))

    def __iter__(self) -> Iterator[Any]:
        return _inside(self).kind.__iter__(self)  # type: ignore[no-any-return]

    def __getitem__(self, key: Any) -> Any:
        return _inside(self).kind.__getitem__(self, key)

    def __contains__(self, key: Any) -> bool:
        return bool(_inside(self).kind.__contains__(self, key))


def _inside(shadow: Shadow) -> _Inside:
    return object.__getattribute__(shadow, "_inside")  # type: ignore[no-any-return]


#: What a module keeps for itself. Parametrizations change what an attribute is.
_INTERNAL: Final = {*vars(torch.nn.Module()), "__dict__", "parametrizations"} - {"training"}


class _Inside:
    """What a shadow knows, out of reach of the code that is traced."""

    def __init__(self, real: torch.nn.Module, path: Path, made: Trace, tracer: _Tracer) -> None:
        self.real, self.path, self.made, self.tracer = real, path, made, tracer
        self.kind: Any = type(real)  # any methods that the class may have
        self._met: dict[str, Shadow | None] = {}

    def attribute(self, shadow: Shadow, name: str) -> Any:
        real = self.real
        if name == "__class__":
            return self.kind
        if name == "_modules":
            self.made.orders[self.path] = list(real._modules)
            return {child: self._child(child) for child in real._modules}
        if name in _INTERNAL:
            raise RefusalError(f"{name} is read")
        if name in real._modules:
            return self._child(name)
        for held in (real._parameters, real._buffers, vars(real)):
            if name in held and name != "forward":
                return self._value(name, held[name])
        for base in self.kind.__mro__:
            if name in vars(base):
                return self._of_class(shadow, name, vars(base)[name])
        if name.startswith("__"):
            raise AttributeError(name)
        raise RefusalError(f"there is no {name}")

    def open(self, shadow: Shadow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the module's forward computes, as nodes of their own; there are none if it refuses."""
        before, called, nodes = self.made.now(), set(self.tracer.called), set(self.made.graph.nodes)
        self.made.opened[self.path] = vars(self.real).get("forward")
        watch = self.tracer.watch
        try:
            result = self.kind.forward(shadow, *args, **kwargs)
            if watch.objection is not None:  # somebody caught the error
                raise RefusalError(watch.objection)
        except Exception as error:
            sys.setprofile(watch)  # an error takes it away
            watch.objection = None
            self.made.back_to(before)
            self.tracer.called = called
            self._met.clear()
            for node in reversed(self.made.graph.nodes):
                if node not in nodes:
                    self.made.graph.erase_node(node)
            raise RefusalError from error
        return result

    def _child(self, name: str) -> Shadow | None:
        if name not in self._met:
            child = self.real._modules[name]
            if child is None:
                self.made.absent.add((self.path, name))
            self._met[name] = None if child is None else Shadow(child, (*self.path, name), self.made, self.tracer)
        return self._met[name]

    def _value(self, name: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.tracer.create_proxy("get_attr", ".".join((*self.path, name)), (), {})
        if any(self.path[: len(path)] == path for path in self.tracer.called):
            raise RefusalError(f"{name} is read of a module that has been called, and may have changed it")
        if value is None and (name in self.real._parameters or name in self.real._buffers):
            self.made.absent.add((self.path, name))
            return None
        if not is_plain(value):
            raise RefusalError(f"{name} is a {type(value).__name__}")
        self.made.facts[self.path, name] = value
        return value

    def _of_class(self, shadow: Shadow, name: str, value: Any) -> Any:
        if not (getattr(value, "__module__", None) or "").startswith("torch."):
            self.made.methods[self.path, name] = getattr(self.kind, name)
        if isinstance(value, FunctionType):
            return MethodType(value, shadow)
        if isinstance(value, property) and value.fget is not None:
            return value.fget(shadow)
        if isinstance(value, (staticmethod, classmethod)):
            return value.__get__(None, self.kind)
        return self._value(name, value)


_PLAIN: Final = (int, float, str, bool, NoneType, torch.dtype, torch.device, torch.Size, FunctionType)


def is_plain(value: Any) -> bool:
    """Whether a value says all by itself: a number, a word, a function, a tuple of these."""
    return type(value) in _PLAIN or is_torchs(value) or (type(value) is tuple and all(map(is_plain, value)))


def is_torchs(value: Any) -> bool:
    """Whether it is one of PyTorch's compiled functions."""
    return isinstance(value, BuiltinFunctionType) and (value.__module__ or "").partition(".")[0] == "torch"


class _Watch:
    """Reads code before it is run, as ``sys.setprofile`` tells of it."""

    def __init__(self, made: Trace) -> None:
        self.objection: str | None = None
        self._made = made
        self._seen: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or (code in self._seen and not code.co_freevars):
            return
        if code is torch.autograd.Function.apply.__func__.__code__:  # type: ignore[attr-defined]
            self._object("a derivative of its own")
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            self._object("it keeps less for its gradients")
        if _is_trusted(frame):
            return
        inside = any(code in each.co_consts for each in self._seen)
        objection = _objection(frame, inside)
        if objection is not None:
            self._object(f"{code.co_name}: {objection}")
        self._seen.add(code)
        known = frame.f_globals
        used = (name for name in code.co_names if name in known and not isinstance(known[name], ModuleType))
        self._made.names.extend((known, name) for name in used)

    def _object(self, objection: str) -> None:
        self.objection = objection
        raise RefusalError(objection)


_TRUSTED: Final = ("striate.acceleration", "striate.ops", "striate.engine", "striate.geometry", "striate.errors")


def _is_trusted(frame: FrameType) -> bool:
    """PyTorch's code and what it calls of Python's library: what has an effect or a result there becomes a node."""
    name = frame.f_globals.get("__name__", "")
    root = name.partition(".")[0]
    if root == "torch" or name.startswith((*_TRUSTED, "namedtuple_")):
        return True
    caller = frame.f_back
    return root in sys.stdlib_module_names and caller is not None and _is_trusted(caller)


_ACTS: Final = frozenset(
    f"{what}_{where}" for what in ("STORE", "DELETE") for where in ("ATTR", "GLOBAL", "SUBSCR", "SLICE")
) | {"BEFORE_WITH", "SETUP_WITH", "LOAD_SPECIAL", "IMPORT_NAME", "GET_AWAITABLE"}
# fmt: off
_BUILTINS: Final = frozenset({
    "abs", "all", "any", "bool", "dict", "enumerate", "filter", "float", "getattr", "hasattr", "int", "len", "list",
    "map", "max", "min", "pow", "range", "reversed", "round", "set", "sorted", "str", "sum", "super", "tuple", "zip",
    "AssertionError", "NotImplementedError", "RuntimeError", "TypeError", "ValueError",
})
# fmt: on
#: What PyTorch says of its own state, or of a proxy that isn't a tensor.
_STATE: Final = ("is_", "are_", "get_", "set_", "manual_seed", "seed", "initial_seed", "no_grad", "enable_grad")


def _objection(frame: FrameType, inside: bool) -> str | None:
    """Why a piece of code may do more than compute a result from its arguments; None if it can't.

    ``inside``: it is written within another one that has been read, so what it takes from there is local.
    """
    code, known = frame.f_code, frame.f_globals
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname in _ACTS or (instruction.opname == "STORE_DEREF" and name in code.co_freevars):
            return f"{instruction.opname.lower().replace('_', ' ')} {name or ''}".strip()
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            if name in known:
                if not _is_harmless(known[name]):
                    return f"uses {name}"
            elif name not in _BUILTINS:
                return f"uses {name}"
        elif (
            instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and str(name).startswith(_STATE) and hasattr(torch, name)
        ):
            return f"asks for {name}"
    if not inside:
        for name in code.co_freevars:
            if name != "__class__" and not _is_harmless(frame.f_locals.get(name)):
                return f"uses {name}"
    return None


def _is_harmless(value: Any) -> bool:
    """Whether a global name stands for something that nobody changes, and that becomes nodes when it is called."""
    if isinstance(value, ModuleType):
        return value.__name__.partition(".")[0] in ("torch", "math", "operator")
    if isinstance(value, type):
        return issubclass(value, (torch.nn.Module, tuple)) or value.__module__.partition(".")[0] == "torch"
    return isinstance(value, FunctionType) or is_torchs(value)
