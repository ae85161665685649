"""Exact integer geometry of windowed operations, without a tensor in sight.

:class:`Window` is the map along one axis; :class:`ConvShape` and :class:`PoolShape` are whole problems.
"""

from striate.geometry.calls import AXES, per_axis, windows
from striate.geometry.notation import parse
from striate.geometry.shapes import ConvShape, PoolShape, Problem
from striate.geometry.window import PADDING_WORDS, Adjoint, Padding, Window, whole_number

__all__ = [
    "AXES",
    "PADDING_WORDS",
    "Adjoint",
    "ConvShape",
    "Padding",
    "PoolShape",
    "Problem",
    "Window",
    "parse",
    "per_axis",
    "whole_number",
    "windows",
]
