"""Kernels for detection: :mod:`nms`, non-maximum suppression, and :mod:`roi_align` with its gradient."""
