"""Several processes: the loss curve of one, the same bits after a resume, and an end with one line when one is killed.

One process loads everything and then forks those that train together, which costs a moment and not two interpreters.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tiny_networks
from striate.training import Recipe, Run, fit
from tiny_networks import NETWORKS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the processes that train together")

DRIVER = """
import json, os, signal, sys
import torch
from torch.distributed import TCPStore
torch.set_num_threads(1)
from striate.errors import StriateError
from striate.training import Recipe, fit
from striate.training.loop import Training

sys.path.insert(0, sys.argv[2])
import tiny_networks
tiny_networks.register()
settings, size, kill = json.loads(sys.argv[1])
# They meet, as torchrun's processes do, at a port that is open already: one that is only found to be free may be taken
# by another test before it is opened. They are forked before, when there are no threads.
asked, told = os.pipe()
children = []
for number in range(size):
    if (child := os.fork()) == 0:
        os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(size),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.read(asked, 5).decode(),
                       "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        if number == size - 1 and kill:
            step = Training._step
            def dying(self, *arguments):
                if self.done + len(self.history) * len(self.batches) == kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                step(self, *arguments)
            Training._step = dying
        try:
            fit(Recipe(**settings), resume=True, quiet=True)
        except StriateError as error:
            print(error, file=sys.stderr)
            os._exit(2)
        os._exit(0)
    children.append(child)
meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
os.write(told, b"%05d" % meeting.port * size)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def together(size: int, kill: int = 0, **settings: Any) -> tuple[list[int], str]:
    """Exit codes of the processes, and what they said."""
    arguments = json.dumps([settings, size, kill])
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, arguments, str(Path(tiny_networks.__file__).parent)],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def settings(out: Path, **more: Any) -> dict[str, Any]:
    return {"model": "lenet5", "out": str(out), "epochs": 1, "batch_size": 100, "threads": 1, "device": "cpu", **more}


MIXED = {"augment": "digits", "mixup": 0.2, "ema": 0.9, "accumulate": 2}


@pytest.mark.parametrize(
    ("size", "tested"), [(2, 0.8), *(pytest.param(size, 0.2, marks=pytest.mark.slow) for size in (2, 3))]
)
def test_the_loss_curve_of_one(size: int, tested: float, tmp_path: Path) -> None:
    """The last batch of an epoch, of fewer images, and images mixed across processes."""
    more = {**MIXED, "test_fraction": tested}
    codes, said = together(size, **settings(tmp_path / "many", **more))
    assert (codes, said) == ([0] * size, "")
    many, one = Run.open(tmp_path / "many"), fit(Recipe(**settings(tmp_path / "one", **more)), quiet=True)
    assert many.settings.processes == size
    for mine, theirs in zip(many.history, one.history, strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
        assert mine.test_loss == pytest.approx(theirs.test_loss, rel=1e-4)
        assert mine.train_accuracy == pytest.approx(theirs.train_accuracy, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("task", NETWORKS)
def test_the_loss_curve_of_one_of_each_task(task: str, tmp_path: Path) -> None:
    """An odd last batch, so that one process has a picture more."""
    more = {"model": NETWORKS[task], "data": "scenes:32,23,6", "batch_size": 8, "epochs": 2, "augment": "flip"}
    codes, said = together(2, **settings(tmp_path / "many", **more))
    assert (codes, said) == ([0, 0], "")
    tiny_networks.register()
    try:
        many, one = Run.open(tmp_path / "many"), fit(Recipe(**settings(tmp_path / "one", **more)), quiet=True)
    finally:
        tiny_networks.forget()
    assert many.settings.processes == 2
    assert len(many.history) == 2
    for mine, theirs in zip(many.history, one.history, strict=True):
        assert mine.train == pytest.approx(theirs.train, rel=1e-4)
        assert mine.held_out == pytest.approx(theirs.held_out, abs=1e-3)
    assert many.evaluation == one.evaluation or task == "semantic"


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_a_line_and_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    plan = settings(tmp_path / "killed", checkpoint_every=0.0, augment="flip-crop", epochs=2)
    began = time.monotonic()
    codes, said = together(2, kill=20, **plan)
    assert time.monotonic() - began < 60
    assert codes == [2, -9]
    assert said.count("\n") == 1
    assert "process 0 of 2: lost another one (" in said
    assert "start all anew with --resume" in said
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    assert together(2, **plan) == ([0, 0], "")
    whole = settings(tmp_path / "whole", checkpoint_every=0.0, augment="flip-crop", epochs=2)
    assert together(2, **whole) == ([0, 0], "")
    for name in ("weights.safetensors", "evaluation.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
