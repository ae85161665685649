"""
C1 What does weight sharing bring?
==================================

Why is one filter used everywhere? (:formula:`C1`, :formula:`S1`, :formula:`S3`, :formula:`S24`, :formula:`S30`)

Few parameters, whose number doesn't depend on the image; and a feature that is found in one place is found in all. That
training is faster and overfits less doesn't follow from the counts; ``striate study conv-vs-dense`` measures it.
"""

import torch

from striate import analysis, nn

layer = torch.nn.Sequential(nn.Conv2d(3, 16, 3, padding=1))
for size in (8, 32):
    summary = analysis.summarize(layer, (3, size, size))
    print(f"{size}x{size}: {summary.parameters:,} parameters, fully connected {summary.dense_parameters:,}")
    assert summary.parameters == 448

# %%
# A pattern in two places has the same answer in both.

torch.manual_seed(0)
image, pattern = torch.zeros(1, 3, 16, 16), torch.rand(3, 4, 4)
image[0, :, 2:6, 2:6] = pattern
image[0, :, 9:13, 8:12] = pattern
with torch.no_grad():
    answer = layer(image)[0]
torch.testing.assert_close(answer[:, 1:7, 1:7], answer[:, 8:14, 7:13])

# %%
# Each output hears 3x3 places of 1,024: sparse connectivity.

fields = analysis.receptive_field(layer, (3, 32, 32))
assert int(fields.support("0", (16, 16)).sum()) == 9
