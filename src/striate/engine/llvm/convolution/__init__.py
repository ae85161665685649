"""Convolution of one and two axes in float32: output, input gradient (transposed convolution) and weight gradient.

:mod:`dispatch` maps a pass to a sum; :mod:`sums` and :mod:`weight_sums` choose a kernel, a tile and the work items.
Kernels named ``nchw`` have lanes along the width, ``nhwc`` lanes over channels; ``_weight`` means the weight gradient.
Depthwise, grouped and 1x1 convolutions (:mod:`pointwise_weight`) have kernels of their own.
"""
