"""SIGKILL, which no program can answer, at many instants: the run that goes on ends as if nothing had been.

One process loads everything and then forks the runs that are to be killed, so that a kill costs a moment and not the
start of an interpreter.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny_networks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the runs it kills")

DRIVER = """
import json, os, signal, stat, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[4])
import tiny_networks
from striate.training import Recipe, fit

tiny_networks.register()
folder, kills, settings = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])

def run(out):
    recipe = Recipe(out=str(folder / out), epochs=3, threads=1, checkpoint_every=0.0, **settings)
    return fit(recipe, resume=True, quiet=True)

def die_at_sync(number):
    # A file is synced once it is written: half of it is what a kill in the middle of that leaves.
    sync, calls = os.fsync, 0
    def fsync(descriptor):
        nonlocal calls
        calls += 1
        if calls == number:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                os.ftruncate(descriptor, status.st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)
    os.fsync = fsync

def die_around(moment, name):
    replace = os.replace
    def dying(source, target):
        if moment == "after":
            replace(source, target)
        if os.path.basename(target) == name:
            os.kill(os.getpid(), signal.SIGKILL)
        if moment == "before":
            replace(source, target)
    os.replace = dying

run("whole")
began = time.monotonic()
if any(kind == "share" for kind, _ in kills):
    run("again")  # how long a run takes where all is loaded
seconds = time.monotonic() - began
outcomes = []
for kind, value in kills:
    child = os.fork()
    if child == 0:
        if kind == "sync":
            die_at_sync(value)
        elif kind not in ("time", "share"):
            die_around(kind, value)
        run("killed")
        os._exit(0)
    if kind in ("time", "share"):
        time.sleep(value * (seconds if kind == "share" else 1))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    outcomes.append(os.WTERMSIG(status) if os.WIFSIGNALED(status) else "finished")
    if status == 0:  # the kill came too late: keep the run for comparison, and let the next kill meet a new one
        (folder / "killed").rename(folder / f"killed-{len(outcomes)}")
run("killed")
print(json.dumps(outcomes))
"""


def numbers(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


#: A network and data for each task.
RUNS: dict[str, dict[str, Any]] = {
    "classification": {"model": "lenet5", "batch_size": 48},
    "few images": {"model": "lenet5", "batch_size": 48, "test_fraction": 0.9},
} | {
    task: {"model": name, "data": tiny_networks.SOURCE, "batch_size": 8, "augment": "flip"}
    for task, name in tiny_networks.NETWORKS.items()
}


def survive(folder: Path, kills: list[tuple[str, float | str]], task: str = "classification") -> list[int | str]:
    """Kills a run again and again, lets it finish, and compares it with one that nobody touched.

    Args:
        folder: where the runs lie.
        kills: a kind and a value each: ``"time"`` after so many seconds; ``"share"`` after so much of the time that a
            run takes; ``"sync"`` when so many files are about to be synced; ``"before"`` and ``"after"`` a file of that
            name is put in its place.
        task: which of :data:`RUNS`.
    """
    arguments = [str(folder), json.dumps(kills), json.dumps(RUNS[task]), str(Path(tiny_networks.__file__).parent)]
    done = subprocess.run([sys.executable, "-c", DRIVER, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    whole = folder / "whole"
    results = [path.name for path in whole.iterdir() if path.suffix in (".safetensors", ".jsonl")]
    results = sorted({*results, "evaluation.json"} - {"metrics.jsonl"})
    assert "weights.safetensors" in results
    for killed in folder.glob("killed*"):
        for name in results:
            assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
        assert numbers(whole) == numbers(killed)
        assert [row["epoch"] for row in numbers(killed)] == [1, 2, 3]
        left = {path.name for path in killed.rglob("*")} - {".lock"}
        assert left == {path.name for path in whole.rglob("*")} - {".lock"}, "nothing half-written stays"
    outcomes: list[int | str] = json.loads(done.stdout)
    return outcomes


def test_two_kills(tmp_path: Path) -> None:
    # The first sync is that of settings.json, the third that of the first checkpoint.
    assert survive(tmp_path, [("sync", 3), ("sync", 7)], "few images") == [9, 9]


@pytest.mark.slow
def test_a_few_kills(tmp_path: Path) -> None:
    outcomes = survive(tmp_path, [("sync", 1), ("sync", 3), ("sync", 7), ("time", 0.4), ("sync", 9)])
    assert outcomes.count(9) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("task", tiny_networks.NETWORKS)
def test_each_task_survives_two_kills(task: str, tmp_path: Path) -> None:
    assert survive(tmp_path, [("sync", 5), ("share", 0.4)], task).count(9) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("task", tiny_networks.NETWORKS)
def test_each_task_survives_many_kills(task: str, tmp_path: Path) -> None:
    generator = random.Random(task)
    kills: list[tuple[str, float | str]] = [("share", generator.uniform(0.0, 1.0)) for _ in range(20)]
    assert survive(tmp_path, kills, task).count(9) >= 12


@pytest.mark.slow
def test_many_kills(tmp_path: Path) -> None:
    generator = random.Random(0)
    kills: list[tuple[str, float | str]] = [("sync", number) for number in range(1, 13)]
    kills += [("time", generator.uniform(0.0, 0.5)) for _ in range(20)]
    generator.shuffle(kills)
    assert survive(tmp_path, kills).count(9) >= 12, "each of the first kind"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "name",
    [
        "settings.json",
        "checkpoint.safetensors",
        "metrics.jsonl",
        "weights.safetensors",
        "index.json",
        "evaluation.json",
    ],
)
def test_a_kill_around_every_kind_of_file(moment: str, name: str, tmp_path: Path) -> None:
    assert survive(tmp_path, [(moment, name)]) == [9]
