from __future__ import annotations

import pickle

import pytest
import torch

from striate.data import IGNORED, AnnotatedSet, load
from striate.data.annotated import PARTS, object_map
from striate.data.scenes import Look, Scenes, _glyphs, _photographs, scenes
from striate.errors import DataError

BUSY = Look(crowds=1.0, ignored=1.0)


def around(mask: torch.Tensor) -> list[float]:
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


@pytest.mark.parametrize("look", [Look(), BUSY, Look(size=(96, 200)), Look(size=(40, 32), objects=(8, 8))])
@pytest.mark.parametrize("part", ["train", "test"])
def test_annotations_agree_with_one_another(look: Look, part: str) -> None:
    for index in range(20):
        picture, truth = Scenes(look, part, 20).sample(index)
        assert picture.shape == (3, *look.size)
        assert picture.dtype == torch.uint8
        assert truth.masks is not None
        assert truth.class_map is not None
        assert truth.masks.sum(0).max() <= 1  # what can be seen belongs to one object
        assert [around(mask) for mask in truth.masks] == truth.boxes.tolist()
        known = truth.class_map != IGNORED
        assert torch.equal(truth.class_map[known], object_map(truth)[known])
        assert (truth.class_map == IGNORED).any() == (look.ignored > 0)


def test_a_scene_is_the_same_whenever_it_is_drawn() -> None:
    first, again = scenes(BUSY, "train", 9), pickle.loads(pickle.dumps(scenes(BUSY, "train", 5)))
    for index in (3, 0, 3):
        (picture, truth), (other, known) = first.sample(index), again.sample(index)
        assert torch.equal(picture, other)
        assert torch.equal(truth.boxes, known.boxes)
    assert first.identities()[:5] == again.identities()


def test_seeds_parts_and_looks_are_told_apart() -> None:
    looks = [(Look(), "train"), (Look(seed=1), "train"), (Look(), "test"), (Look(size=(64, 64)), "train")]
    sets = [scenes(look, part, 3) for look, part in looks]
    assert len({identity.digest for each in sets for identity in each.identities()}) == 12
    assert not torch.equal(sets[0].sample(0)[0], sets[1].sample(0)[0])


def test_training_and_testing_share_no_digit_and_no_part_of_a_photograph() -> None:
    (train, _), (test, labels) = _glyphs("train"), _glyphs("test")
    assert len(train) + len(test) == 1797
    same = {digit.tobytes() for digit in train} & {digit.tobytes() for digit in test}
    assert len(same) == 0
    assert set(labels) == set(range(10))
    for learnt, tested in zip(_photographs("train"), _photographs("test"), strict=True):
        assert learnt.shape[1] + tested.shape[1] < 640


def test_every_digit_is_seen_by_half_at_least() -> None:
    crowded = Look(objects=(30, 30))
    for index in range(3):
        _, truth = Scenes(crowded, "train", 3).sample(index)
        assert truth.masks is not None
        assert len(truth) > 10
        assert truth.masks.flatten(1).sum(1).min() > 10


def test_loaded_by_name() -> None:
    loaded = load("scenes:48x64,7,3,crowd,ignore,seed=5", val_fraction=0.3)
    assert (len(loaded.train), len(loaded.val), len(loaded.test)) == (5, 2, 3)
    assert isinstance(loaded.train, AnnotatedSet)
    assert loaded.train.holds == set(PARTS)
    assert loaded.train.map_classes == ("background", *"0123456789")
    assert loaded.train.sample(0)[0].shape == (3, 48, 64)
    assert load("scenes").train.sample(0)[0].shape == (3, 128, 128)
    learnt = {each.digest for each in loaded.train.identities()}
    assert not learnt & {each.digest for each in (*loaded.test.identities(), *loaded.val.identities())}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("scenes:31", "31x31"),
        ("scenes:128,0", "got 0 scenes"),
        ("scenes:12a", "got '12a'"),
        ("scenes:64,5,5,5", "got '5'"),
        ("scenes:64,crowds", "got 'crowds'"),
        ("scenes:64,seed=x", "got 'seed=x'"),
    ],
)
def test_what_scenes_refuse(source: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        load(source)


def test_a_subset_and_parts_of_annotations() -> None:
    whole = scenes(Look(), "train", 6)
    some = whole.subset([4, 1])
    assert torch.equal(some.sample(1)[0], whole.sample(1)[0])
    assert some.identities() == (whole.known[4], whole.known[1])
    boxes = some.holding(["boxes"])
    _, truth = boxes.sample(0)
    assert truth.masks is None
    assert truth.class_map is None
    with pytest.raises(DataError, match="needed masks"):
        boxes.holding(["boxes", "masks"])
    with pytest.raises(DataError, match="got index 2"):
        some.sample(2)
