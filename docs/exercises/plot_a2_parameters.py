"""
A2 Counting parameters
======================

How many parameters has a convolution, and how many a fully connected layer between the same maps?
(:formula:`A2`, :formula:`F27`, :formula:`F28`)
"""

import matplotlib.pyplot as plt
import torch

from striate import ConvShape, analysis, nn

shape = ConvShape.of((1, 64, 32, 32), (128, 64, 3, 3), padding=1)
dense = (64 * 32 * 32) * (128 * 32 * 32)
assert shape.parameters() == 128 * 64 * 3 * 3 + 128 == 73_856
assert dense == 8_589_934_592
print(f"{shape.parameters():,} against {dense:,}: {dense / shape.parameters():,.0f} times as many")

# %%
# ``summarize`` says the same of any network. The convolution's number doesn't depend on the image.

sizes, dense_counts = (8, 16, 32, 64), []
layer = torch.nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
for size in sizes:
    summary = analysis.summarize(layer, (3, size, size))
    assert summary.parameters == 8 * 3 * 9 + 8 == 224
    assert summary.dense_parameters == (3 * size**2) * (8 * size**2) + 8 * size**2
    dense_counts.append(summary.dense_parameters)

figure, axis = plt.subplots(figsize=(5, 3))
axis.loglog(sizes, dense_counts, "o-", label="fully connected", base=2)
axis.loglog(sizes, [224] * 4, "o-", label="3x3 convolution", base=2)
axis.set(xlabel="image side, pixels", ylabel="parameters", yscale="log")
axis.legend()
figure.tight_layout()
plt.show()
