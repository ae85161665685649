"""Max and average pooling of one and two axes, with gradients.

:mod:`nchw` and :mod:`nchw_grad` have lanes along the width, :mod:`nhwc` lanes over channels; :mod:`dispatch` chooses
the kernel and the work items. :mod:`activated` fuses an activation with the average pooling after it.
"""
