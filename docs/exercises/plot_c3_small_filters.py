"""
C3 Small filters or large ones?
===============================

Why are small filters in a row preferred to a large one? (:formula:`C3`, :formula:`S8`, :formula:`W11`, :formula:`W12`)

They see as much with fewer weights and multiplications, and there is a nonlinearity between them. Whether they learn
better is a question for an experiment: ``striate study two-3x3``.
"""

import torch

from striate import Window, analysis, nn


def layers(kernel, count):
    row = [nn.Conv2d(16, 16, kernel, padding=kernel // 2, bias=False) for _ in range(count)]
    return analysis.summarize(torch.nn.Sequential(*row), (16, 32, 32))


two, five, three, seven = layers(3, 2), layers(5, 1), layers(3, 3), layers(7, 1)
assert (Window(3) @ Window(3)).kernel == 5
assert (Window(3) @ Window(3) @ Window(3)).kernel == 7
assert two.parameters / five.parameters == two.macs / five.macs == 18 / 25
assert three.parameters / seven.parameters == three.macs / seven.macs == 27 / 49

# %%
# The price that the text leaves out: two maps instead of one are written and kept for the gradient, and without a
# nonlinearity between them the two are a single 5x5 convolution.

assert two.output_bytes == 2 * five.output_bytes
