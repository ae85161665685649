"""
From LeNet to EfficientNet
==========================

Six networks in the order of their years. You will see each one's parameters, multiplications and receptive field
computed from the network itself, beside what the texts state, and what each new idea did to the three numbers.

.. formula:: F43

.. formula:: F53
"""

import matplotlib.pyplot as plt
import torch

from striate import ConvShape, analysis, models

plt.style.use("tableau-colorblind10")
summaries, fields = {}, {}


def look(name: str, sees: bool = True) -> analysis.Summary:
    """Counts a network of the zoo, and keeps what is found for the figures."""
    with torch.device("meta"):  # shapes without numbers are enough
        network = models.create(name)
    summaries[name] = analysis.summarize(network, models.input_shape(name), name=name)
    if sees:
        fields[name] = analysis.receptive_field(network, models.input_shape(name))
    print(f"{name}: {summaries[name].parameters:,} parameters, {summaries[name].macs / 1e6:,.1f} million MACs")
    return summaries[name]


# %%
# **LeNet-5, 1998.** The maps are 32, 28, 14, 10, 5 and 1 pixels wide (:formula:`W13`). The texts say 60 thousand
# parameters (:formula:`W14`). That is exact for the network of 1998, whose layer C3 leaves out connections and whose
# subsampling layers learn. The network that is called LeNet-5 today, as two texts draw it, has 61,706.

old, today = look("lenet5_1998"), look("lenet5", sees=False)
parts = {row.name: row for row in old}
assert (old.parameters, today.parameters) == (60_000, 61_706)
assert [parts[name].output_shape[-1] for name in ("c1", "s2", "c3", "s4", "c5")] == [28, 14, 10, 5, 1]
assert (parts["c3"].parameters, {row.name: row for row in today}["c3"].parameters) == (1_516, 2_416)

# %%
# **AlexNet, 2012.** About 60 million parameters, say the texts. The network of 2012 was divided over two GPUs: three of
# its convolutions see only the half of the channels that their own GPU holds. The texts' diagram has no division, and
# taken as it is drawn the network has more. The one-tower form of 2014 is narrower.

assert look("alexnet_2012").parameters == 60_965_224
drawn = [(96, 3, 11), (256, 96, 5), (384, 256, 3), (384, 384, 3), (256, 384, 3)]
convolutions = sum(ConvShape.of((1, c, 16, 16), (f, c, k, k)).parameters() for f, c, k in drawn)
linear = sum(wide * made + made for wide, made in ((256 * 6 * 6, 4096), (4096, 4096), (4096, 1000)))
print(f"as drawn: {convolutions + linear:,} parameters, {linear:,} of them in linear layers")
assert convolutions + linear == 62_378_344

# %%
# **VGG-16, 2014.** Only 3x3 kernels, and 138 million parameters, as a text says. Three quarters of them are in the
# first linear layer alone, which has nothing to do with small kernels. The last convolution sees 196 of 224 pixels.

vgg = look("vgg16")
first = next(row for row in vgg if row.kind == "Linear")
print(f"{first.name}: {first.parameters:,}, {first.parameters / vgg.parameters:.0%} of all")
assert vgg.parameters == 138_357_544
assert first.parameters / vgg.parameters > 0.7
assert fields["vgg16"].at("features.28").size == (196, 196)

# %%
# **ResNet-50, 2015.** A shortcut adds a block's input to its output. It costs an addition: where sizes match it has no
# parameter. A mean over all places stands in for VGG's linear layers, so 53 convolutions have fewer parameters than
# VGG's 13, and about a quarter of the multiplications. Its last units could see a square of 427 pixels.

resnet = look("resnet50")
assert resnet.parameters == 25_557_032
assert sum(row.kernel != () and row.kind == "Conv2d" for row in resnet) == 53
assert 3.7 < vgg.macs / resnet.macs < 3.9
assert fields["resnet50"].at("layer4.2.conv3").size == (427, 427)

# %%
# **MobileNet, 2017.** Depthwise separable convolutions throughout: a sixth of the parameters of ResNet-50 and a seventh
# of the multiplications.

mobile = look("mobilenet_v1")
assert mobile.parameters == 4_231_976
assert 7 < resnet.macs / mobile.macs < 7.5

# %%
# **EfficientNet, 2019.** Depthwise convolutions again, and squeeze-and-excitation, whose gate is computed from the mean
# over the whole map. So every output behind the first gate depends on every pixel. ``whole`` says that, and ``local``
# keeps the field that the convolutions alone would have. From B0 to B7 width, depth and image size grow together.

small = look("efficientnet_b0")
last = fields["efficientnet_b0"].at("features.8.0")
assert small.parameters == 5_288_548
assert last.whole == (True, True)
assert last.local == (851, 851)
for number in range(8):
    print(models.describe(f"efficientnet_b{number}"))

# %%
# **All together.** Down and to the left is cheap. The networks don't lie on a line: parameters and multiplications are
# two prices, and an architecture chooses between them.

shown = {
    "lenet5_1998": "LeNet-5, 1998",
    "alexnet_2012": "AlexNet, 2012",
    "vgg16": "VGG-16, 2014",
    "resnet50": "ResNet-50, 2015",
    "mobilenet_v1": "MobileNet, 2017",
    "efficientnet_b0": "EfficientNet-B0, 2019",
}
figure, axis = plt.subplots(figsize=(8, 4.4))
for (name, label), marker in zip(shown.items(), "ov^sDP", strict=True):
    axis.scatter(summaries[name].parameters, summaries[name].macs, s=90, marker=marker, label=label)
axis.set(xscale="log", yscale="log", xlabel="parameters", ylabel="multiply-accumulates for one image")
axis.legend(loc="lower right")
axis.grid(alpha=0.3)
figure.tight_layout()
plt.show()

# %%
# Receptive fields grow with depth (:formula:`S9`). The small steps down in ResNet-50 are the 1x1 convolutions of its
# shortcuts, which see less than the branch beside them. Fields beyond the dotted line are larger than an image of 224
# pixels: part of what such a unit could see is padding. Seen isn't used, as the chapter on receptive fields shows.

figure, axis = plt.subplots(figsize=(8, 4))
for (name, label), marker in zip(shown.items(), "ov^sDP", strict=True):
    kinds = ("Conv2d", "MaxPool2d", "Subsampling", "TableConv2d")
    sizes = [row.local[0] for row in fields[name] if row.kind in kinds and row.local[0] is not None]
    axis.plot(range(1, len(sizes) + 1), sizes, marker=marker, markersize=4, label=label)
axis.axhline(224, color="black", linestyle=":")
axis.set(xlabel="convolution or pooling, in order", ylabel="field, pixels (without gates)", yscale="log")
axis.legend(ncols=2, loc="lower right")
figure.tight_layout()
plt.show()

# %%
# .. verdict:: two-3x3
#
# **What the texts say too strongly.**
#
# - LeNet-5's 60 thousand belong to the network of 1998, not to the one that the diagrams show (61,706).
# - VGG's small filters don't make it a small network: :formula:`S8` counts weights for each pair of channels. VGG-16 is
#   the largest network of this chapter in parameters and in multiplications.
# - Skip connections allow networks of more than a hundred layers to train (:formula:`S22`). Counts can't show that, and
#   no study here trains such a network with and without them; normalisation has a part in it too.
#
# **Exercises**
#
# 1. Which layer of AlexNet has the most parameters, and which one the most multiplications? Ask the rows of
#    ``summaries["alexnet_2012"]``.
# 2. Replace VGG-16's linear layers by a mean over all places and one linear layer of 512 to 1,000. How many parameters
#    are left?
# 3. EfficientNet-B1 takes images of 240x240. How many times B0's parameters and multiplications has it? Which part of
#    that is due to the larger image alone?
# 4. ``models.create("se_resnet50")`` adds gates to ResNet-50. How many parameters and how many multiplications do they
#    cost? Why are the two shares so different?
#
# **Answers**
#
# 1. The first linear layer has 62 % of the parameters. The second convolution has the most multiplications: its kernel
#    is large, and so is its map.

alexnet = summaries["alexnet_2012"]
most = {by: max(alexnet, key=lambda row, by=by: getattr(row, by)) for by in ("parameters", "macs")}
for by, row in most.items():
    share = getattr(row, by) / getattr(alexnet, by)
    print(f"most {by}: {row.name} ({row.kind}), {share:.0%} of {getattr(alexnet, by):,}")
assert most["parameters"].kind == "Linear"
assert round(most["parameters"].parameters / alexnet.parameters, 2) == 0.62
assert most["macs"].kernel == (5, 5)

# %%
# 2. 15.2 million, a ninth of VGG-16.

body = vgg.parameters - sum(row.parameters for row in vgg if row.kind == "Linear")
without = body + 512 * 1000 + 1000
assert without == 15_227_688
assert 9 < vgg.parameters / without < 9.1

# %%
# 3. 1.5 times the parameters and 1.8 times the multiplications. The larger image alone has no effect on parameters; it
#    makes 1.2 times the multiplications. The greater depth makes the rest.

with torch.device("meta"):
    b0, b1 = models.create("efficientnet_b0"), models.create("efficientnet_b1")
assert models.input_shape("efficientnet_b1") == (3, 240, 240)
deeper, larger = (analysis.summarize(network, (3, 240, 240)) for network in (b1, b0))
ratios = [deeper.parameters / small.parameters, deeper.macs / small.macs, larger.macs / small.macs]
print([round(ratio, 2) for ratio in ratios])
assert larger.parameters == small.parameters
assert [round(ratio, 1) for ratio in ratios] == [1.5, 1.8, 1.2]

# %%
# 4. 10 % of the parameters, and less than 0.1 % of the multiplications. A gate is computed from one mean for each
#    channel, so it uses each of its weights once for an image. A convolution uses a weight at every place of the map.

with torch.device("meta"):
    gated = analysis.summarize(models.create("se_resnet50"), models.input_shape("se_resnet50"))
print(f"{gated.parameters / resnet.parameters - 1:.1%} more parameters, {gated.macs / resnet.macs - 1:.2%} more MACs")
assert round(gated.parameters / resnet.parameters - 1, 2) == 0.10
assert gated.macs / resnet.macs - 1 < 0.001
