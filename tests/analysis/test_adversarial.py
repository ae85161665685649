"""Attacks: the closed form of linear classifiers, exact bounds, captum's, and networks left as they were."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from striate.analysis import adversarial, fgsm, pgd
from striate.errors import AnalysisError


def linear() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()


def small() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))


def learned() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that has learned which third of the image is bright."""
    model, labels = small(), torch.arange(96) % 3
    images = 0.3 * torch.rand(96, 1, 6, 6)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 2 * label : 2 * label + 2] += 0.4
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model, images, labels


@pytest.mark.formula("S6")
def test_linear_classifiers_have_a_closed_form() -> None:
    # The margin w.x + b of two classes moves by at most epsilon |w|_1 (Goodfellow et al. 2015, section 5).
    model = linear()
    images = 0.4 + 0.2 * torch.rand(200, 1, 6, 6, dtype=torch.float64)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    sums = images.flatten(1) @ weight
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([float(sums.median()), 0.0]))
    margins = sums - sums.median()
    labels = (margins + 0.01 * torch.randn(200) > 0).long()
    signs = 2.0 * labels - 1
    epsilons = [0, 0.002, 0.005, 0.01, 0.02, 0.3]
    expected = [float((signs * margins - eps * weight.abs().sum() > 0).double().mean()) for eps in epsilons]
    found = adversarial(model, images, labels, epsilons)
    assert found.fgsm == pytest.approx(expected)
    assert found.pgd == pytest.approx(expected)
    assert 1 > expected[0] > expected[1] > expected[2] > expected[3]


def test_changes_stay_within_epsilon_and_pixels_within_0_to_1() -> None:
    model, images, labels = learned()
    for epsilon in (0.0, 1 / 255, 0.1, 0.9):
        for attacked in (
            fgsm(model, images, labels, epsilon),
            pgd(model, images, labels, epsilon, steps=7, step_size=0.5),
        ):
            assert float((attacked - images).abs().max()) <= epsilon + 1e-7
            assert float(attacked.min()) >= 0
            assert float(attacked.max()) <= 1
    assert torch.equal(pgd(model, images, labels, 0), images)


def test_many_steps_are_not_weaker_than_one() -> None:
    model, images, labels = learned()
    found = adversarial(model, images, labels, [0, 0.05, 0.1, 0.15, 0.2, 0.3], steps=20)
    clean = float((model(images).argmax(1) == labels).double().mean())
    assert found.fgsm[0] == found.pgd[0] == clean > 0.95
    assert all(many <= one for many, one in zip(found.pgd, found.fgsm, strict=True))
    assert sum(found.pgd) < sum(found.fgsm)
    assert list(found.pgd) == sorted(found.pgd, reverse=True)
    assert found.pgd[-1] < 0.2
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_step_is_captums() -> None:
    pytest.importorskip("captum")
    robust = importlib.import_module("captum.robust")
    model, images, labels = learned()
    loss = nn.CrossEntropyLoss(reduction="none")
    attack = robust.FGSM(model, loss, lower_bound=0, upper_bound=1)
    theirs = attack.perturb(images.clone().requires_grad_(), 0.1, labels)
    source = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(source), labels, reduction="sum"), source)
    told = gradient.abs() > 2e-6  # captum takes smaller ones for nothing
    torch.testing.assert_close(fgsm(model, images, labels, 0.1)[told], theirs.detach()[told])
    assert float(told.double().mean()) > 0.9


def test_networks_are_left_as_they_are_and_frozen_ones_will_do() -> None:
    model, images, labels = learned()
    model.train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    expected = pgd(model, images, labels, 0.1, steps=3)
    assert model.training
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[2].weight.grad is None
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(pgd(model, images, labels, 0.1, steps=3), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not torch.equal(pgd(model, images, labels, 0.1, steps=3, seed=1), expected)


def test_the_gradient_goes_through_the_preparation() -> None:
    model, images, labels = learned()
    shifted = nn.Sequential(*model)
    with torch.no_grad():
        expected = fgsm(model, images, labels, 0.1)
    found = fgsm(shifted, images, labels, 0.1, prepare=lambda pixels: ((pixels - 0.5) / 0.25) * 0.25 + 0.5)
    # rounding may turn the sign of gradients that are nearly nothing
    assert float((found == expected).double().mean()) > 0.99


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: fgsm(m, x, y, 8), "epsilon: got 8; needed 0 to 1; pixels are 0 to 1; divide by 255"),
        (lambda m, x, y: fgsm(m, x * 2, y, 0.1), "images: got pixels"),
        (lambda m, x, y: fgsm(m, x, y + 3, 0.1), "labels: got 5; needed 0 to 2"),
        (lambda m, x, y: pgd(m, x, y, 0.1, steps=0), "steps: got 0"),
        (lambda m, x, y: pgd(m, x, y, 0.1, restarts=0), "restarts: got 0"),
        (lambda m, x, y: pgd(m, x, y, 0.1, step_size=-1), "step_size: got -1"),
        (lambda m, x, y: adversarial(m, x, y, []), "epsilons: got none"),
        (lambda m, x, y: fgsm(nn.Sequential(Blind(), m), x, y, 0.1), "Sequential: its answer has no gradient"),
    ],
)
def test_mistakes(call: object, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        call(small(), torch.rand(6, 1, 6, 6) * 0.9 + 0.1, torch.arange(6) % 3)


class Blind(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()
