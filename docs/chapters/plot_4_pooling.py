"""
Pooling
=======

Pooling makes one number of a window: the largest, or the mean.

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
# **Gradients.** A maximum hands its gradient to the place where it stood; a pixel that wins twice gets both. A mean
# hands an equal share to each.
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
# pixel, a map pooled at stride 2 changes. What it gives is steadiness: the mean of a window changes less than one of
# its pixels does.

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
# **Entropy.** A text says that pooling lowers entropy. Of a whole window, as of every function of it, that is sure; a
# single pooled value can have more than a single value had.
#
# .. formula:: F46
#
# .. verdict:: pooling-entropy
