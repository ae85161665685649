"""Any model, computed by the engine, and the way back."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.nn import Parameter
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._device import DeviceContext

from striate import nn
from striate.acceleration.guards.methods import Methods
from striate.engine.memory import keep_freed_memory
from striate.errors import OperandError

if TYPE_CHECKING:
    from striate.acceleration.backend import Compiled
    from striate.acceleration.guards.shortcuts import Shortcuts

Model = TypeVar("Model", bound=torch.nn.Module)

#: Layers whose functions have kernels of striate's own.
_LAYERS: Final = tuple(
    getattr(room, f"{kind}{dims}d")
    for room in (torch.nn, nn)
    for kind in ("Conv", "ConvTranspose", "MaxPool", "AvgPool", "BatchNorm")
    for dims in (1, 2)
    if hasattr(room, f"{kind}{dims}d")
)
#: How often a model's code is captured for other attributes, sizes and modes, before new ones are left to PyTorch.
_CAPTURES: Final = 8
#: What Dynamo assumes to stay as it was, and is told to look at: hooks, defaults of functions, parameters that share
#: memory, and parameters whose ``data`` has been replaced. And NumPy's random numbers are NumPy's.
_GUARDED: Final[dict[str, Any]] = {
    "skip_nnmodule_hook_guards": False,
    "assume_dunder_attributes_remain_unchanged": False,
    "skip_no_tensor_aliasing_guards_on_parameters": False,
    "skip_tensor_guards_with_matching_dict_tags": False,
    "use_numpy_random_stream": True,
    # Gradients are autograd's, one by one: DistributedDataParallel sends them as they come, of whole graphs too.
    "optimize_ddp": False,
    "recompile_limit": _CAPTURES,
    # What Dynamo fails on runs as it is.
    "suppress_errors": True,
    # Profilers are not told how long it takes to look up the arguments of a graph; telling takes longer than that.
    "record_runtime_overhead": False,
}


def accelerate(model: Model, *, blocks: bool = True, plans: bool = True, quiet: bool = False) -> Model:
    """Has striate's engine compute a model; returns the model, which is changed in place.

    ``torch.compile(model, backend="striate")``, but in place: the model stays the object that it was, with its class,
    parameters, hooks and ``state_dict``, and what is compiled is its call (``torch.nn.Module.compile``). PyTorch's
    Dynamo captures the model's Python at the first call of a kind, which takes from half a second to some seconds, and
    guards all that it read: attributes, globals, modes, hooks. Whatever can't be captured runs as it is.

    Results are the same up to rounding (:mod:`striate.engine.llvm.winograd.backend` says how much that is); gradients
    exist of every order. Inference (gradients off) becomes a list of kernels once inputs of a size have come twice,
    where that was measured to be faster; :func:`~striate.acceleration.plan_of` shows it. Weights may be changed in any
    way; :func:`~striate.acceleration.look_again` says which writes aren't seen at once. And the C library is told to
    keep freed memory for the next step's tensors (:func:`striate.engine.memory.keep_freed_memory`).

    While a tracer, a mode, a transform or forward-mode differentiation looks on, the model runs as it is. Copies and
    pickles of it are plain models.

    A model whose call is mostly bookkeeping around tensors, as a detector's is, which takes lists of pictures of any
    sizes, may name the submodules in which it computes, in a tuple ``dense`` of its class; then it is their calls.

    Args:
        model: any module. Doing it twice does nothing more.
        blocks: puts neighbouring operations together (:func:`~striate.acceleration.blocks_of` tells which).
        plans: makes inference plans.
        quiet: doesn't print, in one line on stderr, what will be computed by the engine and why the rest won't.

    Returns:
        The same object. :func:`restore` takes it back.

    Raises:
        OperandError: what was given is no module.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> accelerate(model, quiet=True)(torch.randn(1, 1, 8, 8)).shape
    torch.Size([1, 8, 3, 3])
    """
    if not isinstance(model, torch.nn.Module):
        raise OperandError("accelerate", f"got {type(model).__name__}", "needed a torch.nn.Module")
    scripted = isinstance(model, torch.jit.ScriptModule)
    if not scripted:
        keep_freed_memory()
        _keep_replicas_plain()
        options = {"blocks": blocks, "plans": plans}
        for part in dense_parts(model):
            before = accelerated(part)
            if before is None or before.options != options:
                # Past a model's own __setattr__, as PyTorch's compile() would also want it.
                vars(part)["_compiled_call_impl"] = Accelerated(part, options)
    if not quiet:
        done, left = _counted(model)
        told = "nothing, since it is scripted" if scripted else _listed(done) or "no layers with kernels of its own"
        print("accelerate:", told, file=sys.stderr, end="")
        print(f"; left to PyTorch: {_listed(left)}" if left else "", file=sys.stderr)
    return model


def restore(model: Model) -> Model:
    """Takes back what :func:`accelerate` did; returns the model, changed in place.

    >>> model = accelerate(torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3)), quiet=True)
    >>> restore(model)._compiled_call_impl is None
    True
    """
    for module in model.modules():
        if accelerated(module) is not None:
            del vars(module)["_compiled_call_impl"]
    return model


def dense_parts(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules whose calls are computed by the engine in a model's place: those that it names, or itself."""
    # Of its class, since a model may well have a layer that it calls dense.
    names = getattr(type(model), "dense", ())
    if not isinstance(names, tuple):
        return [model]
    return [model.get_submodule(name) for name in names] or [model]


def accelerated(module: torch.nn.Module) -> Accelerated | None:
    """What leads an accelerated module's calls; None for others."""
    call = vars(module).get("_compiled_call_impl")
    return call if isinstance(call, Accelerated) else None


class Accelerated:
    """What an accelerated model's call leads to: the compiled one, or the model's own where somebody looks on."""

    def __init__(self, module: torch.nn.Module, options: dict[str, bool]) -> None:
        self.module, self.options = module, options
        self._captured: list[weakref.ref[Compiled]] = []
        self._call: Callable[..., Any] | None = None
        self._met: set[tuple[bool, bool]] = set()
        self._methods: Methods | None = None
        self._outdated = False  # something was captured since the methods were looked at
        self._shortcuts: Shortcuts | None = None
        self._again = 0

    @property
    def graphs(self) -> list[Compiled]:
        """What Dynamo has captured and may use again, in the order in which it was captured."""
        return [graph for graph in (each() for each in self._captured) if graph is not None]

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # Copies of the model are plain, whatever way the model has of copying itself.
        return type(None), ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or _is_observed():
            return self.module._call_impl(*args, **kwargs)
        if self._shortcuts is not None:
            run = self._shortcuts.find(args, kwargs)
            if run is not None:
                return run()
        if not _concerns(args, kwargs):
            return self.module._call_impl(*args, **kwargs)
        return self._guarded(args, kwargs)

    def _guarded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call by way of Dynamo, which evaluates its guards, and captures the model's code where none pass."""
        methods = self._methods  # another thread may capture meanwhile
        if methods is not None and not self._outdated and not methods.same():
            self._call = self._methods = self._shortcuts = None
            self._captured.clear()
            self._met.clear()
            self._again += 1
        if self._again > _CAPTURES:
            return self.module._call_impl(*args, **kwargs)
        call = self._call or self._compiled()
        state = (self.module.training, torch.is_grad_enabled())
        _STRICT.enter()
        try:
            if state in self._met:
                return call(*args, **kwargs)
            self._met.add(state)
            with _any_batch((args, kwargs)):
                return call(*args, **kwargs)
        finally:
            _STRICT.leave()
            if self._methods is None or self._outdated:
                # Not before: what the model has left behind in this call is no change.
                self._outdated = False
                self._methods = Methods(self.module, self._methods)
            if self._shortcuts is not None:
                self._shortcuts.passed(args, kwargs, self._methods)

    def _compiled(self) -> Callable[..., Any]:
        from striate.acceleration.backend import Compiled
        from striate.acceleration.guards.shortcuts import Shortcuts

        # Dynamo never forgets a backend, which must not keep the model.
        options, held = self.options, weakref.ref(self)

        def backend(graph: torch.fx.GraphModule, examples: Sequence[Any], **_: Any) -> Compiled:
            made, call = Compiled(graph, examples, **options), held()
            if call is not None:
                call._captured.append(weakref.ref(made))
                call._outdated = True
            return made

        call = _own_code(self.module)
        self._shortcuts = Shortcuts(self.module, call)
        self._call = torch.compile(call, backend=backend)
        weakref.finalize(call, _forget, call.__code__).atexit = False
        return self._call


def _forget(code: CodeType) -> None:
    """Has Dynamo let go of what it captured of a model that is gone: it and the model's code keep each other."""
    from torch._dynamo.eval_frame import reset_code  # type: ignore[attr-defined]

    reset_code(code)


def _own_code(module: torch.nn.Module) -> FunctionType:
    """The module's call as a function whose code, and whose name, nobody else has.

    Dynamo keeps what it captured with the code, and counts it there. By name it remembers which sizes and numbers have
    changed between calls; of another model's it would conclude that they change here.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return module._call_impl(*args, **kwargs)

    code = call.__code__.replace(co_name=f"call_{type(module).__name__}_{next(_numbered)}")
    return FunctionType(code, call.__globals__, None, None, call.__closure__)


_numbered: Final = itertools.count()


class _Strictness(threading.local):
    """Dynamo's configuration, which every thread has its own of, while accelerated models are called within another."""

    def __init__(self) -> None:
        self._calls = 0
        self._undo: Callable[[], None] = lambda: None

    def enter(self) -> None:
        if self._calls == 0:
            self._undo = _patch()()
        self._calls += 1

    def filter(self, record: logging.LogRecord) -> bool:
        """Leaves out PyTorch's words on code that it couldn't capture: that runs as it is, and tells what fails."""
        told = str(record.msg)
        return not self._calls or ("WON'T CONVERT" not in told and "failed while attempting" not in told)

    def leave(self) -> None:
        self._calls -= 1
        if self._calls == 0:
            self._undo()


_STRICT: Final = _Strictness()


@cache
def _patch() -> Callable[[], Callable[[], None]]:
    """Sets the configuration; what it gives back sets it as it was."""
    import torch._dynamo.config as config

    _mend_dynamo()
    for name in ("torch._dynamo.convert_frame", "torch._subclasses.fake_tensor"):
        logging.getLogger(name).addFilter(_STRICT.filter)
    known = {name: value for name, value in _GUARDED.items() if hasattr(config, name)}
    made: Callable[[], Callable[[], None]] = config._make_closure_patcher(**known)
    return made


def _mend_dynamo() -> None:
    """Has what Dynamo 2.13 takes for something else run as it is, for all that is compiled from now on.

    Of random generators of Python's own (``random.Random``) it takes the state at capture for the state at every call,
    so that the same number comes again and again. Of a ``deque`` with a largest length it forgets that length.
    """
    from torch._dynamo.exc import unimplemented
    from torch._dynamo.variables import builder, misc

    generators: Any = getattr(misc, "RandomVariable", None)
    if hasattr(generators, "is_supported_random_obj"):
        generators.is_supported_random_obj = staticmethod(lambda generator: False)
    wrapped = getattr(builder.VariableBuilder, "wrap_listlike", None)
    if wrapped is None:
        return

    @wraps(wrapped)
    def wrap(self: Any, value: Any) -> Any:
        if isinstance(value, deque) and value.maxlen is not None:
            unimplemented(gb_type="deque with a largest length", context="", explanation="", hints=[])
        return wrapped(self, value)

    builder.VariableBuilder.wrap_listlike = wrap  # type: ignore[method-assign]
    # A table of methods by type, which remembers the one before.
    table = getattr(builder.VariableBuilder, "_type_dispatch_impl", None)
    getattr(table, "cache_clear", lambda: None)()


@contextmanager
def _any_batch(given: Any) -> Iterator[None]:
    """Has what is captured meanwhile serve batches of every size: an epoch's last one is no reason to capture again."""
    from torch._dynamo import maybe_mark_dynamic

    tensors = [each for each in torch.utils._pytree.tree_leaves(given) if type(each) is Tensor and each.dim() > 1]
    before = [dict(vars(each)) for each in tensors]
    for each in tensors:
        maybe_mark_dynamic(each, 0)
    try:
        yield
    finally:
        # The marks are attributes of the caller's tensors.
        for each, attributes in zip(tensors, before, strict=True):
            for name in vars(each).keys() - attributes.keys():
                del vars(each)[name]


def _is_observed() -> bool:
    """Whether somebody looks on to whom a compiled call would tell something else than the model's own."""
    depth = torch._C._len_torch_function_stack()
    return bool(
        (depth and any(type(torch._C._get_function_stack_at(at)) is not DeviceContext for at in range(depth)))
        or torch._C._len_torch_dispatch_stack()
        or torch._C._is_tracing()
        or is_fx_symbolic_tracing()
        or _has_any_global_hook()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _concerns(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether there may be something on the CPU to compute."""
    concerned = not (args or kwargs)
    for each in (*args, *kwargs.values()):
        if not isinstance(each, Tensor):
            concerned = True
        elif type(each) is not Tensor and type(each) is not Parameter:
            return False  # it has a way of its own with functions
        elif each.is_cpu:
            concerned = True
    return concerned


@cache
def _keep_replicas_plain() -> None:
    """``torch.nn.DataParallel`` copies a module's dictionary with the compiled call in it, which is the original's."""
    replicate = torch.nn.Module._replicate_for_data_parallel

    @wraps(replicate)
    def plainly(self: torch.nn.Module) -> torch.nn.Module:
        replica: torch.nn.Module = replicate(self)
        if accelerated(replica) is not None:
            del vars(replica)["_compiled_call_impl"]
        return replica

    torch.nn.Module._replicate_for_data_parallel = plainly  # type: ignore[method-assign]


# ---------------------------------------------------------------------------------------------- what is told


def _counted(model: torch.nn.Module) -> tuple[Counter[str], Counter[str]]:
    """The layers that the engine has kernels for, and those with windows that it has none for, with the reason."""
    done: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for module in model.modules():
        kind = type(module).__name__
        if isinstance(module, _LAYERS):
            done[kind] += 1
        elif isinstance(module, _FLAT):
            left[f"{kind} (no kernels for three dimensions)"] += 1
        elif kind.startswith(("LPPool", "FractionalMaxPool", "MaxUnpool")):
            left[f"{kind} (no kernels for its windows)"] += 1
    return done, left


_FLAT: Final = (torch.nn.Conv3d, torch.nn.ConvTranspose3d, torch.nn.MaxPool3d, torch.nn.AvgPool3d)


def _listed(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


_asked = threading.local()


def asked() -> list[tuple[Compiled, tuple[Any, ...]]] | None:
    """Where captured graphs say that they are called, while :func:`plan_of` asks."""
    return getattr(_asked, "calls", None)


def plan_of(model: torch.nn.Module, *inputs: Any, **named: Any) -> str:
    """The plan by which a model's inference on inputs like these goes, step by step; or why there is none.

    Each line names a kernel, the threads among which how many shares of work are divided, and what is computed. The
    model is called once, with gradients off. Where its code is captured in several pieces, each has its plan.

    Raises:
        OperandError: the model isn't accelerated.

    >>> import striate
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Softmax(1)).eval()
    >>> print(plan_of(striate.accelerate(model, quiet=True), torch.randn(1, 1, 6, 6)).splitlines()[2])
      PyTorch: _softmax of 1x8x4x4
    """
    if all(accelerated(part) is None for part in dense_parts(model)):
        raise OperandError("plan_of", "the model isn't accelerated", "needed what striate.accelerate gave back")
    calls: list[tuple[Compiled, tuple[Any, ...]]] = []
    _asked.calls = calls
    try:
        with torch.no_grad():
            model(*inputs, **named)
    finally:
        del _asked.calls
    told = [graph.plan_told(arguments) for graph, arguments in calls]
    if not told:
        return "no plan: nothing of the model was captured, since somebody looks on or nothing of it is on the CPU"
    if len(told) == 1:
        return told[0]
    return "\n".join(f"piece {at} of {len(told)}: {text}" for at, text in enumerate(told, 1))


def blocks_of(model: torch.nn.Module) -> dict[str, str]:
    """What is fused in each module of an accelerated model, in what has been captured so far.

    A key is the path of the innermost module that holds all of the operations that were put together.

    >>> import striate
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    >>> _ = striate.accelerate(model, quiet=True)(torch.randn(2, 1, 8, 8))
    >>> blocks_of(model)
    {'': '0 + 1 + 2'}
    """
    calls = [call for call in map(accelerated, dense_parts(model)) if call is not None]
    told: dict[str, list[str]] = {}
    for graph in (graph for call in calls for graph in call.graphs):
        for names in graph.told:
            paths = [name.split(".") for name in names]
            depth = 0
            while all(len(path) > depth + 1 and path[depth] == paths[0][depth] for path in paths):
                depth += 1
            text = " + ".join(".".join(path[depth:]) for path in paths)
            held = told.setdefault(".".join(paths[0][:depth]), [])
            if text not in held:
                held.append(text)
    return {path: ", ".join(texts) for path, texts in told.items()}


def choices_of(model: torch.nn.Module) -> list[str]:
    """What was measured of an accelerated model's graphs so far: a line for each graph and kind of input.

    A line has the inputs' shapes, the variant that was taken, and the times of all: the graph's operations put together
    to blocks or left as PyTorch's functions, with images as they come or with their channels side by side. A graph is
    measured when inputs of some sizes come for the third time.

    >>> import striate
    >>> model = striate.accelerate(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), quiet=True)
    >>> choices_of(model)
    []
    """
    calls = [call for call in map(accelerated, dense_parts(model)) if call is not None]
    variants = [graph.variants for call in calls for graph in call.graphs if graph.variants is not None]
    return [str(choice) for each in variants for choice in each.choices]
