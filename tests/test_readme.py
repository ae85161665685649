"""What the README shows works: its Python runs, its files exist, its make targets and commands are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


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
