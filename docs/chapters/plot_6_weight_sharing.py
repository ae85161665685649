"""
Weight sharing and equivariance
===============================

A convolution is a matrix of very many entries and very few numbers. You will see that matrix, and measure where a moved
image gives a moved map. Two things break this: borders and strides.

.. formula:: F42
"""

import matplotlib.pyplot as plt
import torch

from striate import analysis, nn, ops

plt.style.use("tableau-colorblind10")

# %%
# **One filter, a whole matrix.** :func:`striate.ops.conv2d` is linear, so its answers to images with a single bright
# pixel are the columns of a matrix. A 3x3 filter takes 8x8 pixels to 6x6 outputs: 2,304 entries. Most are 0, because an
# output hears nine pixels only (:formula:`S30`). The others repeat nine weights, because all outputs share them.

torch.manual_seed(0)
kernel = torch.tensor([[-4.0, -3, -2], [-1, 1, 2], [3, 4, 5]])[None, None]
pixels = torch.eye(64).reshape(64, 1, 8, 8)
matrix = ops.conv2d(pixels, kernel).reshape(64, 36).T
assert matrix.numel() == 2304
assert int((matrix != 0).sum()) == 36 * 9 == 324  # sparse: 14 % of the entries
assert len(matrix[matrix != 0].unique()) == 9  # shared: nine different numbers

layers = torch.nn.Sequential(nn.Conv2d(1, 1, 3, bias=False))
counted = analysis.summarize(layers, (1, 8, 8))
assert (counted.parameters, counted.dense_parameters) == (9, 2304)

figure, axis = plt.subplots(figsize=(8, 4.8))
drawn = axis.imshow(matrix.numpy(), cmap="PuOr", vmin=-5, vmax=5)
axis.set(xlabel="input pixel, row by row", ylabel="output, row by row", title="the matrix of one 3x3 filter")
figure.colorbar(drawn, label="entry", shrink=0.7)
figure.tight_layout()
plt.show()

# %%
# Going down one row, the same numbers stand one column to the right: that is weight sharing, and that is why the map
# moves when the image does.
#
# **Where it holds exactly.** An image moves down by 2 and right by 3. All outputs whose windows lie inside the image
# before and after the move are the same numbers, to rounding.

image = torch.rand(1, 1, 24, 24)
moved = torch.zeros_like(image)
moved[..., 2:, 3:] = image[..., :-2, :-3]
before, after = ops.conv2d(image, kernel), ops.conv2d(moved, kernel)
torch.testing.assert_close(after[..., 2:, 3:], before[..., :-2, :-3])

# %%
# **Borders.** A flat image looks the same however it is moved, so a map that follows shifts would have to be flat too.
# Padding with zeros draws a frame into the map. Each 3x3 layer makes the frame one pixel wider. Behind ten layers every
# output of a 20x20 image is changed by the border.

flat = torch.ones(1, 1, 20, 20)
blur = torch.full((1, 1, 3, 3), 1 / 9)
maps = {0: flat}
for depth in range(1, 11):
    maps[depth] = ops.conv2d(maps[depth - 1], blur, padding=1)
    untouched = int((maps[depth] > 1 - 1e-6).sum())
    assert untouched == max(0, 20 - 2 * depth) ** 2

figure, axes = plt.subplots(1, 4, figsize=(9, 2.8), layout="constrained")
for axis, depth in zip(axes, (1, 2, 5, 10), strict=True):
    drawn = axis.imshow(maps[depth][0, 0].numpy(), cmap="cividis", vmin=0, vmax=1)
    axis.set(title=f"{depth} layer{'s' if depth > 1 else ''}", xticks=[], yticks=[])
figure.colorbar(drawn, ax=axes, label="output for a flat image")
plt.show()

# %%
# **Strides.** :func:`striate.analysis.equivariance` moves an image round a circle, where there is no border. It
# compares the map of the moved image with the moved map of the image. The convolution follows every shift, half a pixel
# too. A layer with stride 2 has an output for every second pixel: an even shift moves its map by whole places, an odd
# one shows it other pixels. A blur before the stride helps; it doesn't cure. The images are noise, the hardest case.

shifts = [half / 2 for half in range(1, 9)]
ways = {
    "convolution, stride 1": torch.nn.Identity(),
    "then max pooling, stride 2": nn.MaxPool2d(2),
    "then a convolution, stride 2": nn.Conv2d(8, 8, 3, 2, padding=1),
    "then maximum, blur, stride 2": torch.nn.Sequential(
        nn.MaxPool2d(2, 1, "same"), nn.BlurPool2d(8, 3, padding_mode="circular")
    ),
}
errors = {}
for name, halve in ways.items():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), torch.nn.Sequential(halve))
    errors[name] = analysis.equivariance(layers, (4, 1, 16, 16), shifts).at("1").error
    print(f"{name:30}", " ".join(f"{error:.2f}" for error in errors[name]))
odd, even = shifts.index(1), shifts.index(2)
assert max(errors["convolution, stride 1"]) < 1e-5
for name in list(ways)[1:]:
    assert errors[name][even] < 1e-5
    assert errors[name][odd] > 0.1
assert errors["then maximum, blur, stride 2"][odd] < errors["then max pooling, stride 2"][odd]

figure, axis = plt.subplots(figsize=(8, 3.8))
for (name, error), marker in zip(errors.items(), "osD^", strict=True):
    axis.plot(shifts, error, marker=marker, label=name)
axis.set(xlabel="shift along both axes, pixels", ylabel="relative error of the map", ylim=(-0.05, 1.6))
axis.legend(ncols=2, loc="upper center")
figure.tight_layout()
plt.show()

# %%
# **From equivariance to invariance.** The mean over all places forgets where things are, so a mean over a map that
# follows exactly doesn't change at all. With strides in between it changes a little: invariance is approximate.

changes = {}
for name in ("convolution, stride 1", "then a convolution, stride 2"):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), ways[name], torch.nn.ReLU(), nn.GlobalAvgPool())
    changes[name] = analysis.equivariance(layers, (4, 1, 16, 16), [1, 2]).at("3").error
print(changes)
assert max(changes["convolution, stride 1"]) < 1e-5
assert changes["then a convolution, stride 2"][0] > 1e-3
assert changes["then a convolution, stride 2"][1] < 1e-5

# %%
# .. verdict:: equivariance
#
# **What the texts say too strongly.** One text says that shared weights *enforce translation invariance*, another that
# features become *position-invariant*. Shared weights give equivariance: the answer moves along. A derivation in the
# solutions shows this for every shift (:formula:`S3`); it needs an image without end. On 20x20 pixels, ten padded
# layers leave no output for which it holds.
#
# **Exercises**
#
# 1. Two layers of stride 2 in a row: by which shifts does their map follow exactly? Say it first, then measure.
# 2. Draw the matrix of ``ops.conv2d(pixels, kernel, stride=2)``. How far to the right does each row move now?
# 3. Replace the zeros at the border by ``padding_mode="replicate"`` in :class:`striate.nn.Conv2d`. Is the map of the
#    flat image flat now? Does the map of any other image follow a shift at the border?
#
# **Answers**
#
# 1. By shifts of whole multiples of 4, the product of the strides. A shift by 2 moves the first map by one place, which
#    the second stride doesn't follow.

torch.manual_seed(0)
layers = torch.nn.Sequential(nn.Conv2d(1, 8, 3, 2, padding=1), nn.Conv2d(8, 8, 3, 2, padding=1))
followed = analysis.equivariance(layers, (4, 1, 16, 16), range(1, 9))
exact = {name: [k + 1 for k, error in enumerate(followed.at(name).error) if error < 1e-5] for name in ("0", "1")}
assert exact == {"0": [2, 4, 6, 8], "1": [4, 8]}

# %%
# 2. Each row starts two columns to the right of the row above. The map has three rows of three outputs, and a new row
#    of outputs starts two rows of pixels further on: at column 16 and at column 32.

strided = ops.conv2d(pixels, kernel, stride=2).reshape(64, 9).T
starts = (strided != 0).int().argmax(1).tolist()
assert starts == [0, 2, 4, 16, 18, 20, 32, 34, 36]

figure, axis = plt.subplots(figsize=(8, 2))
axis.imshow(strided.numpy(), cmap="PuOr", vmin=-5, vmax=5)
axis.set(xlabel="input pixel, row by row", ylabel="output", title="the same filter with stride 2")
figure.tight_layout()
plt.show()

# %%
# 3. Yes, the flat image has a flat map: the repeated pixels continue it. The map of another image still doesn't follow
#    a shift at the border. A repeated pixel is a guess at what lies outside, and a moved image shows that it was wrong.

framed = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate", bias=False)
framed.weight.data.fill_(1 / 9)
assert torch.allclose(framed(flat), flat)
scene = torch.rand(1, 1, 24, 27)  # the camera moves by three pixels over a wider scene
before, after = framed(scene[..., 3:]).detach(), framed(scene[..., :-3]).detach()
torch.testing.assert_close(after[..., 4:-1], before[..., 1:-4])  # windows inside both images
assert (after[..., 3] - before[..., 0]).abs().max() > 0.01  # column 0 sees repeated pixels, column 3 real ones
