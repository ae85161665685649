"""
Padding, stride and dilation
============================

These three numbers decide which input position an output sees through a tap, along one axis:
``output * stride - before + tap * dilation``. In striate this is a ``Window``, and all sizes follow from it.

.. formula:: F19
"""

import matplotlib.pyplot as plt
import torch

from striate import ConvShape, Window, ops

assert Window(7, stride=2, padding=3).output_size(224) == 112
assert Window(3, stride=2).output_size(112) == 55

# %%
# One text leaves out the rounding (:formula:`F21`). By its formula, a kernel of 3 with stride 2 would make two and a
# half outputs from six inputs.

assert Window(3, 2).output_size(6) == 2
assert (6 - 3) / 2 + 1 == 2.5

# %%
# **Words for padding.**
#
# .. formula:: F24
#
# Half the kernel keeps the size of odd kernels only, and at stride 1.

for kernel in range(1, 7):
    assert Window(kernel, padding=kernel // 2).output_size(32) == (32 if kernel % 2 else 33)
    assert Window(kernel, padding="same").output_size(32) == 32
assert Window(4, padding="same").padding == (1, 2)
assert Window(3, 2, "same").output_size(7) == 4  # rounded up

# %%
# **Dilation** moves the taps apart. The window spans more inputs with the same number of weights.
#
# .. formula:: F26

figure, axis = plt.subplots(figsize=(6, 2.2))
for row, dilation in enumerate((1, 2, 4)):
    window = Window(3, dilation=dilation)
    assert window.effective_kernel == 3 + 2 * (dilation - 1)
    axis.scatter([window.position(0, tap) for tap in range(3)], [row] * 3, label=f"dilation {dilation}")
axis.set(yticks=[], xlabel="input positions that output 0 sees", ylim=(-1, 3))
axis.legend(loc="right")
figure.tight_layout()
plt.show()
counts = {ConvShape.of((1, 8, 32, 32), (8, 8, 3, 3), dilation=d).parameters() for d in (1, 2, 4)}
assert counts == {8 * 8 * 9 + 8}

# %%
# .. verdict:: dilated-trunk
#
# **Exercises**
#
# 1. Which padding keeps the size under a kernel of 3 with dilation 4?
# 2. Which input sizes give an output of 4 under a kernel of 3, stride 2 and padding 1? What does that mean for the
#    transposed convolution, which has to go back?
# 3. Three layers with kernels of 3 and dilations 1, 2 and 4: how many inputs does an output see? How many do three
#    layers without dilation see?
#
# **Answers**
#
# 1. Four cells on each side: half of what the dilated kernel spans, less one.

assert Window(3, padding=4, dilation=4).output_size(32) == 32
assert Window(3, padding="same", dilation=4).padding == (4, 4)

# %%
# 2. Two sizes, 7 and 8. The transposed convolution can't know which one was meant; ``output_padding`` tells it.

assert [size for size in range(1, 20) if Window(3, 2, 1).output_size(size) == 4] == [7, 8]
maps = torch.rand(1, 1, 4, 4)
for cells, size in ((0, 7), (1, 8)):
    back = ops.conv_transpose2d(maps, torch.rand(1, 1, 3, 3), stride=2, padding=1, output_padding=cells)
    assert back.shape[2:] == (size, size)

# %%
# 3. 15 with dilation and 7 without, with the same number of weights.

assert 1 + 2 * (1 + 2 + 4) == (Window(3) @ Window(3, dilation=2) @ Window(3, dilation=4)).effective_kernel == 15
assert (Window(3) @ Window(3) @ Window(3)).effective_kernel == 7
