"""
C6 Strided convolution or pooling?
==================================

What speaks for a strided convolution, and what for pooling? (:formula:`C6`, :formula:`S18`,
:formula:`S4`, :formula:`S20`)

A strided convolution learns how to thin out, and has weights; pooling has none. Neither follows a shift by one pixel,
on noise as here; on images the study ``pooling-vs-stride`` compares both, and their accuracy.
"""

import torch

from striate import Window, analysis, nn
from striate.analysis.checkerboard import coverage

torch.manual_seed(0)
ways = {"stride": nn.Conv2d(8, 8, 3, stride=2, padding=1), "max": nn.MaxPool2d(2), "average": nn.AvgPool2d(2)}
images, errors = torch.randn(2, 8, 16, 16), {}
for name, way in ways.items():
    network = torch.nn.Sequential(way)
    parameters = analysis.summarize(network, (8, 16, 16)).parameters
    errors[name] = analysis.equivariance(network, images, [1]).at("0").error[0]
    print(f"{name}: {parameters} parameters, error under a shift by one pixel {errors[name]:.2f}")
    assert parameters == (8 * 8 * 9 + 8 if name == "stride" else 0)
assert min(errors.values()) > 0.1

# %%
# Checkerboards (:formula:`S19`) come from *transposed* convolutions, and so from gradients of strided ones, where the
# stride doesn't divide the kernel: some places are reached by more taps than others.

assert coverage(Window(3, stride=2)) == (2, 1)
assert coverage(Window(4, stride=2)) == (2, 2)
