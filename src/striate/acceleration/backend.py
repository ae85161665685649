"""The compiler backend for PyTorch: ``torch.compile(model, backend="striate")``.

TorchDynamo captures a model's Python code as graphs of torch functions, with guards that decide when a graph may be
reused, and passes each graph to :func:`striate_backend`. This returns a callable that computes the graph operation by
operation, with some operations fused into blocks (blocks/fusion.py), so gradients of every order exist. If gradients
are off, a plan (plans/running.py) computes the graph for inputs whose sizes have occurred before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.fx import GraphModule

from striate import ops
from striate.acceleration.blocks.fusion import Fusion
from striate.acceleration.higher_order import with_calls
from striate.acceleration.model import asked
from striate.acceleration.plans.running import Plans
from striate.acceleration.variants import Variants
from striate.errors import OperandError

_OPTIONS: Final = {"blocks": True, "plans": True}


def striate_backend(graph: GraphModule, examples: Sequence[Any], *, options: Any = None, **_: Any) -> Compiled:
    """The compiler backend registered under the name ``striate``.

    Args:
        graph: the graph of torch functions that Dynamo captured.
        examples: its arguments.
        options: the options of ``torch.compile``: ``{"blocks": False}`` disables fusion into blocks, ``{"plans":
        False}``
            disables inference plans.

    Raises:
        OperandError: an unknown option.

    >>> model = torch.compile(torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU()), backend="striate")
    >>> model(torch.randn(1, 1, 5, 5)).shape
    torch.Size([1, 8, 3, 3])
    """
    return Compiled(graph, examples, **chosen(options))


def chosen(options: Any) -> dict[str, bool]:
    """The backend's options, with defaults filled in."""
    given = dict(options or {})
    if unknown := given.keys() - _OPTIONS.keys():
        raise OperandError("striate", f"got the option {sorted(unknown)[0]!r}", f"needed {' or '.join(_OPTIONS)}")
    return {name: bool(given.get(name, value)) for name, value in _OPTIONS.items()}


class Compiled:
    """A captured graph, computed by the engine; ``told`` describes the fused operations."""

    def __init__(self, graph: GraphModule, examples: Sequence[Any], *, blocks: bool, plans: bool) -> None:
        owned = _owned(graph, examples)
        graph = with_calls(graph, owned)
        self.graph, self.plain = graph, graph.forward
        self.training = torch.is_grad_enabled()
        #: The number of results.
        self.outputs = len(next(iter(reversed(graph.graph.nodes))).args[0])
        self.told: list[list[str]] = []
        self.reason = _why_not(graph, examples)
        self.blocks: Callable[..., Any] = self.plain
        self.variants: Variants | None = None
        self.plans: Plans | None = None
        if self.reason:
            return
        if blocks:
            rewritten = GraphModule(graph, copy.deepcopy(graph.graph))
            self.told = Fusion(rewritten.graph).fused
            rewritten.recompile()
            self.variants = Variants(graph, rewritten, owned, self.training)
            self.blocks = self.variants
        if plans and not self.training and not _changes_modes(graph):
            self.plans = Plans(self.plain, self.blocks, owned, self.variants)

    def __call__(self, *arguments: Any) -> Any:
        calls = asked()
        if calls is not None:
            calls.append((self, arguments))
            return self.blocks(*arguments)
        if self.plans is not None:
            found = self.plans(arguments)
            if found is not None:
                return found
        elif torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
            # Hooks on saved tensors (offloading, recomputation) need the same operations at every call.
            return self.plain(*arguments)
        return self.blocks(*arguments)

    def plan_told(self, arguments: tuple[Any, ...]) -> str:
        """The text of the plan for arguments like these, or the reason why there is none."""
        if self.plans is not None:
            return self.plans.told(arguments)
        return f"no plan: {self.reason or 'gradients are on, or plans are switched off'}"


def _why_not(graph: GraphModule, examples: Sequence[Any]) -> str:
    """The reason why PyTorch computes a graph; empty if the engine does."""
    if torch.is_autocast_enabled("cpu") or _has(graph, (torch.amp.autocast_mode._enter_autocast,)):
        return "autocast is on"
    if not any(isinstance(each, Tensor) and each.is_cpu and each.dtype is torch.float32 for each in examples):
        return "it has no float32 tensors on the CPU"
    return ""


def _changes_modes(graph: GraphModule) -> bool:
    """Whether the graph switches gradients on or off."""
    return _has(graph, (torch._C._set_grad_enabled, torch.autograd.grad_mode._enter_inference_mode))


def _has(graph: GraphModule, functions: Iterable[Any]) -> bool:
    return any(node.op == "call_function" and node.target in functions for node in graph.graph.nodes)


def _owned(graph: GraphModule, examples: Sequence[Any]) -> list[bool]:
    """Which arguments are parameters and buffers of modules, and so usually the same tensors at every call."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    alike = zip(placeholders, examples, strict=True)
    return [isinstance(example, Tensor) and _is_of_a_module(node) for node, example in alike]


def _is_of_a_module(node: torch.fx.Node) -> bool:
    """Whether Dynamo's source of a tensor is a module's parameter or buffer."""
    source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", "")
    told = str(name() if callable(name) else name)
    return told.rpartition("[")[0].endswith(("._parameters", "._buffers"))


#: Modules whose operations Dynamo traces into.
_LOOKED_INTO: Final = tuple(f"striate.ops.{name}" for name in ("boxes", "suppression", "roi", "losses", "resize"))


def _prepare() -> None:
    """Makes Dynamo put calls of striate's operations into the graph, instead of tracing into them.

    Operations of detection are excepted: the number of boxes that remain depends on values, so a graph can't contain
    their calls; they break the graph themselves.
    """
    from torch.compiler import allow_in_graph

    for name in ops.__all__:
        function = getattr(ops, name)
        if callable(function) and not isinstance(function, type) and function.__module__ not in _LOOKED_INTO:
            allow_in_graph(function)


_prepare()
