"""
B5 Depthwise, then pointwise
============================

Split a convolution into one filter for each channel and a 1x1 convolution, and count what that saves.
(:formula:`B5`, :formula:`F30`, :formula:`F31`, :formula:`W17`, :formula:`S16`)
"""

import torch

from striate import nn, ops

torch.manual_seed(0)
layer = nn.DepthwiseSeparableConv2d(4, 6, 3)
x = torch.randn(1, 4, 9, 9)
depthwise = torch.cat(
    [ops.conv2d(x[:, c : c + 1], layer.depthwise.weight[c : c + 1], layer.depthwise.bias[c : c + 1]) for c in range(4)],
    1,
)
pointwise = torch.einsum("nchw,oc->nohw", depthwise, layer.pointwise.weight[:, :, 0, 0])
pointwise = pointwise + layer.pointwise.bias[:, None, None]
torch.testing.assert_close(layer(x), pointwise, rtol=1e-4, atol=1e-5)

# %%
# From 64 to 128 channels: 8,960 parameters against 73,856. Weights alone are K^2 + C_out against K^2 C_out for each
# input channel; the text says "for each position", and leaves the input channels out.

counted = nn.DepthwiseSeparableConv2d(64, 128, 3)
assert counted.parameter_count() == 64 * 9 + 64 * 128 + 64 + 128 == 8_960
assert counted.standard_parameter_count() == 73_856
print(f"{counted.standard_parameter_count() / counted.parameter_count():.1f} times fewer")
