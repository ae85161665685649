"""
Receptive fields
================

How much of the image does a unit see? Each layer adds its kernel less one, times all strides before it.

.. formula:: F34
"""

import matplotlib.pyplot as plt
import torch

from striate import Window, analysis, nn

field = Window(7, 2, 3) @ Window(3, 2, 1)  # ResNet's first two layers
assert (field.kernel, field.stride, field.padding[0]) == (11, 4, 5)

# %%
# **Small kernels in a row.** Three of 3x3 see 7x7, with 27 weights instead of 49 for each pair of channels.
#
# .. formula:: F35

assert (Window(3) @ Window(3) @ Window(3)).kernel == 7

# %%
# .. verdict:: two-3x3

# %%
# **Seen isn't used.** The field is where an output *can* see. Its middle is reached by many paths, its edge by one:
# with equal weights the influence falls off like a bell. Fields that grow with depth grow more slowly in effect.

layers = torch.nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(6)))
for layer in layers:
    layer.weight.data.fill_(1 / 9)
image = torch.zeros(1, 1, 25, 25, requires_grad=True)
(influence,) = torch.autograd.grad(layers(image)[0, 0, 12, 12], image)
assert int((influence != 0).sum()) == 13 * 13 == (1 + 2 * 6) ** 2
middle = influence[0, 0, 8:17, 8:17].sum() / influence.sum()
print(f"the inner 9x9 of 13x13 pixels, 48 % of the area, has {float(middle):.0%} of the influence")
assert middle > 0.9
assert tuple(analysis.receptive_field(layers, (1, 25, 25)).at("5").size) == (13, 13)
figure, axis = plt.subplots(figsize=(3, 3))
axis.imshow(influence[0, 0].numpy(), cmap="viridis")
axis.set(title="influence on the middle", xticks=[], yticks=[])
plt.show()
