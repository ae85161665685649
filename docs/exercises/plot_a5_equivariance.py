"""
A5 Does it follow a shift?
==========================

Do convolution and max pooling follow a shift of their input? (:formula:`A5`, :formula:`F42`,
:formula:`W8`, :formula:`S3`)

Convolution does, to rounding, where no border is in the way. Pooling of stride 2 does for even shifts only.
"""

import matplotlib.pyplot as plt
import torch

from striate import analysis, nn, ops

torch.manual_seed(0)
layers = torch.nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2))
shifts = [1, 2, 3, 4]
found = analysis.equivariance(layers, (1, 16, 16), shifts)
convolution, pooling = found.at("0").error, found.at("1").error
assert max(convolution) < 1e-5
assert pooling[0] > 0.1
assert pooling[1] < 1e-5

# %%
# The row of the text: shifted by one, windows fall between other neighbours. With the sizes of A1 there are two
# outputs; the third one that the text shows, 4, comes if the size is rounded up.

row, shifted = torch.tensor([[1.0, 3, 2, 4]]), torch.tensor([[0.0, 1, 3, 2, 4]])
assert ops.max_pool1d(row, 2).tolist() == [[3, 4]]
assert ops.max_pool1d(shifted, 2).tolist() == [[1, 3]]
assert ops.max_pool1d(shifted, 2, ceil_mode=True).tolist() == [[1, 3, 4]]

figure, axis = plt.subplots(figsize=(5, 3))
axis.bar([each - 0.2 for each in shifts], convolution, 0.4, label="convolution")
axis.bar([each + 0.2 for each in shifts], pooling, 0.4, label="then max pooling 2x2")
axis.set(xlabel="shift, pixels", ylabel="relative error", xticks=shifts)
axis.legend()
figure.tight_layout()
plt.show()
