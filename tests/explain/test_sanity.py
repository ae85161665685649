"""Sanity checks: against scikit-image and scipy, on networks whose answer is known, and on a trained one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from explained_networks import Nested
from made_images import DIGIT, SIDE, network, pasted, train
from scipy.stats import spearmanr
from torch import Tensor, nn

from striate import explain
from striate.errors import ExplainError


def test_likeness_against_scikit_image_and_scipy() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    first, second = torch.rand(3, 30, 40), torch.rand(3, 30, 40)
    second = 0.5 * first + 0.5 * second
    ranks, similar = [], []
    for one, other in zip(first.double().numpy(), second.double().numpy(), strict=True):
        ranks.append(spearmanr(one.ravel(), other.ravel()).statistic)
        one, other = ((each - each.min()) / (each.max() - each.min()) for each in (one, other))
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
        _, whole = metrics.structural_similarity(one, other, full=True, **options)
        similar.append(whole[5:-5, 5:-5].mean())
    found = explain.likeness(first, second)
    assert found.rank_correlation == pytest.approx(np.mean(ranks))
    assert found.ssim == pytest.approx(np.mean(similar))
    assert 0 < found.ssim < 1


def test_constant_maps_are_like_nothing() -> None:
    assert explain.likeness(torch.zeros(1, 9, 9), torch.rand(1, 9, 9)).rank_correlation == 0
    assert np.isfinite(explain.likeness(torch.zeros(1, 2, 2), torch.rand(1, 2, 2)).ssim)


def test_randomisation_goes_from_the_output_down_and_leaves_the_network() -> None:
    model, x = Nested().eval(), torch.randn(4, 3, 16, 16)
    before = copy.deepcopy(model.state_dict())
    found = explain.model_randomisation(explain.grad_cam, model, x, stages=5)
    assert found.layers == ("fc", "last", "body.block.0", "stem.1", "stem.0")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert len(explain.model_randomisation(explain.saliency, model, x, stages=2).layers) == 2
    again = explain.model_randomisation(explain.grad_cam, model, x, stages=5)
    assert again == found
    with pytest.raises(ExplainError, match="has no weights to randomise"):
        explain.model_randomisation(explain.saliency, nn.Sequential(nn.Flatten()), x)


def test_a_map_that_ignores_the_network_does_not_change() -> None:
    def edges(model: nn.Module, image: Tensor, target: explain.targets.Target = None) -> explain.Explanation:
        found = explain.saliency(model, image, target)
        gradient = image.diff(dim=2).abs().mean(1)
        return explain.Explanation(**{**vars(found), "map": nn.functional.pad(gradient, (0, 0, 0, 1))})

    x = torch.rand(3, 3, 16, 16)
    same = explain.model_randomisation(edges, Nested().eval(), x)
    assert {each.rank_correlation for each in same.likeness} == {1.0}
    assert {each.ssim for each in same.likeness} == {1.0}
    true = explain.model_randomisation(explain.saliency, Nested().eval(), x)
    assert all(each.rank_correlation < 0.9 for each in true.likeness)


def test_check_measures_all_of_it() -> None:
    model, x = Nested().eval(), torch.randn(2, 3, 16, 16)
    found = explain.check(explain.grad_cam, model, x, layer="last")
    assert found.explanation.layer == "last"
    settled = found.explanation.classes
    assert found.curves == explain.deletion_insertion(model, x, found.explanation.map, settled)
    faithful = explain.faithfulness(model, x, found.explanation.map, settled)
    assert found.faithfulness == pytest.approx(sum(faithful) / 2)
    assert set(found.to_dict()) == {"curves", "chance", "faithfulness", "randomisation"}


@pytest.mark.slow
def test_on_pasted_digits_grad_cam_points_at_the_digit_once_trained() -> None:
    images, labels, _ = pasted(2048, 0)
    shown, digits, boxes = pasted(300, 1)
    model = train(images, labels)
    assert (model(shown).argmax(1) == digits).float().mean() > 0.9
    hits = explain.pointing_game(explain.grad_cam(model, shown, digits), boxes)
    assert np.mean(hits) >= 0.95
    with pytest.warns(explain.ExplainWarning):  # of a random network, evidence for a class may be missing
        chance = explain.pointing_game(explain.grad_cam(network(5).eval(), shown, digits), boxes)
    assert abs(np.mean(chance) - (DIGIT / SIDE) ** 2) < 0.1

    # A trained network's map outdoes a random order, and is lost with the weights.
    checked = explain.check(explain.grad_cam, model, shown[:32], digits[:32])
    assert np.mean(checked.curves.insertion_auc) > np.mean(checked.chance.insertion_auc)
    assert np.mean(checked.curves.deletion_auc) < np.mean(checked.chance.deletion_auc)
    assert checked.faithfulness > 0.3
    assert checked.randomisation.likeness[-1].rank_correlation < 0.5


def test_label_randomisation_trains_on_shuffled_labels() -> None:
    images, labels, _ = pasted(64, 0)
    seen: list[Tensor] = []

    def fit(x: Tensor, y: Tensor) -> nn.Module:
        seen.append(y)
        return train(x, y, 1)

    found = explain.label_randomisation(explain.saliency, fit, images, labels, images[:4])
    assert torch.equal(seen[0], labels)
    assert not torch.equal(seen[1], labels)
    assert torch.equal(seen[1].sort().values, labels.sort().values)
    assert found.rank_correlation < 1
    same = explain.label_randomisation(explain.saliency, lambda x, _: fit(x, labels), images, labels, images[:4])
    assert same == explain.Likeness(1.0, 1.0)
