"""
Convolution and correlation
===========================

A kernel slides over an image. At each place, products are added. Two different sums are called convolution; one flips
the kernel, the other doesn't.

.. formula:: F7

.. formula:: F5

.. formula:: F9
"""

import matplotlib.pyplot as plt
import torch

from striate import ops

# %%
# The same numbers, with the kernel as it is and with the kernel turned round. Layers of networks compute the first.

x, k = torch.tensor([0.0, 1, 2, 3]), torch.tensor([1.0, 10, 100])
assert ops.correlate(x, k).tolist() == [210, 321]
assert ops.convolve(x, k, "valid").tolist() == [12, 123]
assert torch.equal(ops.correlate(x, k), ops.conv1d(x[None, None], k[None, None])[0, 0])
assert torch.equal(ops.convolve(x, k), ops.correlate(x, k.flip(0), "full"))

# %%
# Probability needs the flip: the distribution of a sum is the convolution of the distributions.

die = torch.full((6,), 1 / 6, dtype=torch.float64)
two, three = ops.convolve(die, die), ops.convolve(ops.convolve(die, die), die)
assert torch.allclose(36 * two, torch.tensor([1.0, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1]).double())
figure, axis = plt.subplots(figsize=(6, 2.6))
for dice, probabilities in ((1, die), (2, two), (3, three)):
    axis.plot(range(dice, 6 * dice + 1), probabilities, "o-", label=f"{dice} dice")
axis.set(xlabel="sum", ylabel="probability")
axis.legend()
figure.tight_layout()
plt.show()

# %%
# That holds for independent variables. For dependent ones, the joint distribution is summed along its antidiagonals.
#
# .. formula:: F11

same = torch.diag(die)  # both dice always show the same
assert ops.distribution_of_sum(same)[1::2].sum() == 0  # the sum 2 stands at place 0: no odd sums
assert torch.allclose(ops.distribution_of_sum(torch.outer(die, die)), two)

# %%
# **Channels.** Each filter has a kernel for each input channel and adds what they find.
#
# .. formula:: F3

image, weight = torch.rand(1, 3, 8, 8).double(), torch.rand(2, 3, 3, 3).double()
apart = sum(ops.conv2d(image[:, c : c + 1], weight[:, c : c + 1]) for c in range(3))
assert torch.allclose(ops.conv2d(image, weight), apart)

# %%
# **Does the flip matter?** Two texts say that it doesn't, since kernels are learnt. That is right for a network trained
# from nothing; it matters where kernels come from elsewhere, from signal processing for example.
#
# .. verdict:: flipped-kernels
#
# **Exercises**
#
# 1. Convolve ``[1, 1]`` with itself again and again. Which numbers appear?
# 2. For which kernels do correlation and convolution agree? What does the flip do to a kernel that finds edges?
# 3. Convolution commutes: image and kernel may change places. Does correlation?
#
# **Answers**
#
# 1. Pascal's triangle: the number of heads of n coins is distributed like row n, divided by 2 to the n.

row = torch.tensor([1.0])
for expected in ([1, 1], [1, 2, 1], [1, 3, 3, 1], [1, 4, 6, 4, 1]):
    row = ops.convolve(row, torch.ones(2))
    assert row.tolist() == expected

# %%
# 2. For kernels that equal their own flip, such as a blur. A kernel that finds edges is the negative of its flip, so
#    the two results differ by their sign.

signal, blur, edge = torch.rand(9), torch.tensor([1.0, 2, 1]), torch.tensor([-1.0, 0, 1])
assert torch.allclose(ops.correlate(signal, blur), ops.convolve(signal, blur, "valid"))
assert torch.allclose(ops.correlate(signal, edge), -ops.convolve(signal, edge, "valid"))

# %%
# 3. No. If the two change places, the result of a correlation is reversed.

assert torch.allclose(ops.convolve(signal, k), ops.convolve(k, signal))
assert torch.allclose(ops.correlate(signal, k, "full"), ops.correlate(k, signal, "full").flip(0))
