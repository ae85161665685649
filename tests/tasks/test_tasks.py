"""Every task goes through the same training: it learns, stops and goes on to the same bits, tests, predicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny_networks
from cases import quick_but, slow_but
from striate import models, tasks
from striate.data import load
from striate.errors import DataError, RunError
from striate.tasks.finding import find
from striate.tasks.maps import MapMeasures
from striate.tasks.objects import ObjectMeasures
from striate.tasks.pictures import Shown
from striate.tasks.semantic import map_loss
from striate.tasks.task import Goal, pieces
from striate.training import Recipe, Run, fit
from striate.training.assess import assess_run
from striate.training.distributed import Team
from striate.training.loop import Interrupted, Training
from striate.training.run import task_of
from striate.training.update import Updates
from tiny_networks import NETWORKS, SOURCE


@pytest.fixture(autouse=True)
def _networks() -> Iterator[None]:
    tiny_networks.register()
    yield
    tiny_networks.forget()


def recipe(task: str, out: Path, **settings: Any) -> Recipe:
    given = {"epochs": 2, "batch_size": 8, "threads": 1, "data": SOURCE, **settings}
    return Recipe(NETWORKS[task], out=str(out), **given)


@pytest.mark.formula("S25")
@pytest.mark.parametrize("task", NETWORKS)
def test_a_run_of_each_task_leaves_what_it_measured(task: str, tmp_path: Path) -> None:
    run = fit(recipe(task, tmp_path / "run", augment="flip"), quiet=True)
    measure = run.task.goal.measure
    assert [epoch.train_loss > 0 for epoch in run.history] == [True, True]
    assert 0 <= run.history[-1].held_out[measure] <= 1
    opened = Run.open(run.path)
    assert opened.evaluation == run.evaluation
    assert isinstance(run.evaluation, MapMeasures if task == "semantic" else ObjectMeasures)
    assert (
        run.evaluation.classes == run.classes == (("background",) if task == "semantic" else ()) + tuple("0123456789")
    )
    if task == "semantic":
        assert run.evaluation.mean_iou == run.history[-1].test_mIoU
        assert any((run.path / "maps").iterdir())
    else:
        assert run.evaluation.main.ap == run.history[-1].test_AP
        assert len((run.path / "detections.jsonl").read_text().splitlines()) == 6
        losses = sum(run.history[-1].train[f"loss_{name}"] for name in ("classifier", "box"))
        assert run.history[-1].train_loss == pytest.approx(losses)
    assert run.outcome is not None
    assert all(isinstance(each, Shown) for each in run.outcome.examples)
    assert sorted(path.suffix for path in (run.path / "samples").iterdir()) == [".json"] + [".png"] * 6
    assert assess_run(opened).evaluation == run.evaluation


@pytest.mark.parametrize(
    ("step", "task"),
    [
        pytest.param(step, task, marks=[pytest.mark.slow] * ((task, step) != ("detection", 1)))
        for step in (1, 4)
        for task in NETWORKS
    ],
)
def test_a_stopped_run_ends_with_the_same_bits(
    task: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(recipe(task, tmp_path / "whole", augment="flip+colour"), quiet=True)
    taken, original = 0, Training._step

    def stopping(self: Training, *arguments: Any) -> None:
        nonlocal taken
        taken += 1
        original(self, *arguments)
        self.stop.asked = taken == step

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_step", stopping)
        with pytest.raises(Interrupted):
            fit(recipe(task, tmp_path / "cut", augment="flip+colour"), quiet=True)
    cut = fit(recipe(task, tmp_path / "cut", augment="flip+colour"), resume=True, quiet=True)
    first, second = (load_file(run.path / "weights.safetensors") for run in (whole, cut))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [each.train for each in whole.history] == [each.train for each in cut.history]
    assert whole.evaluation == cut.evaluation


@pytest.mark.parametrize("task", quick_but(NETWORKS, ["detection", "instance"]))
def test_parts_of_a_batch_add_up_to_the_whole(task: str, tmp_path: Path) -> None:
    whole, parts = (
        fit(recipe(task, tmp_path / f"{count}", epochs=1, accumulate=count), quiet=True) for count in (1, 4)
    )
    assert parts.history[0].train_loss == pytest.approx(whole.history[0].train_loss, rel=1e-5)
    first, second = (load_file(run.path / "weights.safetensors") for run in (whole, parts))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", slow_but(NETWORKS, ["instance", "detection"]))
def test_files_are_looked_at_at_their_own_size(task: str, tmp_path: Path) -> None:
    run = fit(recipe(task, tmp_path / "run", epochs=1), quiet=True)
    picture = run.path / "samples" / "01.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    large = tmp_path / "large.png"
    from PIL import Image

    Image.open(picture).resize((90, 50)).save(large)
    found = list(find(run.task, run.model(), run.preprocessing, [picture, broken, large]))  # type: ignore[arg-type]
    assert [each.error is None for each in found] == [True, False, True]
    sizes = [
        tuple(each.found.shape) if isinstance(each.found, Tensor) else each.found.size
        for each in found
        if each.found is not None
    ]
    assert sizes == [(32, 32), (50, 90)]


def test_a_task_refuses_images_without_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="have one label an image; needed boxes of objects"):
        fit(recipe("detection", tmp_path / "a", data="digits"), quiet=True)
    with pytest.raises(DataError, match="needed one label an image"):
        fit(Recipe("lenet5", data=SOURCE, out=str(tmp_path / "b")), quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [("mixup", 0.2), ("class_weights", "balanced"), ("label_smoothing", 0.1)])
def test_settings_of_another_task_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"{name}: got .*; needed none: tiny_detector is for detection"):
        fit(recipe("detection", tmp_path / "a", **{name: value}), quiet=True)
    assert name in tasks.task_settings()


def test_settings_reach_the_task() -> None:
    task = task_of(Recipe("lenet5", mixup=0.3, label_smoothing=0.0))
    assert (task.mixup, task.label_smoothing, task.name) == (0.3, 0.0, "classification")  # type: ignore[attr-defined]


def test_a_pictures_share_in_the_loss_of_maps_is_its_own() -> None:
    scores, truth = torch.randn(3, 4, 5, 6), torch.randint(0, 4, (3, 5, 6))
    truth[0, :4], truth[2] = 255, 255
    alone = [map_loss(scores[n : n + 1], truth[n : n + 1]) for n in range(3)]
    assert float(alone[2]) == 0
    torch.testing.assert_close(map_loss(scores, truth), torch.stack(alone).mean())
    expected = torch.nn.functional.cross_entropy(scores[1:2], truth[1:2])
    shares = scores[1].softmax(0)
    for label in truth[1].unique():
        there, share = truth[1] == label, shares[label]
        overlap = (2 * share[there].sum() + 1) / (share.sum() + there.sum() + 1)
        expected = expected + 3 * (1 - overlap) / len(truth[1].unique())
    torch.testing.assert_close(alone[1], expected)


@pytest.mark.parametrize("task", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_process_without_images_takes_part_in_a_step_and_changes_nothing(task: str, channels: int) -> None:
    model = models.create(NETWORKS[task], in_channels=channels)
    images = load("scenes:32,4,2").train
    images = replace(images, channels=channels)
    given = Recipe(NETWORKS[task], weight_decay=0.0, engine="aten")
    updates = Updates(model, given, task_of(given), images, Team())
    before = [parameter.clone() for parameter in model.parameters()]
    measured = updates.step([], [], rate=0.1, number=0, whole=4)
    assert all(float(value) == 0 for value in measured.values())
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_goals_and_pieces() -> None:
    assert Goal("loss", rising=False).best([0.3, 0.1, 0.1]) == 2
    assert Goal("AP", rising=True).best([]) == 0
    assert pieces(list("abcde"), 2) == [["a", "b", "c"], ["d", "e"]]
    assert [part.tolist() for part in pieces(torch.arange(5), 2)] == [[0, 1, 2], [3, 4]]


def test_records_are_json(tmp_path: Path) -> None:
    run = fit(recipe("instance", tmp_path / "run", epochs=1), quiet=True)
    fields = json.loads((run.path / "evaluation.json").read_text())
    assert ObjectMeasures.from_dict(fields) == run.evaluation
    assert run.evaluation.masks is not None
