"""
C5 A filter as a measure of information
=======================================

Does a filter compute mutual information? (:formula:`C5`, :formula:`F47`, :formula:`S15`)

No: a response is one number for one patch, and changes with the image's contrast; mutual information belongs to a
distribution of patches. But a response can *carry* information about what a patch shows, and that can be measured.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits

from striate.analysis import information

images = torch.tensor(load_digits().images[:400], dtype=torch.float32)[:, None] / 16
edge = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
match = information.filter_match(torch.stack([edge, 2 * edge])[:, None], images, classes=8, unit="bits")
print(f"{match.information[0]:.2f} of {match.class_entropy:.2f} bits")
assert 0.1 < match.information[0] < match.class_entropy

# %%
# Twice the filter answers twice as strongly, and tells exactly as much.

assert match.information[0] == match.information[1]

# %%
# Pooling as entropy reduction holds of a window as a whole, not of one value: the maximum of four rare events is less
# rare, so it has more entropy (:formula:`F46`, :formula:`S14`).

rare = torch.tensor(np.random.default_rng(0).random((4, 1, 64, 64)) < 0.05).double()
binning = information.Binning(2, atom=None)
pooled = information.pooling_entropy(rare, "max", binning=binning, unit="bits")
print(f"a value {pooled.value:.2f} bits, its window {pooled.window:.2f}, pooled {pooled.pooled:.2f}")
assert pooled.value < pooled.pooled < pooled.window
