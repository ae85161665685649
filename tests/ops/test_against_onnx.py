"""The ONNX standard's own node tests, through the public operations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from striate import ops

OPERATORS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool")


def collect(operators: tuple[str, ...]) -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other operators' cases divide by zero on purpose
        cases = collect_testcases(None)
    return {case.name: case for case in cases if case.model.graph.node[0].op_type in operators}


CASES = collect(OPERATORS)


def padding_of(attributes: dict[str, Any], dims: int) -> Any:
    word = attributes.get("auto_pad", b"NOTSET").decode()
    if word != "NOTSET":
        return {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}[word]
    pads = attributes.get("pads", [0] * 2 * dims)
    return [tuple(pair) for pair in zip(pads[:dims], pads[dims:], strict=True)]


def run(node: onnx.NodeProto, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    x, dims = inputs[0], inputs[0].dim() - 2
    ones = [1] * dims
    stride, dilation, kernel = given.get("strides", ones), given.get("dilations", ones), given.get("kernel_shape")
    padding, ceil_mode, groups = padding_of(given, dims), bool(given.get("ceil_mode", 0)), given.get("group", 1)
    weight_and_bias = (*inputs[1:], None)[:2]
    match node.op_type:
        case "Conv":
            conv = getattr(ops, f"conv{dims}d")
            return (conv(x, *weight_and_bias, stride, padding, dilation, groups),)
        case "ConvTranspose":
            conv_transpose = getattr(ops, f"conv_transpose{dims}d")
            extra = given.get("output_padding", [0] * dims)
            if "output_shape" in given:
                least = conv_transpose(x, *weight_and_bias, stride, padding, 0, groups, dilation).shape[2:]
                extra = [m - n for m, n in zip(given["output_shape"][-dims:], least, strict=True)]
            return (conv_transpose(x, *weight_and_bias, stride, padding, extra, groups, dilation),)
        case "MaxPool":
            indices = len(node.output) == 2
            found = getattr(ops, f"max_pool{dims}d")(x, kernel, stride, padding, dilation, ceil_mode, indices)
            if not indices:
                return (found,)
            values, within = found
            # ONNX counts positions through the whole tensor, down the columns where storage_order says so.
            if given.get("storage_order", 0):
                within = within % x.shape[3] * x.shape[2] + within // x.shape[3]
            first = torch.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *ones) * x.shape[2:].numel()
            return values, within + first
        case "AveragePool":
            pool = getattr(ops, f"avg_pool{dims}d")
            counted = bool(given.get("count_include_pad", 0))
            return (pool(x, kernel, stride, padding, ceil_mode, counted, dilation=dilation),)
        case "LpPool":
            pool = getattr(ops, f"lp_pool{dims}d")
            return (pool(x, given.get("p", 2), kernel, stride, ceil_mode, padding=padding, dilation=dilation),)
        case "GlobalAveragePool":
            return (ops.global_avg_pool(x),)
        case "GlobalMaxPool":
            return (ops.global_max_pool(x),)
    raise AssertionError(node.op_type)


def test_the_standard_brings_cases_of_every_operator() -> None:
    assert {case.model.graph.node[0].op_type for case in CASES.values()} == set(OPERATORS)
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", sorted(CASES))
def test_node(name: str) -> None:
    case = CASES[name]
    for inputs, outputs in case.data_sets:
        found = run(case.model.graph.node[0], [torch.from_numpy(np.array(value)) for value in inputs])
        assert len(found) == len(outputs)
        for mine, theirs in zip(found, outputs, strict=True):
            torch.testing.assert_close(mine, torch.from_numpy(np.array(theirs)), rtol=case.rtol, atol=case.atol)
