"""What users do with PyTorch's operations, done with these: compile, export, transform, cast."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from cases import quick_but, slow_but
from striate import ConvShape, engine, nn, ops
from striate.engine import Pass
from striate.engine.backends import forget
from striate.errors import OperandError
from striate.ops import _autograd, convolution, pooling
from striate.ops.conv_pool import conv_max_pool
from striate.ops.norm import batch_norm


class Network(torch.nn.Module):
    """Every kind of operation in a row, with geometry that PyTorch doesn't have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 3, 3, 3) / 5)
        self.up = torch.nn.Parameter(torch.randn(4, 2, 3, 3) / 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = ops.conv2d(x, self.weight, None, 2, "same")
        x = ops.max_pool2d(x, 3, 2, ((0, 1), (1, 0)))
        x = ops.conv_transpose2d(x, self.up, None, 2, 1, 1)
        x = ops.avg_pool2d(x, 2, 1, dilation=2)
        x = ops.adaptive_avg_pool2d(ops.lp_pool2d(x, 2, 2), (3, 2))
        return ops.global_max_pool(x).flatten(1)


def test_export_with_a_free_batch_size() -> None:
    network = Network()
    dynamic = {"x": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(network, (torch.randn(2, 3, 20, 20),), dynamic_shapes=dynamic).module()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 20, 20)
        torch.testing.assert_close(exported(x), network(x))


def test_compile_into_one_graph_with_gradients() -> None:
    network = Network()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(compiled(x), network(x))
    expected = torch.autograd.grad(network(x).sum(), tuple(network.parameters()))
    found = torch.autograd.grad(compiled(x).sum(), tuple(network.parameters()))
    torch.testing.assert_close(found, expected)


def test_gradients_for_every_sample_and_hessians() -> None:
    w, x = torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.randn(5, 2, 8, 8, dtype=torch.float64)

    def loss(conv, w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return conv(x, w, None, 2, 1, 1, 1).pow(2).sum()

    each = torch.func.vmap(torch.func.grad(lambda w, x: loss(ops.conv2d, w, x)), (None, 0))(w, x)
    theirs = torch.func.vmap(torch.func.grad(lambda w, x: loss(F.conv2d, w, x)), (None, 0))(w, x)
    torch.testing.assert_close(each, theirs)
    hessian = torch.func.hessian(lambda w: loss(ops.conv2d, w, x[:1]))(w[:1])
    torch.testing.assert_close(hessian, torch.func.hessian(lambda w: loss(F.conv2d, w, x[:1]))(w[:1]))


@pytest.mark.parametrize("dim", [0, 1, 2, 4])
def test_vmap_along_any_axis_is_a_loop(dim: int) -> None:
    x = torch.randn(3, 2, 3, 8, 8, dtype=torch.float64).movedim(0, dim)
    w = torch.randn(3, 4, 3, 3, 3, dtype=torch.float64).movedim(0, dim)

    def run(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = ops.conv2d(x, w, None, 1, ((0, 1), (2, 0)))
        return ops.avg_pool2d(ops.max_pool2d(y, 2), 2, dilation=2)

    each = [run(x.select(dim, i), w.select(dim, i)) for i in range(3)]
    torch.testing.assert_close(torch.func.vmap(run, dim)(x, w), torch.stack(each))


def test_jacobians_in_both_directions_agree() -> None:
    x = torch.randn(1, 2, 7, dtype=torch.float64)
    w = torch.randn(2, 2, 3, dtype=torch.float64)

    def run(x: torch.Tensor) -> torch.Tensor:
        return ops.lp_pool1d(ops.max_pool1d(ops.conv1d(x, w, padding="full"), 2), 3, 2)

    torch.testing.assert_close(torch.func.jacfwd(run)(x), torch.func.jacrev(run)(x))


def test_autocast_computes_in_its_dtype_and_returns_gradients_in_the_parameters() -> None:
    x, w, b = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = ops.conv2d(x, w, b, padding=1), F.conv2d(x, w, b, padding=1)
        assert ops.conv2d(x.double(), w.double()).dtype == torch.float64
    assert mine.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(mine, theirs)
    grads = torch.autograd.grad(mine.float().pow(2).sum(), (w, b))
    assert {grad.dtype for grad in grads} == {torch.float32}


def test_only_what_a_gradient_needs_is_kept() -> None:
    """A frozen weight's input isn't held for it."""
    x, w = torch.randn(1, 2, 8, 8, requires_grad=True), torch.randn(2, 2, 3, 3)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        ops.conv2d(x, w)
    assert kept == [tuple(w.shape)]
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        ops.conv2d(x.detach(), w.requires_grad_())
    assert tuple(x.shape) in kept


@pytest.mark.parametrize("backend", ["auto", "llvm", "aten", "reference"])
@pytest.mark.parametrize("dims", [1, 2])
def test_maxima_without_a_gradient_need_no_positions(dims: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, x = (ops.max_pool1d, ops.max_pool2d)[dims - 1], torch.randn(2, 3, *[20] * dims)
    x.flatten()[7] = math.nan
    with engine.use(backend):
        expected = pool(x.clone().requires_grad_(), 3, 2, 1).detach()
        with monkeypatch.context() as patch:
            patch.setattr(pooling, "Maximum", None)
            # For the first time, known, without a batch.
            for each, wanted in ((x, expected), (x, expected), (x[0], expected[0])):
                torch.testing.assert_close(pool(each, 3, 2, 1), wanted, rtol=0, atol=0, equal_nan=True)
            with torch.no_grad():
                torch.testing.assert_close(pool(x.clone().requires_grad_(), 3, 2, 1), expected, equal_nan=True)
        values, positions = pool(x, 3, 2, 1, return_indices=True)
        assert positions.shape == values.shape


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        (lambda y, x, w, b: y.sum().backward(), {Pass.INPUT_GRAD, Pass.WEIGHT_GRAD}),
        (lambda y, x, w, b: torch.autograd.grad(y.sum(), x), {Pass.INPUT_GRAD}),
        (lambda y, x, w, b: torch.autograd.grad(y.sum(), w), {Pass.WEIGHT_GRAD}),
        (lambda y, x, w, b: torch.autograd.grad(y.sum(), (w, x)), {Pass.INPUT_GRAD, Pass.WEIGHT_GRAD}),
        (lambda y, x, w, b: torch.autograd.grad(y.sum(), x, create_graph=True), {Pass.INPUT_GRAD}),
        (lambda y, x, w, b: torch.autograd.grad(y.sum(), b), set()),
        (lambda y, x, w, b: y.sum().backward(inputs=[x]), {Pass.INPUT_GRAD}),
    ],
)
@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("looked_at_first", [0, 1])
def test_only_gradients_that_are_asked_for_are_computed(
    asked: Callable[..., object], passes: set[Pass], leaf: bool, looked_at_first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = set()
    real = convolution.ready
    monkeypatch.setattr(convolution, "ready", lambda *a: computed.add(a[1]) or real(*a))
    x, w, b = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((1, 2, 8, 8), (2, 2, 3, 3), (2,)))
    inner = (x, w, b) if leaf else (x * 2, w * 2, b * 2)
    y = ops.conv2d(*inner, padding=1)
    computed.clear()
    monkeypatch.setattr(_autograd, "_unasked", looked_at_first)
    asked(y, x, w, b)
    assert computed == passes


POOLS = {
    "max": lambda x: ops.max_pool2d(x, 2),
    "max framed": lambda x: ops.max_pool2d(x, 2, padding=((0, 1), (1, 0))),
    "avg": lambda x: ops.avg_pool2d(x, 2),
    "avg dilated": lambda x: ops.avg_pool2d(x, 2, dilation=2),
    "max of a row": lambda x: ops.max_pool1d(x.flatten(0, 1), 2),
    "avg of a row": lambda x: ops.avg_pool1d(x.flatten(0, 1), 2),
    "lp": lambda x: ops.lp_pool2d(x, 2, 2),
    "adaptive": lambda x: ops.adaptive_avg_pool2d(x, 3),
    "adaptive max": lambda x: ops.adaptive_max_pool2d(x, 3),
    "global": lambda x: ops.global_avg_pool(x),
    "transposed": lambda x: ops.conv_transpose2d(x, torch.ones(2, 1, 3, 3, dtype=x.dtype), padding=((0, 1), (1, 0))),
    "same": lambda x: ops.conv2d(x, torch.ones(1, 2, 2, 2, dtype=x.dtype), padding="same"),
}


def calls(channels: int) -> dict[str, Callable[..., torch.Tensor]]:
    """Everything that kernels of striate's own compute, of an image, a weight and a bias."""
    one = torch.ones(channels, dtype=torch.float32, device="cpu")
    return {
        "conv": lambda x, w, b: ops.conv2d(x, w, b, padding=1),
        "strided": lambda x, w, b: ops.conv2d(x, w, b, 2, 1),
        "depthwise": lambda x, w, b: ops.conv2d(x, w[:, :1], b, padding=1, groups=channels),
        "row": lambda x, w, b: ops.conv1d(x.flatten(2), w[:, :, 0], b),
        "transposed": lambda x, w, b: ops.conv_transpose2d(x, w, b, 2),
        "max": lambda x, w, b: ops.max_pool2d(x, 2),
        "max framed": lambda x, w, b: ops.max_pool2d(x, 2, padding=((0, 1), (1, 0))),
        "avg": lambda x, w, b: ops.avg_pool2d(x, 2),
        "adaptive max": lambda x, w, b: ops.adaptive_max_pool2d(x, 3),
        "block": lambda x, w, b: conv_max_pool(x, w, b, padding=1, activation="relu"),
        "norm": lambda x, w, b: batch_norm(x, None, b, 0 * one, one, True, 0.1, 1e-5, activation="relu"),
    }


@pytest.mark.parametrize("backend", quick_but(["auto", "llvm", "aten", "winograd"], ["llvm"]))
@pytest.mark.parametrize("last", slow_but([False, True], [True]))
def test_defaults_of_dtype_and_device_are_for_others(backend: str, last: bool) -> None:
    layout = torch.channels_last if last else torch.contiguous_format
    leaves = [torch.randn(2, 16, 9, 9).contiguous(memory_format=layout), torch.randn(16, 16, 3, 3), torch.randn(16)]
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def everything() -> list[torch.Tensor]:
        forget()  # what was made ready before the defaults changed
        found: list[torch.Tensor] = []
        for name, call in calls(16).items():
            if backend == "winograd" and name != "conv":
                continue
            with engine.use(backend):
                y = call(*leaves)
                found += [y, *torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True)]
                with torch.no_grad():
                    found.append(call(*leaves))
        return [each for each in found if each is not None]

    expected = everything()
    try:
        for dtype, device in ((torch.float64, "cpu"), (torch.bfloat16, "cpu"), (torch.float32, "meta")):
            torch.set_default_dtype(dtype)
            torch.set_default_device(device)
            found = everything()
            torch.set_default_device(None)
            for mine, before in zip(found, expected, strict=True):
                torch.testing.assert_close(mine, before, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.parametrize("backend", quick_but(["auto", "llvm", "aten"], ["llvm"]))
@pytest.mark.parametrize("last", [False, True])
def test_batches_of_gradients_in_one(backend: str, last: bool) -> None:
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(2, 8, 9, 9).contiguous(memory_format=layout).requires_grad_()
    w, b = torch.randn(8, 8, 3, 3, requires_grad=True), torch.randn(8, requires_grad=True)
    for call in calls(8).values():
        with engine.use(backend):
            y = call(x, w, b)
            g, how = torch.randn(3, *y.shape), {"retain_graph": True, "allow_unused": True}
            together = torch.autograd.grad(y, (x, w, b), g, is_grads_batched=True, **how)
            apart = [torch.autograd.grad(y, (x, w, b), each, **how) for each in g]
        for found, expected in zip(together, zip(*apart, strict=True), strict=True):
            if found is not None:
                torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("call", calls(8).values(), ids=calls(8))
def test_what_is_kept_may_be_stored_elsewhere(call: Callable[..., torch.Tensor]) -> None:
    """And come back in another order."""
    x = torch.randn(2, 8, 9, 9).contiguous(memory_format=torch.channels_last).requires_grad_()
    w, b = torch.randn(8, 8, 3, 3, requires_grad=True), torch.randn(8, requires_grad=True)
    with engine.use("llvm"):
        y = call(x, w, b)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().numpy().copy(), torch.from_numpy):
            z = call(x, w, b)
    g = torch.randn_like(y)
    for expected, found in zip(
        *(torch.autograd.grad(each, (x, w, b), g, allow_unused=True) for each in (y, z)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_zeros_without_memory() -> None:
    zeros, w = torch._efficientzerotensor(2, 8, 9, 9), torch.randn(8, 8, 3, 3)
    with engine.use("llvm"):
        for y in (ops.conv2d(zeros, w), ops.avg_pool2d(zeros, 2), ops.max_pool2d(zeros, 2)):
            assert not y.any()


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 3), (3, 2), (7, 2), (5, 4)])
def test_what_a_gradient_does_not_see_does_not_reach_it(kernel: int, stride: int, value: float) -> None:
    """A tap that an input hasn't is nothing, not zero times what lies there."""
    g, w = torch.ones(1, 2, 6, 12), torch.ones(2, 3, kernel, kernel)
    g[0, 1, 2, 5] = value
    with engine.use("llvm"):
        y = ops.conv_transpose2d(g, w, stride=stride)
    torch.testing.assert_close(y, F.conv_transpose2d(g, w, stride=stride), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", POOLS)
def test_results_may_be_changed_in_place(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 2, 6, 6, dtype=dtype, requires_grad=True)
    copied = torch.autograd.grad((POOLS[name](x) - 0.3).relu().sum(), x)
    in_place = torch.autograd.grad((POOLS[name](x) - 0.3).relu_().sum(), x)
    torch.testing.assert_close(in_place, copied)
    y = POOLS[name](x)
    assert y.mul_(2) is y
    y.sum().backward()


@pytest.mark.parametrize("name", POOLS)
def test_hessians_by_forward_over_reverse(name: str) -> None:
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return POOLS[name](x).pow(3).sum()

    torch.testing.assert_close(torch.func.hessian(loss)(x), torch.autograd.functional.hessian(loss, x))


@pytest.mark.parametrize("name", [name for name in POOLS if "row" not in name])
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("upstream", [torch.contiguous_format, torch.channels_last])
def test_gradients_lie_in_memory_as_the_input_does(
    name: str, given: torch.memory_format, upstream: torch.memory_format
) -> None:
    x = torch.randn(2, 2, 6, 6).contiguous(memory_format=given).requires_grad_()
    y = POOLS[name](x)
    if y.shape[1] > 1 and name != "global":
        assert y.is_contiguous(memory_format=given)
    (grad,) = torch.autograd.grad(y, x, torch.randn(y.shape).contiguous(memory_format=upstream))
    if y.shape[1] > 1:
        assert grad.is_contiguous(memory_format=given)


def test_symbolic_trace_records_calls() -> None:
    model = torch.nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same", stride=2), torch.nn.ReLU(), nn.MaxPool2d(2), nn.LPPool2d(2, 2)
    )
    traced = torch.fx.symbolic_trace(model)
    assert {node.target for node in traced.graph.nodes} >= {ops.conv2d, ops.max_pool2d, ops.lp_pool2d}
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(traced(x), model(x))


def test_a_recorded_trace_is_of_pytorchs_operators() -> None:
    network = Network()
    recorded = torch.jit.trace(network, torch.randn(2, 3, 20, 20), check_trace=False)
    assert "PythonOp" not in str(recorded.graph)
    x = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(recorded(x), network(x))


def test_export_of_global_pooling_with_free_sizes() -> None:
    class Head(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ops.global_avg_pool(x) + ops.global_max_pool(x)

    free = {"x": {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}}
    exported = torch.export.export(Head(), (torch.randn(2, 3, 20, 20),), dynamic_shapes=free).module()
    x = torch.randn(2, 3, 9, 31)
    torch.testing.assert_close(exported(x), Head()(x))


def test_tracing_with_symbolic_sizes() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    def run(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return ops.global_avg_pool(ops.max_pool2d(ops.conv2d(x, w, None, 2, "same"), 3, 2))

    graph = make_fx(run, tracing_mode="symbolic")(torch.randn(2, 3, 20, 20), torch.randn(4, 3, 3, 3))
    operands = torch.randn(4, 3, 24, 22), torch.randn(5, 3, 3, 3)
    torch.testing.assert_close(graph(*operands), run(*operands))


def test_subclasses_of_tensors_keep_their_type() -> None:
    class Named(torch.Tensor):
        pass

    x = torch.randn(1, 2, 6, 6).as_subclass(Named)
    assert type(ops.conv2d(x, torch.ones(1, 2, 3, 3))) is Named
    assert type(ops.max_pool2d(x, 2)) is Named
    assert type(ops.convolve(x, torch.ones(2, 2))) is Named
    with torch.device("meta"):
        assert ops.conv2d(torch.randn(1, 2, 6, 6), torch.ones(1, 2, 3, 3)).is_meta


def test_autocast_leaves_double_alone() -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(OperandError, match="one dtype"):
        ops.conv2d(torch.randn(1, 2, 6, 6), torch.ones(1, 2, 3, 3, dtype=torch.float64))


def test_who_watches_operators_sees_them_and_what_holds_no_numbers_is_not_read() -> None:
    """Kernels of striate's own read memory; a counter would miss them, and a fake tensor has none."""
    large, w = torch.randn(4, 2, 34, 34, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    problem = "conv2d 4x2x34x34 3x2x3x3"
    assert "llvm" in engine.explain(problem).chosen.values()
    with FlopCounterMode(display=False) as counter:
        ops.conv2d(large, w).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * ConvShape.parse(problem).macs
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x), mode.from_tensor(w)
        assert ops.max_pool2d(ops.conv2d(*fake), 2).shape == (1, 3, 2, 2)
    assert ops.conv2d(*fake).shape == (1, 3, 4, 4)
    meta = ops.avg_pool2d(ops.conv2d(x.to("meta"), w.to("meta")), 2)
    assert (meta.shape, meta.is_meta) == ((1, 3, 2, 2), True)
    if torch.backends.mkldnn.is_available():
        dense = ops.conv2d(x.detach().to_mkldnn(), w.detach())
        torch.testing.assert_close(dense.to_dense(), F.conv2d(x, w).detach())
