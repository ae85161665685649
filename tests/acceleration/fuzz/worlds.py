"""The same source and the same steps in worlds that share nothing but the process.

A world has a module object of its own made from the source (so classes, globals and functions are its own), its own
random state, and a model. A step is a line of Python that is run in the world's namespace, in which ``model`` is the
model, ``m`` the module made from the source, and the functions of :class:`World` call, differentiate and change it.

What is seen of a world are lists of names and values, one list a step: results, gradients, exceptions, and after each
step all tensors and plain attributes of the model, what its code has logged, and the state of all random generators.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import ctypes
import dataclasses
import io
import linecache
import pickle
import random
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: From one run of a source to the next, so that no two share a module's name or a file's.
_runs = iter(range(1 << 62))

#: What steps may name in every world.
_EVERYBODYS = {"torch": torch, "nn": nn, "F": F, "np": np, "copy": copy, "random": random, "types": types}

#: A fresh seed for the numbers that models draw.
_SEED = 1234


@dataclasses.dataclass
class Seen:
    """A tensor as it was, with what else can be told of it."""

    value: Tensor
    about: dict[str, Any]


@dataclasses.dataclass
class Raised:
    """An exception: its type is compared, what it says only told."""

    kind: str
    says: str = dataclasses.field(compare=False)

    def __str__(self) -> str:
        return f"{self.kind} ({self.says[:300]})"


Record = list[tuple[str, Any]]


class Drawn(TorchDispatchMode):
    """Random numbers of float64 are those that float32 draws."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in _FILLING and args[0].dtype == torch.float64:
            drawn = torch.empty(args[0].shape, dtype=torch.float32)
            func(drawn, *args[1:], **kwargs)
            return args[0].copy_(drawn)
        if name in _DRAWING:
            like = args[0].float() if args and isinstance(args[0], Tensor) and args[0].is_floating_point() else None
            wanted = kwargs.get("dtype") or (args[0].dtype if like is not None else None)
            if wanted == torch.float64:
                args = args if like is None else (like, *args[1:])
                return func(*args, **(kwargs | ({"dtype": torch.float32} if "dtype" in kwargs else {}))).double()
        return func(*args, **kwargs)


_FILLING = {"bernoulli_", "normal_", "uniform_", "exponential_", "log_normal_", "cauchy_", "geometric_", "random_"}
_DRAWING = {"rand", "randn", "rand_like", "randn_like", "bernoulli", "native_dropout", "normal", "poisson", "rrelu"}


class Jittered(TorchDispatchMode):
    """Every operator that rounds does so in another way: its results move by some units in the last place.

    How far a function carries roundings is seen by running it so; a gradient that jumps where an input of a ReLU is
    zero but for rounding, or a maximum of two equal numbers, jumps here too.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)
        self._size = 2.0 ** (seed % 3 + 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name.rstrip("_") in _ROUNDING:
            for each in result if isinstance(result, tuple | list) else (result,):
                self._move(each)
            if "batch_norm" in name and "backward" not in name and any(each is True for each in args):
                for each in args[3:5]:
                    self._move(each)  # the running statistics
        return result

    def _move(self, each: Any) -> None:
        if not isinstance(each, Tensor) or type(each) is not Tensor or not each.is_floating_point() or not each.numel():
            return
        noise = torch.rand(each.shape, generator=self._generator, dtype=torch.float32).to(each.dtype) - 0.5
        finite = each.detach().nan_to_num(0, 0, 0)
        scale = finite.abs() + finite.square().mean().sqrt()
        each.add_(noise * scale * (self._size * torch.finfo(each.dtype).eps))


_ROUNDING = {
    *("convolution", "convolution_backward", "addmm", "mm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear"),
    *("native_batch_norm", "native_batch_norm_backward", "native_layer_norm", "native_layer_norm_backward"),
    *("native_group_norm", "native_group_norm_backward", "sum", "mean", "var", "var_mean", "std", "prod", "norm"),
    *("avg_pool2d", "avg_pool2d_backward", "_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward", "avg_pool1d"),
    *("_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data", "linalg_vector_norm"),
    *("sigmoid", "tanh", "silu", "gelu", "exp", "log", "erf", "elu", "softplus", "hardswish", "mish", "sqrt", "rsqrt"),
    *("sigmoid_backward", "tanh_backward", "silu_backward", "gelu_backward", "elu_backward", "hardswish_backward"),
    *("mul", "add", "sub", "div", "pow", "addcmul", "addcdiv", "lerp", "mean_backward", "cumsum", "im2col", "col2im"),
    *("_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_weight_norm_interface"),
    "upsample_bilinear2d",
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward"),
    *("mkldnn_convolution", "cudnn_batch_norm", "batch_norm_backward", "_native_batch_norm_legit.no_stats"),
}  # fmt: skip


class Counted(Tensor):
    """A subclass of tensors without anything of its own."""


class World:
    """One world. ``accelerate`` and ``restore`` are what those words mean in it."""

    def __init__(
        self,
        source: str,
        accelerate: Callable[[nn.Module], nn.Module] | None = None,
        restore: Callable[[nn.Module], nn.Module] | None = None,
        dtype: torch.dtype = torch.float32,
        mode: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.accelerate = accelerate or (lambda model: model)
        self.restore = restore or (lambda model: model)
        self.dtype, self.mode, self.double = dtype, mode, dtype == torch.float64
        self.record: Record = []
        self.calls = 0
        self._kept: collections.deque[tuple[str, Tensor]] = collections.deque(maxlen=4)
        name = f"fuzz_case_{next(_runs)}"
        filename = f"{name}.py"
        # So that tracebacks, inspect and the compiler find the source.
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        self.module = types.ModuleType(name)
        self.module.__file__ = filename
        sys.modules[name] = self.module
        exec(compile(source, filename, "exec"), vars(self.module))
        self.names: dict[str, Any] = {
            **_EVERYBODYS,
            "m": self.module,
            "w": self,
            "accelerate": self._accelerate,
            "restore": self._restore,
            **{name: getattr(self, name) for name in _STEPS},
        }

    # ---------------------------------------------------------------- running

    def run(self, steps: list[str]) -> list[Record]:
        """Builds the model and takes the steps; what was seen after each."""
        quiet = contextlib.redirect_stderr(io.StringIO())  # PyTorch prints some tracebacks, which it then raises
        with quiet, _kept_state(), warnings.catch_warnings(record=True) as self._warned, self.mode():
            warnings.simplefilter("always")
            torch.manual_seed(_SEED)
            random.seed(_SEED)
            np.random.seed(_SEED)
            self.names["model"] = self.module.build()
            if self.double:
                self.names["model"].double()
            return [self._take(step) for step in steps]

    def close(self) -> None:
        sys.modules.pop(self.module.__name__, None)
        linecache.cache.pop(str(self.module.__file__), None)

    def _take(self, step: str) -> Record:
        self.record = []
        try:
            exec(compile(step, "<step>", "exec"), self.names)
        except Exception as error:
            self.record.append(("raised", Raised(_kind(error), str(error))))
        told = [str(each.message) for each in self._warned if str(each.message).startswith("fuzz")]
        self._see("warnings", told)
        self._warned.clear()
        self._look()
        return self.record

    @property
    def model(self) -> nn.Module:
        return self.names["model"]  # type: ignore[no-any-return]

    def _accelerate(self, model: nn.Module) -> nn.Module:
        return self.accelerate(model)

    def _restore(self, model: nn.Module) -> nn.Module:
        return self.restore(model)

    # ---------------------------------------------------------------- looking

    def _look(self) -> None:
        model, add = self.model, self.record.append
        for name, tensor in self._kept:
            self._see(f"kept {name}", tensor)
        for name, tensor in model.state_dict(keep_vars=True).items():
            self._see(f"state {name}", tensor)
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._see(f"grad {name}", parameter.grad)
        for name, module in model.named_modules():
            for key, value in vars(module).items():
                if key == "training" or (not key.startswith("_") and key in self._watched(module)):
                    self._see(f"attribute {name}.{key}", value)
        self._see("log", getattr(self.module, "LOG", None))
        self._see("output", getattr(self.module, "OUT", io.StringIO()).getvalue())
        self._see("counts", dict(getattr(self.module, "COUNTS", {})))
        if not self.double:
            add(("torch's generator", torch.get_rng_state().numpy().tobytes()))
        add(("Python's generator", random.getstate()))
        state = np.random.get_state()
        add(("NumPy's generator", (state[1].tobytes(), state[2])))  # type: ignore[union-attr]
        add(("modes", (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))))

    def _watched(self, module: nn.Module) -> frozenset[str]:
        return getattr(type(module), "WATCHED", frozenset())

    def _see(self, name: str, value: Any) -> None:
        """Takes down a value, and what it holds, as it is now."""
        add = self.record.append
        if isinstance(value, UninitializedTensorMixin):
            add((name, "not initialised"))
        elif isinstance(value, Tensor):
            about = {"dtype": str(value.dtype), "shape": tuple(value.shape), "grad": value.requires_grad}
            about["type"] = _name(type(value))
            if not name.startswith("state"):
                about["leaf"] = value.is_leaf
            if value.is_meta:
                add((name, str(about)))
                return
            if torch._C._functorch.is_functorch_wrapped_tensor(value):
                add((name, "a tensor of a transform that is over"))
                return
            with torch.no_grad():
                add((name, Seen(value.detach().clone(), about)))
        elif isinstance(value, dict):
            add((f"{name} is", (_name(type(value)), [str(key) for key in value])))
            for key, each in value.items():
                self._see(f"{name}[{key!r}]", each)
        elif isinstance(value, list | tuple | collections.deque):
            add((f"{name} is", (_name(type(value)), len(value))))
            for place, each in enumerate(value):
                self._see(f"{name}[{place}]", each)
        elif isinstance(value, np.ndarray):
            add((name, value.tolist()))
        elif isinstance(value, set):
            add((name, sorted(map(str, value))))
        elif value is None or isinstance(value, int | float | str | bool | torch.Size | torch.dtype | np.generic):
            if self.double and isinstance(value, torch.dtype):
                value = torch.float32 if value == torch.float64 else value
            add((name, value))
        else:
            add((name, f"<{_name(type(value))}>"))

    # ---------------------------------------------------------------- what steps say

    def numbers(self, *shape: int, seed: int = 0) -> Tensor:
        """Normal numbers in the world's dtype, the same in every world."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).to(self.dtype)

    def like(self, tensor: Tensor, seed: int = 0) -> Tensor:
        """Numbers of a tensor's shape and dtype."""
        return self.numbers(*tensor.shape, seed=seed).to(tensor.dtype)

    def inputs(
        self,
        seed: int = 0,
        n: int = 2,
        size: int = 8,
        layout: str = "",
        grad: bool = False,
        numbers: str = "",
        dtype: str = "",
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[Tensor]]:
        """The model's arguments, and those of them that want gradients."""
        wanted: list[Tensor] = []

        def make(*shape: int, other: int = 0) -> Tensor:
            x = self.numbers(*shape, seed=1000 * seed + other)
            if numbers == "constant":
                x.fill_(0.5)
            elif numbers and x.numel():
                x.view(-1)[seed % x.numel()] = float(numbers)
            if dtype and not (self.double and dtype in ("float32", "bfloat16", "float16")):
                x = x.to(getattr(torch, dtype))
            if layout == "channels_last" and x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            elif layout == "strided" and x.dim():
                x = x.repeat_interleave(2, dim=-1)[..., ::2]
            elif layout == "offset":
                x = torch.cat([x.flatten(), x.flatten()])[1 : x.numel() + 1].view(x.shape)
            elif layout == "expanded" and x.dim() and x.shape[0]:
                x = x[:1].expand(x.shape)
            elif layout == "transposed" and x.dim() >= 2:
                x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
            if grad and x.is_floating_point():
                x = x.detach().requires_grad_()
                wanted.append(x)
            return x

        args, kwargs = self.module.inputs(make, n, size)
        return args, kwargs, wanted

    def call(self, seed: int = 0, of: Any = None, **how: Any) -> Any:
        """Calls the model."""
        args, kwargs, wanted = self.inputs(seed, **how)
        self.calls += 1
        result = (self.model if of is None else of)(*args, **kwargs)
        self._see("result", result)
        for place, each in enumerate(_tensors(result)):
            same = [index for index, given in enumerate(_tensors((args, kwargs))) if given is each]
            self.record.append((f"result's tensor {place} is argument", same))
            shared = [name for name, other in self._known((args, kwargs)) if _overlap(each, other)]
            self.record.append((f"result's tensor {place} lies in", shared))
            if not how.get("dtype"):
                self._kept.append((f"result {self.calls}.{place}", each))
        self._see("arguments", [args, kwargs])
        self._wanted = wanted
        return result

    def _known(self, given: Any) -> list[tuple[str, Tensor]]:
        """Tensors in whose memory a result may lie."""
        known = [(f"argument {place}", each) for place, each in enumerate(_tensors(given))]
        return known + list(self.model.state_dict(keep_vars=True).items()) + list(self._kept)

    def backward(self, seed: int = 0, **how: Any) -> None:
        """Calls the model and differentiates a sum of all that it gave."""
        loss = self._loss(self.call(seed, **how))
        if loss is None:
            self.record.append(("loss", None))
            return
        self._see("loss", loss)
        loss.backward()
        self._see("gradients of inputs", [each.grad for each in self._wanted])

    def second(self, seed: int = 0, **how: Any) -> None:
        """Differentiates the square of the gradient."""
        loss = self._loss(self.call(seed, **how))
        if loss is None:
            self.record.append(("loss", None))
            return
        over = [*self._wanted, *(each for each in self.model.parameters() if each.requires_grad)]
        first = torch.autograd.grad(loss, over, create_graph=True, allow_unused=True)
        # Whether a gradient that is constant has one itself is nobody's promise; nor are None and zeros told apart.
        self._see("gradients", [None if each is None else each.detach() for each in first])
        square = sum(each.square().sum() for each in first if each is not None)
        seconds: list[Tensor | None] = [None] * len(over)
        if isinstance(square, Tensor) and square.requires_grad:
            seconds = list(torch.autograd.grad(square, over, allow_unused=True))
        pairs = zip(seconds, over, strict=True)
        self._see("second", [torch.zeros_like(by) if each is None else each for each, by in pairs])

    def _loss(self, result: Any) -> Tensor | None:
        total: Tensor | None = None
        for each in _tensors(result):
            if each.is_floating_point() and each.requires_grad:
                weights = torch.arange(each.numel()).to(each.dtype).mul(0.37).cos().view(each.shape)
                part = (each * weights).sum()
                total = part if total is None else total + part
        return total

    def functional(self, seed: int = 0, **how: Any) -> None:
        """Calls the model on other parameters."""
        others = {name: each.detach() * 1.25 for name, each in self.model.named_parameters()}
        args, kwargs, _ = self.inputs(seed, **how)
        self._see("functional", torch.func.functional_call(self.model, others, args, kwargs))

    def differential(self, seed: int = 0, **how: Any) -> None:
        """torch.func's gradient by the parameters."""
        parameters = {name: each.detach() for name, each in self.model.named_parameters()}
        args, kwargs, _ = self.inputs(seed, **how)

        def loss(given: dict[str, Tensor]) -> Tensor:
            result = torch.func.functional_call(self.model, given, args, kwargs)
            return sum(each.sum() for each in _tensors(result) if each.is_floating_point())  # type: ignore[return-value]

        self._see("differential", torch.func.grad(loss)(parameters))

    def mapped(self, seed: int = 0, **how: Any) -> None:
        """A batch of batches, by torch.vmap."""
        args, kwargs, _ = self.inputs(seed, **how)
        one = args[0]
        many = torch.stack([one, one * 0.5])
        self._see("mapped", torch.vmap(lambda x: self.model(x, *args[1:], **kwargs), randomness="same")(many))

    def jvp(self, seed: int = 0, **how: Any) -> None:
        """Forward-mode derivative by the first argument."""
        args, kwargs, _ = self.inputs(seed, **how)
        value, tangent = torch.func.jvp(
            lambda x: _tensors(self.model(x, *args[1:], **kwargs))[0], (args[0],), (self.like(args[0], seed + 1),)
        )
        self._see("jvp", [value, tangent])

    def threads(self, count: int, seed: int = 0, **how: Any) -> None:
        """Calls from several threads at once, each with its own input."""
        found: dict[int, Any] = {}
        self.model.eval()  # statistics and masks would hang on who comes first
        model, given = self.model, [self.inputs(seed + place, **how)[:2] for place in range(count)]
        start = threading.Barrier(count)

        def work(place: int) -> None:
            args, kwargs = given[place]
            start.wait()
            with torch.no_grad(), warnings.catch_warnings():
                try:
                    found[place] = [model(*args, **kwargs) for _ in range(3)]
                except Exception as error:
                    found[place] = _kind(error)

        workers = [threading.Thread(target=work, args=(place,)) for place in range(count)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
        self._see("threads", [found[place] for place in range(count)])

    def cast(self, dtype: torch.dtype) -> None:
        """Casts the model, and what it is called with; the float64 world stays what it is."""
        if not self.double:
            self.model.to(dtype)
            self.dtype = dtype

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.double else torch.autocast("cpu", torch.bfloat16)

    def again(self, seed: int = 0) -> None:
        """The same tensor twice, written to between the calls."""
        args, kwargs, _ = self.inputs(seed)
        with torch.no_grad():
            self._see("first", self.model(*args, **kwargs))
            for each in _tensors(args):
                each.mul_(2)
            self._see("again", self.model(*args, **kwargs))

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """A dispatch mode that looks on; which operators there are is no promise."""

        class Looking(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                return func(*args, **(kwargs or {}))

        with Looking():
            yield

    @contextlib.contextmanager
    def overriding(self) -> Iterator[None]:
        """A function mode that changes what ReLU is."""

        class Changing(TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                return result * 2 if func is torch.relu or func is F.relu else result

        with Changing():
            yield

    @contextlib.contextmanager
    def patched(self, where: Any, name: str, other: Any) -> Iterator[None]:
        """What PyTorch has under a name is another thing meanwhile."""
        before = getattr(where, name)
        setattr(where, name, other)
        try:
            yield
        finally:
            setattr(where, name, before)

    @contextlib.contextmanager
    def everywhere(self, hook: Callable[..., Any]) -> Iterator[None]:
        """All modules have a hook meanwhile."""
        handle = nn.modules.module.register_module_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Tensors kept for gradients are packed and unpacked by somebody; copies, so that nothing changes."""
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            yield

    def pickled(self, model: nn.Module) -> nn.Module:
        return pickle.loads(pickle.dumps(model))  # type: ignore[no-any-return]

    def saved(self, model: nn.Module) -> nn.Module:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        return torch.load(file, weights_only=False)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def default(self, dtype: torch.dtype) -> Iterator[None]:
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)

    @contextlib.contextmanager
    def deterministic(self) -> Iterator[None]:
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)

    def exported(self, seed: int = 0) -> None:
        """torch.export, called with other numbers."""
        args, kwargs, _ = self.inputs(seed)
        made = torch.export.export(self.model, args, kwargs).module()
        args, kwargs, _ = self.inputs(seed + 1)
        self._see("exported", made(*args, **kwargs))

    def traced(self, seed: int = 0) -> None:
        """torch.fx."""
        args, kwargs, _ = self.inputs(seed)
        self._see("traced", torch.fx.symbolic_trace(self.model)(*args, **kwargs))

    def subclassed(self, seed: int = 0) -> None:
        """Tensors of somebody's class."""
        args, kwargs, _ = self.inputs(seed)
        self._see("subclassed", self.model(*(each.as_subclass(Counted) for each in args), **kwargs))

    def logging(self, word: str) -> Callable[..., None]:
        """A hook that leaves a word."""
        return lambda *args, **kwargs: self.module.LOG.append(word)  # type: ignore[no-any-return]

    def named(self, name: str, function: Any) -> Any:
        """A function by another name."""
        function.__name__ = name
        return function

    def other(self, kind: type, forward: Callable[..., Any]) -> type:
        """A class like another one, but for its forward."""
        return type("Other", (kind,), {"forward": forward})

    def double_all(self, model: nn.Module) -> None:
        for each in model.parameters():
            each.data.mul_(2)

    def other_strides(self, tensor: Tensor) -> Tensor:
        """The same numbers, lying otherwise."""
        turned = tensor.detach().permute(*reversed(range(tensor.dim()))).clone(memory_format=torch.contiguous_format)
        return turned.permute(*reversed(range(tensor.dim())))

    def own(self) -> list[nn.Parameter]:
        """The model's parameters."""
        return list(self.model.parameters())

    def poke(self, tensor: Tensor, number: float) -> None:
        """Writes a tensor's first number past PyTorch."""
        kind = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}[tensor.dtype]
        kind.from_address(tensor.data_ptr()).value = number

    def in_thread(self, work: Callable[[], object]) -> None:
        with futures.ThreadPoolExecutor(1) as thread:
            thread.submit(work).result()

    def descend(self, parameter: Tensor) -> None:
        """An optimiser's step in the backward pass."""
        if parameter.grad is not None:
            parameter.data.add_(parameter.grad, alpha=-0.05)

    def after(self, function: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
        """A function that goes on with what another gave."""

        def both(*args: Any, **kwargs: Any) -> Any:
            return change(function(*args, **kwargs))

        return both

    def within(self, seed: int = 0) -> None:
        """A hook that calls the model while it is being called."""
        inner: list[Any] = []

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not inner:
                inner.append(None)
                inner[0] = module(*args, **kwargs)

        handle = self.model.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            with torch.no_grad():
                self.call(seed)
        finally:
            handle.remove()
        self._see("inner", inner)

    def interrupted(self, seed: int = 0) -> None:
        """A call that somebody breaks off in its midst, and one after it."""

        def hook(module: nn.Module, args: Any) -> None:
            raise KeyError("broken off")

        last = [each for each in self.model.modules() if not list(each.children())][-1]
        handle = last.register_forward_pre_hook(hook)
        try:
            with torch.no_grad(), contextlib.suppress(KeyError):
                self.call(seed)
        finally:
            handle.remove()
        with torch.no_grad():
            self.call(seed)

    def scaled_state(self, factor: float) -> dict[str, Tensor]:
        return {
            name: each.detach() * factor if each.is_floating_point() else each.detach().clone()
            for name, each in self.model.state_dict().items()
        }


_STEPS = [name for name in vars(World) if not name.startswith("_") and name not in ("run", "close", "model")]


@contextlib.contextmanager
def _kept_state() -> Iterator[None]:
    """Random states, threads and modes are afterwards what they were."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state(), torch.get_num_threads()
    default, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        torch.set_num_threads(states[3])
        torch.set_default_dtype(default)
        torch.set_grad_enabled(grad)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for each in value for leaf in _tensors(each)] if isinstance(value, list | tuple) else []


def _overlap(one: Tensor, other: Any) -> bool:
    if (
        not isinstance(other, Tensor)
        or isinstance(other, UninitializedTensorMixin)
        or one.is_meta
        or other.is_meta
        or not one.numel()
        or not other.numel()
    ):
        return False
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return False  # it has no memory of its own


def _name(kind: type) -> str:
    """A class's name, which doesn't hang on the world."""
    return kind.__name__


def _kind(error: BaseException) -> str:
    where = type(error).__module__
    own = where == "builtins" or where.startswith("fuzz_case")
    return type(error).__name__ if own else f"{where}.{type(error).__name__}"
