"""Accelerates a model in place, and restores it."""

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
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch.autograd import forward_ad
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.nn import Parameter
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._device import DeviceContext

from striate import nn
from striate.acceleration.guards.methods import Methods
from striate.engine.contention import look
from striate.engine.memory import keep_freed_memory
from striate.errors import OperandError

if TYPE_CHECKING:
    from striate.acceleration.backend import Compiled
    from striate.acceleration.guards.shortcuts import Shortcuts

Model = TypeVar("Model", bound=torch.nn.Module)

#: Layers whose functions have striate's kernels.
_LAYERS: Final = tuple(
    getattr(room, f"{kind}{dims}d")
    for room in (torch.nn, nn)
    for kind in ("Conv", "ConvTranspose", "MaxPool", "AvgPool", "BatchNorm")
    for dims in (1, 2)
    if hasattr(room, f"{kind}{dims}d")
)
#: How often a model's code is captured for other attributes, sizes and modes, before PyTorch computes new ones.
_CAPTURES: Final = 8
#: Dynamo's configuration: guard what Dynamo otherwise assumes to be unchanged (hooks, defaults of functions, parameters
#: that share memory, parameters whose ``data`` has been replaced), and leave NumPy's random numbers to NumPy.
_GUARDED: Final[dict[str, Any]] = {
    "skip_nnmodule_hook_guards": False,
    "assume_dunder_attributes_remain_unchanged": False,
    "skip_no_tensor_aliasing_guards_on_parameters": False,
    "skip_tensor_guards_with_matching_dict_tags": False,
    "use_numpy_random_stream": True,
    # Autograd delivers gradients one by one, so DistributedDataParallel can send them without splitting graphs.
    "optimize_ddp": False,
    "recompile_limit": _CAPTURES,
    # If Dynamo fails on code, it runs uncaptured.
    "suppress_errors": True,
    # Don't record profiler events for looking up the arguments of a graph; recording takes longer than the look-up.
    "record_runtime_overhead": False,
}


def accelerate(model: Model, *, blocks: bool = True, plans: bool = True, quiet: bool = False) -> Model:
    """Makes striate's engine compute a model; returns the model, which is changed in place.

    This is ``torch.compile(model, backend="striate")``, but in place: the model stays the same object, with its class,
    parameters, hooks and ``state_dict``; only its call is compiled (``torch.nn.Module.compile``). PyTorch's Dynamo
    captures the model's Python code at the first call of each kind, which takes from half a second to some seconds. It
    guards everything that the code reads: attributes, globals, modes, hooks. Code that can't be captured runs
    unchanged.

    Results are the same up to rounding (:mod:`striate.engine.llvm.winograd.backend` gives the bound), and gradients of
    every order exist. Inference (gradients off) becomes a list of kernels when inputs of a size occur for the second
    time, if that was measured to be faster; :func:`~striate.acceleration.plan_of` shows the list. Weights may be
    changed in any way; :func:`~striate.acceleration.look_again` describes which writes aren't noticed at once. The C
    library is set to keep freed memory for the next step's tensors (:func:`striate.engine.memory.keep_freed_memory`).

    While a tracer, a mode, a transform or forward-mode differentiation is active, the model's own code runs. Copies and
    pickles of the model are plain models.

    A model whose call is mostly bookkeeping, such as a detector, which takes lists of pictures of any sizes, may name
    the submodules that compute in a tuple ``dense`` of its class. Then the calls of these submodules are compiled.

    Args:
        model: any module. Accelerating it again has no effect.
        blocks: fuse neighbouring operations (:func:`~striate.acceleration.blocks_of` lists them).
        plans: use inference plans.
        quiet: don't print the line on stderr that says which layers the engine computes, and why it doesn't compute the
            others.

    Returns:
        The same object; :func:`restore` undoes the change.

    Raises:
        OperandError: the argument isn't a module.

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
                # Bypass the model's own __setattr__; compile() should do this, too.
                vars(part)["_compiled_call_impl"] = Accelerated(part, options)
    if not quiet:
        done, left = _counted(model)
        told = "nothing, since it is scripted" if scripted else _listed(done) or "no layers with kernels of its own"
        print("accelerate:", told, file=sys.stderr, end="")
        print(f"; left to PyTorch: {_listed(left)}" if left else "", file=sys.stderr)
    return model


def restore(model: Model) -> Model:
    """Undoes :func:`accelerate`; returns the model, changed in place.

    >>> model = accelerate(torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3)), quiet=True)
    >>> restore(model)._compiled_call_impl is None
    True
    """
    for module in model.modules():
        if accelerated(module) is not None:
            del vars(module)["_compiled_call_impl"]
    return model


def dense_parts(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules whose calls are compiled: those that the model names in ``dense``, or the model itself."""
    # Read the attribute of the class, because a model may have a layer named dense.
    names = getattr(type(model), "dense", ())
    if not isinstance(names, tuple):
        return [model]
    return [model.get_submodule(name) for name in names] or [model]


def accelerated(module: torch.nn.Module) -> Accelerated | None:
    """The :class:`Accelerated` object of an accelerated module; None for other modules."""
    call = vars(module).get("_compiled_call_impl")
    return call if isinstance(call, Accelerated) else None


class Accelerated:
    """The call of an accelerated model: the compiled code, or the model's own code while it is observed."""

    def __init__(self, module: torch.nn.Module, options: dict[str, bool]) -> None:
        self.module, self.options = module, options
        self._captured: list[weakref.ref[Compiled]] = []
        self._call: Callable[..., Any] | None = None
        self._met: set[tuple[bool, bool]] = set()
        self._methods: Methods | None = None
        self._outdated = False  # something was captured since the methods were checked
        self._shortcuts: Shortcuts | None = None
        self._again = 0

    @property
    def graphs(self) -> list[Compiled]:
        """The captured graphs that Dynamo may use again, in the order of capture."""
        return [graph for graph in (each() for each in self._captured) if graph is not None]

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # Copies of the model are plain models, however the model copies itself.
        return type(None), ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or _is_observed():
            return self.module._call_impl(*args, **kwargs)
        if self._shortcuts is not None:
            look()
            run = self._shortcuts.find(args, kwargs)
            if run is not None:
                return run()
        # Within a function that is compiled, that compiler captures the model's own code, also after a graph break.
        if get_eval_frame_callback() is not None or not _concerns(args, kwargs):
            return self.module._call_impl(*args, **kwargs)
        return self._guarded(args, kwargs)

    def _guarded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call through Dynamo, which evaluates its guards, and captures the model's code if none pass."""
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
                # Only now, because changes that the model itself made in this call don't count.
                self._outdated = False
                self._methods = Methods(self.module, self._methods)
            if self._shortcuts is not None:
                self._shortcuts.passed(args, kwargs, self._methods)

    def _compiled(self) -> Callable[..., Any]:
        from striate.acceleration.backend import Compiled
        from striate.acceleration.guards.shortcuts import Shortcuts

        # Dynamo keeps backends forever, so a backend must not keep the model alive.
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
    """Makes Dynamo free the captures of a deleted model, because they and the model's code keep each other alive."""
    from torch._dynamo.eval_frame import reset_code  # type: ignore[attr-defined]

    reset_code(code)


def _own_code(module: torch.nn.Module) -> FunctionType:
    """The module's call as a function with a code object and a name of its own.

    Dynamo stores captures, and counts them, by code object. By name, it stores which sizes and numbers have changed
    between calls; with a shared name, changes in another model would make sizes dynamic in this one.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return module._call_impl(*args, **kwargs)

    code = call.__code__.replace(co_name=f"call_{type(module).__name__}_{next(_numbered)}")
    return FunctionType(code, call.__globals__, None, None, call.__closure__)


_numbered: Final = itertools.count()


class _Strictness(threading.local):
    """Dynamo's configuration during nested calls of accelerated models; Dynamo has one configuration per thread."""

    def __init__(self) -> None:
        self._calls = 0
        self._undo: Callable[[], None] = lambda: None

    def enter(self) -> None:
        if self._calls == 0:
            self._undo = _patch()()
        self._calls += 1

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops PyTorch's warnings about code that couldn't be captured; such code runs, and reports its own errors."""
        told = str(record.msg)
        return not self._calls or ("WON'T CONVERT" not in told and "failed while attempting" not in told)

    def leave(self) -> None:
        self._calls -= 1
        if self._calls == 0:
            self._undo()


_STRICT: Final = _Strictness()


@cache
def _patch() -> Callable[[], Callable[[], None]]:
    """Sets the configuration, and returns a function that restores it."""
    import torch._dynamo.config as config

    _mend_dynamo()
    for name in ("torch._dynamo.convert_frame", "torch._subclasses.fake_tensor"):
        logging.getLogger(name).addFilter(_STRICT.filter)
    known = {name: value for name, value in _GUARDED.items() if hasattr(config, name)}
    made: Callable[[], Callable[[], None]] = config._make_closure_patcher(**known)
    return made


def _mend_dynamo() -> None:
    """Makes code run uncaptured that Dynamo 2.13 would capture wrongly, for everything compiled from now on.

    Dynamo treats the state of Python's random generators (``random.Random``) at capture as a constant, so the same
    number would be drawn at every call. It drops the maximum length of a ``deque``.
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
    # Dynamo caches a table of methods by type, which still has the original method.
    table = getattr(builder.VariableBuilder, "_type_dispatch_impl", None)
    getattr(table, "cache_clear", lambda: None)()


@contextmanager
def _any_batch(given: Any) -> Iterator[None]:
    """Marks the batch size as dynamic for captures in this context, so an epoch's last batch needs no new capture."""
    from torch._dynamo import maybe_mark_dynamic

    tensors = [each for each in torch.utils._pytree.tree_leaves(given) if type(each) is Tensor and each.dim() > 1]
    before = [dict(vars(each)) for each in tensors]
    for each in tensors:
        maybe_mark_dynamic(each, 0)
    try:
        yield
    finally:
        # The marks are attributes of the caller's tensors, so restore them.
        for each, attributes in zip(tensors, before, strict=True):
            for name in vars(each).keys() - attributes.keys():
                del vars(each)[name]


def _is_observed() -> bool:
    """Whether a tracer, mode or transform is active that would observe a difference between the compiled call and the
    model's own.
    """
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
    """Whether the arguments may lead to computation on the CPU."""
    concerned = not (args or kwargs)
    for each in (*args, *kwargs.values()):
        if not isinstance(each, Tensor):
            concerned = True
        elif type(each) is not Tensor and type(each) is not Parameter:
            return False  # a tensor subclass that handles functions itself
        elif each.is_cpu:
            concerned = True
    return concerned


@cache
def _keep_replicas_plain() -> None:
    """Removes the compiled call from replicas that ``torch.nn.DataParallel`` makes by copying a module's dictionary."""
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
    """The layers for which the engine has kernels; and layers with windows for which it has none, with the reason."""
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
    """The list in which captured graphs record their calls while :func:`plan_of` runs; otherwise None."""
    return getattr(_asked, "calls", None)


def plan_of(model: torch.nn.Module, *inputs: Any, **named: Any) -> str:
    """The inference plan for inputs like these, step by step; or the reason why there is none.

    Each line has a kernel, the number of work items and of threads, and a description. The model is called once, with
    gradients off. If its code is captured in several pieces, each piece has a plan.

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
        return "no plan: nothing was captured, because a tracer or mode is active or the model isn't on the CPU"
    if len(told) == 1:
        return told[0]
    return "\n".join(f"piece {at} of {len(told)}: {text}" for at, text in enumerate(told, 1))


def blocks_of(model: torch.nn.Module) -> dict[str, str]:
    """The fused operations in each module of an accelerated model, in everything captured so far.

    A key is the path of the innermost module that contains all of the fused operations.

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
    """The measurements of an accelerated model's graphs so far: a line for each graph and kind of input.

    A line has the shapes of the inputs, the chosen variant, and the times of all variants: fused blocks or PyTorch's
    functions, with images in their own layout or in channels last. A graph is measured when inputs of some sizes occur
    for the third time.

    >>> import striate
    >>> model = striate.accelerate(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), quiet=True)
    >>> choices_of(model)
    []
    """
    calls = [call for call in map(accelerated, dense_parts(model)) if call is not None]
    variants = [graph.variants for call in calls for graph in call.graphs if graph.variants is not None]
    return [str(choice) for each in variants for choice in each.choices]
