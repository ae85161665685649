"""
Attention and vision transformers
=================================

Attention is a weighted sum over all places, and its weights depend on the picture. You will see those weights on a
picture, build a convolution out of attention, and count where attention becomes the dearer of the two.

.. formula:: F54
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from striate import analysis, data, models, nn, ops

plt.style.use("tableau-colorblind10")

# %%
# **A sum over all places.** :class:`striate.nn.SelfAttention` makes a query, a key and a value of each place's
# channels. Query and key give a score for each pair of places. The softmax turns the scores of a place into weights
# that sum to 1. The output is the sum of all values, each times its weight.

torch.manual_seed(0)
layer = nn.SelfAttention(16, heads=1)
x = torch.randn(1, 9, 16)
query, key, value = F.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
weights = torch.softmax(query @ key.transpose(1, 2) / 16**0.5, -1)
torch.testing.assert_close(layer(x), layer.out_proj(weights @ value), rtol=1e-4, atol=1e-5)
assert torch.allclose(weights.sum(-1), torch.ones(1, 9))

# %%
# **What the weights see.** Here the patches of a picture are queries and keys themselves, and nothing is learnt. A
# patch of the flower weighs parts of the flower, a patch of the ground weighs the ground, near and far. A convolution's
# weights lie around the place, in the same way at every place and on every picture. Brighter squares have more weight.

picture, _ = data.load("scenes:128,1,1,seed=9").train.sample(0)
side = 8
patches = F.unfold(picture[None].float(), side, stride=side)[0].T  # 256 patches of 3 * 64 numbers
patches = (patches - patches.mean()) / patches.std()
places = {"on the flower": 10 * 16 + 5, "on the ground": 4 * 16 + 11}
seen = {name: torch.softmax(patches[place] @ patches.T / 192**0.5, -1) for name, place in places.items()}
light = patches.mean(1) > 0  # the flower is lighter than the ground
shares = float(seen["on the flower"][light].sum()), float(seen["on the ground"][~light].sum())
print(f"of its weights, on its own kind: the flower's place {shares[0]:.0%}, the ground's {shares[1]:.0%}")
assert min(shares) > 0.9
fixed = torch.zeros(16, 16)
fixed[9:12, 4:7] = 1 / 9

figure, axes = plt.subplots(1, 4, figsize=(11, 3.1), layout="constrained")
axes[0].imshow(picture.permute(1, 2, 0).numpy())
axes[0].set(title="picture and two places")
panels = {f"attention {name}": (weights.reshape(16, 16), places[name]) for name, weights in seen.items()}
panels["3x3 mean"] = (fixed, places["on the flower"])
marks = [(axes[0], place, side) for place in places.values()]
for axis, (title, (shown, place)) in zip(axes[1:], panels.items(), strict=True):
    axis.imshow(shown.numpy(), cmap="cividis", vmin=0)
    axis.set(title=title)
    marks.append((axis, place, 1))
for axis, place, unit in marks:
    corner = (place % 16 * unit - 0.5, place // 16 * unit - 0.5)
    for colour, width in (("black", 5), ("white", 2)):
        axis.add_patch(plt.Rectangle(corner, unit, unit, fill=False, edgecolor=colour, linewidth=width))
    axis.set(xticks=[], yticks=[])
plt.show()

# %%
# **Attention doesn't know where.** Shuffle the places, and the outputs are shuffled alike: neighbours mean nothing to
# it. That is why a transformer adds a learnt vector for each position. A convolution knows neighbours from the start.

maps, order = torch.randn(1, 16, 6, 6), torch.randperm(36)
attention, convolution = nn.SelfAttention2d(16, heads=2), nn.Conv2d(16, 16, 3, padding=1)
for layer, follows in ((attention, True), (convolution, False)):
    after = layer(maps.flatten(2)[..., order].reshape(maps.shape))
    assert torch.allclose(after, layer(maps).flatten(2)[..., order].reshape(maps.shape), atol=1e-5) == follows

# %%
# **A convolution made of attention.** ``bias`` is added to the scores. Give each of nine heads a bias that leaves one
# neighbour only, and let the last linear layer hold the kernel: that is a 3x3 convolution, number by number.

filters = torch.randn(4, 2, 3, 3)
layer, small = nn.SelfAttention2d(2, heads=9, out_channels=18), torch.randn(1, 2, 6, 6)
rows, columns = torch.arange(36) // 6, torch.arange(36) % 6
steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
is_there = [(rows == rows[:, None] + dy) & (columns == columns[:, None] + dx) for dy, dx in steps]
bias = torch.where(torch.stack(is_there), 0.0, -1e4)
with torch.no_grad():
    layer.in_proj_weight.zero_()[36:] = torch.eye(2).repeat(9, 1)  # no scores from the picture; values are its channels
    layer.out_proj.weight[:4] = filters.permute(0, 2, 3, 1).reshape(4, 18)
    made = layer(small, bias)[:, :4, 1:-1, 1:-1]  # at the border a head has no neighbour to look at
torch.testing.assert_close(made, ops.conv2d(small, filters), rtol=1e-4, atol=1e-4)

# %%
# **What it costs.** With L places of C channels, attention takes :math:`4LC^2 + 2L^2C` multiply-accumulates, a 3x3
# convolution :math:`9LC^2`. So the two are even at :math:`L = 2.5\,C`. On larger maps the square wins.

sides, costs = (4, 8, 12, 16, 24, 32, 56), {"attention": [], "3x3 convolution": []}
layers = {"attention": nn.SelfAttention2d(64, heads=4), "3x3 convolution": nn.Conv2d(64, 64, 3, padding=1)}
for side in sides:
    for name, layer in layers.items():
        costs[name].append(analysis.summarize(layer, (64, side, side)).macs)
    places = side**2
    assert costs["attention"][-1] == 4 * places * 64**2 + 2 * places**2 * 64
    assert (costs["attention"][-1] > costs["3x3 convolution"][-1]) == (places > 2.5 * 64)

figure, axis = plt.subplots(figsize=(8, 3.8))
for (name, macs), marker in zip(costs.items(), "os", strict=True):
    axis.loglog(sides, [each / 1e6 for each in macs], marker=marker, label=name)
axis.axvline((2.5 * 64) ** 0.5, color="black", linestyle=":", label="even: 160 places")
axis.set(xlabel="side of the map (64 channels)", ylabel="million MACs", xticks=sides, xticklabels=sides)
axis.minorticks_off()
axis.legend()
figure.tight_layout()
plt.show()

# %%
# **Vision transformer.** ViT-B/16 cuts 224x224 pixels into 14x14 patches of 16x16; with a class token these are 197
# places. Cutting and projecting is one convolution of stride 16, so even this network begins with one.

with torch.device("meta"):
    network = models.create("vit_b_16")
vit = analysis.summarize(network, models.input_shape("vit_b_16"))
places, wide = 14 * 14 + 1, 768
first = next(row for row in vit if row.kind == "Conv2d")
assert (first.kernel, first.stride) == ((16, 16), (16, 16))
assert vit.parameters == 86_567_656
between = 12 * 2 * places**2 * wide  # of 12 layers
print(f"{vit.macs / 1e9:.1f} thousand million MACs, {between / vit.macs:.1%} of them between pairs of places")
assert 0.04 < between / vit.macs < 0.05

# %%
# So at this size the pairs, which have the bad name, are 4 % of the work; the linear layers are the rest. At 1024x1024
# there are 4,097 places, and the pairs are almost half.

places = 64 * 64 + 1
linear = 12 * 12 * places * wide**2  # four matrices in attention, eight more in the MLP
between = 12 * 2 * places**2 * wide
print(f"at 1024x1024: {between / (linear + between):.0%}")
assert 0.45 < between / (linear + between) < 0.5

# %%
# .. verdict:: vit-vs-cnn
#
# **What the texts say too strongly.** A text says that vision transformers *replace convolutions entirely*, and that
# both together work best (:formula:`S17`). The first layer of ViT is a convolution. Which works best depends on the
# number of images: a convolution is told that neighbours matter, attention has to learn it. The study compares the two
# at several numbers of images. It leaves networks with both, as ``coatnet_0``, out.
#
# **Exercises**
#
# 1. How many multiply-accumulates take the pairs of places of ViT-B/16 at 384x384? And of a ViT with patches of 32?
# 2. Double the picture's contrast in the second cell: multiply ``patches`` by 2. What happens to the weights, and why
#    doesn't it happen to those of a convolution?
# 3. Give ``nn.SelfAttention2d`` a ``size``: it learns a bias for each difference of two places. Which of the three
#    properties above does it lose, and which does it gain?
#
# **Answers**
#
# 1. At 384x384 there are 577 places and six thousand million, almost nine times as many as at 224x224: the pairs grow
#    with the fourth power of the side. Patches of 32 leave 145 places, a quarter, and about a sixteenth of the pairs.

counts = {}
for side, patch in ((224, 16), (384, 16), (384, 32)):
    places = (side // patch) ** 2 + 1
    counts[side, patch] = 12 * 2 * places**2 * wide
    print(f"{side} pixels, patches of {patch}: {places} places, {counts[side, patch] / 1e6:,.0f} million between pairs")
assert 8.5 < counts[384, 16] / counts[224, 16] < (384 / 224) ** 4
assert 15.5 < counts[384, 16] / counts[384, 32] < 16

# %%
# 2. The scores are products of two patches, so they become four times as large, and the softmax gives more weight to
#    the few best places. The weights of a convolution don't depend on the picture, so twice the contrast gives twice
#    the output.

for name, weights in seen.items():
    place = panels[f"attention {name}"][1]
    sharper = torch.softmax((2 * patches[place]) @ (2 * patches).T / 192**0.5, -1)
    largest = [float(each.topk(16).values.sum()) for each in (weights, sharper)]
    print(f"{name}: the 16 largest of 256 weights sum to {largest[0]:.2f}, with twice the contrast to {largest[1]:.2f}")
    assert largest[1] > largest[0]
torch.testing.assert_close(ops.conv2d(2 * small, filters), 2 * ops.conv2d(small, filters))

# %%
# 3. It loses the second: shuffled places no longer give the same outputs in another order. It also takes maps of one
#    size only. It keeps the first, a sum over all places. It gains the third: it can learn by itself to be the
#    convolution, because the bias that leaves one neighbour depends on nothing but the difference of two places.

known = nn.SelfAttention2d(16, heads=2, size=(6, 6))
with torch.no_grad():
    known.relative_bias.normal_()
    shuffled = known(maps.flatten(2)[..., order].reshape(maps.shape))
    assert not torch.allclose(shuffled, known(maps).flatten(2)[..., order].reshape(maps.shape), atol=1e-3)
    learnt = nn.SelfAttention2d(2, heads=9, out_channels=18, size=(6, 6))
    learnt.in_proj_weight.zero_()[36:] = torch.eye(2).repeat(9, 1)
    learnt.out_proj.weight[:4] = filters.permute(0, 2, 3, 1).reshape(4, 18)
    learnt.relative_bias.fill_(-1e4)
    for head, (dy, dx) in enumerate(steps):
        learnt.relative_bias[head, 5 - dy, 5 - dx] = 0  # the table's middle is the place itself
    made = learnt(small)[:, :4, 1:-1, 1:-1]
torch.testing.assert_close(made, ops.conv2d(small, filters), rtol=1e-4, atol=1e-4)
