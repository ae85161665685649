"""
Gradients of convolution
========================

Convolution is linear in the image and in the kernel, so its gradients are sums of the same products in another
order.

.. formula:: F14

.. formula:: F15
"""

import matplotlib.pyplot as plt
import torch

from striate import ops

# %%
# **A shared weight's gradient is a sum.** One text averages over the places where a weight is used; the derivative is
# the sum, as it says itself two lines later. On ones, with an upstream gradient of ones, the sum just counts places:

for stride, places in ((1, 9), (2, 4)):
    w = torch.zeros(1, 1, 3, 3, requires_grad=True)
    (dw,) = torch.autograd.grad(ops.conv2d(torch.ones(1, 1, 5, 5), w, stride=stride).sum(), w)
    assert torch.equal(dw, torch.full_like(dw, places))

# %%
# The same text counts four windows of 3x3 on a 5x5 image. There are nine (:formula:`W16`); four is the number at
# stride 2. Dividing by the number of places isn't a matter of the learning rate alone: it differs from layer to
# layer, so layers with large maps would learn more slowly than layers with small ones.
#
# .. formula:: F18

# %%
# **As operations.** The weight's gradient is a correlation, the input's a full convolution.
#
# .. formula:: F16
#
# .. formula:: F17

torch.manual_seed(0)
x, w, g = (torch.randn(n, n, dtype=torch.float64) for n in (6, 3, 4))
leaf, kernel = x[None, None].clone().requires_grad_(), w[None, None].clone().requires_grad_()
dx, dw = torch.autograd.grad(ops.conv2d(leaf, kernel), (leaf, kernel), g[None, None])
assert torch.allclose(dw[0, 0], ops.correlate(x, g))
assert torch.allclose(dx[0, 0], ops.convolve(g, w, "full"))

# %%
# In the texts, the star means correlation in one line and convolution in the next. If you flip the kernel *and*
# convolve, you flip it twice.

twice = ops.convolve(g, w.flip(0, 1), "full")
figure, axes = plt.subplots(1, 2, figsize=(6, 3))
shown = {"one flip: the gradient": dx[0, 0], "two flips: wrong": twice}
for axis, (title, found) in zip(axes, shown.items(), strict=True):
    axis.imshow(found.numpy(), cmap="RdBu", vmin=-4, vmax=4)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
assert (twice - dx[0, 0]).abs().max() > 0.1

# %%
# Gradients of striate are operations again, so they have gradients too, of every order.

assert torch.autograd.gradgradcheck(ops.conv2d, (leaf[..., :4, :4], kernel))

# %%
# **Exercises**
#
# 1. A 3x3 kernel with stride 2 on a 7x7 image: at how many places is each weight used? What is the weight gradient for
#    an image of ones and an upstream gradient of ones?
# 2. Which upstream gradient makes the weight gradient a copy of one patch of the image?
# 3. A 2x2 kernel with stride 3 on a 6x6 image: which pixels have gradient 0, whatever the weights are?
#
# **Answers**
#
# 1. At 9 places, since the output is 3x3. Each weight's gradient is 9.

weight = torch.zeros(1, 1, 3, 3, requires_grad=True)
(gradient,) = torch.autograd.grad(ops.conv2d(torch.ones(1, 1, 7, 7), weight, stride=2).sum(), weight)
assert torch.equal(gradient, torch.full_like(gradient, 9))

# %%
# 2. One that is 1 at a single output and 0 elsewhere. The gradient is the patch that this output sees.

upstream = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
upstream[0, 0, 1, 2] = 1
(patch,) = torch.autograd.grad(ops.conv2d(leaf, kernel), kernel, upstream)
assert torch.allclose(patch[0, 0], x[1:4, 2:5])

# %%
# 3. Rows and columns 2 and 5: no window reaches them.

pixels = torch.rand(1, 1, 6, 6, requires_grad=True)
(gradient,) = torch.autograd.grad(ops.conv2d(pixels, torch.rand(1, 1, 2, 2) + 1, stride=3).sum(), pixels)
unseen = gradient[0, 0] == 0
assert unseen[[2, 5]].all()
assert unseen[:, [2, 5]].all()
assert int(unseen.sum()) == 36 - 4 * 4
