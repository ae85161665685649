"""What the README shows works: its Python runs, its files exist, its make targets and commands are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_python_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    exec("\n".join(blocks), {})


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) >= 4
    for link in links:
        assert (ROOT / link).exists(), link


def test_its_make_targets_and_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    program = "\n".join(path.read_text() for path in (ROOT / "src" / "striate" / "cli").glob("*.py"))
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    for command in set(re.findall(r"^striate (\w+)", shell, re.MULTILINE)):
        assert re.search(rf"^def {command}\(", program, re.MULTILINE), command


def test_it_says_where_the_program_is_before_it_calls_it() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    block = next(block for block in blocks if re.search(r"^striate ", block, re.MULTILINE))
    assert block.startswith("source .venv/bin/activate\n")


@pytest.mark.parametrize("target", ["demo", "demo-detection"])
def test_a_demo_ends_with_commands_as_they_can_be_typed(target: str, tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv" / ".installed").touch()
    striate = tmp_path / ".venv" / "bin" / "striate"
    striate.parent.mkdir()
    striate.write_text(f"#!/bin/sh\nmkdir -p runs/{target}/samples && touch runs/{target}/samples/01-7.png\n")
    striate.chmod(0o755)
    done = subprocess.run(["make", "-s", target], cwd=tmp_path, capture_output=True, text=True, check=True)
    commands = [line.strip() for line in done.stdout.partition("Next:\n")[2].splitlines()]
    wanted = {
        "demo": [
            ".venv/bin/striate predict runs/demo runs/demo/samples/*.png",
            ".venv/bin/striate explain runs/demo/samples/01-7.png --model runs/demo",
            ".venv/bin/striate studio",
            "source .venv/bin/activate && striate --help",
        ],
        "demo-detection": [
            ".venv/bin/striate predict runs/demo-detection runs/demo-detection/samples --out runs/demo-detection/found",
            ".venv/bin/striate evaluate runs/demo-detection --out runs/demo-detection/report",
        ],
    }
    assert commands == wanted[target]
