"""
B4 What a filter answers to
===========================

Find, by gradient ascent, an image that a filter answers to most. (:formula:`B4`, :formula:`F48`)

For one linear filter the answer is known: among images of 0 to 1 it is white where the kernel is positive and black
elsewhere. So ascent can be checked here; the same call asks any channel of any network.
"""

import matplotlib.pyplot as plt
import torch

from striate import explain, nn
from striate.analysis import gabor

kernel = gabor.Gabor(orientation=0.8, frequency=0.2, along=2.0, across=2.0).sample((9, 9)).float()
network = torch.nn.Sequential(nn.Conv2d(1, 1, 9, bias=False))
network[0].weight.data[:] = kernel

found = explain.maximize(network, (1, 9, 9), layer="0", channel=0, jitter=0, steps=400, rate=1.0, decay=0.0)
most = float(kernel.clamp_min(0).sum())
print(f"the ascent reaches {found.reached[0]:.2f} of at most {most:.2f}")
assert found.started[0] < 0.5 * most
assert 0.85 * most < found.reached[0] <= most * 1.0001

figure, axes = plt.subplots(1, 2, figsize=(5, 2.6))
for axis, picture, title in zip(axes, (kernel, found.pictures[0, 0]), ("filter", "its best image"), strict=True):
    axis.imshow(picture.numpy(), cmap="gray")
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
