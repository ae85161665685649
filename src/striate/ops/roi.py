"""Regions of interest: the part of a map that a box covers, resampled or pooled to one size.

A region is divided into bins of equal size. Aligned pooling averages samples that are spread evenly over each bin, and
a sample is interpolated from the four pixels around it. Along each axis this is a weighted sum of pixels, and the two
axes are independent:

    y[k, c, p, q] = sum over i and j of  u[k, p, i] * v[k, q, j] * x[n(k), c, i, j]

with u and v from the box alone. This is linear in x, so its gradient is the transpose,

    dx[n, c, i, j] = sum over k with n(k) = n, p and q of  u[k, p, i] * v[k, q, j] * g[k, c, p, q]

whose own gradient by g is the first sum again. So derivatives of every order consist of these two. Boxes get no
gradient, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from striate.engine import Pass, regions, traced
from striate.engine.backends import has_memory, watched
from striate.engine.layout import is_channels_last
from striate.engine.llvm.memory import relayout
from striate.engine.llvm.regions import roi_align as kernels
from striate.engine.regions import RegionShape
from striate.errors import GeometryError, OperandError
from striate.geometry import per_axis
from striate.ops._autograd import Differentiable
from striate.ops._calls import check_tensor, fold, unfold
from striate.ops.boxes import box_area, wide


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """The part of the map that each box covers, resampled to one size.

    Args:
        input: (N, C, H, W).
        boxes: (K, 5), image and ``x1 y1 x2 y2``; or a list with (L, 4) for each image.
        output_size: bins along height and width, or one number.
        spatial_scale: from the boxes' coordinates to the map's.
        sampling_ratio: samples of a bin along each axis; if 0 or less, as many as the bin has pixels, rounded up.
        aligned: whether coordinates are moved by half a pixel, so that a pixel is a square and not a point. Without,
            boxes are at least one pixel wide and high.

    Returns:
        (K, C, height, width). Samples more than a pixel outside the map are 0.

    Raises:
        OperandError: shapes, dtypes or devices that don't fit, an image that doesn't exist.
        GeometryError: an output without bins.

    Source: He et al., "Mask R-CNN" (2017), section 3, "RoIAlign".

    >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> roi_align(image, [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], 2, aligned=True)
    tensor([[[[ 2.5000,  4.5000],
              [10.5000, 12.5000]]]])
    """
    size, listed = _prepared("roi_align", input, boxes, output_size)
    values = wide(input)
    shape = RegionShape(
        input.shape[0], (input.shape[2], input.shape[3]), size, float(spatial_scale), max(sampling_ratio, 0), aligned
    )
    return _aligned(values, listed.to(values), shape).to(input.dtype)


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """The largest value in each bin of each box, borders of boxes and bins rounded to pixels.

    Args:
        input, boxes, output_size, spatial_scale: as in :func:`roi_align`.

    Returns:
        (K, C, height, width); 0 in bins without pixels.

    Raises:
        OperandError, GeometryError: as :func:`roi_align`.

    Source: Girshick, "Fast R-CNN" (2015), section 2.1.

    >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> roi_pool(image, [torch.tensor([[0.0, 0.0, 3.0, 3.0]])], 2)
    tensor([[[[ 5.,  7.],
              [13., 15.]]]])
    """
    size, listed = _prepared("roi_pool", input, boxes, output_size)
    values = wide(input)
    batch = listed[:, 0].long()
    places, empty = _places(values.detach(), listed.to(values), batch, size, spatial_scale)
    found = values.flatten(2)[batch].gather(2, places.flatten(2)).unflatten(2, size)
    return cast(Tensor, found.masked_fill(empty[:, None], 0).to(input.dtype))


def roi_levels(
    boxes: Tensor | Sequence[Tensor],
    lowest: int,
    highest: int,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    eps: float = 1e-6,
) -> Tensor:
    """The level of a feature pyramid that each box belongs to: its size decides.

    Args:
        boxes: (K, 4), or a list with (L, 4) for each image, one after the other.
        lowest, highest: the range of levels; level l has a stride of 2^l pixels.
        canonical_scale, canonical_level: a box of this side, pixels, belongs to this level.
        eps: added to the level before it is rounded down.

    Returns:
        (K,) int64, from 0 (the lowest) to ``highest - lowest``.

    Source: Lin et al., "Feature pyramid networks" (2017), equation 1.

    >>> roi_levels(torch.tensor([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 50.0, 50.0]]), 2, 5)
    tensor([2, 0])
    """
    together = boxes if isinstance(boxes, Tensor) else torch.cat(list(boxes))
    side = box_area(together).sqrt()
    level = torch.floor(canonical_level + torch.log2(side / canonical_scale) + eps)
    # The level of a box without area is minus infinity, that of a NaN box is NaN; both go to the lowest level.
    return level.nan_to_num(nan=lowest).clamp(lowest, highest).long() - lowest


def _prepared(
    call: str, input: Tensor, boxes: Tensor | Sequence[Tensor], output_size: Any
) -> tuple[tuple[int, int], Tensor]:
    """The output's size, and the boxes as (K, 5) with the image in front."""
    check_tensor(call, "input", input)
    if input.dim() != 4 or not input.is_floating_point():
        got = f"got an input of shape {tuple(input.shape)} and {input.dtype}"
        raise OperandError(call, got, "needed real numbers (N, C, H, W)")
    height, width = per_axis(output_size, 2, "output_size", call)
    if height < 1 or width < 1:
        raise GeometryError(call, f"got output_size {(height, width)}", "needed at least one bin on each axis")
    if isinstance(boxes, Tensor):
        regions = boxes
        if boxes.dim() != 2 or boxes.shape[1] != 5:
            raise OperandError(call, f"got boxes of shape {tuple(boxes.shape)}", "needed (K, 5) or a list of (L, 4)")
    else:
        regions = _listed(call, input, boxes)
    if regions.device != input.device:
        raise OperandError(call, f"got boxes on {regions.device} and an input on {input.device}", "needed one device")
    if regions.is_cpu and not traced(regions) and len(regions):
        first, last = regions[:, 0].aminmax()
        if not (first >= 0 and last < input.shape[0]):
            got = f"got boxes of image {float(last if first >= 0 else first):g}"
            raise OperandError(call, got, f"needed images 0 to {input.shape[0] - 1}")
    return (height, width), regions.detach()


def _listed(call: str, input: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    if len(boxes) != input.shape[0]:
        raise OperandError(call, f"got boxes of {len(boxes)} images", f"needed a tensor for each of {input.shape[0]}")
    for each in boxes:
        check_tensor(call, "boxes", each)
        if each.dim() != 2 or each.shape[1] != 4:
            raise OperandError(call, f"got boxes of shape {tuple(each.shape)}", "needed (L, 4) for each image")
    images = [torch.full_like(each[:, :1], index) for index, each in enumerate(boxes)]
    return torch.cat([torch.cat(images), torch.cat(list(boxes))], 1) if boxes else input.new_zeros(0, 5)


# -------------------------------------------------------------------- aligned pooling


class Aligned(Differentiable):
    """Aligned pooling or its transpose; each is linear in its operand, and the other's gradient."""

    @staticmethod
    def forward(operand: Tensor, boxes: Tensor, shape: RegionShape, open_: Pass, channels_last: bool) -> Tensor:
        generated = has_memory(operand) and has_memory(boxes) and kernels.refusal(shape, operand) is None
        made = (kernels if generated else regions).contract(shape, open_, operand, boxes)
        return relayout.laid_out(made, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, boxes, ctx.shape, ctx.open_, ctx.channels_last = inputs
        ctx.save_for_backward(boxes)
        ctx.save_for_forward(boxes)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        transposed = Pass.INPUT_GRAD if ctx.open_ is Pass.OUTPUT else Pass.OUTPUT
        grad = Aligned.of(upstream, *ctx.saved_tensors, ctx.shape, transposed, ctx.channels_last)
        return grad, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        return cast(Tensor, Aligned.of(tangents[0], *ctx.saved_tensors, ctx.shape, ctx.open_, ctx.channels_last))

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, operand: Tensor, boxes: Tensor, shape: RegionShape, open_: Pass, channels_last: bool
    ) -> tuple[Tensor, int]:
        count = info.batch_size
        # The images of all samples form one batch, so the image numbers of each sample's boxes are shifted.
        each = boxes.expand(count, *boxes.shape) if in_dims[1] is None else boxes.movedim(in_dims[1], 0)
        first = torch.arange(count, device=boxes.device) * shape.batch
        each = torch.cat([each[..., :1] + first.to(boxes)[:, None, None], each[..., 1:]], 2).flatten(0, 1)
        many = replace(shape, batch=count * shape.batch)
        return unfold(info, Aligned.of(fold(count, in_dims[0], operand), each, many, open_, channels_last)), 0


def aligned(input: Tensor, boxes: Tensor, shape: RegionShape) -> Tensor:
    """The output, for float32 or float64 and boxes (K, 5) of that dtype; by kernels unless the call is traced."""
    transformed = torch._C._are_functorch_transforms_active()
    if watched() or (traced(input, boxes) and not transformed):
        return regions.contract(shape, Pass.OUTPUT, input, boxes)
    if len(boxes) == 0 or input.numel() == 0:
        return input.sum() * 0 + input.new_zeros(len(boxes), input.shape[1], *shape.bins)
    return cast(Tensor, Aligned.of(input, boxes, shape, Pass.OUTPUT, is_channels_last(input)))


#: If the number of samples depends on the boxes, a compiler can't know how much memory they take.
#: Importing PyTorch's compiler here would take a second.
_uncompiled = _disable_dynamo(aligned)


def _aligned(input: Tensor, boxes: Tensor, shape: RegionShape) -> Tensor:
    if not torch.compiler.is_compiling():
        return aligned(input, boxes, shape)
    if shape.samples == 0 and not torch.compiler.is_exporting():
        return _uncompiled(input, boxes, shape)
    how = (list(shape.bins), shape.scale, shape.samples, shape.aligned)
    return cast(Tensor, torch.ops.striate.roi_align(input, boxes, *how))


# -------------------------------------------------------------------- pooling


def _places(
    input: Tensor, regions: Tensor, batch: Tensor, size: tuple[int, int], scale: float
) -> tuple[Tensor, Tensor]:
    """The flat position of the maximum in each bin, (K, C, P, Q), and which bins have no pixels, (K, P, Q)."""
    (left, right), (top, bottom) = (
        _borders(regions[:, 1 + axis], regions[:, 3 + axis], scale, size[1 - axis], input.shape[3 - axis])
        for axis in (0, 1)
    )
    empty = (bottom <= top)[:, :, None] | (right <= left)[:, None, :]
    places = torch.zeros(len(regions), input.shape[1], *size, dtype=torch.int64, device=input.device)
    width = input.shape[3]
    for box, image in enumerate(batch.tolist()):
        for p, q in (~empty[box]).nonzero().tolist():
            y0, y1, x0, x1 = int(top[box, p]), int(bottom[box, p]), int(left[box, q]), int(right[box, q])
            place = input[image, :, y0:y1, x0:x1].flatten(1).argmax(1)
            places[box, :, p, q] = (y0 + place // (x1 - x0)) * width + x0 + place % (x1 - x0)
    return places, empty


def _borders(first: Tensor, last: Tensor, scale: float, bins: int, pixels: int) -> tuple[Tensor, Tensor]:
    """The first pixel of each bin along an axis and the one after its last, (K, bins) each."""
    start, end = _rounded(first * scale), _rounded(last * scale)
    width = ((end - start + 1).clamp(min=1) / bins)[:, None]
    bin_ = torch.arange(bins, device=first.device, dtype=first.dtype)
    begin, end = torch.floor(bin_ * width), torch.ceil((bin_ + 1) * width)
    return tuple((each + start[:, None]).clamp(0, pixels).long() for each in (begin, end))  # type: ignore[return-value]


def _rounded(numbers: Tensor) -> Tensor:
    """To the nearest whole number, halves away from zero."""
    return numbers.sign() * (numbers.abs() + 0.5).floor()
