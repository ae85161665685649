"""
Padding, stride and dilation
============================

All three say which input position an output sees through a tap, along one axis:
``output * stride - before + tap * dilation``. In striate that is a ``Window``, and sizes follow from it.

.. formula:: F19
"""

import matplotlib.pyplot as plt

from striate import ConvShape, Window

assert Window(7, stride=2, padding=3).output_size(224) == 112
assert Window(3, stride=2).output_size(112) == 55

# %%
# One text leaves the rounding out (:formula:`F21`). Then a kernel of 3 at stride 2 would make
# two and a half outputs of six inputs.

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
# **Dilation** sets taps apart: a larger span, as many weights.
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
