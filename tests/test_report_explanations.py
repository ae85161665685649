"""Explanations as pictures, tables and JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from cases import quick_but
from striate import explain
from striate.errors import ExplainError
from striate.explain.result import joined
from striate.explain.sanity import pooled
from striate.report import explanations


@pytest.fixture
def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    )


def test_a_picture_says_what_it_shows(network: torch.nn.Module, tmp_path: Path) -> None:
    photo = torch.randint(256, (2, 3, 24, 32), dtype=torch.uint8)
    found = explain.occlusion(network, photo / 255, 1).on(
        photo, names=("cat", "dog", "a name that is longer than a title has room")
    )
    figure = found.figure()
    titles = [axes.get_title() for axes in figure.axes]
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert sum("predicted" in title for title in titles) == 2
    assert titles.count("for dog") == 2
    assert labels.count("fall of the score when covered") == 2
    assert found.save(tmp_path / "why.png") == tmp_path / "why.png"
    with Image.open(tmp_path / "why.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 100
    with pytest.raises(OSError, match="nowhere"):
        found.save(tmp_path / "nowhere" / "why.png")


def test_colours_are_signed_where_the_map_is(network: torch.nn.Module) -> None:
    x = torch.rand(1, 3, 24, 32)
    for method, colours in ((explain.saliency, "inferno"), (explain.cam, "coolwarm"), (explain.grad_cam, "inferno")):
        found = method(network, x)
        drawn = [image for axes in found.figure().axes for image in axes.images if image.get_cmap().name == colours]
        assert drawn
        low, high = drawn[0].get_clim()
        assert low == (-high if found.signed else 0)


def test_json(network: torch.nn.Module) -> None:
    found = explain.integrated_gradients(network, torch.rand(3, 24, 32)).on(names=("cat", "dog", "cow"))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["target"][0] in ("cat", "dog", "cow")
    assert told["predictions"][0][0]["name"] == told["target"][0]
    assert set(told["measures"]) == {"completeness gap", "score difference", "steps"}
    assert torch.allclose(torch.tensor(told["map"]), found.map)


def test_tables(network: torch.nn.Module) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    checked = explain.check(explain.grad_cam, network, torch.rand(1, 3, 24, 32))
    console.print(explanations.told(checked.explanation, Path("why.png")), explanations.checked(checked))
    text = console.export_text()
    for word in ("predicted", "target", "grad_cam", "22x30 places", "why.png", "deletion AUC", "random down to 0"):
        assert word in text
    assert len(checked.figure().axes) == 2


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.rand(3, 24, 30), "picture: got 24x30; needed 24x32"),
        (torch.rand(2, 3, 24, 32), r"got \(2, 3, 24, 32\); needed \(1, 1 or 3, 24, 32\)"),
        (torch.rand(24, 32), r"got \(24, 32\)"),
    ],
)
def test_pictures_that_will_not_do(network: torch.nn.Module, picture: torch.Tensor, message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        explain.saliency(network, torch.rand(3, 24, 32)).on(picture)


@pytest.mark.parametrize("count", quick_but([1, 2, 3, 4, 7, 12], [12]))
def test_each_image_is_named_on_the_picture(network: torch.nn.Module, count: int) -> None:
    names = tuple(f"folder/a_photograph_of_{number:02}_$5_and_$7.png" for number in range(count))
    classes = tuple(f"breed_number_{number:03}_of_dogs_that_are_long" for number in range(3))
    found = explain.grad_cam(network, torch.rand(count, 3, 24, 32), [k % 3 for k in range(count)])
    figure = found.on(names=classes, images=names).figure()
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 2 * count
    assert len({title.partition("\n")[0] for title in titles[::2]}) == count
    assert all(title.partition("\n")[0].endswith(".png") for title in titles[::2])
    assert len(set(titles[1::2])) == min(count, 3)
    assert not any(axes.title.get_parse_math() for axes in figure.axes if axes.get_title())
    rows = {round(axes.get_subplotspec().rowspan.start) for axes in figure.axes if axes.get_subplotspec()}
    assert len(rows) == (count if count <= 3 else -(-count // 2))


def test_a_table_names_each_image(network: torch.nn.Module) -> None:
    names = ["deep/[bold]one[/bold].png", "deep/two.png", "other/two.png"]
    found = explain.integrated_gradients(network, torch.rand(3, 3, 24, 32), 1, steps=2).on(
        names=("cat", "dog", "cow"), images=names
    )
    for width in (80, 120):
        console = Console(width=width, file=io.StringIO(), record=True)
        console.print(explanations.told(found, Path("why.png")))
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= width
        assert all(
            name in text for name in ("[bold]one[/bold].png", "deep/two.png", "other/two.png")[: 3 * (width > 99)]
        )
        assert "dog" in text


def test_explanations_of_single_images_are_joined(network: torch.nn.Module) -> None:
    images = torch.rand(3, 3, 24, 32)
    whole = explain.input_x_gradient(network, images).on(images=["a", "b", "c"])
    parts = [
        explain.input_x_gradient(network, each).on(images=[name]) for each, name in zip(images, "abc", strict=True)
    ]
    made = joined(parts)
    assert torch.allclose(made.map, whole.map)
    one, other = made.to_dict(), whole.to_dict()
    for key in ("images", "classes", "target", "layer", "notes"):
        assert one[key] == other[key]
    assert one["scores"] == pytest.approx(other["scores"])
    with pytest.raises(ExplainError, match="differ"):
        joined([parts[0], explain.saliency(network, images[0])])


def test_checks_of_single_images_are_those_of_all(network: torch.nn.Module) -> None:
    images = torch.rand(2, 3, 24, 32)
    whole = explain.check(explain.saliency, network, images, 1, seed=1)
    made = pooled([explain.check(explain.saliency, network, each, 1, seed=1) for each in images])
    assert made.faithfulness == pytest.approx(whole.faithfulness, abs=1e-5)
    for one, other in zip(made.curves.deletion, whole.curves.deletion, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    for mine, theirs in zip(made.randomisation.likeness, whole.randomisation.likeness, strict=True):
        assert mine.rank_correlation == pytest.approx(theirs.rank_correlation, abs=1e-4)
        assert mine.ssim == pytest.approx(theirs.ssim, abs=1e-4)
