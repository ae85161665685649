"""Results: the numbers are scikit-learn's, JSON brings them back, and tables and pictures say what they hold."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn import metrics

from striate import analysis, models
from striate.errors import RunError
from striate.report import figures, measures, tables
from striate.training import Epoch, Evaluation, Example


def evaluation(classes: int, images: int, *, right: float = 0.8, seed: int = 0) -> Evaluation:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    guesses = torch.randint(classes, (images,), generator=generator)
    predicted = torch.where(torch.rand(images, generator=generator) < right, labels, guesses)
    return Evaluation.of(labels, predicted, tuple(f"class {n}" for n in range(classes)), loss=0.25)


@pytest.mark.parametrize(("classes", "images", "right"), [(2, 50, 0.9), (10, 300, 0.8), (10, 300, 0.0), (40, 25, 0.5)])
def test_numbers_are_scikit_learns(classes: int, images: int, right: float) -> None:
    # The last case has classes without images and classes that are never predicted.
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(classes, (images,), generator=generator)
    guesses = torch.randint(classes, (images,), generator=generator)
    predicted = torch.where(torch.rand(images, generator=generator) < right, labels, guesses)
    result = Evaluation.of(labels, predicted, tuple(map(str, range(classes))), loss=1.0)

    known = np.arange(classes)
    assert result.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert result.n == images
    np.testing.assert_array_equal(result.confusion, metrics.confusion_matrix(labels, predicted, labels=known))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = metrics.precision_recall_fscore_support(labels, predicted, labels=known, zero_division=0)
    for ours, theirs in zip((result.precision, result.recall, result.f1, result.support), expected, strict=True):
        np.testing.assert_allclose(ours, theirs)


def test_json_brings_an_evaluation_back() -> None:
    result = evaluation(5, 60)
    fields = json.loads(json.dumps(result.to_dict()))
    assert Evaluation.from_dict(fields) == result
    assert fields["accuracy"] == result.accuracy
    for wrong in ({"classes": ["a"]}, {"confusion": [[1]]}, {"loss": "much"}, {"confusion": None}):
        with pytest.raises(RunError, match=r"^evaluation: "):
            Evaluation.from_dict(fields | wrong)


def test_json_brings_an_epoch_back() -> None:
    epoch = Epoch(1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert Epoch.from_dict(json.loads(json.dumps(epoch.to_dict()))) == epoch
    with pytest.raises(RunError, match=r"^epoch: "):
        Epoch.from_dict({"epoch": 1})


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_class_table_names_each_class_and_its_worst_mistake() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 1, 1])
    text = printed(tables.classes(Evaluation.of(labels, predicted, ("cat", "[red]dog"), loss=0.0)))
    cat, dog = text.splitlines()[1:3]
    assert cat.split() == ["cat", "100.0%", "50.0%", "66.7%", "4", "[red]dog", "(2)"]
    assert dog.split() == ["[red]dog", "50.0%", "100.0%", "66.7%", "2"]


def test_of_many_classes_the_weakest_are_shown() -> None:
    result = evaluation(100, 5000)
    text = printed(tables.classes(result))
    weakest = min(range(100), key=lambda index: result.f1[index])
    best = max(range(100), key=lambda index: result.f1[index])
    assert "weakest of 100 classes" in text
    assert f"class {weakest} " in text
    assert f"class {best} " not in text


def examples(count: int, channels: int = 1) -> list[Example]:
    image = torch.arange(channels * 64, dtype=torch.uint8).reshape(channels, 8, 8)
    return [Example(image, "cat", "cat" if n % 3 else "dog", 0.5 + n / 100) for n in range(count)]


def test_the_example_table_marks_what_is_wrong() -> None:
    lines = printed(tables.examples(examples(2))).splitlines()
    assert lines[1].split() == ["cat", "dog", "50.0%", "wrong"]
    assert lines[2].split() == ["cat", "cat", "51.0%", "right"]


def test_predictions_are_ranked_a_line_an_image() -> None:
    text = printed(tables.predictions(["a.png", "b.png"], [[("x", 0.75), ("y", 0.25)], [("y", 1.0), ("x", 0.0)]]))
    assert [line.split() for line in text.splitlines()] == [
        ["a.png", "x", "75.0%", "y", "25.0%"],
        ["b.png", "y", "100.0%", "x", "0.0%"],
    ]


def texts(figure: Figure) -> set[str]:
    figure.draw_without_rendering()
    return {text.get_text() for axes in figure.axes for text in axes.findobj(lambda o: hasattr(o, "get_text"))}


def test_curves_show_every_epoch() -> None:
    history = [Epoch(n, 1 / n, 1 - 0.5 / n, 1.1 / n, 1 - 0.6 / n, 0.1, 1.0, 100.0) for n in range(1, 9)]
    figure = figures.curves(history)
    loss, accuracy = figure.axes
    for axes, kind in ((loss, "loss"), (accuracy, "accuracy")):
        for line, part in zip(axes.lines, ("train", "test"), strict=True):
            assert line.get_xdata().tolist() == list(range(1, 9))
            assert line.get_ydata().tolist() == [getattr(row, f"{part}_{kind}") for row in history]
    assert "held out, at the end 92.50%" in texts(figure)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_confusion_matrix_is_the_evaluations(classes: int) -> None:
    result = evaluation(classes, 30 * classes)
    figure = figures.confusion(result)
    counts = np.array(result.confusion)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), counts / counts.sum(1, keepdims=True))
    shown = texts(figure)
    assert {"true class", "predicted class", "class 0", f"class {classes - 1}"} <= shown
    assert (str(counts[0, 0]) in shown) == (classes <= 25)


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (7, 3), (24, 1)])
def test_predictions_mark_what_is_wrong(count: int, channels: int) -> None:
    figure = figures.predictions(examples(count, channels))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == count
    assert titles[0] == "dog (50.0%)\nbut is cat"
    assert count == 1 or titles[1] == "cat (51.0%)"


def test_png_is_one() -> None:
    image = Image.open(io.BytesIO(figures.png(figures.confusion(evaluation(3, 30)))))
    image.load()
    assert image.format == "PNG"


def test_measures_fit_a_terminal_and_name_what_they_show() -> None:
    network = models.create("lenet5")
    summary = analysis.summarize(network, (1, 28, 28), roofline=analysis.Roofline(1e12, 1e11))
    found = analysis.receptive_field(network, (1, 28, 28))
    for table in (measures.cost(summary), measures.totals(summary), measures.fields(found)):
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(table)
        text = console.export_text()
        assert "…" not in text
    assert "whole input, 32 locally" in text
    image = np.zeros((28, 28, 1), np.uint8)
    box = found.box("s4", (0, 4))
    assert box is not None
    title = measures.field_box(image, found.at("s4"), (0, 4), box).axes[0].get_title()
    assert title == "s4 at (0, 4): rows 0 to 13, columns 14 to 27"
    density = analysis.effective_receptive_field(network, torch.rand(2, 1, 28, 28), "c3")
    assert "c3 at (5, 5)" in measures.effective(image, density, box).axes[0].get_title()
    labels = [label.get_text() for label in measures.costs(summary).axes[0].get_yticklabels()]
    assert labels[:3] == ["c1", "c1_relu", "s2"]


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (999, "999"), (999_600, "1M"), (11_513_626_624, "11.5G")])
def test_short_numbers(number: int, text: str) -> None:
    assert measures.short(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(80, "80 B"), (1024, "1 KiB"), (1022 * 1024, "1022 KiB"), (2**31, "2 GiB")]
)
def test_sizes(number: int, text: str) -> None:
    assert measures.size(number) == text
