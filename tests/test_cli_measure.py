"""The commands that measure: examples of their help, sizes, names, and tables on terminals of every width."""

from __future__ import annotations

import functools
import io
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rich.console import Console
from torch import nn

from cases import quick_but, slow_but
from striate import analysis, engine, models
from striate.cli import main, measure
from striate.report import measures, tables
from striate.report.fitting import Column, Fitted, Labelled

Says = Callable[..., tuple[int, str, str]]


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    """Runs a command and gives its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        output, errors = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, output, errors

    return run


EXAMPLES = [
    line.strip()
    for command in (measure.summary, measure.field, measure.bench)
    for line in (command.__doc__ or "").partition("Example:")[2].splitlines()
    if line.strip()
]


@pytest.mark.parametrize("line", quick_but(EXAMPLES, [line for line in EXAMPLES if "resnet18" in line]))
def test_examples_of_the_help_work(line: str, says: Says, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28)).save("digit.png")
    program, *arguments = shlex.split(line)
    assert program == "striate"
    code, output, errors = says(*arguments)
    assert (code, errors) == (0, "")
    assert output.strip()
    for file in re.findall(r"--out (\S+)", line):
        assert Image.open(file).size[0] > 300
        assert f"drawn in {file}" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("summary", "lenet5", "--size", "3x64x64"),
            "--size: got 3x64x64; lenet5 takes height and width of 28 to 31; such as 3x28x28",
        ),
        (
            ("field", "lenet5_1998", "--size", "1x28x28"),
            "--size: got 1x28x28; lenet5_1998 takes height and width of 32 to 35; such as 1x32x32",
        ),
        pytest.param(
            ("checkerboard", "vit_b_16", "--size", "3x100x100"),
            "--size: got 3x100x100; vit_b_16 takes height and width of 224; such as 3x224x224",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("summary", "resnet18_aps", "--size", "3x100x72"),
            "--size: got 3x100x72; resnet18_aps takes height and width that are multiples of 32; such as 3x224x224",
            marks=pytest.mark.slow,
        ),
        (
            ("summary", "lenet5", "--size", "28x28"),
            "--size: got '28x28'; needed channels x height x width, as 3x224x224",
        ),
    ],
)
def test_sizes_that_a_network_does_not_take(arguments: tuple[str, ...], message: str, says: Says) -> None:
    assert says(*arguments) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    ("network", "size"),
    [
        ("lenet5", "1x31x30"),
        pytest.param("resnet18_aps", "3x64x96", marks=pytest.mark.slow),
        pytest.param("alexnet", "1x80x64", marks=pytest.mark.slow),
    ],
)
def test_sizes_that_it_takes(network: str, size: str, says: Says) -> None:
    code, output, _ = says("summary", network, "--size", size, "--json")
    assert code == 0
    assert json.loads(output)["input_shape"] == [1, *map(int, size.split("x"))]


def test_networks_are_called_what_the_user_calls_them(says: Says, cnn_run: Path) -> None:
    for command in ("summary", "field"):
        for model in ("simple_cnn", cnn_run):
            assert json.loads(says(command, model, "--json")[1])["model"] == "simple_cnn"
    summary = analysis.summarize(nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 8, 8), name="my network")
    assert measures.costs(summary).get_suptitle().startswith("my network, 1x1x8x8: 20 parameters, 648 MACs")


def printed(shown: object, width: int, *, colour: bool = False) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=colour, record=True, highlight=False)
    console.print(shown)
    return [line.rstrip() for line in console.export_text().splitlines()]


class Deep(nn.Module):
    """Layers under long paths, an operator without a count, and a network of several inputs."""

    def __init__(self) -> None:
        super().__init__()
        stage = nn.Sequential(nn.Conv2d(3, 64, 3, 2, (1, 2), groups=1), nn.LSTM(128, 3))
        self.an_encoder_with_a_long_name = nn.ModuleDict({"and_a_stage_that_has_one_as_well": stage})

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        conv, cell = self.an_encoder_with_a_long_name["and_a_stage_that_has_one_as_well"]
        return cell(conv(image).flatten(2)[..., :128])[0].sort()[0] * mask


SUMMARIES = {
    "lenet5": lambda: (models.create("lenet5"), (1, 28, 28)),
    "mobilenet_v2": lambda: (models.create("mobilenet_v2"), (3, 224, 224)),
    "vit_b_16": lambda: (models.create("vit_b_16"), (3, 224, 224)),
    "deep": lambda: (Deep(), [torch.rand(1, 3, 64, 64), torch.rand(3)]),
}


@functools.cache
def measured(name: str) -> tuple[analysis.Summary, analysis.ReceptiveFields]:
    model, size = SUMMARIES[name]()
    roofline = analysis.Roofline(1e12, 1e11) if name == "lenet5" else None
    summary = analysis.summarize(model, size, roofline=roofline, name=name)
    return summary, analysis.receptive_field(model, size, name=name)


@pytest.mark.parametrize(
    ("name", "width", "colour"),
    [
        # Large tables take long, and longer in colour.
        pytest.param(
            name,
            width,
            colour,
            marks=[pytest.mark.slow] * (name in ("mobilenet_v2", "vit_b_16") or (colour and name != "deep")),
        )
        for name in SUMMARIES
        for width in (60, 80, 120)
        for colour in (False, True)
    ],
)
def test_tables_on_terminals(name: str, width: int, colour: bool) -> None:
    summary, found = measured(name)
    for shown in (measures.cost(summary), measures.fields(found), measures.totals(summary)):
        lines = printed(shown, width, colour=colour)
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines)
        if isinstance(shown, Fitted):
            check_rows(shown, lines)
    told = " ".join(" ".join(printed(measures.totals(summary), width)).split())
    assert f"network {name}" in told
    assert ("MACs at least " in told) == ("FLOPs at least " in told) == (name == "deep")
    if name == "deep":
        assert "input image 1x3x64x64, mask 3" in told
        assert "aten.sort x1 in (network)" in told


def check_rows(table: Fitted, lines: list[str]) -> None:
    """Whole heads, and each row's numbers whole in one line, its name in one or folded over several."""
    shown = [column for column in table.columns if re.search(rf"(^|  ){re.escape(column.name)}($|  )", lines[0])]
    left_out = lines[-1].removeprefix("no room for ").split(", ") if lines[-1].startswith("no room") else []
    assert len(shown) + len(left_out) >= len(table.columns) - 2  # and those that say nothing
    assert table.columns[0] in shown
    places = [place for place, column in enumerate(table.columns) if column in shown and not column.folds]
    rest = iter(lines[1:])
    for row in table.rows:
        cells = [row[place] for place in places if row[place]]
        line = next(line for line in rest if line.startswith(row[0][:8]))
        assert all(re.search(rf"(^|\s){re.escape(cell)}(\s|$)", line) for cell in cells), (cells, line)


@pytest.mark.slow
def test_a_pipe_gets_all_columns_in_lines_as_long_as_they_are(says: Says) -> None:
    code, output, _ = says("summary", "mobilenet_v2")
    head, *lines = output.splitlines()
    assert code == 0
    assert head.split() == ["layer", "output", "kernel", "params", "MACs", "FLOPs", "memory", "FLOP/B"]
    assert "no room" not in output
    assert sum(line.startswith("features.17.conv.1.0 ") for line in lines) == 1
    assert max(len(line) for line in lines if not line.startswith(("note", " "))) < 120


def test_columns_leave_in_their_order() -> None:
    table = Fitted(
        [Column("name", folds=True, right=False), Column("a", spare=1), Column("b", spare=2), Column("c", 3)]
    )
    table.add("first", "1" * 10, "2" * 10, "")
    heads = {width: printed(table, width)[0].split() for width in (80, 31, 30, 19, 18)}
    assert heads[80] == heads[31] == ["name", "a", "b"]  # c says nothing
    assert heads[30] == heads[19] == ["name", "a"]
    assert heads[18] == ["name"]
    assert printed(table, 18)[-1] == "no room for b, a"
    assert printed(Labelled([("note", "one two three")]), 26) == ["note  one two three"]


@pytest.mark.parametrize("width", [80, 120])
def test_timings_on_terminals(width: int) -> None:
    found = engine.time_problem("conv2d 1x2x8x8 3x2x3x3 padding=1")
    lines = printed(tables.timing(found), width)
    assert max(map(len, lines)) <= width
    assert lines[2].split() == ["pass", "backend", "time,", "us", "GFLOP/s", "GB/s", "of", "roofline"]
    rows = [line for line in lines if line.endswith("%")]
    assert len(rows) == sum(len(each.seconds) for each in found.passes)
    assert all(re.fullmatch(r".*\s[\d,.]+\s+[\d,.]+\s+[\d,.]+\s+\d+%", row) for row in rows)
    assert any(line.startswith("above 100 %, ") for line in lines) == any(
        found.above(each, name) for each in found.passes for name in each.seconds
    )


@pytest.mark.parametrize("layers", slow_but([1, 40, 45, 5, 150], [1, 45]))
def test_pictures_of_networks_of_every_depth(layers: int) -> None:
    names = [f"a_stage_with_a_long_name_{n // 10}.and_a_block_in_it_{n % 10}_conv" for n in range(layers)]
    network = nn.Sequential()
    for name in names:
        network.add_module(name.replace(".", "_"), nn.Conv2d(3, 3, 3, padding=1))
    figure = measures.costs(analysis.summarize(network, (32, 3, 200, 200), name="deep"))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    title = figure.get_suptitle()
    assert title.startswith("deep, 32x3x200x200: ")
    assert title.endswith(f"; the 40 most costly of {layers} layers" if layers > 40 else " MACs")
    assert len(figure.axes[0].get_yticklabels()) == min(layers, 40)
    renderer = canvas.get_renderer()
    labels = [
        label.get_window_extent(renderer)
        for axes in figure.axes
        for label in axes.get_xticklabels()
        if axes.get_xlim()[0] <= label.get_position()[0] <= axes.get_xlim()[1]
    ]
    assert len(labels) >= 9
    assert not any(one.overlaps(other) for n, one in enumerate(labels) for other in labels[:n])


def test_a_picture_of_a_lower_bound_says_so() -> None:
    summary = analysis.summarize(Deep(), [torch.rand(1, 3, 64, 64), torch.rand(3)])
    assert ", at least " in measures.costs(summary).get_suptitle()
