"""Every command that takes ``--device`` says on the GPU what it says on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from striate.cli import main
from striate.cli.commands import app
from striate.training import Run

PROGRAM: Any = typer.main.get_command(app)
#: What each is called with; a run, one of its images and a folder to write to come in.
ARGUMENTS = {
    "train": "lenet5 --epochs 1 --batch-size 64 --threads 1 --quiet --out {out}/trained",
    "evaluate": "{run} --tta",
    "predict": "{run} {image} --tta --top 10",
    "explain": "{image} --model {run} --target 3 --out {out}/why.png",
    "robustness": "{run} --images 12 --attack",
    "equivariance": "{run} --image {image} --shifts 1,2",
    "field": "{run} --at s4,1,1 --image {image} --effective --out {out}/field.png",
    "summary": "{run}",
    "checkerboard": "{run}",
    "export": "{run} --out {out}/model.onnx",
}
TAKE_DEVICES = [
    name
    for name, command in PROGRAM.commands.items()
    if any("--device" in parameter.opts for parameter in command.params)
]
#: Told of a result, and different on other devices.
_WHERE = ("device", "seconds", "tolerance")


@pytest.mark.parametrize("name", TAKE_DEVICES)
def test_a_command_on_a_device(
    name: str, run: Run, image: Path, device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for where in ("cpu", str(device)):
        out = tmp_path / f"{where}-{len(told)}"
        out.mkdir()
        words = ARGUMENTS[name].format(run=run.path, image=image, out=out).split()
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([name, *words, "--device", where, "--json"])
        output, errors = capsys.readouterr()
        assert left.value.code == 0, errors
        told.append(json.loads(output.replace(str(out), "OUT")))
    assert_alike(told[1], told[0])


def assert_alike(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in found.keys() - set(_WHERE):
            assert_alike(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=0.02, abs=5e-3)
    else:
        assert found == expected
