"""
B2 Several channels and filters
===============================

Extend the convolution to several channels in and out, with a bias. (:formula:`B2`, :formula:`F3`, :formula:`F4`)

Windows as columns of a matrix make all of it one matrix product, which is how many libraries compute it.
"""

import torch

from striate import ops


def convolution(x, w, b, stride=1, padding=0):
    padded = torch.nn.functional.pad(x, [padding] * 4)
    k = w.shape[-1]
    windows = padded.unfold(1, k, stride).unfold(2, k, stride)  # (C_in, H', W', k, k)
    return torch.einsum("chwmn,ocmn->ohw", windows, w) + b[:, None, None]


# %%
torch.manual_seed(0)
x, w, b = torch.randn(3, 9, 7).double(), torch.randn(5, 3, 3, 3).double(), torch.randn(5).double()
for stride, padding in ((1, 0), (1, 1), (2, 1), (3, 2)):
    expected = ops.conv2d(x[None], w, b, stride=stride, padding=padding)[0]
    torch.testing.assert_close(convolution(x, w, b, stride, padding), expected)
    torch.testing.assert_close(ops.reference.conv2d(x[None], w, b, stride, padding)[0], expected)
