"""Detection's operations: :mod:`nms`, non-maximum suppression, and :mod:`roi_align` with its gradient."""
