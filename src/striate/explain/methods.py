"""The methods that compute a map, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Final

from striate.drawing import Pictured
from striate.errors import ExplainError, did_you_mean
from striate.explain import cams, gradients, perturbation
from striate.explain.names import find
from striate.explain.result import Explanation
from striate.explain.views import VIEWS

METHODS: Final[dict[str, Callable[..., Explanation]]] = {
    function.__name__: function
    for function in (
        cams.cam,
        cams.grad_cam,
        cams.grad_cam_plus_plus,
        cams.x_grad_cam,
        cams.layer_cam,
        cams.score_cam,
        cams.eigen_cam,
        gradients.saliency,
        gradients.input_x_gradient,
        gradients.smooth_grad,
        gradients.integrated_gradients,
        gradients.guided_backprop,
        gradients.deconvnet,
        perturbation.occlusion,
        perturbation.rise,
    )
}


def method_named(name: str) -> Callable[..., Pictured]:
    """The function of a method or view.

    Raises:
        ExplainError: no such method; the nearest names are told.

    >>> method_named("grad-cam").__name__
    'grad_cam'
    """
    known = METHODS | VIEWS
    place = find(name, list(known), "method")
    if place is None:
        needed = "needed one of " + ", ".join(known)
        raise ExplainError("method", f"got {name!r}", needed, did_you_mean(name.replace("-", "_"), known))
    return known[list(known)[place]]


def takes_layer(name: str) -> bool:
    """Whether a method uses a layer."""
    return "layer" in inspect.signature(METHODS[name]).parameters


def describe(name: str) -> str:
    """One line on a method: the first of its docstring."""
    return (method_named(name).__doc__ or "").strip().partition("\n")[0]
