"""The table of backends: choosing, forcing, refusing, explaining."""

from __future__ import annotations

import importlib

import pytest
import torch

from cases import CONVOLUTIONS, conv, operands
from striate import engine, ops
from striate.engine import Pass
from striate.engine.aten import AtenBackend
from striate.errors import BackendError, GeometryError

# The package's function of the same name hides the module.
table = importlib.import_module("striate.engine.backends")


def test_the_reference_comes_last_and_takes_only_what_others_refuse() -> None:
    assert engine.backends() == ("matmul", "winograd", "llvm", "aten", "reference")
    assert engine.explain("conv2d 1x1x4x4 1x1x3x3", torch.float64).chosen[Pass.OUTPUT] == "aten"
    assert engine.explain("conv2d 1x1x4x4 1x1x3x3", torch.bool).chosen[Pass.OUTPUT] == "reference"


def test_use_fixes_the_backend_for_a_block_or_until_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name, backend in table._TABLE.items():
        real = type(backend).contract
        monkeypatch.setattr(
            type(backend), "contract", lambda self, *a, name=name, real=real: asked.append(name) or real(self, *a)
        )
    x, w = torch.randn(1, 2, 5, 5, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    with engine.use("reference"):
        inside = ops.conv2d(x, w)
        with engine.use("aten"):
            ops.conv2d(x, w)
        ops.conv2d(x, w)
    outside = ops.conv2d(x, w)
    assert asked == ["reference", "aten", "reference", "aten"]
    assert inside.dtype == outside.dtype == torch.float64
    torch.testing.assert_close(inside, outside)
    engine.use("reference")
    ops.conv2d(x, w)
    engine.use("auto")
    ops.conv2d(x, w)
    assert asked[4:] == ["reference", "aten"]


def test_a_block_that_raises_gives_the_choice_back() -> None:
    with pytest.raises(GeometryError), engine.use("reference"):
        ops.conv2d(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 3, 3))
    assert table._forced is None


def test_unknown_backends_and_forced_refusals_are_errors() -> None:
    with pytest.raises(BackendError, match="needed auto or one of matmul, winograd, llvm, aten, reference"):
        engine.use("cuda")
    with engine.use("aten"), pytest.raises(BackendError, match="refuses: PyTorch has no arithmetic on booleans"):
        ops.conv1d(torch.zeros(1, 1, 4, dtype=torch.bool), torch.zeros(1, 1, 2, dtype=torch.bool))
    with engine.use("aten"):
        assert engine.explain("conv1d 1x1x4 1x1x2", torch.bool).chosen[Pass.OUTPUT] is None


def test_complex_problems_are_explained_as_the_real_ones_they_become() -> None:
    told = engine.explain("conv1d 1x1x4 1x1x2", torch.complex64)
    assert set(told.chosen.values()) == {"aten"}
    assert "complex64 on cpu" in str(told)
    assert "four real problems" in str(told)


def test_explain_needs_no_such_device_here() -> None:
    assert engine.explain("conv1d 1x1x4 1x1x2", device="cuda:3").chosen[Pass.OUTPUT] == "aten"


def test_who_refuses_is_passed_over() -> None:
    class Picky(AtenBackend):
        name = "picky"

        def refusal(self, problem, open_, dtype, device):
            return "only weight gradients" if open_ is not Pass.WEIGHT_GRAD else None

    before = dict(table._TABLE)
    try:
        engine.register(Picky())
        # behind the others it is never reached; in front it is asked first
        table._TABLE.clear()
        table._TABLE.update({"picky": Picky(), **before})
        table.forget()
        told = engine.explain("conv2d 1x1x4x4 1x1x3x3", torch.float64)
        assert told.chosen == {Pass.OUTPUT: "aten", Pass.INPUT_GRAD: "aten", Pass.WEIGHT_GRAD: "picky"}
        assert told.refusals[Pass.OUTPUT]["picky"] == "only weight gradients"
        assert "picky: only weight gradients" in str(told)
    finally:
        table._TABLE.clear()
        table._TABLE.update(before)
        table.forget()


def test_a_name_can_be_registered_once() -> None:
    with pytest.raises(BackendError, match="exists"):
        engine.register(AtenBackend())


def test_explain_takes_lines_and_says_of_each_pass_who_computes_it() -> None:
    told = engine.explain("max_pool2d 8x64x112x112 kernel=3 stride=2 padding=1", torch.float64)
    assert set(told.chosen) == {Pass.OUTPUT, Pass.POSITIONS, Pass.INPUT_GRAD}
    assert set(engine.explain("avg_pool1d 8x64x112 kernel=3").chosen) == {Pass.OUTPUT, Pass.INPUT_GRAD}
    assert "float64 on cpu" in str(told)
    with pytest.raises(GeometryError):
        engine.explain("conv2d please")


@pytest.mark.parametrize("line", CONVOLUTIONS)
def test_whole_calls_agree_between_backends(line: str) -> None:
    """Value and gradients through autograd, once on each backend."""
    shape = conv(line)
    call = {1: ops.conv1d, 2: ops.conv2d, 3: ops.conv3d}[shape.dims]
    found = []
    for name in engine.backends():
        if engine.explain(shape).refusals[Pass.OUTPUT][name] is not None and name in ("matmul", "winograd"):
            continue
        # in float64, but for the kernels that are generated for float32
        dtype = torch.float32 if name == "llvm" and shape.dims < 3 and shape.batch else torch.float64
        x, w, g = (tensor.to(dtype) for tensor in operands(shape).values())
        x, w = x.requires_grad_(), w.requires_grad_()
        b = torch.ones(shape.out_channels, dtype=dtype, requires_grad=True)
        with engine.use(name if name != "llvm" or dtype == torch.float32 else "aten"):
            padding = [window.padding for window in shape.windows]
            y = call(x, w, b, shape.stride, padding, shape.dilation, shape.groups)
            found.append([y.detach(), *torch.autograd.grad(y, (x, w, b), g)])
    for other in found[:-1]:
        bound = 1e-10 if other[0].dtype == torch.float64 else 1e-4
        for mine, exact in zip(other, found[-1], strict=True):
            torch.testing.assert_close(mine.double(), exact, rtol=bound, atol=bound)
