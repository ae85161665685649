"""
Pooling
=======

Pooling replaces a window by one number: its maximum or its mean.

.. formula:: F36

.. formula:: F37
"""

import matplotlib.pyplot as plt
import torch

from striate import ops

x = torch.tensor([[[1.0, 5, 4], [9, 2, 1], [6, 3, 2]]])
assert ops.max_pool2d(x, 2, 1).tolist() == [[[9, 5], [9, 3]]]
assert ops.avg_pool2d(x, 2, 1).tolist() == [[[4.25, 3], [5, 2]]]

# %%
# **Gradients.** The gradient of a maximum goes to the pixel where the maximum was found. A pixel that is the maximum of
# two windows gets both gradients. The gradient of a mean goes to all pixels of the window in equal shares.
#
# .. formula:: F39
#
# .. formula:: F40

upstream, leaf = torch.tensor([[[1.0, 2], [3, 4]]]), x.clone().requires_grad_()
(largest,) = torch.autograd.grad(ops.max_pool2d(leaf, 2, 1), leaf, upstream)
(mean,) = torch.autograd.grad(ops.avg_pool2d(leaf, 2, 1), leaf, upstream)
assert largest.tolist() == [[[0, 2, 0], [4, 0, 0], [0, 4, 0]]]
assert (4 * mean).tolist() == [[[1, 3, 2], [4, 10, 6], [3, 7, 4]]]

# %%
# **Invariance.** Four texts say that pooling makes a network invariant to translation. It doesn't: moved by one
# pixel, a map pooled at stride 2 changes. But it changes less than without pooling: the mean of a window changes less
# than one of its pixels does.

torch.manual_seed(0)
maps = ops.avg_pool2d(torch.randn(1, 8, 34, 34), 3, 1)  # smooth, as maps of images are
changes = {}
for name, pool in {"one of four": lambda m: m[..., ::2, ::2], "max": None, "average": None}.items():
    pool = pool or {"max": ops.max_pool2d, "average": ops.avg_pool2d}[name]
    before, after = (pool(m, 2) if name != "one of four" else pool(m) for m in (maps, maps.roll(1, -1)))
    changes[name] = float((after - before)[..., 1:].norm() / before[..., 1:].norm())
print(changes)
assert min(changes.values()) > 0.1
assert changes["average"] < changes["one of four"]
figure, axis = plt.subplots(figsize=(5, 2.6))
axis.bar(changes.keys(), changes.values())
axis.set(ylabel="change under a shift by 1")
figure.tight_layout()
plt.show()

# %%
# .. verdict:: pooling-vs-stride
#
# **Entropy.** A text says that pooling lowers entropy. A pooled value never has more entropy than its whole window;
# that is true of every function of the window. But it can have more entropy than a single value of the map.
#
# .. formula:: F46
#
# .. verdict:: pooling-entropy
#
# **Exercises**
#
# 1. Two pixels of a window are equally large. Which one gets the gradient of the maximum?
# 2. What is the gradient of a mean over a whole map of 7x7, at each pixel?
# 3. How do you compute minima with max pooling?
#
# **Answers**
#
# 1. The first in reading order. It gets all of it, and the other one nothing; the sum over the window stays the same.

ties = torch.tensor([[[1.0, 3], [3, 2]]], requires_grad=True)
ops.max_pool2d(ties, 2).sum().backward()
assert ties.grad.tolist() == [[[0, 1], [0, 0]]]

# %%
# 2. 1/49 of the upstream gradient, whatever the pixel is.

pixels = torch.rand(1, 7, 7, requires_grad=True)
ops.avg_pool2d(pixels, 7).sum().backward()
assert torch.allclose(pixels.grad, torch.full((1, 7, 7), 1 / 49))

# %%
# 3. Change the sign before and after.

smallest = -ops.max_pool2d(-x, 2, 1)
assert smallest.tolist() == [[[1, 1], [2, 1]]]
