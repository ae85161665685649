"""Custom operators for operations that PyTorch has no operator for, and their translations to ONNX.

A graph that a compiler or exporter captures contains ``striate::nms``, ``batched_nms`` and ``roi_align``. ONNX has
operators for them (:func:`translations`). In other programs, ``ExportedProgram.run_decompositions`` replaces
``roi_align`` by PyTorch's operators, so the program doesn't need striate. There are two exceptions, for which a program
needs ``import striate.ops``: ``roi_align`` if the number of samples depends on the boxes, and ``nms``, because a graph
can't loop until nothing changes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from striate.engine import Pass, regions, traced
from striate.engine.regions import RegionShape
from striate.ops.roi import aligned as by_regions
from striate.ops.suppression import suppressed

_library: Final = torch.library.Library("striate", "DEF")
_library.define("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
_library.define("batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor")
_library.define(
    "roi_align(Tensor input, Tensor boxes, SymInt[] size, float scale, int samples, bool aligned) -> Tensor"
)
_library.define("roi_align_adaptive(Tensor input, Tensor boxes, SymInt[] size, float scale, bool aligned) -> Tensor")


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return suppressed(boxes, scores, None, iou_threshold)


def _batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    return suppressed(boxes, scores, idxs, iou_threshold)


def _some(boxes: Tensor, *others: Any) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def _roi_align(input: Tensor, boxes: Tensor, size: list[int], scale: float, samples: int, aligned: bool) -> Tensor:
    if samples == 0 and traced(input, boxes):
        adaptive: Tensor = torch.ops.striate.roi_align_adaptive(input, boxes, size, scale, aligned)
        return adaptive
    return by_regions(input, boxes, _shape(input, size, scale, samples, aligned))


def _roi_align_adaptive(input: Tensor, boxes: Tensor, size: list[int], scale: float, aligned: bool) -> Tensor:
    return regions.contract(_shape(input, size, scale, 0, aligned), Pass.OUTPUT, input, boxes)


def _bins(input: Tensor, boxes: Tensor, size: list[int], scale: float, aligned: bool) -> Tensor:
    return input.new_empty(boxes.shape[0], input.shape[1], *size)


def _shape(input: Tensor, size: list[int], scale: float, samples: int, aligned: bool) -> RegionShape:
    return RegionShape(input.shape[0], (input.shape[2], input.shape[3]), (size[0], size[1]), scale, samples, aligned)


_library.impl("nms", _nms, "CompositeExplicitAutograd")
_library.impl("batched_nms", _batched_nms, "CompositeExplicitAutograd")
_library.impl("roi_align", _roi_align, "CompositeImplicitAutograd")
_library.impl("roi_align_adaptive", _roi_align_adaptive, "CompositeExplicitAutograd")
torch.library.register_fake("striate::nms", _some, lib=_library)
torch.library.register_fake("striate::batched_nms", _some, lib=_library)
torch.library.register_fake("striate::roi_align_adaptive", _bins, lib=_library)


def translations() -> dict[Any, Callable[..., Any]]:
    """These operators in ONNX: the table that :func:`torch.onnx.export` takes as ``custom_translation_table``.

    ``nms`` becomes ONNX's ``NonMaxSuppression`` without a limit, ``roi_align`` its ``RoiAlign`` (both from version 16
    of its operators). The table also has the remainder of a division by a size of the input, and bounds of sizes,
    because PyTorch's exporter can't translate some of them.
    """
    import onnxscript

    op: Any = onnxscript.opset18

    def nms(boxes: Any, scores: Any, iou_threshold: float) -> Any:
        many = op.Reshape(op.Size(scores), op.Constant(value_ints=[1]))
        threshold = op.Constant(value_floats=[iou_threshold])
        found = op.NonMaxSuppression(
            op.Unsqueeze(op.Cast(boxes, to=1), op.Constant(value_ints=[0])),
            op.Unsqueeze(op.Cast(scores, to=1), op.Constant(value_ints=[0, 1])),
            many,
            threshold,
        )
        # A row for each box: image, class, box.
        return op.Gather(found, op.Constant(value_int=2), axis=1)

    def batched_nms(boxes: Any, scores: Any, idxs: Any, iou_threshold: float) -> Any:
        # For each class, only the boxes of this class keep their score.
        count = op.Add(
            op.ReduceMax(op.Concat(idxs, op.Constant(value_ints=[0]), axis=0), keepdims=0), op.Constant(value_int=1)
        )
        classes = op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
        first, second = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
        own = op.Equal(op.Unsqueeze(classes, second), op.Unsqueeze(idxs, first))
        given = op.Cast(scores, to=1)
        each = op.Where(own, op.Unsqueeze(given, first), op.Constant(value_float=float("-inf")))
        found = op.NonMaxSuppression(
            op.Unsqueeze(op.Cast(boxes, to=1), first),
            op.Unsqueeze(each, first),
            op.Reshape(op.Size(scores), second),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[torch.finfo(torch.float32).min]),
        )
        chosen = op.Gather(found, op.Constant(value_int=2), axis=1)
        many = op.Reshape(op.Size(chosen), second)
        # Sorted by index first, so that among equal scores the box with the lower index comes first.
        chosen, _ = op.TopK(chosen, many, axis=0, largest=0)
        _, order = op.TopK(op.Gather(given, chosen, axis=0), many, axis=0)
        return op.Gather(chosen, order, axis=0)

    def remainder(input: Any, other: Any) -> Any:
        other = op.CastLike(other, input)
        if not input.dtype.is_floating_point():
            return op.Mod(input, other)
        return op.Sub(input, op.Mul(op.Floor(op.Div(input, other)), other))

    def at_most(number: Any, limit: Any) -> Any:
        # A bound of a data-dependent size may be too large to be written. Such a bound always holds.
        if isinstance(limit, int) and limit > torch.iinfo(torch.int64).max:
            return op.Cast(op.Constant(value_int=1), to=9)
        return op.LessOrEqual(number, limit)

    def roi_align(input: Any, boxes: Any, size: Any, scale: float, samples: int, aligned: bool) -> Any:
        images = op.Cast(op.Gather(boxes, op.Constant(value_int=0), axis=1), to=7)
        corners = op.Slice(boxes, op.Constant(value_ints=[1]), op.Constant(value_ints=[5]), op.Constant(value_ints=[1]))
        height, width = size
        return op.RoiAlign(
            input,
            corners,
            images,
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            mode="avg",
            output_height=height,
            output_width=width,
            sampling_ratio=samples,
            spatial_scale=scale,
        )

    operators = torch.ops.striate
    return {
        operators.nms.default: nms,
        operators.batched_nms.default: batched_nms,
        operators.roi_align.default: roi_align,
        torch.ops.aten.remainder.Scalar: remainder,
        operator.le: at_most,
    }
