"""Pictures and tables of an evaluation: the numbers in them are the measures', whatever classes are called."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

from cases import slow_but
from striate.report import evaluation, figures, tables
from striate.tasks.evaluation import Example
from striate.tasks.scores import Measures, Scores

ODD = ("_hidden", "$x_1$", r"$\foo$", "two\nlines", "100 % {x} \udce9")


def scores(images: int, classes: int | tuple[str, ...], seed: int = 0) -> Scores:
    names = classes if isinstance(classes, tuple) else tuple(f"class {n}" for n in range(classes))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(names), (images,), generator=generator)
    logits = torch.randn(images, len(names), generator=generator)
    logits[torch.arange(images), labels] += torch.linspace(1, 4, len(names))[labels]
    return Scores(labels, (logits * 2).softmax(1), tuple(f"{n}.png" for n in range(images)), names)


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text)]


def drawn(figure: Figure) -> Image.Image:
    image = Image.open(io.BytesIO(figures.png(figure)))
    image.load()
    return image


class TestReliability:
    @pytest.mark.parametrize(("images", "classes"), [(1, 3), (400, 2), (2000, 10)])
    def test_bars_are_the_accuracies(self, images: int, classes: int) -> None:
        found = scores(images, classes).calibration()
        figure = evaluation.reliability(found)
        upper, lower = figure.axes
        tops = {}
        for bar in upper.patches:
            place = round(bar.get_x() * 15)
            if bar.get_facecolor() != pytest.approx((0xEE / 255, 0xC0 / 255, 0xBA / 255, 1)):  # what is claimed beyond
                tops[place] = max(tops.get(place, 0), bar.get_y() + bar.get_height())
        curve = found.reliability
        assert tops == pytest.approx({n: right for n, right in enumerate(curve.accuracy) if right is not None})
        assert [bar.get_height() for bar in lower.patches] == list(curve.count)
        assert any(f"error {curve.expected_error:.1%}" in text for text in texts(figure))

    def test_before_and_after_stand_side_by_side(self) -> None:
        found = Measures.of(scores(800, 4), scores(800, 4, seed=1))
        assert found.scaled is not None
        figure = evaluation.reliability(found.calibration, found.scaled, found.temperature)
        assert len(figure.axes) == 4
        titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
        assert titles[0].startswith("As the network says\n")
        assert titles[1].startswith(f"At the temperature {found.temperature:.3g}\n")
        assert f"loss {found.scaled.loss:.4g}" in titles[1]


class TestRankings:
    @pytest.mark.parametrize(
        ("classes", "curves"), [(2, 2), (3, 3), pytest.param(10, 10, marks=pytest.mark.slow), (11, 8), (60, 8)]
    )
    def test_a_curve_a_class_or_the_weakest(self, classes: int, curves: int) -> None:
        found = scores(1500, classes)
        measures = Measures.of(found)
        shown = texts(evaluation.rankings(found))
        by_precision = sorted(measures.classes, key=lambda each: each.average_precision or 0.0)
        for each in by_precision[:curves]:
            assert f"{each.name}, AP {each.average_precision:.3f}" in shown
            assert f"{each.name}, area {each.roc_area:.3f}" in shown
        assert sum(", AP " in text for text in shown) == curves + (classes > 2)
        assert (f"mean of all, AP {measures.mean_average_precision:.3f}" in shown) == (classes > 2)
        assert (f"mean of all, area {measures.mean_roc_area:.3f}" in shown) == (classes > 2)

    def test_areas_under_what_is_drawn_are_the_areas(self) -> None:
        found = scores(300, 2)
        measures = Measures.of(found)
        left, right = evaluation.rankings(found).axes
        for index, each in enumerate(measures.classes):
            x, y = (np.asarray(numbers) for numbers in left.lines[index].get_data())
            assert float(np.diff(x) @ y[1:]) == pytest.approx(each.average_precision)  # steps
            x, y = (np.asarray(numbers) for numbers in right.lines[index].get_data())
            assert float(np.trapezoid(y, x)) == pytest.approx(each.roc_area)

    def test_the_mean_curve_has_the_mean_area(self) -> None:
        found = scores(3000, 12)
        measures = Measures.of(found)
        left, right = evaluation.rankings(found).axes
        for axes, area in ((left, measures.mean_average_precision), (right, measures.mean_roc_area)):
            (mean,) = [line for line in axes.lines if line.get_linestyle() == ":"]
            x, y = (np.asarray(numbers) for numbers in mean.get_data())
            assert float(np.trapezoid(y, x)) == pytest.approx(area, abs=0.006)

    def test_one_image_has_no_roc(self) -> None:
        assert "all images are of one class" in texts(evaluation.rankings(scores(1, 3)))


class TestErrors:
    @pytest.mark.parametrize(("count", "channels"), [(1, 1), (7, 3), pytest.param(24, 1, marks=pytest.mark.slow)])
    def test_each_image_with_what_is_said_of_it(self, count: int, channels: int) -> None:
        image = torch.arange(channels * 48, dtype=torch.uint8).reshape(channels, 6, 8)
        shown = [Example(image, "cat", "dog", 0.5 + n / 100) for n in range(count)]
        figure = evaluation.errors(shown, [f"folder/of/very/many/images/{n:03}.png" for n in range(count)])
        axes = [each for each in figure.axes if each.get_title()]
        assert [each.get_title() for each in axes] == [f"dog ({0.5 + n / 100:.1%})\nbut is cat" for n in range(count)]
        assert axes[-1].get_xlabel() == f"folder/of/ver…ages/{count - 1:03}.png"
        drawn(figure)

    def test_none_is_said_to_be_none(self) -> None:
        assert "No errors: every image is right" in texts(evaluation.errors([], []))

    def test_classes_that_begin_alike_are_told_apart(self) -> None:
        image = torch.zeros(1, 4, 4, dtype=torch.uint8)
        begin, end = "a very long name that both begin with ", " and that both end with"
        (title,) = [
            axes.get_title()
            for axes in evaluation.errors([Example(image, f"{begin}X{end}", f"{begin}Y{end}", 0.9)], ["x"]).axes
        ]
        predicted, actual = title.split("\n")
        assert "Y" in predicted
        assert "X" in actual


class TestRecalls:
    @pytest.mark.parametrize("classes", slow_but([2, 30, 31, 200], [2, 30, 31]))
    def test_the_weakest_with_their_intervals(self, classes: int) -> None:
        measures = Measures.of(scores(4000, classes))
        axes = evaluation.recalls(measures).axes[0]
        weakest = sorted(each.recall.value for each in measures.classes if each.recall.value is not None)[:30]
        points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        assert points == weakest
        intervals = {tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2}
        assert intervals <= {each.recall.interval for each in measures.classes}
        assert len(axes.get_yticklabels()) == min(classes, 30)
        assert axes.get_title().startswith("The 30 of" if classes > 30 else "Recall of each class")

    def test_classes_without_images_are_left_out(self) -> None:
        measures = Measures.of(scores(1, 3))
        assert len(evaluation.recalls(measures).axes[0].get_yticklabels()) == 1


@pytest.mark.slow
def test_odd_names_are_drawn_as_they_are() -> None:
    found = scores(200, ODD)
    measures = Measures.of(found)
    image = torch.zeros(1, 4, 4, dtype=torch.uint8)
    pictures = [
        evaluation.rankings(found),
        evaluation.recalls(measures),
        evaluation.errors([Example(image, name, ODD[0], 0.5) for name in ODD[1:]], ODD[1:]),
    ]
    for figure in pictures:
        drawn(figure)  # a formula that can't be read would raise
        shown = "\n".join(texts(figure))
        for name in ("_hidden", "$x_1$", r"$\foo$", r"two\nlines", "100 % {x}"):
            assert name in shown


def printed(measures: Measures) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(tables.measured(measures))
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_the_summary_has_the_measures() -> None:
    found = Measures.of(scores(500, 10), scores(500, 10, seed=1))
    lines = printed(found)
    assert found.accuracy.interval is not None
    low, high = found.accuracy.interval
    assert f"accuracy {found.accuracy.value:.1%} {low:.1%} to {high:.1%} 500 images" in lines
    assert any(line.startswith(f"top-5 accuracy {found.top_accuracy.value:.1%} ") for line in lines)
    assert f"balanced accuracy {found.balanced_accuracy:.1%} mean recall of the classes" in lines
    assert f"kappa {found.kappa:.3f} agreement beyond chance" in lines
    assert f"loss {found.calibration.loss:.4f} nats an image" in lines
    assert found.scaled is not None
    assert any(
        line.startswith(f"temperature {found.temperature:.3g} at it: loss {found.scaled.loss:.4f}") for line in lines
    )


def test_the_summary_of_one_image() -> None:
    lines = printed(Measures.of(scores(1, 3)))
    assert any(line.endswith("1 image") for line in lines)
    assert "kappa undefined agreement beyond chance" in lines
    assert not any("top-" in line or "temperature" in line for line in lines)
