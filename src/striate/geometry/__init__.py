"""Exact integer geometry of windowed operations, without a tensor in sight.

:class:`Window` is the map along one axis; :class:`ConvShape` and :class:`PoolShape` are whole problems,
:class:`NormShape` and :class:`ConvPoolShape` are problems of several operations that are computed as one.
"""

from striate.geometry.blocks import ConvPoolShape, NormShape
from striate.geometry.calls import AXES, per_axis, windows
from striate.geometry.notation import AnyProblem, parse, parse_any
from striate.geometry.shapes import ConvShape, PoolShape, Problem
from striate.geometry.window import PADDING_WORDS, Adjoint, Padding, Window, whole_number

__all__ = [
    "AXES",
    "PADDING_WORDS",
    "Adjoint",
    "AnyProblem",
    "ConvPoolShape",
    "ConvShape",
    "NormShape",
    "Padding",
    "PoolShape",
    "Problem",
    "Window",
    "parse",
    "parse_any",
    "per_axis",
    "whole_number",
    "windows",
]
