from __future__ import annotations

import pytest
import torch

from striate.data import IGNORED, AnnotatedSet, Annotation, Split
from striate.data.annotated import Fault, joined, object_map
from striate.data.moving import boxes_of
from striate.data.scenes import Look, scenes
from striate.errors import DataError


def test_where_classes_overlap_and_in_crowds_nothing_is_known() -> None:
    masks = torch.zeros(4, 1, 8, dtype=torch.bool)
    for mask, (start, stop) in zip(masks, ((0, 3), (2, 4), (3, 5), (4, 8)), strict=True):
        mask[:, start:stop] = True
    crowd = torch.tensor([False, False, False, True])
    truth = Annotation((1, 8), boxes_of(masks), torch.tensor([0, 1, 1, 2]), crowd, masks)
    assert object_map(truth).tolist() == [[1, 1, IGNORED, 2, 2, IGNORED, IGNORED, IGNORED]]


def test_sets_one_after_the_other() -> None:
    first, second = scenes(Look((32, 40)), "train", 3), scenes(Look((40, 32)), "test", 2).holding(["boxes"])
    both = joined([first, second])
    assert len(both) == 5
    assert both.holds == {"boxes"}
    assert torch.equal(both.sample(4)[0], second.sample(1)[0])
    assert torch.equal(both.sample(0)[1].boxes, first.sample(0)[1].boxes)
    assert both.identities() == (*first.identities(), *second.identities())
    assert joined([first]) is first


def test_sets_of_a_split_have_the_same_classes_and_any_sizes() -> None:
    train, test = scenes(Look((32, 40)), "train", 3), scenes(Look((40, 32)), "test", 2)
    assert Split(train, test, "scenes").parts == {"train": train, "test": test}
    other = AnnotatedSet(test.samples, ("a",), test.map_classes, test.holds, 3, test.known)
    with pytest.raises(DataError, match="classes"):
        Split(train, other, "scenes")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"known": ()}, "0 identities"),
        ({"classes": ("a", "a")}, "names that differ"),
        ({"holds": frozenset({"points"})}, "got parts"),
        ({"holds": frozenset()}, "got parts"),
    ],
)
def test_parts_that_do_not_fit(change: dict, told: str) -> None:
    some = scenes(Look(), "train", 2)
    fields = {name: getattr(some, name) for name in ("samples", "classes", "map_classes", "holds", "channels", "known")}
    with pytest.raises(DataError, match=told):
        AnnotatedSet(**{**fields, **change})


def test_a_fault_on_one_line() -> None:
    assert str(Fault("a.jpg", "has a box without area", "object 3")) == "a.jpg: object 3 has a box without area"
    assert str(Fault("a.jpg", "can't be read")) == "a.jpg: can't be read"
