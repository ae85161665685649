"""Weights with mean 1 over the images; orders that show each class as often as the others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from striate.errors import RunError
from striate.tasks.balance import WEIGHTINGS, balanced_order, class_weights

#: Images of each class; classes may have none.
COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any)


def labels_of(counts: list[int], seed: int = 0) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


class TestWeights:
    @pytest.mark.parametrize("how", WEIGHTINGS)
    @given(counts=COUNTS)
    def test_have_mean_1_over_the_images(self, how: str, counts: list[int]) -> None:
        labels = labels_of(counts)
        weights = class_weights(labels, len(counts), how)
        assert weights.dtype == torch.float32
        assert weights.isfinite().all()
        assert float(weights[labels].double().mean()) == pytest.approx(1, rel=1e-6)
        assert [weight == 0 for weight in weights.tolist()] == [count == 0 for count in counts]

    @given(counts=COUNTS)
    def test_balanced_is_scikit_learns(self, counts: list[int]) -> None:
        labels = labels_of(counts)
        present = np.unique(labels)
        expected = compute_class_weight("balanced", classes=present, y=labels.numpy())
        assert class_weights(labels, len(counts), "balanced")[present].tolist() == pytest.approx(expected, rel=1e-6)

    @given(counts=COUNTS)
    def test_effective_is_the_formula(self, counts: list[int]) -> None:
        labels = labels_of(counts)
        found = class_weights(labels, len(counts), "effective").double()
        present = [count for count in counts if count]
        beta = 1 - len(present) / sum(present)
        # The effective number as Cui et al. derive it: the expected volume of n samples, one after the other.
        numbers = []
        for count in present:
            volume = 0.0
            for _ in range(count):
                volume = 1 + beta * volume
            numbers.append(volume)
        raw = np.array([1 / number for number in numbers])
        expected = raw * sum(present) / (raw @ np.array(present))
        assert found[found > 0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)

    def test_effective_lies_between(self) -> None:
        labels = labels_of([1000, 100, 5])
        none, effective, balanced = (class_weights(labels, 3, how) for how in ("none", "effective", "balanced"))
        assert none.tolist() == [1, 1, 1]
        assert balanced[0] < effective[0] < 1
        assert 1 < effective[2] < balanced[2]
        assert effective[2] / effective[1] == pytest.approx(20, rel=0.2)

    @pytest.mark.parametrize(
        ("labels", "how", "message"),
        [
            ([0, 1], "more", "got 'more'; needed one of none, balanced, effective"),
            ([], "none", "got no labels"),
            ([0, 2], "balanced", "got labels from 0 to 2; needed one or more, from 0 to 1"),
            ([-1, 0], "balanced", "got labels from -1 to 0"),
        ],
    )
    def test_what_cannot_be(self, labels: list[int], how: str, message: str) -> None:
        with pytest.raises(RunError, match=message):
            class_weights(torch.tensor(labels, dtype=torch.int64), 2, how)


class TestOrder:
    @given(counts=COUNTS, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 1000))
    def test_each_class_as_often_as_the_others_and_each_image_of_it(
        self, counts: list[int], seed: int, epoch: int
    ) -> None:
        labels = labels_of(counts)
        order = balanced_order(labels, len(counts), seed, epoch)
        assert order.dtype == torch.int64
        assert len(order) == len(labels)
        drawn = labels[order].bincount(minlength=len(counts))
        present = [int(n) for n, count in zip(drawn, counts, strict=True) if count]
        assert max(present) - min(present) <= 1
        assert sum(present) == len(labels)
        times = Counter(order.tolist())
        for label, count in enumerate(counts):
            often = [times[index] for index in (labels == label).nonzero().squeeze(1).tolist()]
            assert len(often) == count
            assert not often or max(often) - min(often) <= 1

    def test_hangs_on_seed_and_epoch_alone(self) -> None:
        labels = labels_of([50, 7, 3])
        orders = [balanced_order(labels, 3, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
        torch.manual_seed(9)
        assert balanced_order(labels, 3, 0, 0).tolist() == orders[0]
        assert len(set(map(tuple, orders))) == 4

    def test_in_time_every_image_of_a_large_class_comes(self) -> None:
        labels = labels_of([90, 10])
        seen = {index for epoch in range(20) for index in balanced_order(labels, 2, 0, epoch).tolist()}
        assert seen == set(range(100))

    def test_classes_are_mixed(self) -> None:
        labels = labels_of([500, 500])
        first = labels[balanced_order(labels, 2, 0, 0)][:200].double().mean()
        assert 0.35 < float(first) < 0.65

    def test_who_comes_once_more_changes(self) -> None:
        labels = labels_of([3, 3, 1])  # 7 draws for 3 classes
        more = {int(labels[balanced_order(labels, 3, 0, epoch)].bincount().argmax()) for epoch in range(20)}
        assert more == {0, 1, 2}

    @pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (0, -1)])
    def test_negative_numbers(self, seed: int, epoch: int) -> None:
        with pytest.raises(RunError, match="needed 0 or more"):
            balanced_order(torch.tensor([0, 1]), 2, seed, epoch)
