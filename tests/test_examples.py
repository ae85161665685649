"""Every command that the help, the README, the documents and the program itself show runs as it is shown, as does the
Python of the documents, and every docstring's example is one that doctest runs."""

from __future__ import annotations

import ast
import doctest
import functools
import glob
import importlib
import inspect
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from tests.data import annotated_files

import striate
from cases import slow_but
from striate.cli import main
from striate.cli.commands import app

ROOT = Path(__file__).parent.parent
SOURCES = Path(striate.__file__).parent.parent
PROGRAM: Any = typer.main.get_command(app)

#: Options that make examples quick, of the commands that have them: of an option given twice the last one counts.
QUICK = {"--epochs": "1", "--threads": "1", "--seeds": "2", "--images": "8"}
#: What takes more than some two seconds all the same, and what is another example but for a few words.
SLOW = re.compile(
    r"^torchrun |study \S|summary resnet18|train (?!lenet5|--)|export (?!runs/)|export runs/detector|--epochs 20"
    r"|train lenet5 --data digits --out|(evaluate|predict) runs/scenes|evaluate runs/first --tta|^striate studio$"
    r"|explain runs/|explain NEW|--method hierarchy|object:1|robustness runs/first --out|export runs/(photos|first)"
    r"|predict photos|--method maximize"
    r"|explain photo.jpg --model efficientnet_lite0 --(out|check)|evaluate runs/first --json|evaluate runs/photos"
)
RUN = ["train", "lenet5", "--epochs", "1", "--threads", "1", "--quiet"]


#: The documents. The README's Python is tested by ``test_readme.py``.
PAGES = [
    *ROOT.glob("*.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
    ROOT / "benchmarks" / "README.md",
]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
SLOW_PAGES = ("ACCELERATE", "accelerate", "export", "extend")

# ------------------------------------------------------------------------ the examples


def commands_in(text: str) -> list[str]:
    r"""The lines that call the program; one that ends in a backslash goes on in the next line.

    >>> commands_in("source bin/activate\nstriate models\nstriate train lenet5 \\\n    --epochs 3  # short\n")
    ['striate models', 'striate train lenet5 --epochs 3']
    """
    lines = (" ".join(line.split()) for line in re.sub(r"\\\n", " ", text).splitlines())
    called = (line for line in lines if re.match(r"striate |torchrun .*-m striate ", line))
    return [re.sub(r" #.*", "", line) for line in called]


def shown() -> Iterator[str]:
    for command in (PROGRAM, *PROGRAM.commands.values()):
        _, example, text = inspect.cleandoc(command.help).partition("Example:\n")
        assert example, f"the help of {command.name} has no example"
        yield from commands_in(text)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    yield from re.findall(r"`(striate (?:[a-z]+ )?--[^`.]+)`", readme)
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash|shell|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            yield from commands_in(block)


EXAMPLES = list(dict.fromkeys(shown()))


# -------------------------------------------------------------------- what they are run on


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, without_drawing: Callable[[], AbstractContextManager[None]]
) -> Path:
    """The folder of a finished run."""
    path = tmp_path_factory.mktemp("finished") / "first"
    with without_drawing():
        assert run_program([*RUN, "--out", str(path)]) == 0
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The studio serves until Ctrl-C; here it ends once its page has answered."""
    from striate.studio import default
    from striate.studio.server import Studio

    def serve(self: Studio, ready: Callable[[], object], made: Callable[[], Any] | None) -> None:
        with self:
            ready()
            if made is not None:
                self.show(made())
            with urllib.request.urlopen(self.address) as page:
                assert b"<title>striate studio</title>" in page.read()

    monkeypatch.setattr(Studio, "serve", serve)
    monkeypatch.setattr(default, "_EPOCHS", 1)


def run_program(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert isinstance(left.value.code, int)
    return left.value.code


def run_line(line: str, finished: Path) -> int:
    """Runs a line in the working directory as a shell does, once all is there that it names."""
    words = shlex.split(line)
    provide(words, finished)
    words = [found for word in words for found in sorted(glob.glob(word)) or [word]]
    at = words.index("striate")
    words += quick(words[at + 1])
    if not at:
        return run_program(words[1:])
    launcher = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    return subprocess.run(launcher, env={**os.environ, "PYTHONPATH": str(SOURCES)}).returncode


def quick(name: str) -> list[str]:
    command = PROGRAM.commands.get(name)
    options = {option for parameter in command.params for option in parameter.opts} if command else set()
    return [word for option, value in QUICK.items() if option in options for word in (option, value)]


def provide(words: list[str], finished: Path) -> None:
    """Makes the runs, images, folders of images and data sets that a command names, but for what it makes itself."""
    for before, word in zip(["", *words], words, strict=False):
        kind, _, place = word.partition(":")
        if before == "--out" and "--resume" not in words:
            continue
        if word in DETECTORS:
            train_detector(word)
        elif word.startswith("runs/") or word == "RUN":
            shutil.copytree(finished, Path(*Path(word).parts[:2]), dirs_exist_ok=True)
        elif kind.endswith(".py"):
            Path(kind).write_text(f"import torch\n\ndef {place}():\n    return torch.nn.Conv2d(3, 4, 3)\n")
        elif kind == "idx":
            write_idx_files(Path(place))
        elif kind in ("coco", "voc"):
            getattr(annotated_files, kind)(Path(place).parent if kind == "coco" else Path(place))
        elif kind == "folder" or word == "photos" or (word.isalpha() and word.isupper()):
            write_photos(Path(place or word))
        elif Path(word).suffix in (".png", ".jpg"):
            photo().save(word) if word.endswith("jpg") else digit(3).save(word)


#: Runs whose networks find objects.
DETECTORS = ("runs/scenes", "runs/detector")


def train_detector(path: str) -> None:
    """A run of a detector, which has learnt next to nothing, and finds objects everywhere."""
    words = ["train", "centernet_small", "--data", "scenes:32,4,2", "--epochs", "1", "--batch-size", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("striate.models.centernet._PRIOR", 0.3)
        assert run_program([*words, "--engine", "aten", "--threads", "1", "--quiet", "--out", path]) == 0


@functools.cache
def photo() -> Image.Image:
    return Image.fromarray(load_sample_image("flower.jpg")).resize((240, 160))


def digit(number: int) -> Image.Image:
    return Image.fromarray((load_digits().images[number] * 15.9).astype(np.uint8)).resize((28, 28))


def write_photos(folder: Path) -> None:
    """Photographs in folders of two classes, which are classes of the digits as well."""
    for name in ("3", "7"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(6):
            photo().rotate(15 * number).save(folder / name / f"{number}.jpg")


def write_idx_files(folder: Path) -> None:
    """60 images of MNIST's size for training and 20 for testing, all ten classes among them."""
    folder.mkdir(exist_ok=True)
    for side, count in (("train", 60), ("t10k", 20)):
        images = np.stack([np.asarray(digit(number)) for number in range(count)])
        labels = load_digits().target[:count].astype(np.uint8)
        for what, array in (("images", images), ("labels", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{side}-{what}-idx{array.ndim}-ubyte").write_bytes(header + array.tobytes())


# ------------------------------------------------------------------------------- the tests


@pytest.mark.usefixtures("here", "undrawn", "leaving")
@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=[pytest.mark.slow] if SLOW.search(line) else []) for line in EXAMPLES]
)
def test_it_runs_as_shown(line: str, finished: Path) -> None:
    assert run_line(line, finished) == 0


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW_PAGES else [])
        for page in PAGES
        if page.name != "README.md" and PYTHON.search(page.read_text(encoding="utf-8"))
    ],
)
def test_the_python_of_a_page_runs(page: Path) -> None:
    """All blocks of a page in a row."""
    code = "\n".join(PYTHON.findall(page.read_text(encoding="utf-8")))
    if "register(" not in code and "register\n" not in code:
        exec(compile(code, page.name, "exec"), {})
        return
    # Networks and backends are registered for the whole process.
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_examples_are_found() -> None:
    assert len(EXAMPLES) > 2 * len(PROGRAM.commands)
    called = {words[words.index("striate") + 1] for words in map(shlex.split, EXAMPLES)}
    assert called >= PROGRAM.commands.keys()


@pytest.mark.parametrize("columns", slow_but([50, 80, 120], [50]))
def test_help_shows_examples_in_full(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However narrow the terminal, what is copied from it is the same command."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for name, command in PROGRAM.commands.items():
        capsys.readouterr()
        assert run_program([name, "--help"]) == 0
        _, _, example = capsys.readouterr().out.partition("Example:\n")
        assert list(map(shlex.split, commands_in(example.partition("\n\n")[0]))) == [
            shlex.split(line) for line in commands_in(inspect.cleandoc(command.help).partition("Example:\n")[2])
        ]


@pytest.mark.parametrize(
    "arguments",
    [pytest.param(["--out", "runs/my first"], marks=pytest.mark.slow), ["--data", "folder:PHOTOS"]],
    ids=["with copies", "without copies"],
)
def test_what_train_says_is_next_runs(
    arguments: list[str], here: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provide(arguments, finished)
    capsys.readouterr()
    assert run_program([*RUN, *arguments]) == 0
    _, _, after = capsys.readouterr().out.partition("\nnext:\n")
    lines = after.strip().splitlines()
    assert [line.split()[:2] for line in lines] == [["striate", "predict"], ["striate", "explain"]]
    photo().save("PHOTO.jpg")  # stands for any photograph, where the run keeps no copies of its images
    for line in lines:
        assert run_program(shlex.split(line)[1:]) == 0, line


@pytest.mark.usefixtures("leaving")
def test_what_the_demo_says_is_next_runs(here: Path, finished: Path) -> None:
    program = here / ".venv" / "bin" / "striate"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\nmkdir -p runs && cp -R {shlex.quote(str(finished))} runs/demo\n")
    program.chmod(0o755)
    (here / ".venv" / ".installed").touch()
    for name in ("pyproject.toml", "constraints.txt", "Makefile"):
        shutil.copy(ROOT / name, here)
        os.utime(here / name, (0, 0))  # older than what is installed
    done = subprocess.run(["make", "-s", "demo"], capture_output=True, text=True, check=True)
    lines = done.stdout.partition("Next:\n")[2].replace("source .venv/bin/activate && ", ".venv/bin/").splitlines()
    assert len(lines) == 4
    for line in lines:
        called, *words = shlex.split(line)
        assert called == ".venv/bin/striate"
        assert run_program([found for word in words for found in sorted(glob.glob(word)) or [word]]) == 0, line


def test_doctest_finds_every_example_of_a_docstring_and_skips_none() -> None:
    for path in sorted((SOURCES / "striate").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if ">>>" not in text:
            continue
        name = ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")
        holders = [node for node in ast.walk(ast.parse(text)) if isinstance(node, _HOLDERS)]
        written = [ast.get_docstring(holder, clean=False) or "" for holder in holders]
        found = doctest.DocTestFinder().find(importlib.import_module(name), name)
        # What Dynamo goes on with after a graph break is in the module's globals, with a function's docstring.
        examples = [example for test in found if ".__resume_at" not in test.name for example in test.examples]
        assert len(examples) == sum(len(doctest.DocTestParser().get_examples(each)) for each in written), path
        assert not any(doctest.SKIP in example.options for example in examples), path


_HOLDERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
