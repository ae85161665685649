"""The small detector and the small instance network: what they take, give and learn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from striate import accelerate, models
from striate.errors import ModelError

NAMES = ("centernet_small", "condinst_small")
Target = dict[str, Tensor]


def picture(height: int, width: int, boxes: list[list[int]], channels: int = 3) -> tuple[Tensor, Target]:
    """Noise with bright rectangles, and what is known of it; labels are 1, 2, 1, ..."""
    image = torch.rand(channels, height, width) * 0.3
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        image[:, y0:y1, x0:x1] = 0.6 + 0.4 * (index % 2)
        masks[index, y0:y1, x0:x1] = 1
    labels = torch.arange(len(boxes)) % 2 + 1
    return image, {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": labels, "masks": masks}


def eager(name: str, num_classes: int = 3, channels: int = 3) -> Any:
    """A network that finds much: its heat is high everywhere, its boxes differ."""
    torch.manual_seed(0)
    model: Any = models.create(name, num_classes, channels)
    with torch.no_grad():
        heads = model.maps.heads.heads
        heads["heat"][-1].bias.fill_(1.0)
        heads["heat"][-1].weight.normal_(0, 0.5)
        heads["box"][-1].weight.normal_(0, 0.1)
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("sizes", "channels", "num_classes"),
    [([(33, 47), (1, 1), (64, 32)], 1, 2), ([(40, 70)], 3, 6), ([(96, 96), (96, 96)], 4, 3)],
)
@torch.no_grad()
def test_results_are_as_told(name: str, sizes: list[tuple[int, int]], channels: int, num_classes: int) -> None:
    model = eager(name, num_classes, channels)
    found = model([torch.rand(channels, *size) for size in sizes])
    assert len(found) == len(sizes)
    for result, (height, width) in zip(found, sizes, strict=True):
        boxes, labels, scores = result["boxes"], result["labels"], result["scores"]
        count = len(boxes)
        assert count <= model.detections
        assert count or min(height, width) < 4
        assert boxes.shape == (count, 4)
        assert labels.shape == scores.shape == (count,)
        assert ((boxes[:, :2] >= 0) & (boxes[:, :2] < boxes[:, 2:])).all()
        assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert labels.dtype == torch.int64
        assert ((labels >= 1) & (labels < num_classes)).all()
        assert (scores.diff() <= 0).all()
        assert (scores >= model.score_threshold).all()
        assert ("masks" in result) == (name == "condinst_small")
        if "masks" in result:
            assert result["masks"].shape == (count, 1, height, width)
            assert ((result["masks"] >= 0) & (result["masks"] <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_picture_is_seen_alike_in_all_company(name: str) -> None:
    model = eager(name)
    images = [torch.rand(3, *size) for size in ((40, 30), (64, 32), (90, 60), (41, 31), (20, 100))]
    together = model(images)
    for index, image in enumerate(images):
        (alone,) = model([image])
        for part, tensor in alone.items():
            torch.testing.assert_close(together[index][part], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_losses_stay_finite(name: str) -> None:
    model: Any = models.create(name, 3, 3)
    cases = [
        picture(40, 50, []),
        picture(64, 64, [[3, 3, 4, 4], [10, 10, 50, 60], [10, 10, 50, 60]]),
        picture(33, 20, [[0, 0, 20, 33], [19, 32, 20, 33]]),
    ]
    cases[1][1]["boxes"][0] = torch.tensor([3.0, 3.0, 3.001, 3.001])
    for chosen in (cases, cases[:1], cases[1:2]):
        model.zero_grad()
        losses = model([image for image, _ in chosen], [target for _, target in chosen])
        assert set(losses) == {"heat", "class", "box"} | ({"mask"} if name == "condinst_small" else set())
        total = sum(losses.values())
        total.backward()
        assert total.isfinite()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key  # processes that train together wait for all of them
            assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_a_batch_are_the_means_of_its_parts(name: str) -> None:
    model: Any = models.create(name, 3, 3)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eval()
    cases = [
        picture(64, 64, boxes) for boxes in ([], [[4, 4, 30, 30]], [[1, 1, 9, 9], [20, 36, 60, 60], [9, 9, 40, 40]])
    ]
    images, targets = [image for image, _ in cases], [target for _, target in cases]
    whole = model(images, targets)
    parts = [model(images[:2], targets[:2]), model(images[2:], targets[2:])]
    for part, loss in whole.items():
        assert loss.item() == pytest.approx((2 * parts[0][part] + parts[1][part]).item() / 3, rel=1e-5), part


@pytest.mark.parametrize("name", NAMES)
def test_crowds_teach_nothing(name: str) -> None:
    model: Any = models.create(name, 3, 3)
    image, target = picture(64, 64, [[4, 4, 30, 30], [20, 36, 60, 60]])
    target["iscrowd"] = torch.tensor([0, 1])
    maps = model.maps(model.batch([image]))
    maps = {part: tensor.detach().requires_grad_() for part, tensor in maps.items()}
    losses = model.losses(maps, model.objects([target]), [target])
    sum(losses.values()).backward()
    for part in ("heat", "box"):
        assert maps[part].grad[0, :, 9:15, 5:15].abs().sum() == 0, part
        assert maps[part].grad[0, :, 3:6, 3:6].abs().sum() > 0, part
    first = {part: tensor[:1] for part, tensor in target.items()}
    alone = model.losses(maps, model.objects([first]), [first])
    assert {part: loss.item() for part, loss in losses.items() if part != "heat"} == {
        part: loss.item() for part, loss in alone.items() if part != "heat"
    }


WRONG = {
    "boxes": (torch.tensor([[4.0, 4, 4, 9]]), "image 1, object 0: got box"),
    "labels": (torch.tensor([3]), "image 1, object 0: got label 3; needed 1 to 2"),
}


@pytest.mark.parametrize("part", WRONG)
def test_wrong_targets_are_named(part: str) -> None:
    model: Any = models.create("centernet_small", 3)
    cases = [picture(32, 32, [[1, 1, 9, 9]]) for _ in range(2)]
    wrong, told = WRONG[part]
    cases[1][1][part] = wrong
    with pytest.raises(ModelError, match=told):
        model([image for image, _ in cases], [target for _, target in cases])


def test_what_is_missing_is_named() -> None:
    model: Any = models.create("condinst_small", 3)
    image, target = picture(32, 32, [[1, 1, 9, 9]])
    with pytest.raises(ModelError, match="targets: got none; needed 1 in training"):
        model([image])
    with pytest.raises(ModelError, match="target of image 0: has no tensor 'masks'"):
        model([image], [{part: target[part] for part in ("boxes", "labels")}])
    with pytest.raises(ModelError, match=r"image 0: got \(1, 32, 32\); needed \(3, H, W\)"):
        model([image[:1]], [target])
    with pytest.raises(ModelError, match="CenterNet: got num_classes = 1; needed 2 or more"):
        models.create("centernet_small", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_acceleration_changes_nothing(name: str) -> None:
    image, target = picture(64, 64, [[4, 4, 30, 30], [20, 36, 60, 60]])
    losses = []
    for accelerated in (False, True):
        torch.manual_seed(0)
        model: Any = models.create(name, 3)
        if accelerated:
            accelerate(model, quiet=True)
            assert model.maps._compiled_call_impl is not None
        losses.append({part: loss.item() for part, loss in model([image], [target]).items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_learns_four_pictures_by_heart(name: str) -> None:
    torch.manual_seed(0)
    cases = [
        picture(64, 64, [[4, 4, 30, 24], [12, 36, 60, 60]]),
        picture(64, 64, [[20, 10, 40, 50], [36, 20, 60, 44]]),
        picture(64, 64, [[1, 2, 13, 12]]),
        picture(64, 64, []),
    ]
    model: Any = models.create(name, 3)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(120):
        optimizer.zero_grad()
        sum(model([image for image, _ in cases], [target for _, target in cases]).values()).backward()
        optimizer.step()
    model.eval()
    for layer in model.modules():  # the statistics of these four, as in training
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.track_running_stats = False
    with torch.no_grad():
        found = model([image for image, _ in cases])
    for result, (_, target) in zip(found, cases, strict=True):
        kept = result["scores"] > 0.3
        order = result["labels"][kept].argsort()
        assert result["labels"][kept][order].tolist() == target["labels"].tolist()
        if not len(order):
            continue
        assert (result["boxes"][kept][order] - target["boxes"]).abs().max() < 2
        if "masks" in result:
            mine, truth = result["masks"][kept][order][:, 0] > 0.5, target["masks"] > 0
            iou = (mine & truth).sum((1, 2)) / (mine | truth).sum((1, 2))
            assert iou.min() > 0.8
