"""SIGKILL, which no program can answer, at many instants: the run that goes on ends as if nothing had been.

One process loads everything and then forks the runs that are to be killed, so that a kill costs a moment and not the
start of an interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the runs it kills")

DRIVER = """
import json, os, signal, stat, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from striate.training import Recipe, fit

folder, kills = Path(sys.argv[1]), json.loads(sys.argv[2])

def run(out):
    recipe = Recipe("lenet5", out=str(folder / out), epochs=3, batch_size=48, threads=1, checkpoint_every=0.0)
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
outcomes = []
for kind, value in kills:
    child = os.fork()
    if child == 0:
        if kind == "sync":
            die_at_sync(value)
        elif kind != "time":
            die_around(kind, value)
        run("killed")
        os._exit(0)
    if kind == "time":
        time.sleep(value)
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


def survive(folder: Path, kills: list[tuple[str, float | str]]) -> list[int | str]:
    """Kills a run again and again, lets it finish, and compares it with one that nobody touched."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), json.dumps(kills)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    whole = folder / "whole"
    for killed in folder.glob("killed*"):
        for name in ("weights.safetensors", "evaluation.json"):
            assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
        assert numbers(whole) == numbers(killed)
        assert [row["epoch"] for row in numbers(killed)] == [1, 2, 3]
        left = {path.name for path in killed.rglob("*")} - {".lock"}
        assert left == {path.name for path in whole.rglob("*")} - {".lock"}, "nothing half-written stays"
    outcomes: list[int | str] = json.loads(done.stdout)
    return outcomes


def test_a_few_kills(tmp_path: Path) -> None:
    # The first sync is that of settings.json, the third that of the first checkpoint.
    outcomes = survive(tmp_path, [("sync", 1), ("sync", 3), ("sync", 7), ("time", 0.4), ("sync", 9)])
    assert outcomes.count(9) >= 4


@pytest.mark.slow
def test_many_kills(tmp_path: Path) -> None:
    import random

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
