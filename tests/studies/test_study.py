"""The framework: a verdict is computed, a run says how it was made, and the command prints and draws it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from striate import nn, studies
from striate.cli import main
from striate.errors import StudyError
from striate.report import studies as report
from striate.studies import Bars, Check, Curve, Curves, Finding, Measured, Pictures, Say
from striate.studies.digits import accuracy, digits, train
from striate.studies.study import _STUDIES


def experiment(seeds: Sequence[int], say: Say) -> Finding:
    say(f"seeds {list(seeds)}")
    values = [float(torch.rand(1)) + seed for seed in seeds]
    image = np.eye(3)
    return Finding(
        (Measured.of("drawn", values, "nats"), Measured("count", 12_345), Measured("none", float("nan"))),
        (Check("a number below 9", max(values) < 9), Check("[a] number below 0", max(values) < 0)),
        ("It is random.",),
        (
            Curves("lines", "x", "y", (Curve("a", (1, 2), (3, 4), (0.1, 0.1)), Curve("b", (1, 2), (1, 2))), True, True),
            Bars("bars", "x", ("a", "b"), (1.0, 2.0), (None, 0.1), reference=(1.5, "middle")),
            Bars("dots", "x", ("a", "b"), (91.0, 92.0), (1.0, None), span=(90, 100)),
            Pictures("pictures", (image, -image, 0 * image), ("1", "2", "3"), 2, signed=True),
        ),
    )


@pytest.fixture
def mine() -> Iterator[str]:
    studies.study("mine", "Numbers are small.")(experiment)
    yield "mine"
    del _STUDIES["mine"]


@pytest.mark.parametrize(
    ("held", "verdict"),
    [((True, True), "holds"), ((True, False), "holds in part"), ((False,), "does not hold")],
)
def test_verdict_follows_from_the_checks(held: tuple[bool, ...], verdict: str) -> None:
    assert Finding((), tuple(Check("", each) for each in held)).verdict == verdict


def test_a_finding_without_checks_has_no_verdict() -> None:
    with pytest.raises(ValueError, match="needs a check"):
        Finding((), ())


def test_spread_is_the_deviation() -> None:
    row = Measured.of("x", [1.0, 2.0, 6.0])
    assert (row.value, row.spread, row.n) == (3.0, pytest.approx(np.std([1, 2, 6], ddof=1)), 3)
    assert Measured.of("x", [1.0]).spread is None


def test_run_says_how_it_was_made_and_repeats(mine: str) -> None:
    lines: list[str] = []
    before = torch.get_rng_state()
    first, second = studies.run(mine, 3, lines.append), studies.run(mine, 3)
    assert torch.equal(before, torch.get_rng_state()), "the caller's generator is left alone"
    assert lines == ["seeds [0, 1, 2]"]
    assert first.finding.rows[0] == second.finding.rows[0]
    assert first.finding.verdict == "holds in part"
    found = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert found["rows"][2]["value"] is None
    assert found["seeds"] == [0, 1, 2]
    assert found["versions"].keys() >= {"torch", "striate"}
    assert found["seconds"] > 0


def test_mistakes_are_one_line(mine: str) -> None:
    with pytest.raises(StudyError, match="did you mean two-3x3"):
        studies.run("two-3-3")
    with pytest.raises(StudyError, match="got 1 seeds; needed 2 or more"):
        studies.run(mine, 1)
    with pytest.raises(StudyError, match="a study named 'mine' exists"):
        studies.study("mine", "")(experiment)


def test_tables_and_figure(mine: str) -> None:
    outcome = studies.run(mine)
    console = Console(file=io.StringIO(), width=120)
    for each in (report.verdict(outcome), report.numbers(outcome), report.circumstances(outcome)):
        console.print(each)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("holds in part", "[a] number below 0", "12,345", "spread", "nats", "It is random.", "seeds 0, 1, 2"):
        assert words in text
    figure = report.figure(outcome)
    titles = [axes.get_title() for axes in figure.axes]
    assert {"lines", "bars", "dots", "1", "2", "3"} <= set(titles)


def test_the_command(mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["study", *arguments])
        return left.value.code, *capsys.readouterr()

    code, output, errors = says(mine, "--seeds", "2", "--out", str(tmp_path / "a.png"))
    assert (code, errors) == (0, "seeds [0, 1]\n")
    assert "holds in part" in output
    assert Image.open(tmp_path / "a.png").size[0] > 500
    assert json.loads(says(mine, "--json")[1])["verdict"] == "holds in part"
    assert "Numbers are small." in says()[1]
    assert json.loads(says("--json")[1])["mine"] == "Numbers are small."
    code, output, errors = says("min")
    assert (code, output) == (2, "")
    assert errors.count("\n") == 1
    assert "did you mean mine?" in errors


def test_every_study_has_a_claim() -> None:
    known = studies.studies()
    assert {"conv-vs-dense", "two-3x3", "depthwise", "estimators", "information-plane"} <= known.keys()
    assert all(each.claim.endswith(".") and each.name == name for name, each in known.items())


def test_training_learns_and_repeats() -> None:
    data = digits(0)
    states, epochs = [], []
    for _ in range(2):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 10)
        )
        train(network, data.images, data.labels, seed=0, epochs=3, after_epoch=epochs.append)
        states.append(network.state_dict())
    assert accuracy(network, data.test_images, data.test_labels) > 0.85
    assert epochs == [1, 2, 3, 1, 2, 3]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert abs(float(data.images.mean())) < 1e-4
    assert not torch.equal(digits(1).labels, data.labels)


def test_augmentation_is_given_batches_and_a_generator() -> None:
    seen: list[int] = []

    def augment(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(len(batch))
        return batch + torch.rand(batch.shape, generator=generator)

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    data = digits(0)
    train(network, data.images[:100], data.labels[:100], seed=0, epochs=1, augment=augment)
    assert seen == [64, 36]
    assert not network.training
