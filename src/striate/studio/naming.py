"""Names in a graph: the family of an operator, its window as short text, and the names of outputs."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path

from striate.analysis.operators import Operation
from striate.studio.recording import Recording

#: The family of each operator, which decides its colour and helps searching.
_FAMILIES: Final = {
    "conv": ("convolution", "_convolution", "mkldnn_convolution", "deform_conv2d"),
    "pool": (
        "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "avg_pool2d", "avg_pool1d", "avg_pool3d",
        "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_avg_pool1d", "max_pool2d",
        "mean", "amax", "roi_align", "_roi_align",
    ),
    "norm": (
        "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
        "native_layer_norm", "native_group_norm", "_native_batch_norm_legit_functional", "linalg_vector_norm",
    ),
    "dense": ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "matmul", "embedding"),
    "attention": (
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention", "_softmax",
        "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math",
    ),
    "join": ("cat", "stack", "add", "sub", "mul", "div", "add_", "mul_", "where"),
}  # fmt: skip
_FAMILY: Final = {name: family for family, names in _FAMILIES.items() for name in names}
_MOVES: Final = (
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "slice", "select", "split", "split_with_sizes",
    "squeeze", "unsqueeze", "expand", "unbind", "clone", "alias", "detach", "flatten", "pixel_shuffle", "roll",
    "constant_pad_nd", "upsample_nearest2d", "upsample_bilinear2d", "copy_", "chunk", "unfold", "flip",
    "native_dropout",
)  # fmt: skip


def family(operation: Operation) -> str:
    """``"conv"``, ``"pool"``, ``"norm"``, ``"dense"``, ``"attention"``, ``"join"``, ``"move"`` or ``"act"``."""
    name = operation.name.rpartition(".")[2]
    if name in _FAMILY:
        return _FAMILY[name]
    if name in _MOVES:
        return "move"
    return "act" if torch.Tag.pointwise in operation.target.tags else "other"


def output_names(recording: Recording) -> dict[int, str]:
    """The names of the network's outputs, by the numbers of values."""
    leaves = tree_flatten_with_path(recording.outputs)[0]
    numbers = [leaf for leaf in tree_flatten(recording.outputs)[0] if isinstance(leaf, int)]
    found: dict[int, str] = {}
    for path, leaf in leaves:
        if isinstance(leaf, int) and not isinstance(leaf, bool):
            name = keystr(path).strip("[]'\"").replace("']['", ".").replace("'][", ".").replace("][", ".")
            found.setdefault(leaf, name if name and len(numbers) > 1 else "output")
    return found


def describe(operation: Operation) -> str:
    """Kernel, stride, padding and the like of an operator with a window, as short text."""
    name = operation.name.rpartition(".")[2]
    if name == "convolution":
        weight = operation.inputs[1].shape
        told = ["x".join(map(str, weight[2:]))]
        transposed = operation.argument("transposed")
        groups = operation.argument("groups", 1)
        if transposed:
            told.append("transposed")
        told += _windowed(operation)
        if groups > 1:
            told.append("depthwise" if groups == operation.inputs[0].shape[1] else f"{groups} groups")
        return ", ".join(told)
    if "pool" in name and (kernel := operation.argument("kernel_size")) is not None:
        return ", ".join(["x".join(map(str, _sides(kernel, 2))), *_windowed(operation)])
    return ""


def _windowed(operation: Operation) -> list[str]:
    told = []
    for name, plain in (("stride", 1), ("padding", 0), ("dilation", 1)):
        found: Any = operation.argument(name)
        if found is None or (isinstance(found, list | tuple) and not found):
            continue
        sides = _sides(found, 1)
        if any(side != plain for side in sides):
            told.append(f"{name} {sides[0] if len(set(sides)) == 1 else 'x'.join(map(str, sides))}")
    return told


def _sides(value: Any, least: int) -> list[int]:
    sides = [value] if isinstance(value, int) else list(value)
    return sides * least if len(sides) < least else sides
