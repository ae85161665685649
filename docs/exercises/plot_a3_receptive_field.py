"""
A3 The receptive field of a row of layers
=========================================

What do L layers of 3x3 see, and are two of 3x3 cheaper than one of 5x5? (:formula:`A3`, :formula:`F35`, :formula:`W12`)
"""

import torch

from striate import ConvShape, Window, analysis, nn

field = Window(1)
for layers in range(1, 6):
    field = field @ Window(3)
    assert field.kernel == 1 + 2 * layers

# %%
# Same field, 18 weights against 25 for each pair of channels, if the channels stay the same.

assert (Window(3) @ Window(3)).kernel == Window(5).kernel
weights = {k: ConvShape.of((1, 1, 16, 16), (1, 1, k, k)).parameters(bias=False) for k in (3, 5)}
assert (2 * weights[3], weights[5]) == (18, 25)

# %%
# Of a network made of layers the exact field is read, and one position's place on the image.

network = torch.nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)))
fields = analysis.receptive_field(network, (1, 15, 15))
assert tuple(fields.at("2").size) == (7, 7)
assert int(fields.support("2", (7, 7)).sum()) == 49
print("three layers:", fields.at("2").size)
