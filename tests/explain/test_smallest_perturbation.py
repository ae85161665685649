"""The smallest change found: exact for linear classifiers, and never larger than told for others."""

from __future__ import annotations

import json

import pytest
import torch
from tangled import KINDS, Tangled, untouched
from torch import Tensor, nn

from cases import slow_but
from striate.errors import ExplainError
from striate.explain import grad_cam, smallest_perturbation


def classifier(weights: Tensor, bias: Tensor) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(weights.shape[1], len(weights)))
    network[1].weight.data.copy_(weights)
    network[1].bias.data.copy_(bias)
    return network


def undecided(model: nn.Module, picture: Tensor) -> nn.Module:
    """The network with biases that make it slightly prefer class 1 for a picture: an untrained one hardly varies."""
    training = model.training
    with torch.no_grad():
        logits = model.eval()(2 * picture[None].to(model.head.weight.dtype) - 1)[0]
        model.head.bias -= logits - torch.tensor([0.0, 0.02, 0.0, 0.01]).to(logits.dtype)
    return model.train(training)


def normalised(pictures: Tensor) -> Tensor:
    return 2 * pictures - 1


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("classes", [2, 5])
def test_it_is_the_distance_to_a_linear_boundary(norm: str, classes: int) -> None:
    # Close to the middle of 0..1 nothing is cut off; the nearest class is the one with the smallest gap over dual norm.
    weights, bias = torch.randn(classes, 16), 0.02 * torch.randn(classes)
    picture = 0.5 + 0.05 * torch.randn(1, 4, 4)
    logits = weights @ picture.flatten() + bias - weights @ torch.full((16,), 0.5)
    network = classifier(weights, bias - weights @ torch.full((16,), 0.5))
    seen = int(logits.argmax())
    gaps = logits[seen] - logits
    slopes = weights - weights[seen]
    duals = slopes.norm(dim=1) if norm == "l2" else slopes.abs().sum(1)
    distances = torch.cat([gaps[:seen] / duals[:seen], gaps[seen + 1 :] / duals[seen + 1 :]])
    found = smallest_perturbation(network, picture, norm=norm)  # type: ignore[arg-type]
    size = found.l2 if norm == "l2" else found.largest
    assert size == pytest.approx(float(distances.min()), rel=2e-3)
    assert found.classes[0] == seen


@pytest.mark.parametrize(("norm", "nearest", "size"), [("l2", 1, 0.1), ("linf", 2, 0.1 / 3.6)])
def test_the_nearest_class_depends_on_the_norm(norm: str, nearest: int, size: float) -> None:
    # Slopes of one pixel (l2 1, l1 1) and of 16 pixels (l2 0.9, l1 3.6), with the same gap of 0.1.
    weights = torch.zeros(3, 16)
    weights[1, 0] = 1
    weights[2] = 0.225
    found = smallest_perturbation(
        classifier(weights, torch.tensor([0.0, -0.6, -1.9])),
        torch.full((1, 4, 4), 0.5),
        norm=norm,  # type: ignore[arg-type]
    )
    assert (found.classes, found.method) == ((0, nearest), "DeepFool")
    assert (found.l2 if norm == "l2" else found.largest) == pytest.approx(size, rel=2e-3)


def test_a_class_can_be_asked_for() -> None:
    weights = torch.randn(5, 16)
    picture = 0.5 + 0.02 * torch.randn(1, 4, 4)
    network = classifier(weights, -weights @ torch.full((16,), 0.5))
    logits = network(picture[None])[0]
    last = int(logits.argmin())
    found = smallest_perturbation(network, picture, target=last)
    assert found.classes == (int(logits.argmax()), last)
    assert int(network(found.changed[None]).argmax()) == last


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_what_is_told_is_so(norm: str) -> None:
    picture = torch.rand(1, 12, 12)
    model = undecided(Tangled().eval(), picture)
    found = smallest_perturbation(model, picture, norm=norm, prepare=normalised)  # type: ignore[arg-type]
    change = found.changed - picture
    assert torch.equal(found.picture, picture)
    assert found.l2 == pytest.approx(float(change.norm()), rel=1e-4)
    assert found.largest == pytest.approx(float(change.abs().max()), rel=1e-4)
    given = [int(model(normalised(each[None])).argmax()) for each in (picture, found.changed)]
    assert given == list(found.classes)
    assert given[0] != given[1]
    assert float(found.changed.min()) >= 0
    assert float(found.changed.max()) <= 1
    # It is at the boundary: a little less of it, and the class is the old one.
    assert int(model(normalised((picture + 0.98 * change)[None])).argmax()) == given[0] or found.method != "DeepFool"


def test_black_and_white_stay_so() -> None:
    # The cheapest way leads below 0, where no picture is; the next pixel has to do.
    network = classifier(torch.tensor([[0.0, 0.0], [-4.0, 1.0]]), torch.tensor([0.5, 0.0]))
    found = smallest_perturbation(network, torch.tensor([[[0.0, 0.2]]]))
    assert found.changed.flatten().tolist() == pytest.approx([0, 0.5], abs=1e-3)


def test_evidence_is_by_the_method_asked_for() -> None:
    picture = torch.rand(1, 12, 12)
    found = smallest_perturbation(undecided(Tangled(), picture), picture, explain=grad_cam, prepare=normalised)
    assert found.before.method == found.after.method == "grad_cam"
    assert found.before.classes == (found.classes[0],)
    assert found.after.classes == (found.classes[1],)


@pytest.mark.parametrize("kind", slow_but(KINDS, ["frozen", "half"]))
def test_every_kind_of_network(kind: str, tmp_path: object) -> None:
    picture = torch.rand(1, 12, 12)
    model = undecided(KINDS[kind]()[0], picture)
    with untouched(model):
        found = smallest_perturbation(model, picture, prepare=normalised)
    assert found.classes[0] != found.classes[1]
    json.dumps(found.to_dict(), allow_nan=False)
    found.save(f"{tmp_path}/change.png")


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (Tangled(), {"norm": "l1"}, "needed 'l2' or 'linf'"),
        (Tangled(), {"target": 4}, "class 4 of 4"),
        (Tangled(1), {}, "needed another class"),
        (nn.Conv2d(1, 1, 3), {}, "needed \\(N, classes\\)"),
        (classifier(torch.zeros(2, 144), torch.tensor([1.0, 0.0])), {}, "no change found"),
    ],
)
def test_mistakes(model: nn.Module, arguments: dict[str, object], message: str) -> None:
    with untouched(model), pytest.raises(ExplainError, match=message):
        smallest_perturbation(model, torch.rand(1, 12, 12), **arguments)  # type: ignore[arg-type]
