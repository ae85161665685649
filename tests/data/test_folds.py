"""Folds: every image held out once, classes and totals even, groups together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from striate.data.folds import folds
from striate.errors import DataError

Case = tuple[int, list[int]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """k, and the images of each class: none, or at least k."""
    k = draw(st.integers(2, 7))
    sizes = st.one_of(st.just(0), st.integers(k, 40))
    return k, draw(st.lists(sizes, min_size=1, max_size=8).filter(any))


def labels_of(counts: list[int]) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {n}" for n in range(count))


@given(cases(), st.integers(0, 2**32 - 1))
def test_every_image_is_held_out_once_and_classes_are_even(case: Case, seed: int) -> None:
    k, counts = case
    labels = labels_of(counts)
    parts = folds(labels, names(len(counts)), k, seed)
    assert len(parts) == k
    assert torch.cat([held_out for _, held_out in parts]).sort().values.tolist() == list(range(len(labels)))
    for train, held_out in parts:
        assert torch.cat([train, held_out]).sort().values.tolist() == list(range(len(labels)))
        assert (train.diff() > 0).all()
        assert (held_out.diff() > 0).all()
    of_class = torch.stack([labels[held_out].bincount(minlength=len(counts)) for _, held_out in parts])
    assert int((of_class.amax(0) - of_class.amin(0)).max()) <= 1
    totals = of_class.sum(1)
    assert int(totals.max() - totals.min()) <= 1


def test_as_even_as_scikit_learns() -> None:
    labels = labels_of([33, 12, 5, 71])
    theirs = StratifiedKFold(5, shuffle=True, random_state=0).split(np.zeros(len(labels)), labels)
    ours, others = (
        np.array([np.bincount(labels[held_out], minlength=4) for _, held_out in parts])
        for parts in (folds(labels, names(4), 5, seed=0), theirs)
    )
    np.testing.assert_array_equal(np.sort(ours, axis=0), np.sort(others, axis=0))


@given(cases(), st.data())
def test_groups_stay_together_and_every_fold_has_every_class(case: Case, data: st.DataObject) -> None:
    k, counts = case
    labels = labels_of(counts)
    # Of each class a few images are the same as others of it, but k or more groups stay.
    groups = torch.arange(len(labels)) * 17
    for label, count in enumerate(counts):
        members = (labels == label).nonzero().squeeze(1)
        same = data.draw(st.integers(0, max(0, count - k)))
        groups[members[: same + 1]] = -label
    parts = folds(labels, names(len(counts)), k, 0, groups)
    seen = [set(groups[held_out].tolist()) for _, held_out in parts]
    assert sum(map(len, seen)) == len(set().union(*seen))
    for train, held_out in parts:
        assert not set(groups[train].tolist()) & set(groups[held_out].tolist())
        of_class = labels[held_out].bincount(minlength=len(counts))
        assert [bool(n) for n in of_class] == [bool(n) for n in counts]


def test_single_images_even_out_what_groups_leave() -> None:
    labels = torch.zeros(100, dtype=torch.int64)
    groups = torch.arange(100)
    groups[:15] = 0
    groups[15:22] = 15
    sizes = sorted(len(held_out) for _, held_out in folds(labels, ("a",), 5, 0, groups))
    assert sizes == [20] * 5


def test_a_group_of_several_classes_stays_together() -> None:
    labels = torch.arange(40) % 2
    groups = torch.arange(40) // 2  # each image once as a cat and once as a dog
    for _, held_out in folds(labels, ("cat", "dog"), 4, 1, groups):
        assert labels[held_out].bincount().tolist() == [5, 5]
        assert len(set(groups[held_out].tolist())) == 5


def test_the_seed_alone_decides() -> None:
    labels = labels_of([20, 30])
    one, other = (folds(labels, names(2), 3, seed) for seed in (0, 1))
    torch.manual_seed(4)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(one, folds(labels, names(2), 3, 0), strict=True))
    assert not all(torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("labels", "k", "seed", "groups", "message"),
    [
        ([0] * 5 + [1] * 2, 3, 0, None, "^folds: class dog has 2 images; needed 3, one for each fold; ask for fewer"),
        ([0] * 5 + [1], 2, 0, None, "class dog has 1 image;"),
        ([0, 0, 0], 3, 0, [7, 7, 8], "class cat has 3 images in 2 groups; needed 3"),
        ([0, 0, 0], 1, 0, None, "got k 1"),
        ([0, 0, 0], 2, -1, None, "seed -1"),
        ([], 2, 0, None, "0 images"),
        ([0, 0, 0], 2, 0, [1, 2], r"got groups \(2,\) for labels \(3,\)"),
    ],
)
def test_what_cannot_be(labels: list[int], k: int, seed: int, groups: list[int] | None, message: str) -> None:
    given_groups = None if groups is None else torch.tensor(groups)
    with pytest.raises(DataError, match=message):
        folds(torch.tensor(labels, dtype=torch.int64), ("cat", "dog"), k, seed, given_groups)
