"""
B3 Max pooling that remembers, and its gradient
===============================================

Program max pooling so that its gradient knows where each maximum stood. (:formula:`B3`, :formula:`F41`, :formula:`F39`)
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from striate import ops

image = torch.tensor([[1.0, 5, 4], [9, 2, 1], [6, 3, 2]])
values, places = ops.max_pool2d(image[None], 2, 1, return_indices=True)
assert values[0].tolist() == [[9, 5], [9, 3]]
assert places[0].tolist() == [[3, 1], [3, 7]]  # row * 3 + column

# %%
# The gradient goes to those places, and is added where two windows have the same maximum, here the 9.

upstream = torch.tensor([[1.0, 20], [300, 4000]])
gradient = torch.zeros(9).index_add(0, places[0].flatten(), upstream.flatten()).reshape(3, 3)
assert gradient.tolist() == [[0, 20, 0], [301, 0, 0], [0, 4000, 0]]

# %%
# The operation's own gradient is the same, and so is the definition's.

leaf = image[None].clone().requires_grad_()
(found,) = torch.autograd.grad(ops.max_pool2d(leaf, 2, 1), leaf, upstream[None])
assert torch.equal(found[0], gradient)
assert torch.equal(ops.reference.max_pool2d_backward(upstream[None], image[None], 2, 1)[0].float(), gradient)

figure, axes = plt.subplots(1, 3, figsize=(8, 2.8))
for axis, matrix, title in zip(axes, (image, values[0], gradient), ("input", "maxima", "gradient"), strict=True):
    axis.imshow(matrix.clamp_max(10).numpy(), cmap="Blues", vmin=0, vmax=20)
    for (row, column), value in np.ndenumerate(matrix.numpy()):
        axis.text(column, row, f"{value:g}", ha="center", va="center")
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
