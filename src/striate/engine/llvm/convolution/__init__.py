"""Convolution of one and two axes: output, input gradient (transposed convolution) and weight gradient, float32.

:mod:`dispatch` says which sum a pass is; :mod:`sums` and :mod:`weight_sums` pick a kernel, a tile and the work items.
Kernels: ``nchw`` puts lanes along the width, ``nhwc`` over channels; ``_weight`` is the weight gradient; depthwise and
grouped windows and windows of one position (:mod:`pointwise_weight`) have kernels of their own.
"""
