"""Made images: closed forms of linear networks, seeds, and networks of every kind."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tangled import KINDS, Tangled, untouched
from torch import nn

from cases import slow_but
from striate.errors import ExplainError
from striate.explain import deep_dream, maximize
from striate.explain.synthesis import _Series, total_variation


def linear(weights: torch.Tensor) -> nn.Module:
    """A classifier (K classes) that is linear in the image (K, C, H, W)."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(weights[0].numel(), len(weights), bias=False))
    network[1].weight.data.copy_(weights.flatten(1))
    return network


@pytest.mark.parametrize("shape", slow_but([(1, 6, 6), (3, 5, 8)], [(1, 6, 6)]))
@pytest.mark.parametrize("decay", slow_but([0.0, 1.0], [1.0]))
def test_a_linear_class_reaches_its_maximum(shape: tuple[int, int, int], decay: float) -> None:
    # Over pictures in 0..1 the scalar product with w is largest where w > 0 is white and the rest black.
    weights = torch.randn(2, *shape)
    found = maximize(linear(weights), shape, 1, jitter=0, decay=decay, steps=800, rate=0.5)
    most = float(weights[1].clamp_min(0).sum())
    assert most * 0.97 < found.reached[0] <= most


@pytest.mark.formula("F48")
def test_the_first_step_climbs_along_the_weights() -> None:
    # Near grey a sigmoid is straight, and in pixels (decay 0) the slope is w. Adam's first step takes the sign of each
    # wave's slope, and normal numbers and their signs have a cosine of sqrt(2 / pi).
    weights = torch.randn(1, 1, 64, 64)
    found = maximize(linear(weights), (1, 64, 64), 0, jitter=0, decay=0, steps=1, rate=0.01)
    series = _Series((1, 1, 64, 64), 0.0, (0,), torch.device("cpu"))
    climbed = found.pictures[0] - series.pictures()[0].detach()
    likeness = torch.cosine_similarity(climbed.flatten(), weights.flatten(), dim=0)
    assert float(likeness) == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)


@pytest.mark.formula("F48")
def test_the_penalty_on_an_image_does_not_depend_on_the_others() -> None:
    model = Tangled()
    one = maximize(model, (1, 12, 12), 3, steps=5, jitter=0, variation=0.5, seed=7)
    both = maximize(model, (1, 12, 12), 3, steps=5, jitter=0, variation=0.5, seed=6, count=2)
    torch.testing.assert_close(both.pictures[1], one.pictures[0])


def test_what_is_told_is_what_the_network_says() -> None:
    model = Tangled().eval()
    data = torch.rand(5, 1, 12, 12)

    def prepare(pictures: torch.Tensor) -> torch.Tensor:
        return 2 * pictures - 1

    unit = maximize(
        model, (1, 12, 12), layer="deep.part", channel=2, position=(1, 3), prepare=prepare, data=data, steps=12
    )
    mean = maximize(model, (1, 12, 12), layer="deep.part", channel=2, prepare=prepare, data=data, steps=12)
    kept: list[torch.Tensor] = []
    handle = model.deep["part"].register_forward_hook(lambda _, __, output: kept.append(output.detach().clone()))
    for pictures in (prepare(unit.pictures), prepare(mean.pictures), data):
        model(pictures)
    handle.remove()
    assert unit.reached[0] == pytest.approx(float(kept[0][0, 2, 1, 3]), abs=1e-5)
    assert mean.reached[0] == pytest.approx(float(kept[1][0, 2].mean()), abs=1e-5)
    assert unit.largest == pytest.approx(float(kept[2][:, 2, 1, 3].max()), abs=1e-5)
    assert mean.largest == pytest.approx(float(kept[2][:, 2].mean((1, 2)).max()), abs=1e-5)
    assert unit.reached[0] > unit.started[0]
    assert unit.what == "channel 2 of deep.part at (1, 3)"


def test_seeds_decide_and_are_independent_of_each_other() -> None:
    model = Tangled()
    one = maximize(model, (1, 12, 12), 3, steps=5, jitter=0, seed=7)
    again = maximize(model, (1, 12, 12), 3, steps=5, jitter=0, seed=6, count=2)
    torch.testing.assert_close(one.pictures[0], again.pictures[1])
    assert not torch.allclose(again.pictures[0], again.pictures[1])
    repeated = maximize(model, (1, 12, 12), 3, steps=5, seed=7)
    assert torch.equal(repeated.pictures, maximize(model, (1, 12, 12), 3, steps=5, seed=7).pictures)


def test_variation_and_blur_smooth() -> None:
    weights = torch.randn(1, 1, 16, 16)
    rough = maximize(linear(weights), (1, 16, 16), 0, steps=60)
    calm = maximize(linear(weights), (1, 16, 16), 0, steps=60, variation=200.0)
    blurred = maximize(linear(weights), (1, 16, 16), 0, steps=60, blur=0.8)
    measured = [float(total_variation(each.pictures)) for each in (rough, calm, blurred)]
    assert measured[1] < 0.7 * measured[0]
    assert measured[2] < 0.7 * measured[0]


def test_total_variation_is_its_sum() -> None:
    image = torch.rand(2, 3, 4, 5)
    expected = torch.zeros(2)
    for y in range(4):
        for x in range(5):
            down = (image[:, :, y + 1, x] - image[:, :, y, x]) ** 2 if y < 3 else 0
            across = (image[:, :, y, x + 1] - image[:, :, y, x]) ** 2 if x < 4 else 0
            expected += ((down + across) ** 0.75).sum(1) if y < 3 or x < 4 else 0
    torch.testing.assert_close(total_variation(image, 1.5), expected / 60, rtol=1e-4, atol=1e-6)


def test_the_series_is_a_sum_of_waves() -> None:
    series = _Series((1, 1, 6, 5), 1.0, (3,), torch.device("cpu"))
    waves = torch.view_as_complex(series.waves.detach())[0, 0]
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    total = torch.zeros(6, 5)
    for v in range(6):
        for u in range(3):
            fy, fx = (v if v < 3 else v - 6) / 6, u / 5
            weight = 1 / max(math.hypot(fy, fx), 1 / 6) / 4
            if u == 0:  # real output: coefficients at fx = 0 count by their Hermitian half
                partner = waves[-v % 6, 0]
                coefficient = (waves[v, 0] + partner.conj()) / 2
            else:
                coefficient = 2 * waves[v, u]
            angle = 2 * math.pi * (fy * y + fx * x)
            total += weight * (coefficient.real * angle.cos() - coefficient.imag * angle.sin()) / math.sqrt(30)
    torch.testing.assert_close(series.pictures()[0, 0].detach(), total.sigmoid(), rtol=1e-4, atol=1e-5)


def test_dreams_excite_the_layer() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3))
    picture = 0.2 + 0.6 * torch.rand(3, 40, 56)
    found = deep_dream(network, picture, "1", octaves=3, steps=5)
    kept = [network[1](network[0](each[None])).detach() for each in (found.before, found.after)]
    assert found.energies == pytest.approx([float(each.square().mean() / 2) for each in kept], rel=1e-4)
    assert found.energies[1] > 1.5 * found.energies[0]
    assert found.sizes == ((20, 29), (29, 40), (40, 56))
    assert torch.equal(found.before, picture)
    assert 0 <= float(found.after.min()) <= float(found.after.max()) <= 1
    only = deep_dream(network, picture, "1", channel=3, octaves=1, steps=5)
    after = network[1](network[0](only.after[None]))[0, 3].square().mean() / 2
    assert only.energies[1] == pytest.approx(float(after), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network(kind: str) -> None:
    model, images = KINDS[kind]()
    with untouched(model):
        found = maximize(model, (1, 12, 12), layer="again", channel=1, steps=3, data=images)
        assert found.pictures.dtype == torch.float32
        assert all(map(math.isfinite, (*found.reached, *found.started)))
        first = maximize(model, (1, 12, 12), layer="again@1", channel=1, steps=3)
        assert first.reached != found.reached
        deep_dream(model, images[0], "stem", octaves=1, steps=2)
    with untouched(model), pytest.raises(ExplainError):
        maximize(model, (7, 12, 12), layer="again", channel=1)


def test_results_can_be_kept(tmp_path: object) -> None:
    found = maximize(Tangled(), (1, 12, 12), 2, steps=3, count=7, data=torch.rand(2, 1, 12, 12))
    json.dumps(found.to_dict(), allow_nan=False)
    found.save(f"{tmp_path}/most.png")
    dreamt = deep_dream(Tangled(), torch.rand(1, 12, 12), "stem", octaves=1)
    json.dumps(dreamt.to_dict(), allow_nan=False)
    dreamt.save(f"{tmp_path}/dream.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no single thing"),
        ({"target": 1, "layer": "stem", "channel": 0}, "no single thing"),
        ({"layer": "stem"}, "no single thing"),
        ({"target": 4}, "got class 4; needed 0 to 3"),
        ({"layer": "stam", "channel": 0}, "near: stem"),
        ({"layer": "stem", "channel": 6}, "got 6; needed 0 to 5"),
        ({"layer": "stem", "channel": 0, "position": (12, 0)}, "needed one in 12x12"),
        ({"target": 1, "steps": 0}, "steps: got 0"),
        ({"target": 1, "jitter": 12}, "jitter: got 12"),
    ],
)
def test_mistakes(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        maximize(Tangled(), (1, 12, 12), **arguments)  # type: ignore[arg-type]


def test_a_dead_unit_is_said_to_be_dead() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
    nn.init.constant_(network[0].bias, -99)
    with pytest.raises(ExplainError, match="gradient is zero"):
        maximize(network, (1, 8, 8), layer="1", channel=0)
    with pytest.raises(ExplainError, match="gradient is zero"):
        deep_dream(network, torch.rand(1, 8, 8), "1", octaves=1)


@pytest.mark.parametrize("picture", [torch.rand(8, 8), 2 + torch.rand(1, 8, 8), torch.ones(1, 8, 8, dtype=torch.uint8)])
def test_pictures_that_are_none(picture: torch.Tensor) -> None:
    with pytest.raises(ExplainError, match=r"0\.\.1"):
        deep_dream(Tangled(), picture, "stem")
