"""The forward that an accelerated module runs: generated from its own, with neighbouring layers put together.

    def forward(self, blocks, input_0):                       # of Sequential(Conv2d, ReLU, MaxPool2d)
        if one of the modules, attributes, functions that the graph was made with is another: trace anew
        if one of the fused layers has hooks: run the module's own forward
        return convolve_and_pool(input_0, weight, bias, ...)

The graph is made at the first call, one for each mode and number of arguments. Whenever somebody looks on who wants to
see PyTorch's functions, or an argument is anything but a float32 tensor on the CPU, and for all forwards that have no
graph (:mod:`striate.acceleration.tracing` says which), the module's own forward runs, its functional calls led to the
engine one by one.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx import Graph, Node
from torch.nn import Parameter
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from striate.acceleration.calls import FUNCTIONS, NAMES
from striate.acceleration.fusion import Fusion, path_of
from striate.acceleration.tracing import Path, RefusalError, Trace, trace
from striate.engine import traced

#: What makes a module's call more than its forward.
_LOOKS: Final = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_compiled_call_impl",
)
#: How often a module's graphs are made anew before it is left to its own forward.
_PATIENCE: Final = 8


class Blocks:
    """A module's generated forwards, by mode and number of arguments; copies of the module start without."""

    def __init__(self, calls: bool) -> None:
        #: Whether the module's own forward calls functions that striate has.
        self.calls = calls
        self.made: dict[tuple[bool, int], Callable[..., Any]] = {}
        self.told: dict[tuple[bool, int], str] = {}
        self.patience = _PATIENCE

    def __reduce__(self) -> tuple[type[Blocks], tuple[bool]]:
        return Blocks, (self.calls,)


def is_blocked(module: torch.nn.Module) -> bool:
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is blocked


def blocks_in(module: torch.nn.Module) -> Blocks | None:
    """What an accelerated module's forward keeps, whatever leads to it."""
    forward = vars(module).get("forward")
    held = forward.args if isinstance(forward, partial) else ()
    return next((each for each in held if isinstance(each, Blocks)), None)


def calls_functions(kind: type[torch.nn.Module]) -> bool:
    """Whether the class's ``forward`` names a function that striate has; PyTorch's own layers are none of ours."""
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return code is not None and not kind.__module__.startswith("torch.") and not NAMES.isdisjoint(code.co_names)


def holds_layers(module: torch.nn.Module) -> bool:
    """Whether it has layers and a forward that may put them together."""
    kind = type(module)
    is_theirs = kind.__module__.startswith("torch.") and kind is not torch.nn.Sequential
    return bool(module._modules) and not is_theirs and kind.forward is not torch.nn.Module.forward


def blocked(module: torch.nn.Module, blocks: Blocks, *args: Any, **kwargs: Any) -> Any:
    """A module's forward, generated where nobody looks on, else its own."""
    if torch.compiler.is_compiling():
        return own(module, blocks, *args, **kwargs)
    made = blocks.made.get((module.training, len(args)))
    if made is own or kwargs or not _is_unobserved(args):
        return own(module, blocks, *args, **kwargs)
    return (made or make(module, blocks, len(args)))(module, blocks, *args)


def own(module: torch.nn.Module, blocks: Blocks, *args: Any, **kwargs: Any) -> Any:
    """A module's own ``forward``, with PyTorch's functions led to striate's while it runs."""
    kind = type(module)
    if not blocks.calls:
        return kind.forward(module, *args, **kwargs)
    with Redirect():
        return kind.forward(module, *args, **kwargs)


class Redirect(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return FUNCTIONS.get(func, func)(*args, **(kwargs or {}))


def _is_unobserved(args: tuple[Any, ...]) -> bool:
    for each in args:
        kind = type(each)
        if (kind is not Tensor and kind is not Parameter) or each.dtype is not torch.float32 or not each.is_cpu:
            return False
    return not (
        not args
        or traced(*args)
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or (torch._C._len_torch_function_stack() and not _is_only_redirected())
        or hooks._global_forward_hooks
        or hooks._global_forward_pre_hooks
        or hooks._global_backward_hooks
        or hooks._global_backward_pre_hooks
    )


def _is_only_redirected() -> bool:
    depth = torch._C._len_torch_function_stack()
    return all(type(torch._C._get_function_stack_at(at)) is Redirect for at in range(depth))


def make(module: torch.nn.Module, blocks: Blocks, count: int) -> Callable[..., Any]:
    """Makes the forward for ``count`` tensors and remembers it."""
    if sys.getprofile() is not None:
        return own  # a profiler stands where tracing has to
    key = (module.training, count)
    try:
        made = trace(module, count, _opens)
        fusion = Fusion(module, made)
        redirected = _redirect(made.graph)
        blocks.told[key] = ", ".join(fusion.fused)
        forward = _Code(module, made, fusion).compile() if fusion.fused or redirected else type(module).forward
        blocks.made[key] = forward if fusion.fused or redirected else own
    except RefusalError as refusal:
        blocks.told[key] = f"left as it is: {refusal}"
        blocks.made[key] = own
    return blocks.made[key]


def _opens(child: torch.nn.Module) -> bool:
    """Whether a graph may go on into a child: into one that would run its own generated forward."""
    kind: Any = type(child)
    hooked = any(getattr(child, look) for look in _LOOKS)
    return is_blocked(child) and not hooked and kind.__call__ is torch.nn.Module.__call__


def _stale(module: torch.nn.Module, blocks: Blocks, *args: Any) -> Any:
    """Something that the graph was made with has changed."""
    blocks.patience -= 1
    if blocks.patience < 0:
        blocks.made[module.training, len(args)] = own
        return own(module, blocks, *args)
    return make(module, blocks, len(args))(module, blocks, *args)


def _redirect(graph: Graph) -> bool:
    """Has the graph call striate's functions; whether there were any."""
    found = [node for node in graph.nodes if node.op == "call_function" and node.target in FUNCTIONS]
    for node in found:
        node.target = FUNCTIONS[node.target]
    return bool(found)


class _Code:
    """Writes a graph as a Python function."""

    def __init__(self, module: torch.nn.Module, made: Trace, fusion: Fusion) -> None:
        self._module, self._made = module, made
        self._known: dict[str, Any] = {"own": own, "stale": _stale}
        self._modules: dict[Path, str] = {(): "self"}
        self._values: dict[Node, str] = {}
        self._lines: list[str] = []
        self._inputs = [node for node in made.graph.nodes if node.op == "placeholder"]
        for at, node in enumerate(self._inputs):
            self._values[node] = f"input_{at}"
        self._arguments = ", ".join(["self", "blocks", *(self._values[node] for node in self._inputs)])
        self._check()
        self._look_for_hooks(list(fusion.layers))
        self._compute()

    def compile(self) -> Callable[..., Any]:
        source = "\n    ".join([f"def forward({self._arguments}):", *self._lines])
        exec(compile(source, f"<forward of {type(self._module).__name__}, generated>", "exec"), self._known)
        return self._known["forward"]  # type: ignore[no-any-return]

    def _check(self) -> None:
        """All that the graph rests upon: modules, holders first, then what was read of them."""
        self._leave("stale", [f"type(self).forward is not {self._constant(type(self._module).forward)}"])
        for path, kind in self._made.modules.items():
            name = self._modules[path] = f"module_{len(self._modules)}"
            self._lines.append(f"{name} = {self._modules[path[:-1]]}._modules.get({path[-1]!r})")
            self._leave("stale", [f"type({name}) is not {self._constant(kind)}"])
        changed = [f"list({self._modules[path]}._modules) != {names!r}" for path, names in self._made.orders.items()]
        changed += [
            f"{self._modules[path]}.{name} != {self._constant(value)}"
            for (path, name), value in self._made.facts.items()
            if (path, name) != ((), "training")
        ]
        changed += [f"{self._held(path, name)} is not None" for path, name in self._made.absent]
        for (path, name), value in self._made.methods.items():
            changed.append(f"type({self._modules[path]}).{name} != {self._constant(value)}")
            changed.append(f"{name!r} in {self._modules[path]}.__dict__")
        for known, name in self._made.names:
            changed.append(f"{self._constant(known)}.get({name!r}) is not {self._constant(known[name])}")
        for path, forward in self._made.opened.items():
            name, kind = self._modules[path], cast(Any, self._made.modules[path])
            changed.append(f"{name}.__dict__.get('forward') is not {self._constant(forward)}")
            changed.append(f"type({name}).forward is not {self._constant(kind.forward)}")
        self._leave("stale", changed)
        reads = [path_of(node.target) for node in self._made.graph.nodes if node.op == "get_attr"]
        held = {self._held(path[:-1], path[-1]) for path in reads if path not in self._modules}
        # Otherwise somebody computes what used to be a parameter.
        self._leave("own", [f"{how} is None" for how in sorted(held) if how.endswith(")")])

    def _look_for_hooks(self, layers: list[Path]) -> None:
        for path in dict.fromkeys([*layers, *self._made.opened]):
            name = self._modules[path]
            looks = [f"{name}.{look}" for look in _LOOKS]
            self._leave("own", looks if path in self._made.opened else [*looks, f'"forward" in {name}.__dict__'])

    def _leave(self, where: str, conditions: list[str]) -> None:
        if conditions:
            self._lines += [f"if {' or '.join(conditions)}:", f"    return {where}({self._arguments})"]

    def _held(self, path: Path, name: str) -> str:
        """How an attribute is read: where it is kept, which is quicker than asking the module."""
        owner = self._module.get_submodule(".".join(path))
        for held in ("_parameters", "_buffers", "_modules"):
            if name in getattr(owner, held):
                return f"{self._modules[path]}.{held}.get({name!r})"
        return f"{self._modules[path]}.{name}"

    def _compute(self) -> None:
        last: dict[Node, Node] = {}
        for node in self._made.graph.nodes:
            last.update(dict.fromkeys(node.all_input_nodes, node))
        asserts = any(node.target is torch._assert for node in self._made.graph.nodes)
        freeable = ("value_",) if asserts else ("value_", "input_")
        for node in self._made.graph.nodes:
            if node.op == "output":
                self._lines.append(f"return {self._word(node.args[0])}")
            elif node.op == "get_attr":
                self._read(node)
            elif node.op in ("call_module", "call_function", "call_method"):
                call = self._call(node)
                if node.target is torch._assert:
                    # The module's own words say best what is wrong.
                    self._leave("own", [f"not {self._word(node.args[0])}"])
                    continue
                self._values[node] = f"value_{len(self._values)}"
                self._lines.append(f"{self._values[node]} = {call}")
                # Maps are freed when nobody needs them any more.
                freed = [self._values[each] for each in node.all_input_nodes if last[each] is node]
                freed += [] if node in last else [self._values[node]]
                freed = [name for name in freed if name.startswith(freeable)]
                if freed:
                    self._lines.append(f"del {', '.join(freed)}")

    def _read(self, node: Node) -> None:
        """What the forward reads of a module, at the time when it does: a layer may have changed it."""
        *path, name = path_of(node.target)
        if (*path, name) in self._modules:
            self._values[node] = self._modules[*path, name]
            return
        self._values[node] = f"held_{len(self._values)}"
        self._lines.append(f"{self._values[node]} = {self._held(tuple(path), name)}")

    def _call(self, node: Node) -> str:
        arguments = [self._word(each) for each in node.args]
        if node.op == "call_method":
            function = f"{arguments.pop(0)}.{node.target}"
        elif node.op == "call_module":
            function = self._modules[path_of(node.target)]
        else:
            function = self._constant(node.target)
        arguments += [f"{name}={self._word(each)}" for name, each in node.kwargs.items()]
        return f"{function}({', '.join(arguments)})"

    def _word(self, value: Any) -> str:
        """A value as Python."""
        if isinstance(value, Node):
            return self._values[value]
        if isinstance(value, slice):
            return f"slice({self._word(value.start)}, {self._word(value.stop)}, {self._word(value.step)})"
        if isinstance(value, list):
            return f"[{', '.join(map(self._word, value))}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{self._word(key)}: {self._word(each)}' for key, each in value.items())}}}"
        if isinstance(value, tuple):
            words = "".join(f"{self._word(each)}, " for each in value)
            return f"{self._constant(type(value))}({words})" if hasattr(value, "_fields") else f"({words})"
        return repr(value) if type(value) in (int, str, bool) or value is None else self._constant(value)

    def _constant(self, value: Any) -> str:
        name = f"constant_{len(self._known)}"
        self._known[name] = value
        return name


def blocks_of(model: torch.nn.Module) -> dict[str, str]:
    """What is fused in each module of an accelerated model, in its present mode, or why nothing is.

    >>> import striate
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> blocks_of(striate.accelerate(model, quiet=True))
    {'': '0 + 1 + 2'}
    """
    told = {}
    for name, module in model.named_modules():
        blocks = blocks_in(module)
        if blocks is not None:
            needed = list(inspect.signature(type(module).forward).parameters.values())[1:]
            count = sum(each.default is each.empty and each.kind is not each.VAR_KEYWORD for each in needed)
            if (module.training, count) not in blocks.made:
                make(module, blocks, count)
            told[name] = blocks.told.get((module.training, count), "")
    return told
