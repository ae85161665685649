"""
Information
===========

A layer is a function of the layer before, so it can't know more of the label. You will see what this inequality says of
digits, three things that it doesn't say, and how much of a measured information is the measurement.

.. formula:: F45

.. formula:: F44
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from striate import ops
from striate.analysis import information
from striate.studies import digits

plt.style.use("tableau-colorblind10")

# %%
# **What it says.** Grey digits become black and white, and go through three max poolings. Each stage is a function of
# the one before. A stage of an image is one symbol, so counting symbols is exact on these images. Neither number ever
# rises. (Nearly all 1,438 images differ, so the first two stages name their image, and with it the label. Of digits in
# general that says nothing: no pair of images is equal that could disagree.)

data = digits.digits(0)
ink = (data.images > 0.5).double()
stages = {"black, white": ink}
for side in (4, 2, 1):
    stages[f"pooled {side}x{side}"] = ops.max_pool2d(list(stages.values())[-1], 2)
stages = {"grey image": data.images, **stages}
held, told = [], []
for values in stages.values():
    rows = values.flatten(1).numpy()
    held.append(information.entropy(rows, unit="bits"))
    told.append(information.mutual_information(rows, data.labels.numpy(), unit="bits"))
label = information.entropy(data.labels.numpy(), unit="bits")
for name, one, other in zip(stages, held, told, strict=True):
    print(f"{name:13} entropy {one:5.2f} bits, {other:.2f} of {label:.2f} bits about the label")
assert max(np.diff(held)) < 1e-9
assert max(np.diff(told)) < 1e-9
assert all(other <= min(one, label) + 1e-9 for one, other in zip(held, told, strict=True))

figure, axis = plt.subplots(figsize=(8, 3.6))
axis.plot(list(stages), held, "o-", label="entropy of the stage")
axis.plot(list(stages), told, "s-", label="information about the label")
axis.axhline(label, color="black", linestyle=":", label="entropy of the label")
axis.set(ylabel="bits", ylim=(-0.4, 11.5))
axis.legend()
figure.tight_layout()
plt.show()

# %%
# **It doesn't say that the label survives.** A text writes that layers keep about all information about the label. Here
# the 2x2 map has lost nearly all of it. Training may keep it; the inequality doesn't.
#
# **It doesn't say that every layer loses.** An invertible layer loses nothing: turning the image on its head leaves
# both numbers as they are, so the text's strict < is a ≤. Of continuous values the differential entropy can even rise.
# Twice a number has one bit more than the number, and tells the same.

turned = ink.flip(2, 3).flatten(1).numpy()
assert abs(information.entropy(turned, unit="bits") - held[1]) < 1e-9
x = np.random.default_rng(0).normal(size=(2000, 1))
one, twice = (information.neighbour_entropy(factor * x, unit="bits") for factor in (1, 2))
print(f"differential entropy {one:.2f} bits, of twice the numbers {twice:.2f}")
assert abs(twice - one - 1) < 1e-6

# %%
# **It doesn't say that what is measured falls.** The values of a layer are sorted into bins before they are counted.
# The binned layer isn't a function of the binned layer before, so the inequality is silent about the two. Below, the
# label is whether the third binary digit of a number is 1. Two bins of the number tell nothing of it; two bins of the
# next layer, a function of the number, tell all. A good layer does just that: it makes information easy to read.

numbers = np.random.default_rng(1).random(20_000)
third = np.floor(8 * numbers) % 2
bins = information.Binning(2, atom=None, span=(0, 1))
layers = {"number": numbers, "next layer": (4 * numbers) % 1}
seen = {name: information.mutual_information(bins(values), third, unit="bits") for name, values in layers.items()}
print(seen)
assert seen["number"] < 0.001
assert seen["next layer"] > 0.999

# %%
# **Pooling.** A pooled value is a function of its window, so it has no more entropy than the window.
#
# .. formula:: F46
#
# It may have more than one value had. Pixels that are bright once in twenty times carry 0.29 bits each; the maximum of
# four is bright more often, and carries 0.69.

pixels = torch.tensor(np.random.default_rng(2).random((4, 1, 128, 128)) < 0.05).double()
pooled = information.pooling_entropy(pixels, "max", binning=information.Binning(2, atom=None), unit="bits")


def coin(p: float) -> float:
    """The entropy of something that happens with probability p, in bits."""
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


assert abs(pooled.value - coin(0.05)) < 0.02
assert abs(pooled.pooled - coin(1 - 0.95**4)) < 0.02
assert pooled.value < pooled.pooled < pooled.window

# %%
# .. verdict:: pooling-entropy
#
# **A response is no information.** Two texts say that a filter's response is mutual information with its pattern. Twice
# the contrast gives twice the response; information has no contrast. The response of a filter *over many patches* can
# tell which kind of patch it saw, and :func:`striate.analysis.information.filter_match` measures that.
#
# .. formula:: F47
#
# .. verdict:: filter-match

# %%
# **Counting invents information.** Two independent symbols of 16 kinds share none. Counted in few samples they seem to:
# by about 15² / (2N) nats. The correction by Miller and Madow takes that away where there are a few samples for each of
# the 256 pairs; a hundred samples are beyond help. Measured information that is no larger than this bias says nothing.

sizes, plain, corrected = (100, 200, 500, 1000, 2000, 5000), [], []
generator = np.random.default_rng(3)
for size in sizes:
    pairs = [generator.integers(16, size=(2, size)) for _ in range(20)]
    for found, correct in ((plain, False), (corrected, True)):
        several = [information.mutual_information(*pair, corrected=correct, unit="bits") for pair in pairs]
        found.append(float(np.mean(several)))
expected = [15**2 / (2 * size) / math.log(2) for size in sizes]
assert abs(plain[-1] - expected[-1]) < 0.01
assert plain[0] > 0.9
print([round(each, 3) for each in corrected])
assert max(map(abs, corrected[3:])) < 0.05

figure, axis = plt.subplots(figsize=(8, 3.6))
axis.plot(sizes, plain, "o-", label="counted")
axis.plot(sizes, corrected, "s-", label="corrected")
axis.plot(sizes, expected, "k:", label="expected bias")
axis.axhline(0, color="black", linewidth=0.8)
axis.set(xscale="log", xlabel="samples", ylabel="information, bits (truth: 0)", xticks=sizes, xticklabels=sizes)
axis.minorticks_off()
axis.legend()
figure.tight_layout()
plt.show()

# %%
# .. verdict:: estimators
#
# **The bottleneck's plane.** How much of the image does a hidden layer of four units know? Of a network without noise
# the answer depends on the bins alone: the finer they are, the nearer it comes to the logarithm of the number of
# images, where every image has a symbol of its own. So *layers compress* is a sentence about a network *and* its bins.

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4), torch.nn.Tanh(), torch.nn.Linear(4, 10))
digits.train(network, data.images, data.labels, seed=0, epochs=10)
knows = {}
for count in (2, 4, 8, 16, 64, 256):
    plane = information.information(
        network, data.images, data.labels, layers=["2"], binning=information.Binning(count, atom=None), unit="bits"
    )
    knows[count] = plane.rows[0].input, plane.rows[0].label
    print(f"{count:3} bins: {knows[count][0]:5.2f} of {plane.ceiling:.2f} bits about the image, ", end="")
    print(f"{knows[count][1]:.2f} of {plane.label_entropy:.2f} about the label")
assert knows[2][0] < 4.01  # four units of two bins have 16 states
assert knows[256][0] > 0.99 * plane.ceiling

# %%
# .. verdict:: information-plane
#
# **Exercises**
#
# 1. Replace max pooling in the first cell by average pooling. Which stage keeps more of the label, and why isn't the
#    comparison fair?
# 2. For which probability of a bright pixel has the maximum of four *less* entropy than one pixel?
# 3. Shuffle the labels in the last cell. How much do 256 bins tell of the shuffled labels? What does that say of the
#    column on the right?
#
# **Answers**
#
# 1. The means keep more of the label. The comparison isn't fair: a mean of black and white pixels has several values, a
#    maximum has two. Rounded to two values, means still keep more, but much less than before. (More symbols also mean
#    fewer images for each, which by itself makes counted information larger.)

averages, halves = {"4x4": ink}, {"4x4": ink}
for side in (4, 2, 1):
    averages[f"{side}x{side}"] = ops.avg_pool2d(list(averages.values())[-1], 2)
    halves[f"{side}x{side}"] = (ops.avg_pool2d(list(halves.values())[-1], 2) >= 0.5).double()
for side, maximum in zip((4, 2, 1), told[2:], strict=True):
    kept = [
        information.mutual_information(way[f"{side}x{side}"].flatten(1).numpy(), data.labels.numpy(), unit="bits")
        for way in (averages, halves)
    ]
    print(f"{side}x{side}: bits of the label: maximum {maximum:.2f}, mean {kept[0]:.2f}, rounded mean {kept[1]:.2f}")
    assert kept[0] > kept[1] > maximum

# %%
# 2. Above 0.2755. At this probability the maximum is dark as often as a pixel is bright: it solves (1 - p)⁴ = p.

low, high = 0.1, 0.9
for _ in range(60):
    middle = (low + high) / 2
    more = coin(1 - (1 - middle) ** 4) > coin(middle)
    low, high = (middle, high) if more else (low, middle)
assert round(low, 4) == 0.2755
assert abs((1 - low) ** 4 - low) < 1e-9
chances = np.linspace(0.005, 0.995, 199)
figure, axis = plt.subplots(figsize=(8, 3.2))
axis.plot(chances, [coin(p) for p in chances], label="one pixel")
axis.plot(chances, [coin(1 - (1 - p) ** 4) for p in chances], "--", label="maximum of four")
axis.axvline(low, color="black", linestyle=":", label=f"p = {low:.4f}")
axis.set(xlabel="probability of a bright pixel", ylabel="entropy, bits")
axis.legend()
figure.tight_layout()
plt.show()

# %%
# 3. All of the label entropy: nearly every image has a symbol of its own, which determines any label that the image is
#    given. So at 256 bins the column on the right says that the symbols distinguish the images. It says nothing about
#    what the network has learnt.

shuffled = data.labels[torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))]
for count in (2, 256):
    plane = information.information(
        network, data.images, shuffled, layers=["2"], binning=information.Binning(count, atom=None), unit="bits"
    )
    print(f"{count:3} bins: {plane.rows[0].label:.2f} of {plane.label_entropy:.2f} bits about shuffled labels")
assert plane.rows[0].label > 0.99 * plane.label_entropy
