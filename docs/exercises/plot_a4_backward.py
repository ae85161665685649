"""
A4 The backward pass, checked three ways
========================================

What are the gradients of a convolution by its weights and by its input? (:formula:`A4`, :formula:`F14`, :formula:`F15`)

The weight's gradient adds up, over all places, what the place saw times what came back (:formula:`F16`: a correlation).
The input's is a full convolution of what came back with the kernel (:formula:`F17`).
"""

import torch

from striate import ops

torch.manual_seed(0)
x, w, g = (torch.randn(size, size, dtype=torch.float64) for size in (6, 3, 4))

# %%
# First by the two formulas: correlation neither flips nor pads; full convolution flips the kernel by itself.

dw, dx = ops.correlate(x, g), ops.convolve(g, w)
assert (dw.shape, dx.shape) == (w.shape, x.shape)
torch.testing.assert_close(dx, ops.correlate(g, w.flip(0, 1), "full"))

# %%
# Second by autograd through ``conv2d``, third by the definition as a direct sum.

x_, w_ = (each[None, None].clone().requires_grad_() for each in (x, w))
found = torch.autograd.grad(ops.conv2d(x_, w_), (w_, x_), g[None, None])
torch.testing.assert_close(found[0][0, 0], dw)
torch.testing.assert_close(found[1][0, 0], dx)
torch.testing.assert_close(ops.reference.conv2d_weight_grad(x[None, None], w_.shape, g[None, None])[0, 0], dw)
torch.testing.assert_close(ops.reference.conv2d_input_grad(x_.shape, w[None, None], g[None, None])[0, 0], dx)

# %%
# And by finite differences, which know no formula.


def loss(x, w):
    return (ops.conv2d(x[None, None], w[None, None])[0, 0] * g).sum()


h = 1e-6
for place in ((0, 0), (1, 2), (2, 1)):
    step = torch.zeros_like(w)
    step[place] = h
    slope = (loss(x, w + step) - loss(x, w - step)) / (2 * h)
    torch.testing.assert_close(slope, dw[place], rtol=1e-6, atol=1e-6)

# %%
# A trap: the flipped kernel belongs to correlation. To flip it and convolve flips twice, and is wrong.

wrong = ops.convolve(g, w.flip(0, 1))
print(f"off by {float((wrong - dx).norm() / dx.norm()):.0%}")
assert (wrong - dx).norm() > 0.5 * dx.norm()
