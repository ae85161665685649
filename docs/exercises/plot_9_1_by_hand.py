"""
9.1 A convolution by hand
=========================

What does a 3x3 kernel make of a 5x5 input, at stride 1 and without padding? (:formula:`9.1`, :formula:`F2`)

The kernel fits at 3 places along each axis, so the output is 3x3. At each place nine products are added.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from striate import Window, ops

image = torch.arange(25.0).reshape(5, 5)
kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])  # Sobel's: how much brighter it gets to the right
assert Window(3).output_size(5) == 3

# %%
# One place by hand, the upper left one. Its columns are 0, 5, 10 on the left and 2, 7, 12 on the right.

patch = image[:3, :3]
by_hand = (2 - 0) * 1 + (7 - 5) * 2 + (12 - 10) * 1
assert by_hand == 8
assert (patch * kernel).sum() == by_hand

# %%
# All places. The input grows by 1 for each column, so all sums are the same: 2 * (1 + 2 + 1) = 8.

output = ops.conv2d(image[None, None], kernel[None, None])[0, 0]
assert output.tolist() == [[8, 8, 8]] * 3

figure, axes = plt.subplots(1, 3, figsize=(8, 2.8))
for axis, matrix, title in zip(axes, (image, kernel, output), ("input", "kernel", "output"), strict=True):
    axis.imshow(matrix.numpy(), cmap="Blues", vmin=-12, vmax=36)
    for (row, column), value in np.ndenumerate(matrix.numpy()):
        axis.text(column, row, f"{value:g}", ha="center", va="center")
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
