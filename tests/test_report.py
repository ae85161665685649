"""Results: the numbers are scikit-learn's, JSON brings them back, and tables and pictures say what they hold."""

from __future__ import annotations

import io
import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from sklearn import metrics

from cases import slow_but
from striate import analysis, models
from striate.errors import RunError
from striate.report import figures, fonts, measures, tables
from striate.report.text import short
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


def epoch_of(
    number: int, loss: float, accuracy: float, test_loss: float, test_accuracy: float, *counted: float
) -> Epoch:
    """An epoch of a classifier."""
    train, held_out = {"loss": loss, "accuracy": accuracy}, {"loss": test_loss, "accuracy": test_accuracy}
    return Epoch(number, train, held_out, "test", *counted)


def test_json_brings_an_epoch_back() -> None:
    epoch = epoch_of(1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
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


def texts(figure: Figure) -> set[str]:
    figure.draw_without_rendering()
    return {text.get_text() for axes in figure.axes for text in axes.findobj(lambda o: hasattr(o, "get_text"))}


def test_curves_show_every_epoch() -> None:
    history = [epoch_of(n, 1 / n, 1 - 0.5 / n, 1.1 / n, 1 - 0.6 / n, 0.1, 1.0, 100.0) for n in range(1, 9)]
    figure = figures.curves(history)
    loss, accuracy = figure.axes
    for axes, kind in ((loss, "loss"), (accuracy, "accuracy")):
        for line, part in zip(axes.lines, ("train", "test"), strict=True):
            assert line.get_xdata().tolist() == list(range(1, 9))
            assert line.get_ydata().tolist() == [getattr(row, f"{part}_{kind}") for row in history]
    assert "held out: 92.50% at the end" in texts(figure)


def test_curves_say_what_the_training_loss_has_that_the_other_lacks() -> None:
    history = [epoch_of(n, 1 / n, 1 - 0.5 / n, 1.1 / n, 1 - 0.6 / n, 0.1, 1.0, 100.0) for n in (1, 2)]
    shown = texts(figures.curves(history, smoothing=0.1, changed=True))
    assert "training, images changed, labels smoothed by 0.1: 0.5 at the end" in shown
    assert "training, images changed: 75.00% at the end" in shown
    assert "held out: 0.55 at the end" in shown
    assert not any("smoothed" in text or "changed" in text for text in texts(figures.curves(history)))


@pytest.mark.parametrize("loss", [0.5, 0.0, -3.0])
def test_curves_of_one_epoch_show_it(loss: float) -> None:
    figure = figures.curves([epoch_of(1, loss, 0.5, loss, 0.6, 0.1, 1.0, 100.0)])
    for axes in figure.axes:
        assert [*axes.get_xticks()] == [1]
        assert all(line.get_markersize() > 5 for line in axes.lines)
    assert f"held out: {loss:.3g}" in texts(figure)


def test_losses_that_hardly_fall_have_labels_at_their_axis() -> None:
    figure = figures.curves([epoch_of(n, 2.3 - n / 100, 0.1, 2.3, 0.1, 0.1, 1.0, 100.0) for n in range(1, 9)])
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_ylim()
    assert sum(low <= tick <= high for tick in figure.axes[0].get_yticks()) >= 3


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
    assert len(figure.axes) <= max(6, count + 5)
    assert titles[0] == "dog (50.0%)\nbut is cat"
    assert count == 1 or titles[1] == "cat (51.0%)"


def test_png_is_one() -> None:
    image = Image.open(io.BytesIO(figures.png(figures.confusion(evaluation(3, 30)))))
    image.load()
    assert image.format == "PNG"


#: Names that a folder may have, and what would become of them on the way.
ODD = (
    "a$b$",
    "$\\frac{",
    "x_1^2{}",
    "[bold]b[/]",
    "new\nline",
    "tab\t",
    "\x1b[31mred",
    "\u202ertl",
    "caf\udce9",
    ":cat:",
)


def inside(image: bytes) -> bool:
    """Whether nothing touches the picture's edge, as text that is cut off does."""
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("L"))
    return all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def makers(history: list[Epoch], found: Evaluation, shown: list[Example]) -> dict[str, Callable[[], Figure]]:
    """What draws the pictures of a run."""
    return {
        "curves": lambda: figures.curves(history),
        "confusion": lambda: figures.confusion(found),
        "predictions": lambda: figures.predictions(shown, found.classes),
    }


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    labels = torch.arange(len(ODD))
    found = Evaluation.of(labels, labels.roll(1), ODD, loss=0.0)
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    wrong = [Example(image, one, other, 0.5) for one, other in itertools.pairwise(ODD)]
    history = [epoch_of(1, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0, 100.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save_each(tmp_path, makers(history, found, wrong))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.png", "curves.png", "predictions.png"]
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    for table in (tables.classes(found), tables.examples(wrong), tables.described(dict.fromkeys(ODD, "x"))):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for name in (
        "a$b$",
        "$\\frac{",
        "[bold]b[/]",
        r"new\nline",
        r"tab\t",
        r"\x1b[31mred",
        r"\u202ertl",
        r"caf\xe9",
        ":cat:",
    ):
        assert shown.count(name) >= 3, name
    assert not set(shown) & set("\x1b\t\u202e\udce9")


def test_dollars_are_no_mathematics_but_powers_of_ten_are() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.set(title="a$b$", yscale="log", ylim=(1, 1e6))
    axes.set_xticks([0, 1], ["$\\frac{", "$x$"])
    figures.png(figure)
    assert not axes.title.get_parse_math()
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())
    assert all(label.get_parse_math() for label in axes.get_yticklabels())


@pytest.mark.parametrize("classes", slow_but([2, 6, 30, 100, 1000], [2, 6]))
def test_no_name_is_cut_off(classes: int) -> None:
    names = tuple(f"breed_number_{n:04}_of a rather long-haired terrier {n}" for n in range(classes))
    labels = torch.arange(classes).repeat(2)
    found = Evaluation.of(labels, labels.roll(1), names, loss=0.0)
    assert inside(figures.png(figures.confusion(found)))
    image = torch.full((3, 8, 8), 9, dtype=torch.uint8)
    for count in (1, 4, 9):
        shown = [Example(image, names[0], names[n % 2], 0.5) for n in range(count)]
        assert inside(figures.png(figures.predictions(shown, names)))


def test_a_class_is_called_the_same_in_every_picture() -> None:
    names = tuple(f"breed_number_{n:04}_of a terrier" for n in range(12))
    found = Evaluation.of(torch.arange(12), torch.arange(12), names, loss=0.0)
    labels = [label.get_text() for label in figures.confusion(found).axes[0].get_yticklabels()]
    assert len(set(labels)) == 12
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    (axes,) = figures.predictions([Example(image, names[3], names[3], 1.0)], names).axes
    assert axes.get_title().startswith(f"{labels[3]}\n")


def test_a_figure_that_fails_is_a_warning_and_the_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Figure:
        raise ValueError("no\nsuch thing")

    monkeypatch.setattr(figures, "confusion", fail)
    history = [epoch_of(1, 1.0, 0.5, 1.0, 0.5, 0.1, 1.0, 100.0)]
    with pytest.warns(figures.FigureWarning, match=r"^confusion.png can't be drawn \(ValueError: no\)$"):
        figures.save_each(tmp_path, makers(history, evaluation(2, 9), examples(2)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "predictions.png"]


def a_font(path: Path, family: str, letters: str) -> None:
    """A font whose every letter is a box that fills it."""
    builder = FontBuilder(1000)
    pen = TTGlyphPen(None)
    for corner in ((0, 0), (0, 900), (900, 900), (900, 0)):
        (pen.lineTo if corner != (0, 0) else pen.moveTo)(corner)
    pen.closePath()
    glyphs = [".notdef", *(f"u{ord(letter):x}" for letter in letters)]
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):x}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.save(path)


def test_characters_come_from_whichever_font_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Letters that stand for no language, so that no font of the machine has them.
    a_font(tmp_path / "one.ttf", "One", "\U000f1234")
    a_font(tmp_path / "two.ttf", "Two", "\U000f1235\U000f1236")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / f"{n}.ttf") for n in ("one", "two")])
    monkeypatch.setattr(fonts, "_told", set())
    fonts._covering.cache_clear()
    figure = Figure()
    axes = figure.subplots()
    axes.set_title("a\U000f1234", fontweight="bold")
    axes.set_yticks([0, 1], ["plain", "\U000f1235\U000f1234"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.png(figure)
    assert axes.title.get_fontfamily()[1:] == ["One", "Two"]
    axes.set_title("\U000f1236 \U000f1299")
    with pytest.warns(fonts.FontWarning, match="no font here has \U000f1299, so") as told:
        figures.png(figure)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.png(figure)  # of each character once
    fonts._covering.cache_clear()


@pytest.mark.parametrize(
    ("names", "width", "expected"),
    [
        (["cat", "dog"], 8, ("cat", "dog")),
        (["n02085620_Chihuahua", "n02085782_Japanese"], 12, ("…620_C…uahua", "…782_J…anese")),
        (["the same beginning 1 and end", "the same beginning 2 and end", "x"], 9, ("…1 a… end", "…2 a… end", "x")),
        (["猫猫猫猫猫猫", "犬犬犬犬犬犬"], 9, ("猫猫…猫猫", "犬犬…犬犬")),
        (["a\nb", "a\\nb", "c"], 9, (r"a\nb #0", r"a\nb #1", "c")),
        (["same", "same"], 3, ("s…e", "s…e")),
        ([], 9, ()),
    ],
)
def test_short_names(names: list[str], width: int, expected: tuple[str, ...]) -> None:
    assert short(names, width) == expected


@given(st.lists(st.text("ab_\n\\é猫", max_size=40), unique=True, max_size=30), st.integers(5, 30))
def test_short_names_stay_different(names: list[str], width: int) -> None:
    assert len(set(short(names, width))) == len(names)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_tables_break_no_number_and_lose_no_letter(width: int) -> None:
    names = ["transformer", "a name of several words", "n" * 50, "猫" * 30]
    labels = torch.arange(4).repeat(30)
    found = Evaluation.of(labels, torch.cat([labels[:90], labels[90:].roll(1)]), tuple(names), loss=0.0)
    console = Console(file=io.StringIO(), width=width)
    console.print(tables.classes(found))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("n") >= 50
    if width >= 60:
        for value in (*found.precision, *found.recall, *found.f1):
            assert f" {value:.1%} " in text
        assert "transformer" in text


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
