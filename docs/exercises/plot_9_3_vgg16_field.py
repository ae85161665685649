"""
9.3 The receptive field of VGG-16
=================================

How much of the image does a unit of VGG-16's last convolution see? (:formula:`9.3`, :formula:`F34`)

Thirteen convolutions of 3x3 with four poolings of 2x2 between them: windows in a row are one window.
"""

import matplotlib.pyplot as plt

from striate import Window

field, sizes, names = Window(1), [], []
for block, convolutions in enumerate((2, 2, 3, 3, 3), 1):
    for number in range(1, convolutions + 1):
        field = field @ Window(3, padding=1)
        sizes.append(field.kernel)
        names.append(f"conv{block}_{number}")
    if block < 5:
        field = field @ Window(2, stride=2)
assert sizes[-1] == 196
assert field.stride == 16

# %%
# The same by the sum: 2 pixels for each convolution and 1 for each pooling, times the strides before it.

strides, closed = (1, 2, 4, 8, 16), 1
for stride, convolutions in zip(strides, (2, 2, 3, 3, 3), strict=True):
    closed += 2 * stride * convolutions + (stride if stride < 16 else 0)
assert closed == 196

figure, axis = plt.subplots(figsize=(7, 3))
axis.bar(names, sizes, color="tab:blue")
axis.set(ylabel="receptive field, pixels", title="VGG-16")
axis.tick_params(axis="x", rotation=60)
figure.tight_layout()
plt.show()
