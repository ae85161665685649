"""Convolution and pooling as functions of tensors, with torch.nn.functional's names and argument order.

Where PyTorch has the function, the same call gives the same answer; where PyTorch refuses (``"same"`` with a stride,
asymmetric padding, dilated averages), these answer by the ONNX operators' definition. Gradients of every order are
derived here. :mod:`striate.ops.reference` holds the definitions as direct sums.
"""

from striate.ops import graphs, norm, reference
from striate.ops.boxes import (
    box_area,
    box_convert,
    box_iou,
    clip_boxes,
    complete_box_iou,
    complete_box_iou_loss,
    distance_box_iou,
    distance_box_iou_loss,
    generalized_box_iou,
    generalized_box_iou_loss,
    masks_to_boxes,
    remove_small_boxes,
)
from striate.ops.convolution import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from striate.ops.losses import dice_loss, lovasz_softmax, sigmoid_focal_loss
from striate.ops.pooling import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from striate.ops.resize import interpolate
from striate.ops.roi import roi_align, roi_levels, roi_pool
from striate.ops.signal import convolve, correlate, distribution_of_sum
from striate.ops.suppression import batched_nms, nms
from striate.ops.whole import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    global_avg_pool,
    global_max_pool,
)

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes",
    "complete_box_iou",
    "complete_box_iou_loss",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolve",
    "correlate",
    "dice_loss",
    "distance_box_iou",
    "distance_box_iou_loss",
    "distribution_of_sum",
    "generalized_box_iou",
    "generalized_box_iou_loss",
    "global_avg_pool",
    "global_max_pool",
    "graphs",
    "interpolate",
    "lovasz_softmax",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "masks_to_boxes",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "nms",
    "norm",
    "reference",
    "remove_small_boxes",
    "roi_align",
    "roi_levels",
    "roi_pool",
    "sigmoid_focal_loss",
]
