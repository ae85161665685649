"""ONNX's own node tests of detection's operators, and graphs exported with these, in ONNX Runtime."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from test_against_onnx import collect
from torch import Tensor

from cases import slow_but
from striate import ops
from striate.ops import graphs

CASES = collect(("RoiAlign", "NonMaxSuppression", "Resize"))

#: What a case asks for that PyTorch's resampling hasn't.
NOT_RESIZED = {
    "tf_crop": "crops",
    "asymmetric": "no such coordinates",
    "half_pixel_symmetric": "no such coordinates",
    "pytorch_half_pixel": "a single output is the first pixel, which in PyTorch it no longer is",
    "downsample_scales_linear_align_corners": "a size that isn't whole counts in coordinates",
    "downsample_scales_cubic_align_corners": "a size that isn't whole counts in coordinates",
    "exclude_outside": "no such weights",
    "antialias": "PyTorch's filter is another",
    "sizes_nearest": "halves are rounded down, or there are no such coordinates; PyTorch rounds them up",
}


def refused(name: str) -> str | None:
    if name == "test_roialign_mode_max":
        return "takes averages"
    return next((why for word, why in NOT_RESIZED.items() if "resize" in name and word in name), None)


SUPPORTED = sorted(name for name in CASES if refused(name) is None)


def suppress(given: dict[str, Any], boxes: Tensor, scores: Tensor, *limits: Tensor) -> Tensor:
    """A row for each box that stays: image, class, box; class by class."""
    most, overlap, least = (limit.item() for limit in limits)
    if given.get("center_point_box", 0):
        boxes = ops.box_convert(boxes, "cxcywh", "xyxy")
    else:  # two corners, y first, in any order
        first, second = boxes[..., :2].flip(-1), boxes[..., 2:].flip(-1)
        boxes = torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)
    rows = []
    for image in range(scores.shape[0]):
        for class_ in range(scores.shape[1]):
            counted = (scores[image, class_] > least).nonzero().flatten()
            kept = counted[ops.nms(boxes[image][counted], scores[image, class_][counted], overlap)][:most]
            rows += [[image, class_, box] for box in kept.tolist()]
    return torch.tensor(rows)


def resize(given: dict[str, Any], input: Tensor, how: dict[str, Tensor]) -> Tensor:
    corners = given.get("coordinate_transformation_mode", b"half_pixel") == b"align_corners"
    mode = {b"nearest": "nearest-exact", b"linear": "bilinear", b"cubic": "bicubic"}[given["mode"]]
    axes = [axis - 2 for axis in given.get("axes", [0, 1, 2, 3])]
    found = {name: [value[axes.index(axis)].item() for axis in (0, 1)] for name, value in how.items()}
    antialias = bool(given.get("antialias", 0))
    return ops.interpolate(
        input,
        found.get("sizes"),
        found.get("scales"),
        mode,  # type: ignore[arg-type]
        corners if mode != "nearest-exact" else None,
        antialias=antialias,
    )


def run(node: onnx.NodeProto, inputs: list[Tensor]) -> Tensor:
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "NonMaxSuppression":
        return suppress(given, *inputs)
    if node.op_type == "Resize":
        names = [name for name in node.input if name]
        return resize(given, inputs[0], dict(zip(names[1:], inputs[1:], strict=True)))
    boxes = torch.cat([inputs[2][:, None].float(), inputs[1]], 1)
    size = (given["output_height"], given["output_width"])
    aligned = given["coordinate_transformation_mode"] == b"half_pixel"
    return ops.roi_align(inputs[0], boxes, size, given["spatial_scale"], given["sampling_ratio"], aligned)


def test_most_cases_are_supported() -> None:
    assert len(SUPPORTED) == 24


@pytest.mark.parametrize("name", SUPPORTED)
def test_node(name: str) -> None:
    case = CASES[name]
    for inputs, outputs in case.data_sets:
        found = run(case.model.graph.node[0], [torch.from_numpy(np.array(value)) for value in inputs])
        expected = torch.from_numpy(np.array(outputs[0]))
        torch.testing.assert_close(found, expected, rtol=case.rtol, atol=max(case.atol, 1e-5))


class Head(torch.nn.Module):
    """What the end of a detector does."""

    def __init__(self, samples: int, aligned: bool) -> None:
        super().__init__()
        self.samples, self.aligned = samples, aligned

    def forward(self, map_: Tensor, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        kept = ops.batched_nms(boxes, scores, classes, 0.5)
        pooled = ops.roi_align(map_, [boxes[kept]], (3, 2), 0.5, self.samples, self.aligned)
        return kept, pooled, ops.interpolate(map_, scale_factor=2.0)


def inputs(count: int) -> tuple[Tensor, ...]:
    boxes = torch.rand(count, 4) * 12
    boxes[:, 2:] += boxes[:, :2]
    return torch.rand(1, 3, 9, 8), boxes, torch.rand(count), torch.randint(0, 2, (count,))


def exported(head: Head) -> torch.export.ExportedProgram:
    many = torch.export.Dim("many")
    return torch.export.export(head, inputs(9), dynamic_shapes=(None, {0: many}, {0: many}, {0: many}))


@pytest.mark.parametrize(("samples", "aligned"), [pytest.param(2, False, marks=pytest.mark.slow), (0, True)])
def test_graphs_have_onnxs_operators_and_compute_the_same(samples: int, aligned: bool) -> None:
    runtime = pytest.importorskip("onnxruntime")
    head = Head(samples, aligned)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            exported(head),
            dynamo=True,
            custom_translation_table=graphs.translations(),
            input_names=["map", "boxes", "scores", "classes"],
            verbose=False,
        )
    assert program is not None
    assert {"NonMaxSuppression", "RoiAlign", "Resize"} <= {node.op_type for node in program.model.graph}
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (0, 1, 40):
        given = inputs(count)
        names = [each.name for each in session.get_inputs()]
        found = session.run(None, {name: each.numpy() for name, each in zip(names, given, strict=True)})
        for mine, theirs in zip(head(*given), found, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), mine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", slow_but([2, 0], [0]))
def test_a_program_made_of_pytorchs_operators_computes_the_same(samples: int) -> None:
    head = Head(samples, False)
    program = exported(head).run_decompositions()
    names = {str(node.target) for node in program.graph.nodes}
    assert ("striate.roi_align_adaptive.default" in names) == (samples == 0)
    assert "striate.roi_align.default" not in names
    for count in (9, 40):
        given = inputs(count)
        for mine, theirs in zip(head(*given), program.module()(*given), strict=True):
            torch.testing.assert_close(theirs, mine)


@pytest.mark.parametrize("samples", slow_but([2, 0], [0]))
def test_compiled_calls_compute_the_same_and_have_gradients(samples: int) -> None:
    head = Head(samples, False)
    given = inputs(12)
    map_ = given[0].requires_grad_()
    expected = head(*given)
    compiled = torch.compile(head, backend="eager")(*given)
    for mine, theirs in zip(expected, compiled, strict=True):
        torch.testing.assert_close(theirs, mine)
    (mine,), (theirs,) = (torch.autograd.grad(found[1].square().sum(), map_) for found in (expected, compiled))
    torch.testing.assert_close(theirs, mine)
