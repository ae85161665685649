"""striate as a compiler of PyTorch's: ``torch.compile(model, backend="striate")``.

TorchDynamo captures a model's Python as graphs of torch functions, under guards that say when a graph may be used
again, and hands each to :func:`striate_backend`, which returns a callable that computes the graph: operation by
operation, with some of them fused into blocks (blocks/fusion.py), so that gradients of every order exist; and, where
gradients are off, by a plan (plans/running.py) for inputs whose sizes have come before.
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
    """The backend that ``torch.compile`` finds by the name ``striate``.

    Args:
        graph: torch functions, as Dynamo captured them.
        examples: its arguments.
        options: of ``torch.compile``: ``{"blocks": False}`` puts no operations together, ``{"plans": False}`` has no
            inference plans.

    Raises:
        OperandError: there is no such option.

    >>> model = torch.compile(torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU()), backend="striate")
    >>> model(torch.randn(1, 1, 5, 5)).shape
    torch.Size([1, 8, 3, 3])
    """
    return Compiled(graph, examples, **chosen(options))


def chosen(options: Any) -> dict[str, bool]:
    """The backend's options, all of them."""
    given = dict(options or {})
    if unknown := given.keys() - _OPTIONS.keys():
        raise OperandError("striate", f"got the option {sorted(unknown)[0]!r}", f"needed {' or '.join(_OPTIONS)}")
    return {name: bool(given.get(name, value)) for name, value in _OPTIONS.items()}


class Compiled:
    """A captured graph, computed by the engine. ``told`` says what was put together in it."""

    def __init__(self, graph: GraphModule, examples: Sequence[Any], *, blocks: bool, plans: bool) -> None:
        owned = _owned(graph, examples)
        graph = with_calls(graph, owned)
        self.graph, self.plain = graph, graph.forward
        self.training = torch.is_grad_enabled()
        #: How many results there are.
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
            # Somebody keeps what backward needs, or computes it again: the same operations have to come every time.
            return self.plain(*arguments)
        return self.blocks(*arguments)

    def plan_told(self, arguments: tuple[Any, ...]) -> str:
        """The plan for arguments like these; or why there is none."""
        if self.plans is not None:
            return self.plans.told(arguments)
        return f"no plan: {self.reason or 'gradients are on, or plans are switched off'}"


def _why_not(graph: GraphModule, examples: Sequence[Any]) -> str:
    """Why a graph is left to PyTorch; empty if it isn't."""
    if torch.is_autocast_enabled("cpu") or _has(graph, (torch.amp.autocast_mode._enter_autocast,)):
        return "autocast is on"
    if not any(isinstance(each, Tensor) and each.is_cpu and each.dtype is torch.float32 for each in examples):
        return "it has no float32 tensors on the CPU"
    return ""


def _changes_modes(graph: GraphModule) -> bool:
    """Whether gradients are switched on or off on the way."""
    return _has(graph, (torch._C._set_grad_enabled, torch.autograd.grad_mode._enter_inference_mode))


def _has(graph: GraphModule, functions: Iterable[Any]) -> bool:
    return any(node.op == "call_function" and node.target in functions for node in graph.graph.nodes)


def _owned(graph: GraphModule, examples: Sequence[Any]) -> list[bool]:
    """Which arguments are parameters and buffers of modules: the same tensors at every call, or nearly."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    alike = zip(placeholders, examples, strict=True)
    return [isinstance(example, Tensor) and _is_of_a_module(node) for node, example in alike]


def _is_of_a_module(node: torch.fx.Node) -> bool:
    """Whether Dynamo found a tensor among a module's parameters or buffers."""
    source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", "")
    told = str(name() if callable(name) else name)
    return told.rpartition("[")[0].endswith(("._parameters", "._buffers"))


#: Operations that Dynamo looks into.
_LOOKED_INTO: Final = tuple(f"striate.ops.{name}" for name in ("boxes", "suppression", "roi", "losses", "resize"))


def _prepare() -> None:
    """Has Dynamo take striate's operations as they are, instead of looking into them.

    Not those of detection: how many boxes remain depends on values, so a graph can't hold them as they are, and they
    say themselves where a graph has to end.
    """
    from torch.compiler import allow_in_graph

    for name in ops.__all__:
        function = getattr(ops, name)
        if callable(function) and not isinstance(function, type) and function.__module__ not in _LOOKED_INTO:
            allow_in_graph(function)


_prepare()
