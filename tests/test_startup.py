"""What a command loads, told by the modules that a process has at its end: seconds hang on the machine, these don't."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cases import slow_but

#: What costs a tenth of a second or more to import.
HEAVY = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "pandas", "sympy", "PIL", "onnx", "torch._dynamo"}


def heavy(*arguments: str) -> set[str]:
    """Of the heavy modules those that ``striate ARGUMENTS`` imports."""
    code = (
        "import sys\n"
        "from striate.cli import main\n"
        "try:\n"
        f"    main({[*arguments]!r})\n"
        "except SystemExit as left:\n"
        "    assert left.code == 0, left.code\n"
        f"print('loaded', *sorted({HEAVY!r} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "arguments",
    slow_but(
        [("--help",), ("--version",), ("train", "--help"), ("predict", "--help"), ("models",), ("models", "--json")],
        [("--help",), ("train", "--help"), ("models",)],
    ),
    ids=" ".join,
)
def test_what_needs_no_pytorch_loads_none(arguments: tuple[str, ...]) -> None:
    assert heavy(*arguments) == set()


def test_predict_loads_pytorch_and_little_else(cnn_run: Path) -> None:
    image = next((cnn_run / "samples").glob("*.png"))
    assert heavy("predict", str(cnn_run), str(image)) == {"torch", "numpy", "PIL"}


@pytest.mark.slow
def test_evaluate_loads_no_pictures(cnn_run: Path) -> None:
    assert "matplotlib" not in heavy("evaluate", str(cnn_run))
