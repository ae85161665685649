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
# **Seen isn't used.** The receptive field is what an output *can* see. Many paths lead to the middle of the field,
# one path to its corner. With equal weights, the influence therefore falls off like a bell curve: the part of the
# field that matters grows more slowly with depth than the field does.

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

# %%
# **Exercises**
#
# 1. How many 3x3 layers does it take until an output sees 224 pixels along an axis? How many if every layer has
#    stride 2?
# 2. Does a network see more with 2x2 pooling before a 3x3 convolution, or after it?
# 3. Turn off one layer of the six above: set its weights to 0 but for the middle one. How large is the field then, and
#    how much of it is used?
#
# **Answers**
#
# 1. 112, and 7. The field grows by 2 with each layer without strides; with strides it doubles.

for stride, depth, seen in ((1, 112, 225), (2, 7, 255)):
    field, layer = Window(1), Window(3, stride)
    for _ in range(depth):
        assert field.kernel < 224
        field = field @ layer
    assert field.kernel == seen

# %%
# 2. Before: then the three taps of the convolution are two pixels apart, and each is two pixels wide.

assert (Window(2, 2) @ Window(3)).kernel == 6
assert (Window(3) @ Window(2, 2)).kernel == 4

# %%
# 3. The field stays 13x13, since the field depends on windows and not on weights. The influence reaches 11x11 pixels.

layers[2].weight.data.zero_()
layers[2].weight.data[0, 0, 1, 1] = 1
(influence,) = torch.autograd.grad(layers(image)[0, 0, 12, 12], image)
assert tuple(analysis.receptive_field(layers, (1, 25, 25)).at("5").size) == (13, 13)
assert int((influence != 0).sum()) == 11 * 11
