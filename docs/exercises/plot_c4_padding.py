"""
C4 Valid, same and full
=======================

Which padding makes which output? (:formula:`C4`, :formula:`F23`, :formula:`F24`, :formula:`F25`)

``same`` by half the kernel on both sides holds for odd kernels and stride 1. For others the word ``"same"`` pads as
many cells as are needed, an odd one at the end.
"""

import torch

from striate import Window, ops

for kernel in (1, 2, 3, 4, 5):
    assert Window(kernel, padding="valid").output_size(20) == 20 - kernel + 1
    assert Window(kernel, padding="full").output_size(20) == 20 + kernel - 1
    assert Window(kernel, padding="same").output_size(20) == 20
    by_half = Window(kernel, padding=kernel // 2).output_size(20)
    print(f"kernel {kernel}: half on both sides makes {by_half} of 20")
    assert by_half == (20 if kernel % 2 else 21)

# %%
# In a full convolution each input meets each tap, so that the sums multiply. An input doesn't reach every output, as
# the text has it, but as many as there are taps.

torch.manual_seed(0)
x, w = torch.randn(6).double(), torch.randn(3).double()
torch.testing.assert_close(ops.convolve(x, w, "full").sum(), x.sum() * w.sum())
one = torch.zeros(6).double()
one[2] = 1
assert int((ops.convolve(one, w, "full") != 0).sum()) == 3
