"""
Why not fully connected?
========================

A fully connected layer has a weight for each pair of a pixel and a unit. You will see how its weights are counted, what
sparse connections and shared weights save of them, each by itself, and what a whole network would need without both.

.. formula:: F51

.. formula:: F28

.. formula:: F27
"""

import math

import matplotlib.pyplot as plt
import torch

from striate import ConvShape, analysis, models, nn

plt.style.use("tableau-colorblind10")

# %%
# **The texts' images.** Three texts take an image each (:formula:`W10`). :func:`striate.analysis.summarize` counts a
# layer of 1,000 units behind it. On PyTorch's ``meta`` device a tensor has a shape and no memory, so any size is free.

for shape, inputs in (((3, 256, 256), 196_608), ((3, 224, 224), 150_528), ((3, 200, 200), 120_000)):
    with torch.device("meta"):
        layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), 1000))
    counted = analysis.summarize(layers, shape)
    assert counted.parameters == inputs * 1000 + 1000
    print(f"{shape}: {inputs:,} inputs, {counted.parameters:,} parameters")

# %%
# **Two savings.** A convolution differs from a fully connected layer between the same maps in two ways: an output hears
# a window only (:formula:`S30`), and all outputs of a filter use the same weights. The first alone would be a locally
# connected layer, with a kernel of its own at every place. A 3x3 layer from 64 to 128 channels on 32x32 pixels is the
# example of a text (:formula:`W9`).

shape = ConvShape.of((1, 64, 32, 32), (128, 64, 3, 3), padding=1)
connected = (64 * 32**2) * (128 * 32**2)
local = 32**2 * 128 * 64 * 9
shared = shape.parameters() - 128
assert (connected, shared) == (8_589_934_592, 73_728)
print(f"sparse connections: {connected / local:.0f} times fewer; shared weights: {local // shared} times fewer again")
assert local // shared == 32**2  # one for each place
assert round(connected / local, 1) == round(32**2 / 9, 1) == 113.8

figure, axis = plt.subplots(figsize=(8, 2.8))
names = ("fully connected", "locally connected\n(sparse)", "convolution\n(sparse and shared)")
bars = axis.barh(names, (connected, local, shared), color=("#595959", "#FF800E", "#006BA4"))
axis.bar_label(bars, [f"{count:,}" for count in (connected, local, shared)], padding=4)
axis.set(xscale="log", xlabel="weights of one layer, 64 to 128 channels on 32x32", xlim=(1e4, 1e12))
axis.invert_yaxis()
figure.tight_layout()
plt.show()

# %%
# Weights aren't work. Both layers with sparse connections multiply the same number of times: each shared weight is used
# at 1,024 places. A fully connected layer uses each weight once.

layer = analysis.summarize(torch.nn.Sequential(nn.Conv2d(64, 128, 3, padding=1, bias=False)), (64, 32, 32))
assert layer.macs == local
assert layer.macs // layer.parameters == 1024
assert layer.dense_parameters == connected

# %%
# **Growing images.** The convolution's count is flat. The count of the fully connected layer between maps grows with
# the square of the number of pixels, so with the fourth power of the side. One text says that it grows linearly with
# the pixels; that is right for one hidden unit, and for a hidden layer whose width stays the same.

sides = (8, 16, 32, 64, 128, 224)
counts: dict[str, list[int]] = {"same maps, fully connected": [], "1,000 units": [], "3x3 convolution": []}
for side in sides:
    found = analysis.summarize(torch.nn.Sequential(nn.Conv2d(3, 16, 3, padding=1)), (3, side, side))
    counts["same maps, fully connected"].append(found.dense_parameters)
    counts["1,000 units"].append(3 * side**2 * 1000 + 1000)
    counts["3x3 convolution"].append(found.parameters)
assert set(counts["3x3 convolution"]) == {448}
assert counts["same maps, fully connected"][-1] > 1e11

figure, axis = plt.subplots(figsize=(8, 3.6))
for (name, values), marker in zip(counts.items(), "so^", strict=True):
    axis.loglog(sides, values, marker=marker, label=name)
axis.set(xlabel="side of the image, pixels", ylabel="parameters", xticks=sides, xticklabels=sides)
axis.minorticks_off()
axis.legend()
figure.tight_layout()
plt.show()

# %%
# **Whole networks.** ``dense_parameters`` makes every convolution of a network a fully connected layer between the same
# maps. The last column says where a network's own parameters are: those of AlexNet are nearly all in its three fully
# connected layers, which share no weight.

rows = {}
for name in ("lenet5", "alexnet", "vgg16", "resnet50"):
    with torch.device("meta"):
        network = models.create(name)
    found = analysis.summarize(network, models.input_shape(name))
    linear = sum(row.parameters for row in found if row.kind == "Linear") / found.parameters
    rows[name] = found.parameters, found.dense_parameters, linear
    print(f"{name:9} {found.parameters:>11,}, all dense {found.dense_parameters:>18,}, in linear layers {linear:.0%}")
assert rows["alexnet"][2] > 0.9
assert rows["resnet50"][2] < 0.1
assert rows["resnet50"][1] > 1e12  # ResNet-50 would have more than a million million

# %%
# .. verdict:: conv-vs-dense
#
# **What the texts say too strongly.**
#
# - Fewer parameters make training faster, say the solutions in C1 (:formula:`S24`). The convolution above has as many
#   multiplications as the locally connected layer, with 1,024 times fewer weights; a step has to compute them all.
# - Weight sharing explains 73,856 parameters against 8.6 billion, say the solutions in A2 (:formula:`S1`). Shared
#   weights give a factor of 1,024 there; sparse connections give the other 114.
# - A fully connected layer ignores spatial structure, says the tutorial. The layer can learn any convolution, as it can
#   learn any other matrix. Nothing tells it to: shuffle the pixels of all images alike, and it learns as well.
#
# **Exercises**
#
# 1. For which image side has a layer of 1,000 units on a grey image as many weights as all of ResNet-50?
# 2. A 1x1 convolution from 64 to 128 channels on 1x1 pixels: what are F27 and F28? Why are they the same weights?
# 3. Count a locally connected LeNet-5: multiply each row of ``summarize`` by its number of places. How many times as
#    many parameters is that?
#
# **Answers**
#
# 1. 160 pixels: 25.6 million weights, a little more than the 25.56 million parameters of ResNet-50.

assert 1000 * 159**2 < rows["resnet50"][0] < 1000 * 160**2

# %%
# 2. Both count the same 64 times 128 weights, and F27 also a bias for each of the 128 outputs. On one pixel there is no
#    connection to leave out and no second place to share weights with: the convolution is the fully connected layer.

pixel = torch.nn.Sequential(nn.Conv2d(64, 128, 1))
counted = analysis.summarize(pixel, (64, 1, 1))
assert counted.parameters == counted.dense_parameters == 64 * 128 + 128
x, linear = torch.rand(1, 64), torch.nn.Linear(64, 128)
linear.weight.data, linear.bias.data = pixel[0].weight.data.flatten(1), pixel[0].bias.data
assert torch.allclose(pixel(x[..., None, None]).flatten(1), linear(x), atol=1e-5)

# %%
# 3. 6.9 times as many. The two convolutions on large maps have hardly any parameters when they share them; without
#    sharing they have most of them.

lenet = analysis.summarize(models.create("lenet5"), models.input_shape("lenet5"))
apart = {row.name: row.parameters * math.prod(row.output_shape[2:]) for row in lenet if row.parameters}
shares = {name: count / sum(apart.values()) for name, count in apart.items()}
print(f"{sum(apart.values()):,} instead of {lenet.parameters:,} parameters")
assert round(sum(apart.values()) / lenet.parameters, 1) == 6.9
assert shares["c1"] + shares["c3"] > 0.8
