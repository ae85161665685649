"""
B1 A convolution in a few lines
===============================

Program a convolution of one channel, with stride and padding. (:formula:`B1`, :formula:`F2`)

Taps are fewer than pixels, so the loop goes over the taps: each adds a shifted, thinned copy of the input.
"""

import torch

from striate import ConvShape, ops


def convolution(image, kernel, stride=1, padding=0):
    height, width = ConvShape.of((1, 1, *image.shape), (1, 1, *kernel.shape), stride, padding).output_size
    padded = torch.nn.functional.pad(image, [padding] * 4)
    output = image.new_zeros(height, width)
    for m, row in enumerate(kernel):
        for n, weight in enumerate(row):
            output += (
                weight * padded[m : m + stride * height : stride, n : n + stride * width : stride][:height, :width]
            )
    return output


# %%
torch.manual_seed(0)
for kernel, stride, padding in ((3, 1, 0), (3, 2, 1), (5, 3, 2), (2, 2, 0), (1, 1, 0)):
    image, weights = torch.randn(11, 8).double(), torch.randn(kernel, kernel).double()
    expected = ops.conv2d(image[None, None], weights[None, None], stride=stride, padding=padding)[0, 0]
    torch.testing.assert_close(convolution(image, weights, stride, padding), expected)
