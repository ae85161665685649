"""Cross-validation: a set is divided into k parts, and each part is held out once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from striate.errors import DataError


def folds(
    labels: Tensor, classes: Sequence[str], k: int, seed: int, groups: Tensor | None = None
) -> list[tuple[Tensor, Tensor]]:
    """k pairs of training and held-out images; every image is held out once.

    The held-out parts are stratified: their numbers of images of a class differ by at most one, and so do their total
    numbers, as in scikit-learn's StratifiedKFold. The choice depends only on labels, groups and ``seed``.

    Groups stay together. Then the numbers may differ by the size of a group: groups are assigned in order of size, the
    largest first, each to the part with the fewest images of its class. Single images come last and even out the rest.

    Args:
        labels: int64 (N,) in 0 ... K - 1.
        classes: the K names; a class may have no images.
        k: parts, 2 or more.
        seed: 0 or more.
        groups: int64 (N,), the same number for images that must stay together, such as copies; None if there are none.

    Returns:
        For each part the indices of the other images and its own, int64, rising.

    Raises:
        DataError: no images, k below 2, a negative seed, groups of another shape, a class with fewer than k images (or
            groups).

    >>> labels = torch.tensor([0, 0, 1, 1, 1, 0])
    >>> [(len(train), labels[held_out].tolist()) for train, held_out in folds(labels, ("cat", "dog"), 3, seed=0)]
    [(4, [1, 0]), (4, [0, 1]), (4, [0, 1])]
    """
    if k < 2 or seed < 0 or not len(labels):
        got = f"got k {k}, seed {seed}, {len(labels)} images"
        raise DataError("folds", got, "needed 2 folds or more, a seed from 0, images")
    if groups is not None and groups.shape != labels.shape:
        got = f"got groups {tuple(groups.shape)} for labels {tuple(labels.shape)}"
        raise DataError("folds", got, "needed one number for each image")
    together = _together(labels, groups)
    _check(labels, classes, k, together)

    random = np.random.default_rng(seed)
    known = labels.tolist()
    shuffled = [together[number] for number in random.permutation(len(together))]
    # Class by class, so that a part with fewer images of one class gets more images of the next.
    order = sorted(shuffled, key=lambda members: (-len(members), known[members[0]]))
    counts = [[0] * len(classes) for _ in range(k)]
    totals = [0] * k
    part_of = np.empty(len(known), dtype=np.int64)
    for members in order:
        part = min(range(k), key=lambda each: (sum(counts[each][known[one]] for one in members), totals[each]))
        part_of[members] = part
        totals[part] += len(members)
        for one in members:
            counts[part][known[one]] += 1
    held_out = torch.from_numpy(part_of)
    return [((held_out != part).nonzero().squeeze(1), (held_out == part).nonzero().squeeze(1)) for part in range(k)]


def _together(labels: Tensor, groups: Tensor | None) -> list[list[int]]:
    """The images of each group, in the order of their first ones."""
    if groups is None:
        return [[index] for index in range(len(labels))]
    found: dict[int, list[int]] = {}
    for index, group in enumerate(groups.tolist()):
        found.setdefault(group, []).append(index)
    return list(found.values())


def _check(labels: Tensor, classes: Sequence[str], k: int, together: list[list[int]]) -> None:
    known = labels.tolist()
    apart = [0] * len(classes)
    for members in together:
        for label in {known[one] for one in members}:
            apart[label] += 1
    for label, (name, groups) in enumerate(zip(classes, apart, strict=True)):
        if 0 < groups < k:
            images = known.count(label)
            got = f"{images} image{'s' * (images > 1)}" + (f" in {groups} groups" if groups < images else "")
            raise DataError("folds", f"class {name} has {got}", f"needed {k}, one for each fold", "ask for fewer folds")
