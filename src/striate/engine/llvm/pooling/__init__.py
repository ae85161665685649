"""Max and average pooling of one and two axes, with gradients: :mod:`nchw` and :mod:`nchw_grad` put lanes along the
width, :mod:`nhwc` over channels; :mod:`dispatch` picks the kernel and the work items.
"""
