"""A run followed while it trains: its checkpoints as they come, its epochs, and what is kept of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import Begun

from striate.data import load
from striate.errors import RunError, StudioError
from striate.studio.live import Follower
from striate.training.folder import CHECKPOINT, METRICS
from striate.training.results import Epoch


def test_checkpoints_are_kept_as_they_come(tmp_path: Path) -> None:
    run = Begun(tmp_path)
    follower = Follower(tmp_path)
    assert not follower.look()
    assert follower.to_dict()["snapshots"] == []
    states = [run.checkpoint(0), None, run.epoch(1)]
    states[1] = states[0]
    assert not follower.look()
    assert not follower.look()  # the same checkpoint isn't taken twice
    states = [run.state(1)]
    states.append(run.checkpoint(2, done=17))
    follower.look()
    states.append(run.epoch(3))
    follower.look()
    told = follower.to_dict()
    assert [(each["epoch"], each["step"]) for each in told["snapshots"]] == [(1, 0), (1, 17), (2, 0)]
    for snapshot, state in zip(follower.snapshots(), states, strict=True):
        assert all(torch.equal(snapshot.state[name], tensor) for name, tensor in state.items())
    assert [Epoch.from_dict(each) for each in told["history"]] == list(run.history)
    final = run.finish(4)
    assert follower.look()
    assert follower.snapshot(None).final
    assert torch.equal(follower.snapshot(None).state["c1.weight"], final["c1.weight"])
    assert follower.to_dict()["finished"]
    assert len(follower.snapshots()) == 4


def test_what_is_half_written_waits_for_the_next_look(tmp_path: Path) -> None:
    run = Begun(tmp_path)
    run.epoch(0)
    follower = Follower(tmp_path)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[:1000])
    with open(tmp_path / METRICS, "a") as file:
        file.write('{"epoch": 2, "train_lo')
    assert not follower.look()
    assert follower.snapshots() == ()
    assert len(follower.history()) == 1
    (tmp_path / CHECKPOINT).write_bytes(whole)
    follower.look()
    assert len(follower.snapshots()) == 1


def test_a_thread_sees_what_is_written(tmp_path: Path) -> None:
    run = Begun(tmp_path)
    follower = Follower(tmp_path).start()
    assert follower.start() is follower
    run.epoch(0)
    run.finish(1)
    assert follower._thread is not None
    follower._thread.join(20)  # ends by itself once it has seen the end
    assert not follower._thread.is_alive()
    assert follower.snapshot(None).final


def test_memory_is_bounded_and_the_ends_stay(tmp_path: Path) -> None:
    run = Begun(tmp_path, epochs=40)
    run.epoch(0)
    one = sum(each.numel() * 4 for each in run.state(0).values())
    follower = Follower(tmp_path, kept=6 * one)
    for seed in range(1, 20):
        follower.look()
        run.epoch(seed)
    follower.look()
    kept = follower.snapshots()
    assert 3 <= len(kept) <= 6
    assert kept[0].number == 0
    assert kept[-1].number == 19
    assert [each.number for each in kept] == sorted(each.number for each in kept)
    with pytest.raises(StudioError, match="needed one of"):
        follower.snapshot(1000)


def test_kernels_and_confusion_are_the_snapshots(tmp_path: Path) -> None:
    run = Begun(tmp_path)
    state = run.epoch(5)
    follower = Follower(tmp_path)
    follower.look()
    snapshot = follower.snapshot(None)
    assert torch.equal(follower.kernels(snapshot, "c1"), state["c1.weight"])
    with pytest.raises(StudioError, match="needed a convolution"):
        follower.kernels(snapshot, "f6")
    told = follower.confusion(snapshot)
    assert follower.confusion(snapshot) is told
    model = follower.model(snapshot)
    test = load("digits", fit=run.settings.preprocessing.how, channels=1).test
    with torch.no_grad():
        said = model(run.settings.normalization(test.images)).argmax(1)
    counts = torch.zeros(10, 10, dtype=torch.int64)
    for label, guess in zip(test.labels.tolist(), said.tolist(), strict=True):
        counts[label, guess] += 1
    assert told["confusion"] == counts.tolist()
    assert told["n"] == len(test)
    run.finish(6)
    follower.look()
    final = follower.confusion(follower.snapshot(None))
    assert final["n"] == 40
    assert final["accuracy"] == pytest.approx(34 / 40)


def test_folders_without_a_run_get_a_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run in there"):
        Follower(tmp_path)
    Begun(tmp_path)
    with pytest.raises(StudioError, match="has no checkpoint yet"):
        Follower(tmp_path).snapshot(None)
