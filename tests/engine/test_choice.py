"""One chooser for every kind of problem: what it takes, why, and what it says about it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import striate
from striate import engine, ops
from striate.engine import Pass, choice, tuning
from striate.engine.choice import Asked, Implementation
from striate.errors import BackendError, GeometryError
from striate.geometry import ConvPoolShape, ConvShape, NormShape, PoolShape, parse_any

PROBLEMS = [
    "conv2d 2x8x9x9 16x8x3x3 padding=1",
    "max_pool2d 2x8x9x9 kernel=3 stride=2 padding=1",
    "avg_pool1d 2x8x9 kernel=2 stride=2",
    "batch_norm 4x8x9x9",
    "batch_norm 4x8 elu:0.5 residual training",
    "conv_max_pool2d 8x1x28x28 6x1x5x5 padding=2 then kernel=2 stride=2 relu",
    "conv_max_pool1d 8x3x40 6x3x5 then kernel=2 stride=2",
]


@pytest.mark.parametrize("line", PROBLEMS)
def test_every_problem_prints_as_a_line_that_parses_back(line: str) -> None:
    problem = parse_any(line)
    assert str(problem) == line
    assert parse_any(str(problem)) == problem
    assert hash(parse_any(line)) == hash(problem)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "batch_norm",
        "batch_norm 4",
        "batch_norm 4x-8x9",
        "batch_norm 4x8x9 relu tanh",
        "conv_max_pool2d 8x1x28x28 6x1x5x5",
        "conv_max_pool2d 8x1x28x28 6x1x5x5 then",
        "conv_max_pool2d 8x1x28x28 6x1x5x5 then kernel=2 relu tanh",
        "conv_max_pool3d 8x1x28x28 6x1x5x5 then kernel=2",
    ],
)
def test_other_lines_are_errors(line: str) -> None:
    with pytest.raises(GeometryError, match="needed"):
        parse_any(line)


@pytest.mark.parametrize("line", PROBLEMS)
def test_every_problem_is_explained(line: str) -> None:
    told = engine.explain(line)
    assert set(told.chosen) == set(engine.passes(parse_any(line)))
    for open_, name in told.chosen.items():
        assert name is not None
        assert told.refusals[open_][name] is None
        assert told.why[open_] in ("by rule", "no other accepts")
    assert str(told).startswith(line)


def asked(line: str = "batch_norm 4x8x9x9 training", open_: Pass = Pass.OUTPUT, **how: object) -> Asked:
    return Asked(parse_any(line), open_, **how)  # type: ignore[arg-type]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch):
    """Puts other implementations in the place of those of batch normalisation."""

    def put(*made: Implementation) -> None:
        choice.forget()
        monkeypatch.setitem(choice._FAMILIES, NormShape, lambda _: list(made))

    yield put
    choice.forget()


def test_the_only_one_that_accepts_is_taken(listed) -> None:
    listed(Implementation("one", "is one"), Implementation("other", recommended=False))
    found = choice.choose(asked(), None)
    assert (found.name, found.why) == ("other", "no other accepts")
    assert found.refusals == {"one": "is one"}
    assert "one: is one" in str(found)


def test_the_rule_takes_the_first_that_it_recommends_else_the_last(listed) -> None:
    listed(Implementation("a", recommended=False), Implementation("b"), Implementation("c"))
    assert choice.choose(asked(), None).name == "b"
    listed(Implementation("a", recommended=False), Implementation("b", recommended=False))
    assert (found := choice.choose(asked(), None)).name == "b"
    assert found.why == "by rule"


def test_nothing_that_accepts_is_an_error_with_all_reasons(listed) -> None:
    listed(Implementation("a", "is a"), Implementation("b", "is b"))
    with pytest.raises(BackendError, match="a: is a; b: is b"):
        choice.choose(asked(), None)


@pytest.mark.parametrize(
    ("times", "name"),
    [
        ({"new": 1e-3, "aten": 2e-3}, "new"),
        ({"new": 1.99e-3, "aten": 2e-3}, "aten"),  # within noise
        ({"new": 2e-3, "aten": 1e-3}, "aten"),
    ],
)
def test_measured_times_decide_and_the_first_has_to_be_beaten(
    listed, times: dict[str, float], name: str, monkeypatch: pytest.MonkeyPatch, measuring: None
) -> None:
    listed(Implementation("new"), Implementation("aten"))
    monkeypatch.setattr(tuning, "in_turns", lambda candidates, *_: {each: times[each] for each in candidates})
    found = choice.choose(asked("batch_norm 4x8x9x11 training"), lambda name: lambda: None)
    assert (found.name, found.why, found.seconds) == (name, "measured", times)
    assert "measured (new" in str(found)


def test_an_implementation_is_prepared_only_to_be_measured(
    listed, monkeypatch: pytest.MonkeyPatch, measuring: None
) -> None:
    listed(Implementation("new"), Implementation("aten"))
    prepared = []

    def runs(name: str):
        prepared.append(name)
        return lambda: None

    line = "batch_norm 4x8x9x13 training"
    choice.choose(asked(line), runs)
    assert sorted(prepared) == ["aten", "new"]
    choice.forget()
    choice.choose(asked(line), runs)  # times are known
    assert len(prepared) == 2


def test_choices_of_the_process_are_listed() -> None:
    choice.forget()
    ops.conv2d(torch.zeros(1, 2, 6, 7), torch.zeros(3, 2, 3, 3))
    found = [each for each in engine.choices() if each.asked.problem == ConvShape.of((1, 2, 6, 7), (3, 2, 3, 3))]
    assert [each.asked.open_ for each in found] == [Pass.OUTPUT]
    assert found[0].name in engine.backends()


def test_blocks_normalisation_and_plans_ask_the_same_chooser(planning: None) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.BatchNorm2d(3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 32, 3, padding=1),
        torch.nn.BatchNorm2d(32),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3, padding=1),
    )
    striate.accelerate(model)
    x = torch.randn(2, 3, 12, 14)
    choice.forget()
    model(x).sum().backward()
    kinds = {type(each.asked.problem) for each in engine.choices()}
    assert kinds >= {ConvShape, NormShape, ConvPoolShape}
    with torch.no_grad():
        model.eval()
        for _ in range(4):
            model(x)
    assert any(each.asked.open_ is Pass.PACKED for each in engine.choices())


@pytest.mark.parametrize(("fixed", "name"), [("llvm", "llvm"), ("aten", "aten"), ("matmul", "aten")])
def test_a_fixed_backend_holds_for_normalisation(fixed: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`explain` says what is fixed, and that computes it, where the rule would take kernels."""
    assert set(engine.explain("batch_norm 8x16x32x32 training").chosen.values()) == {"llvm"}
    taken = []
    for each, function in (("llvm", "_generated"), ("aten", "_composed")):
        real = getattr(ops.norm, function)
        monkeypatch.setattr(ops.norm, function, lambda *a, each=each, real=real: taken.append(each) or real(*a))
    with engine.use(fixed):
        assert set(engine.explain("batch_norm 8x16x32x32 training").chosen.values()) == {name}
        x = torch.randn(8, 16, 32, 32)
        found = ops.norm.batch_norm(x, None, None, None, None, True, 0.1, 1e-5)
    assert taken == [name]
    torch.testing.assert_close(found, F.batch_norm(x, None, None, training=True), rtol=1e-4, atol=1e-5)


def test_a_block_says_why_it_is_not_one() -> None:
    conv = ConvShape.of((2, 4, 12, 12), (6, 2, 3, 3), groups=2)
    block = ConvPoolShape(conv, PoolShape.of("max", conv.output_shape, 2, 2), "relu")
    told = engine.explain(block)
    assert set(told.chosen.values()) == {"separate"}
    assert told.refusals[Pass.POSITIONS]["apart"] == "has kernels for one group of channels"


def test_the_environment_asks_for_a_line_for_each_choice(tmp_path: Path) -> None:
    code = "import torch, striate; striate.ops.conv2d(torch.zeros(1, 2, 6, 7), torch.zeros(3, 2, 3, 3))"
    environment = {"STRIATE_LOG": "choices", "STRIATE_TUNE": "0", "STRIATE_CACHE_DIR": str(tmp_path), "PATH": ""}
    environment["PYTHONPATH"] = ":".join(sys.path)
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    lines = [line for line in ran.stderr.splitlines() if line.startswith("striate: conv2d 1x2x6x7 3x2x3x3")]
    assert any(", output: " in line and ", by rule" in line for line in lines)
