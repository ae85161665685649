"""The scripts of the handbook run: every number that they assert holds."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt

DOCS = Path(__file__).parent.parent.parent / "docs"
SCRIPTS = sorted(path for folder in ("exercises", "chapters", "tour") for path in DOCS.glob(f"{folder}/plot_*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_it_runs(path: Path) -> None:
    matplotlib.use("agg")
    torch.use_deterministic_algorithms(False)
    try:
        runpy.run_path(str(path))
    finally:
        plt.close("all")


def test_the_scripts_are_found() -> None:
    assert len([path for path in SCRIPTS if path.parent.name == "exercises"]) == 20


@pytest.mark.parametrize("name", ["start", "designer", "engineer"])
def test_python_in_guides_runs_and_prints_what_it_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / f"{name}.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
    printed = capsys.readouterr().out.replace(",", "")
    for said in re.findall(r"^print\(.*?\)  # ([\d(].*)$", "\n".join(blocks), re.MULTILINE):
        assert said.replace(",", "") in printed
