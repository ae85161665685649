"""Kernels of convolution, every pass, against the reference: random problems, the table of cases, planted bugs."""

from __future__ import annotations

import pytest
import torch
from problems import (
    BACKEND,
    BATCH,
    batches,
    caught,
    check_convolution,
    convolution,
    fresh_kernels,
    grouped,
    many_channels,
    pointwise,
)

from cases import CONVOLUTIONS, assert_same, conv, operands, slow_but
from striate.engine import FORM, Pass, explain, reference
from striate.engine.layout import laid_out
from striate.engine.llvm.codegen import ir, isa
from striate.engine.llvm.convolution import nchw, nchw_weight, nhwc, nhwc_depthwise_weight, sums, weight_sums
from striate.engine.llvm.memory.weights import Weights, pack
from striate.errors import OperandError
from striate.geometry import ConvShape

#: Of the table: a row and a map, every kind of padding, stride, dilation and groups, and one pixel.
QUICK = [
    "conv1d 2x3x8 6x1x3 groups=3 padding=1",
    "conv2d 2x3x7x6 4x3x3x2",
    "conv2d 2x2x6x6 3x2x3x3 padding=1",
    "conv2d 1x2x7x8 2x2x4x3 stride=2 padding=same_lower",
    "conv2d 1x2x9x9 2x2x3x3 dilation=2 padding=2",
    "conv2d 2x4x5x5 6x2x3x3 groups=2 padding=1",
    "conv2d 2x4x5x5 4x1x3x3 groups=4 stride=2 padding=1",
    "conv2d 2x3x1x1 4x3x1x1",
    "conv2d 1x1x1x1 1x1x3x3 padding=1",
]


@pytest.mark.parametrize(
    "line", slow_but([line for line in CONVOLUTIONS if "3d" not in line and " 0x" not in line], QUICK)
)
def test_convolutions_of_the_table(line: str) -> None:
    check_convolution(conv(line), 0)


@batches(40)
def test_random_convolutions(start: int) -> None:
    for seed in range(start, start + BATCH):
        check_convolution(convolution(seed), seed)


@batches(60)
def test_random_convolutions_of_channels_last(start: int) -> None:
    for seed in range(start, start + BATCH):
        shape = many_channels(seed)
        # Layout 1 is channels last, so this asks for it in all three operands.
        check_convolution(shape, 3 * seed + 1, layouts=(0, 0, 0))


@batches(200)
def test_random_convolutions_in_groups_of_channels_last(start: int) -> None:
    for seed in range(start, start + BATCH):
        check_convolution(grouped(seed), 3 * seed + 1, layouts=(0, 0, 0))


@batches(20)
@pytest.mark.parametrize("threads", [1, 2])
def test_random_convolutions_of_single_positions(start: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed in range(start, start + BATCH):
            check_convolution(pointwise(seed), 3 * seed + 1, layouts=(0, 0, 0))
    finally:
        torch.set_num_threads(before)


#: Few channels on one side, whole vectors on the other: packed in registers where these lie side by side.
ACROSS = [
    "conv2d 2x3x21x40 16x3x3x3 padding=1",
    "conv2d 2x32x9x35 2x32x5x5 padding=2",
    "conv2d 1x16x5x33 3x16x1x1",
    "conv2d 1x48x7x50 1x48x3x4 padding=2:0x5:9 dilation=1x3",
    "conv2d 1x3x9x37 16x3x3x3 padding=4",
    "conv2d 2x2x17x64 16x2x3x3 stride=2 padding=1",
    "conv2d 1x1x20x70 32x1x5x5 stride=3x2 padding=2",
    "conv2d 1x16x9x17 3x16x3x3 padding=0x20",
    "conv2d 1x3x6x34 32x3x3x2 stride=1x2",
]


@pytest.mark.parametrize("line", slow_but(ACROSS, [*ACROSS[2:8:3], ACROSS[0], ACROSS[8]]))
def test_channels_that_are_packed_across(line: str) -> None:
    for seed in range(2):
        check_convolution(conv(line), 3 * seed + 1, layouts=(0, 0, 0))


def test_channels_that_lie_side_by_side_are_packed_across(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(sums, "lies_across", lambda *a, real=sums.lies_across: asked.append(real(*a)) or asked[-1])
    for shape in [conv(line) for line in ACROSS]:
        if max(shape.stride) == 1:
            made = {role: laid_out(each, True) for role, each in operands(shape, torch.float32).items()}
            few = Pass.INPUT_GRAD if shape.in_channels < 4 else Pass.OUTPUT
            first, second = (made[role] for role in FORM if role is not few)
            BACKEND.ready(shape, few, first, second, None, True)
            assert asked[-1]


@batches(20)
def test_random_convolutions_of_whole_vectors_of_channels_in_any_layout(start: int) -> None:
    """Narrow depthwise planes go through channels last and back."""
    for seed in range(start, start + BATCH):
        check_convolution(many_channels(seed), seed)


@pytest.mark.usefixtures("narrower")
@pytest.mark.parametrize("start", slow_but([0, 1, 4, 5, 8, 9, 12, 13], [0]))
def test_every_instruction_set_computes_the_same(start: int) -> None:
    for line in [line for line in CONVOLUTIONS if "3d" not in line and " 0x" not in line][start::16]:
        check_convolution(conv(line), start)
    for line in ACROSS[start::16]:
        check_convolution(conv(line), 1, layouts=(0, 0, 0))
    for seed in range(start, 12, 16):
        check_convolution(convolution(seed), seed)
        check_convolution(many_channels(seed), 3 * seed + 1, layouts=(0, 0, 0))
        check_convolution(pointwise(seed), 3 * seed + 1, layouts=(0, 0, 0))


def test_channels_last_operands_get_kernels_with_lanes_over_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    sums._prepared.cache_clear()
    for module, name in ((sums, "nhwc_sum"), (weight_sums, "_nhwc_weight")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, real=real: asked.append(name) or real(*a))
    check_convolution(conv("conv2d 2x8x9x9 16x8x3x3 padding=1"), 1, layouts=(0, 0, 0))
    assert asked == ["nhwc_sum", "_nhwc_weight", "nhwc_sum"]
    check_convolution(conv("conv2d 2x8x9x9 16x8x3x3 padding=1"), 0, layouts=(0, 0, 0))
    assert len(asked) == 3


@pytest.mark.parametrize("innermost", [False, True])
def test_packed_weights_end_in_zeros(innermost: bool) -> None:
    w = torch.randn(3, 2, 1, 2)
    packed = pack(isa.the_isa(), Weights.of(w, 1), torch.arange(3.0), 4, innermost)
    terms = w.permute(2, 3, 1, 0) if innermost else w.permute(1, 2, 3, 0)
    assert torch.equal(packed[0, 1:, :3], terms.reshape(4, 3))
    assert torch.equal(packed[0, 0, :3], torch.arange(3.0))
    assert not packed[..., 3:].any()


@pytest.mark.parametrize("lanes", [6, 16, 48])
@pytest.mark.parametrize("innermost", [False, True])
def test_packed_weights_are_the_weight_in_order(innermost: bool, lanes: int) -> None:
    """Channels side by side, terms side by side, neither; whole vectors and what is left of them."""
    for outer, inner, kernel in ((6, 3, 3), (16, 33, 1), (40, 24, 1), (100, 16, 3)):
        for layout in (torch.contiguous_format, torch.channels_last):
            w = torch.randn(outer, inner, kernel, kernel).contiguous(memory_format=layout)
            for transposed in (False, True):
                weights = Weights.of(w, 1, transposed)
                terms = w.transpose(0, 1) if transposed else w
                terms = (terms.permute(0, 2, 3, 1) if innermost else terms).flatten(1)
                packed = pack(isa.the_isa(), weights, None, lanes, innermost)
                found = packed.movedim(2, 1).flatten(0, 1)
                assert torch.equal(found[: len(terms), 1:], terms)
                assert not found[len(terms) :].any()
                assert not found[:, 0].any()


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 6000, 100))
def test_5000_random_problems_a_pass(start: int) -> None:
    for seed in range(start, start + 100):
        check_convolution(convolution(seed), seed)
        check_convolution(many_channels(seed), 3 * seed + 1, layouts=(0, 0, 0))
        check_convolution(many_channels(seed), seed)
        check_convolution(pointwise(seed), 3 * seed + 1, layouts=(0, 0, 0))


@pytest.mark.parametrize(
    "line",
    [
        "conv2d 2x3x40x37 64x3x3x3 padding=1",
        "conv2d 3x32x14x14 64x32x3x3 padding=1",
        pytest.param("conv2d 2x24x28x28 24x1x7x7 padding=3 groups=24", marks=pytest.mark.slow),
        pytest.param("conv2d 1x3x64x64 16x3x11x11 stride=4 padding=2", marks=pytest.mark.slow),
        "conv2d 9x6x14x14 16x6x5x5",
        pytest.param("conv1d 2x1x700 8x1x31 stride=2 padding=15", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_layers_as_networks_have_them(line: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_convolution(conv(line), 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "line",
    [
        "conv2d 2x5x6x4 8x5x1x1 padding=1",
        "conv2d 2x5x6x4 8x5x1x1 padding=0:1x1:0",
        "conv2d 2x5x6x4 8x5x1x1 stride=2",
        "conv2d 2x6x6x4 8x3x1x1 groups=2",
    ],
)
def test_single_positions_that_are_padded_or_apart(line: str) -> None:
    check_convolution(conv(line), 1, layouts=(0, 0, 0))


def test_a_pointwise_weight_gradient_is_the_same_on_every_number_of_threads() -> None:
    shape = conv("conv2d 3x70x13x11 50x70x1x1")
    made = {role: laid_out(each, True) for role, each in operands(shape, torch.float32).items()}
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(BACKEND.contract(shape, Pass.WEIGHT_GRAD, made[Pass.INPUT_GRAD], made[Pass.OUTPUT], None).clone())
    torch.set_num_threads(1)
    assert all(torch.equal(found[0], each) for each in found)


def test_two_threads_give_what_one_does_and_the_same_every_time() -> None:
    shape = conv("conv2d 5x8x17x19 12x8x3x3 stride=2 padding=1")
    made = operands(shape, torch.float32)
    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for open_ in FORM:
            first, second = (made[role] for role in FORM if role is not open_)
            runs = [BACKEND.contract(shape, open_, first, second, None) for _ in range(4)]
            assert all(torch.equal(runs[0], run) for run in runs)
            found[threads, open_] = runs[0]
    torch.set_num_threads(1)
    for open_ in (Pass.OUTPUT, Pass.INPUT_GRAD):
        assert torch.equal(found[1, open_], found[2, open_])
    torch.testing.assert_close(found[1, Pass.WEIGHT_GRAD], found[2, Pass.WEIGHT_GRAD], rtol=1e-4, atol=1e-4)


def test_infinities_stay_where_they_are() -> None:
    """A number beside the window's reach, or in a lane beyond the row's end, must not turn sums into NaN."""
    shape = conv("conv2d 1x1x5x12 1x1x3x3 stride=1x4")
    x, g = torch.ones(shape.input_shape), torch.ones(shape.output_shape)
    x[..., 11] = float("inf")  # three columns beyond the last window's start, so no window sees it
    expected = reference.contract(shape, Pass.WEIGHT_GRAD, x, g)
    assert expected.isfinite().all()
    assert_same(BACKEND.contract(shape, Pass.WEIGHT_GRAD, x, g, None), expected, 16)


@pytest.mark.parametrize(
    ("line", "dtype", "device", "reason"),
    [
        ("conv2d 1x1x4x4 1x1x3x3", torch.float64, "cpu", "float32"),
        ("conv2d 1x1x4x4 1x1x3x3", torch.float16, "cpu", "float32"),
        ("conv2d 1x1x4x4 1x1x3x3", torch.bfloat16, "cpu", "float32"),
        ("conv2d 1x1x4x4 1x1x3x3", torch.complex64, "cpu", "float32"),
        ("conv2d 1x1x4x4 1x1x3x3", torch.int64, "cpu", "float32"),
        ("conv2d 1x1x4x4 1x1x3x3", torch.float32, "cuda", "CPUs"),
        ("conv2d 1x1x4x4 1x1x3x3", torch.float32, "meta", "CPUs"),
        ("conv2d 0x1x4x4 1x1x3x3", torch.float32, "cpu", "empty"),
        ("conv3d 1x1x4x4x4 1x1x3x3x3", torch.float32, "cpu", "1 and 2 axes"),
        ("conv1d 1x1x200 1x1x129", torch.float32, "cpu", "columns"),
    ],
)
def test_what_it_leaves_to_others_it_refuses_with_a_reason(
    line: str, dtype: torch.dtype, device: str, reason: str
) -> None:
    assert reason in (BACKEND.refusal(ConvShape.parse(line), Pass.OUTPUT, dtype, device) or "")


@pytest.mark.parametrize(
    ("line", "last", "passes"),
    [
        ("conv2d 32x1x28x28 32x1x3x3 padding=1", False, {Pass.OUTPUT, Pass.INPUT_GRAD, Pass.WEIGHT_GRAD}),
        ("conv2d 4x96x28x28 96x1x3x3 padding=1 groups=96", False, {Pass.OUTPUT, Pass.INPUT_GRAD, Pass.WEIGHT_GRAD}),
        ("conv2d 4x96x28x28 96x1x7x7 padding=3 groups=96", True, {Pass.OUTPUT, Pass.INPUT_GRAD, Pass.WEIGHT_GRAD}),
        ("conv2d 4x3x32x32 64x3x3x3 padding=1", True, {Pass.INPUT_GRAD, Pass.WEIGHT_GRAD}),
        ("conv2d 4x64x28x28 64x64x3x3 padding=1", False, set()),
        ("conv2d 1x1x8x8 1x1x3x3", False, set()),
        ("max_pool2d 4x64x28x28 kernel=2 stride=2", False, {Pass.OUTPUT, Pass.POSITIONS, Pass.INPUT_GRAD}),
        ("max_pool2d 4x64x28x28 kernel=2 stride=2", True, {Pass.OUTPUT, Pass.POSITIONS}),
        ("avg_pool2d 4x64x7x7 kernel=7", False, set()),
    ],
)
def test_the_rule_where_nothing_is_measured(line: str, last: bool, passes: set[Pass]) -> None:
    chosen = explain(line, channels_last=last).chosen
    assert {open_ for open_, name in chosen.items() if name == "llvm"} == passes
    assert {chosen[open_] for open_ in chosen.keys() - passes} <= {"aten"}


def test_a_weight_gradient_of_many_taps_is_refused_and_the_output_is_not() -> None:
    shape = conv("conv2d 1x1x20x20 1x1x17x17")
    assert BACKEND.refusal(shape, Pass.WEIGHT_GRAD, torch.float32, "cpu")
    assert BACKEND.refusal(shape, Pass.OUTPUT, torch.float32, "cpu") is None


def test_results_have_the_layout_that_is_asked_for() -> None:
    shape = conv("conv2d 2x4x8x8 6x4x3x3 padding=1")
    x, w = (operands(shape, torch.float32)[role] for role in (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD))
    assert BACKEND.contract(shape, Pass.OUTPUT, x, w, None).is_contiguous()
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        last = BACKEND.contract(shape, Pass.OUTPUT, given, w, None, channels_last=True)
        assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "line",
    slow_but(
        ["conv2d 2x4x8x8 6x4x3x3 stride=2", "conv1d 2x4x8 6x4x3", "conv2d 2x8x7x7 8x1x3x3 groups=8"],
        ["conv2d 2x8x7x7 8x1x3x3 groups=8"],
    ),
)
@pytest.mark.parametrize("last", [False, True])
def test_results_are_nobodys_view(line: str, last: bool) -> None:
    """A view out of an autograd function can't be changed in place."""
    shape = conv(line)
    given = {role: laid_out(tensor, last) for role, tensor in operands(shape, torch.float32).items()}
    for open_ in FORM:
        first, second = (given[role] for role in FORM if role is not open_)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            try:
                assert not BACKEND.contract(shape, open_, first, second, None, last)._is_view()
            finally:
                torch.set_num_threads(1)


def test_memory_is_only_read_where_it_holds_what_was_said() -> None:
    shape = conv("conv2d 2x4x8x8 6x4x3x3 padding=1")
    x, w = (operands(shape, torch.float32)[role] for role in (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD))
    for wrong in ((x[:1], w), (x.double(), w), (x, w[:5]), (x, w.half()), (x[0], w), (x.to("meta"), w)):
        with pytest.raises(OperandError, match="needed"):
            BACKEND.contract(shape, Pass.OUTPUT, *wrong, None)
    with pytest.raises(OperandError, match="needed"):
        BACKEND.contract(shape, Pass.OUTPUT, x, w, torch.zeros(5))


def test_a_number_may_be_kept_as_its_negative() -> None:
    """The imaginary part of a conjugate is a view of the original, marked to be negated when it is read."""
    shape = conv("conv2d 2x4x8x8 6x4x3x3 padding=1")
    x, w = (operands(shape, torch.float32)[role] for role in (Pass.INPUT_GRAD, Pass.WEIGHT_GRAD))
    marked = torch._neg_view(x)  # such a view with numbers side by side, so that nothing copies it on the way
    assert marked.is_neg()
    found = BACKEND.contract(shape, Pass.OUTPUT, marked, w, None)
    torch.testing.assert_close(found, -BACKEND.contract(shape, Pass.OUTPUT, x, w, None))


# -------------------------------------------------------------------- the checks see wrong kernels


LINE = "conv2d 2x3x9x20 7x3x3x3 padding=1"


def test_a_tap_that_is_one_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_kernels(monkeypatch)
    real = nchw.Axis.place
    monkeypatch.setattr(nchw.Axis, "place", lambda self, tap, pitch: real(self, tap, pitch) + (tap == 2))
    assert caught(check_convolution, [conv(LINE)])


def test_a_tail_that_is_one_short_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_kernels(monkeypatch)
    real = ir.Function.inside
    monkeypatch.setattr(ir.Function, "inside", lambda self, start, stop: real(self, start, stop - 1))
    assert caught(check_convolution, [conv(LINE)])


def test_a_lost_tap_of_a_weight_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_kernels(monkeypatch)
    monkeypatch.setattr(nchw_weight._Generator, "_multiply", _without_last_tap(nchw_weight._Generator._multiply))
    assert caught(check_convolution, [conv(LINE)])


def _without_last_tap(real):
    return lambda self, totals, taps, *rest: real(self, totals, taps[:-1] or taps, *rest)


def test_a_lost_column_with_lanes_over_channels_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_kernels(monkeypatch)
    monkeypatch.setattr(nhwc.Block, "pack", _with_less_width(nhwc.Block.pack))
    shape = conv("conv2d 2x8x9x9 16x8x3x3 padding=1")
    assert caught(lambda shape, seed: check_convolution(shape, 1, layouts=(0, 0, 0)), [shape])


def _with_less_width(real):
    def pack(self, item):
        self.width = self.width - 1
        return real(self, item)

    return pack


@pytest.mark.parametrize(
    ("tile", "line", "layout"),
    [
        (nchw.PlaneTile, "conv2d 2x9x9x20 9x1x3x3 padding=1 groups=9", 0),
        (nchw_weight.WeightTile, "conv2d 2x9x9x20 9x1x3x3 padding=1 groups=9", 0),
        (nhwc_depthwise_weight.DepthwiseTile, "conv2d 2x16x9x20 16x1x3x3 padding=1 groups=16", 1),
    ],
)
def test_a_meeting_of_windows_that_is_forgotten_is_seen(
    tile: type, line: str, layout: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_kernels(monkeypatch)
    real = tile.seers

    def one_less(*how):
        found = real(*how)
        place = next((place for place, each in found.items() if len(each) > 1), None)
        return found if place is None else {**found, place: found[place][1:]}

    check_convolution(conv(line), layout, layouts=(0, 0, 0))
    monkeypatch.setattr(tile, "seers", one_less)
    assert caught(lambda shape, _: check_convolution(shape, layout, layouts=(0, 0, 0)), [conv(line)])


def test_columns_in_another_order_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = conv("conv2d 2x3x9x20 5x3x3x3 stride=2 padding=1")
    fresh_kernels(monkeypatch)
    check_convolution(shape, 0, layouts=(0, 0, 0))
    real = nchw.interleaved
    monkeypatch.setattr(nchw, "interleaved", lambda f, parts: real(f, parts[::-1]))
    assert caught(lambda shape, _: check_convolution(shape, 0, layouts=(0, 0, 0)), [shape])
