"""What a command loads, told by the modules that a process has at its end: seconds hang on the machine, these don't."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
    [("--help",), ("--version",), ("train", "--help"), ("predict", "--help"), ("models",), ("models", "--json")],
    ids=" ".join,
)
def test_what_needs_no_pytorch_loads_none(arguments: tuple[str, ...]) -> None:
    assert heavy(*arguments) == set()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from striate.training import Recipe, fit

    path = tmp_path_factory.mktemp("runs") / "first"
    fit(Recipe("simple_cnn", out=str(path), epochs=1, batch_size=128, threads=1), quiet=True)
    return path


def test_predict_loads_pytorch_and_little_else(run: Path) -> None:
    image = next((run / "samples").glob("*.png"))
    assert heavy("predict", str(run), str(image)) == {"torch", "numpy", "PIL"}


def test_evaluate_loads_no_pictures(run: Path) -> None:
    assert "matplotlib" not in heavy("evaluate", str(run))
