"""
Detection and segmentation
==========================

One picture, three questions: which class, where, and which pixels. You will see the answers to a drawn scene, and the
operations behind them: intersection over union, non-maximum suppression, heat maps and mean IoU.
"""

import matplotlib.pyplot as plt
import torch

from striate import data, ops
from striate.models import centers
from striate.tasks.maps import measure_maps
from striate.tasks.objects import ObjectRecorder

plt.style.use("tableau-colorblind10")
torch.manual_seed(0)

# %%
# **The truth, three times.** A scene of :mod:`striate.data` is drawn, so its annotation is exact. Boxes with labels are
# what detection answers, a mask for each object is what instance segmentation answers, and a class for each pixel is
# what semantic segmentation answers (:formula:`S25`). Both 8s have the same colour in the class map: it can't say where
# one ends and another begins.

scenes = data.load("scenes:128,1,1,seed=13")
picture, truth = scenes.train.sample(0)
print(truth, [scenes.train.classes[label] for label in truth.labels])
eights = truth.masks[truth.labels == 8]
assert len(eights) == 2
assert int((truth.class_map == 9).sum()) == int(eights.sum())  # 0 is the background, so 8 is 9


def draw(axis: plt.Axes, boxes: torch.Tensor, colour: str, **line: object) -> None:
    """Boxes as rectangles."""
    for x0, y0, x1, y1 in boxes.tolist():
        axis.add_patch(plt.Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, **line))


numbers = torch.zeros(128, 128)
for number, mask in enumerate(truth.masks, start=1):
    numbers[mask] = number
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
shown = {"boxes": picture.permute(1, 2, 0), "masks of objects": numbers, "classes of pixels": truth.class_map}
for axis, (title, image) in zip(axes, shown.items(), strict=True):
    axis.imshow(image.numpy(), cmap="cividis", interpolation="nearest")
    axis.set(title=title, xticks=[], yticks=[])
draw(axes[0], truth.boxes, "black", linewidth=2)
for (x0, y0, *_), label in zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True):
    axes[0].text(x0, y0 - 2, str(label), fontweight="bold")
plt.show()

# %%
# **Intersection over union.** Two boxes, or two masks, are compared by what they share over what they cover together.
#
# .. math:: \mathrm{IoU}(A, B) = \frac{|A \cap B|}{|A \cup B|}
#
# A box of side s that is d pixels off to one side has (s - d) / (s + d). So four pixels cost a box of 96 pixels 8 % of
# its IoU, and one of 12 pixels half. Of neighbours boxes can overlap where masks don't: the 2 and the 8 of the scene.

sides, shifts = (12, 24, 48, 96), torch.arange(0, 13.0)
figure, axis = plt.subplots(figsize=(8, 3.8))
for side, marker in zip(sides, "os^D", strict=True):
    box = torch.tensor([[0.0, 0, side, side]])
    moved = box + torch.stack([shifts, 0 * shifts, shifts, 0 * shifts], 1)
    overlap = ops.box_iou(box, moved)[0]
    assert torch.allclose(overlap, ((side - shifts) / (side + shifts)).clamp(min=0))
    axis.plot(shifts, overlap, marker=marker, label=f"{side} pixels")
axis.axhline(0.5, color="black", linestyle=":")
axis.set(xlabel="pixels off, along one axis", ylabel="IoU with the right place", ylim=(0, 1.02))
axis.legend(title="side of the box")
figure.tight_layout()
plt.show()

overlaps = ops.box_iou(truth.boxes, truth.boxes).fill_diagonal_(0)
first, second = divmod(int(overlaps.argmax()), len(truth))
print(f"boxes of {truth.labels[first]} and {truth.labels[second]}: IoU {overlaps.max():.2f}, masks share no pixel")
assert overlaps.max() > 0.2
assert not (truth.masks[first] & truth.masks[second]).any()

# %%
# **Non-maximum suppression.** A detector answers at many places, so each object is found many times. Here each true box
# has eight answers, a little off, and the better ones tend to have better scores. :func:`striate.ops.batched_nms`
# takes the best, drops those of its class that overlap it by more than a threshold, and goes on with the rest.

labels = truth.labels.repeat_interleave(8)
sizes = (truth.boxes[:, 2:] - truth.boxes[:, :2]).repeat(1, 2).repeat_interleave(8, 0)
boxes = truth.boxes.repeat_interleave(8, 0) + 0.05 * sizes * torch.randn(len(labels), 4)
quality = ops.box_iou(boxes, truth.boxes).amax(1)
scores = (quality - 0.1 * torch.rand(len(labels))).clamp(0.01, 1)
kept = {threshold: ops.batched_nms(boxes, scores, labels, threshold) for threshold in (0.1, 0.5, 0.9)}
measured = {}
for threshold, chosen in kept.items():
    recorder = ObjectRecorder(scenes.train.classes)
    found = data.Detections(truth.size, boxes[chosen], labels[chosen], scores[chosen])
    recorder.add(truth, found)
    measured[threshold] = recorder.measures().boxes
    print(f"threshold {threshold}: {len(chosen)} of {len(labels)} answers left, AP50 {measured[threshold].ap50:.2f}")
assert len(kept[0.5]) == len(truth)
assert len(kept[0.9]) > 2 * len(truth)

# %%
# A threshold of 0.9 leaves doubles. AP50 hardly notices them, since a double comes behind the best answer for its
# object; the share of the answers that are right does. A threshold that is too low takes true neighbours for doubles:
# two objects of one class whose boxes overlap by 0.4 can't both survive at 0.3, however good the detector is.

pair = torch.tensor([[0.0, 0, 28, 40], [12, 0, 40, 40]])
assert abs(float(ops.box_iou(pair, pair)[0, 1]) - 0.4) < 1e-6
assert len(ops.nms(pair, torch.tensor([0.9, 0.8]), 0.3)) == 1
assert len(ops.nms(pair, torch.tensor([0.9, 0.8]), 0.5)) == 2
print(f"at 0.9 {len(truth) / len(kept[0.9]):.0%} of the answers are right, at 0.5 {len(truth) / len(kept[0.5]):.0%}")
assert measured[0.9].ap50 > 0.9

# %%
# **Heat maps.** A centre detector needs no suppression. For each class it draws a map whose peaks are the centres of
# objects, and at each place it says a box by four numbers. From the true map the true boxes come back.

stride, shape = 4, (32, 32)
objects = centers.Objects(
    truth.boxes, truth.labels, torch.zeros(len(truth), dtype=torch.int64), torch.ones(len(truth), dtype=torch.bool)
)
heat = centers.heat_maps(objects, centers.gaussians(objects, shape, stride), 1, 10)
at = objects.places(shape, stride)
torch.testing.assert_close(
    centers.boxes_of(centers.codes_of(truth.boxes, at, stride), at, stride), truth.boxes, rtol=1e-5, atol=1e-4
)
height, classes, places = centers.peaks(torch.logit(heat, eps=1e-6), len(truth))
peaks = {(int(k), *map(int, place)) for k, place in zip(classes[0], places[0], strict=True)}
assert peaks == {(int(k), *map(int, place)) for k, place in zip(truth.labels, at, strict=True)}

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
titles = {f"all {len(labels)} answers": slice(None), f"{len(kept[0.5])} left by suppression": kept[0.5]}
for axis, (title, chosen) in zip(axes, titles.items(), strict=False):
    axis.imshow(picture.permute(1, 2, 0).numpy())
    draw(axis, boxes[chosen], "black", linewidth=1.5)
    axis.set(title=title, xticks=[], yticks=[])
drawn = axes[2].imshow(heat[0].amax(0).numpy(), cmap="cividis", vmin=0, vmax=1)
axes[2].set(title="heat map, highest of all classes", xticks=[], yticks=[])
figure.colorbar(drawn, ax=axes[2], shrink=0.9)
plt.show()

# %%
# **Mean IoU.** A class map is scored by its pixels. The share of pixels that are right is a poor measure: most pixels
# are background, so a map of background alone is mostly right. Mean IoU takes each class by itself. Moving the true map
# by one pixel shows how thin strokes are.

guesses = {
    "background alone": torch.zeros_like(truth.class_map),
    "moved by one pixel": truth.class_map.roll(1, 1),
    "moved by two pixels": truth.class_map.roll(2, 1),
    "the truth": truth.class_map,
}
found = {name: measure_maps([truth.class_map], [guess], scenes.train.map_classes) for name, guess in guesses.items()}
for name, measures in found.items():
    print(f"{name:20} {measures.accuracy:.1%} of the pixels right, mean IoU {measures.mean_iou:.2f}")
assert found["background alone"].accuracy > 0.85
assert found["background alone"].mean_iou < 0.2
assert found["the truth"].mean_iou == 1

# %%
# .. verdict:: pyramid-levels
#
# **What the texts say too strongly.** A text gives segmentation the question *which pixels belong to which objects*. Of
# its two kinds only instance segmentation answers it; the class map above has one value for both 8s. It gives detection
# the output of *multiple* boxes: none and one are legal too, and a detector that can't say "nothing" finds something in
# every picture.
#
# **Exercises**
#
# 1. By how many pixels may a box of 24 pixels be off along *both* axes until its IoU is below 0.5? Derive it, then ask
#    ``ops.box_iou``.
# 2. Use ``ops.nms`` instead of ``ops.batched_nms`` above. Which digits are lost at which threshold, and why?
# 3. Draw the heat map at a stride of 16. Do all objects still have a peak of their own? Try other seeds.
#
# **Answers**
#
# 1. By four pixels. The boxes share (s - d)² and together cover 2s² - (s - d)², so the IoU is a half where (s - d)² is
#    two thirds of s²: at d = 4.4 for s = 24.

box = torch.tensor([[0.0, 0, 24, 24]])
both = ops.box_iou(box, box + torch.arange(6.0)[:, None])[0]
assert abs(24 * (1 - (2 / 3) ** 0.5) - 4.4) < 0.01
assert both[4] > 0.5 > both[5]

# %%
# 2. At 0.1 and 0.2 a 2 is lost, because its neighbour is an 8 whose answers overlap all of its own by more than that.
#    ``batched_nms`` compares answers of one class only. At 0.3 and above one of the answers for the 2 survives.

owner = torch.arange(len(truth)).repeat_interleave(8)
for threshold, expected in ((0.1, [2]), (0.2, [2]), (0.3, []), (0.5, [])):
    found = owner[ops.nms(boxes, scores, threshold)]
    lost = [int(truth.labels[number]) for number in range(len(truth)) if number not in found]
    print(f"threshold {threshold}: lost {lost}")
    assert lost == expected
    assert set(owner[ops.batched_nms(boxes, scores, labels, threshold)].tolist()) == set(range(len(truth)))

# %%
# 3. Yes: all six objects keep a peak, here and on sixty other scenes. Two objects would have to be of one class with
#    centres in the same square of 16x16 pixels, and digits that don't overlap hardly get so close. At a stride of 32
#    four of the sixty scenes lose an object.

coarse = centers.heat_maps(objects, centers.gaussians(objects, (8, 8), 16), 1, 10)
_, classes, places = centers.peaks(torch.logit(coarse, eps=1e-6), len(truth))
peaks = {(int(k), *map(int, place)) for k, place in zip(classes[0], places[0], strict=True)}
assert peaks == {(int(k), *map(int, p)) for k, p in zip(truth.labels, objects.places((8, 8), 16), strict=True)}

merged = {16: 0, 32: 0}
for seed in range(60):
    _, known = data.load(f"scenes:128,1,1,seed={seed}").train.sample(0)
    middles = (known.boxes[:, :2] + known.boxes[:, 2:]) / 2
    for stride in merged:
        cells = torch.cat([known.labels[:, None], (middles / stride).long()], 1)
        merged[stride] += len(cells.unique(dim=0)) < len(known)
print(merged)
assert merged == {16: 0, 32: 4}

figure, axes = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
for axis, shown, stride in zip(axes, (heat, coarse), (4, 16), strict=True):
    axis.imshow(shown[0].amax(0).numpy(), cmap="cividis", vmin=0, vmax=1)
    axis.set(title=f"stride {stride}", xticks=[], yticks=[])
plt.show()
