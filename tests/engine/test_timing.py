"""What a problem's timing says: every pass, every backend, and shares that follow from its numbers."""

from __future__ import annotations

import json

import pytest
import torch

import striate.engine.timing
from striate import engine
from striate.engine import Pass
from striate.engine.timing import PassTiming, Roofline, Timing, roofline
from striate.errors import GeometryError, OperandError
from striate.geometry import parse

LINES = [
    "conv1d 2x3x9 4x3x3",
    "conv2d 2x4x7x6 4x1x3x2 groups=4",
    "conv3d 1x2x4x5x3 3x2x2x3x2",
    "max_pool2d 2x3x8x8 kernel=2 stride=2",
    "max_pool1d 2x3x8 kernel=3 padding=2:0",
    "avg_pool2d 2x3x8x8 kernel=3 dilation=2",
]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("line", LINES)
def test_every_pass_is_timed(line: str, channels_last: bool) -> None:
    timing = engine.time_problem(line, channels_last=channels_last)
    assert str(timing.problem) == line
    assert (
        tuple(each.open_ for each in timing.passes)
        == {
            "conv": (Pass.OUTPUT, Pass.INPUT_GRAD, Pass.WEIGHT_GRAD),
            "max_": (Pass.OUTPUT, Pass.POSITIONS, Pass.INPUT_GRAD),
            "avg_": (Pass.OUTPUT, Pass.INPUT_GRAD),
        }[line[:4]]
    )
    for each in timing.passes:
        assert "aten" in each.seconds
        assert "reference" not in each.seconds
        assert all(0 < seconds < 1 for seconds in each.seconds.values())
        assert not each.seconds.keys() & each.refusals.keys()
    assert json.loads(json.dumps(timing.to_dict()))["problem"] == line


def test_who_refuses_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.AtenBackend, "refusal", lambda *_: "on strike")
    assert engine.time_problem("conv1d 2x3x9 4x3x3", torch.float64).passes[0].refusals["aten"] == "on strike"


def test_only_floating_point_is_timed() -> None:
    with pytest.raises(OperandError, match=r"got torch\.int32; needed a floating-point dtype"):
        engine.time_problem("conv1d 2x3x9 4x3x3", torch.int32)


def test_shares_of_the_roofline() -> None:
    """100 operations a second, 10 bytes a second: the slower of the two is the ceiling."""
    machine = Roofline(flops=100.0, bandwidth=10.0, threads=1)
    assert machine.seconds(flops=200, bytes_=10) == 2
    assert machine.seconds(flops=20, bytes_=10) == 1
    timed = PassTiming(Pass.OUTPUT, flops=200, bytes_=10, seconds={"aten": 4.0}, refusals={})
    timing = Timing(parse(LINES[0]), torch.float32, False, machine, (timed,))
    assert timing.share(timed, "aten") == 0.5


@pytest.mark.parametrize(
    ("line", "dtype", "backend", "flops", "bytes_", "says"),
    [
        (LINES[0], torch.float32, "llvm", 10, 1 << 20, "stay in the processor's cache of 4.19 MB"),
        (LINES[0], torch.float32, "llvm", 10, 1 << 23, "a part stays in the processor's cache"),
        (LINES[0], torch.float32, "llvm", 10, 1 << 28, "memory was faster than in the copy"),
        (LINES[0], torch.float32, "winograd", 1 << 30, 10, "fewer multiplications than the definition"),
        (LINES[0], torch.float32, "aten", 1 << 30, 10, "faster than while its peak was measured"),
        (LINES[0], torch.bfloat16, "aten", 1 << 30, 10, "the peak was measured in float32"),
        (LINES[5], torch.float32, "aten", 1 << 30, 10, "one axis after the other"),
    ],
)
def test_a_share_above_the_roofline_has_a_reason(
    line: str, dtype: torch.dtype, backend: str, flops: int, bytes_: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(striate.engine.timing, "last_level_cache", lambda: 1 << 22)
    machine = Roofline(flops=100.0, bandwidth=10.0, threads=1)
    ceiling = machine.seconds(flops, bytes_)
    for share, reason in ((2.0, says), (1.006, says), (1.004, ""), (0.5, "")):
        timed = PassTiming(Pass.OUTPUT, flops, bytes_, {backend: ceiling / share}, {})
        timing = Timing(parse(line), dtype, False, machine, (timed,))
        assert reason in timing.above(timed, backend)
        assert bool(reason) == bool(timing.above(timed, backend))
        told = timing.to_dict()["passes"]["output"]["above_roofline"]  # type: ignore[index]
        assert told.keys() == ({backend} if reason else set())


def test_the_cache_is_known() -> None:
    assert 1 << 18 <= striate.engine.timing.last_level_cache() < 1 << 34


def test_operations_and_bytes_are_those_of_the_definition() -> None:
    passes = engine.time_problem("conv1d 1x2x4 3x2x3 padding=1").passes
    assert {each.flops for each in passes} == {2 * 2 * 3 * (4 * 3 - 2)}
    assert {each.bytes_ for each in passes} == {4 * (8 + 12 + 18)}


def test_the_machines_ceilings_leave_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    machine = roofline(1)
    assert torch.get_num_threads() == before
    assert machine.flops > machine.bandwidth / 8 > 1e7


def test_a_line_that_is_no_problem() -> None:
    with pytest.raises(GeometryError, match=r"^parse"):
        engine.time_problem("conv2d please")
