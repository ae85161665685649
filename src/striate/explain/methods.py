"""The methods that make a map, by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Final

from striate.errors import ExplainError
from striate.explain import cams, gradients, perturbation
from striate.explain.result import Explanation

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


def method_named(name: str) -> Callable[..., Explanation]:
    """The function of a method.

    Raises:
        ExplainError: no such method; the nearest names are told.

    >>> method_named("grad-cam").__name__
    'grad_cam'
    """
    plain = name.lower().replace("-", "_")
    if plain not in METHODS:
        near = difflib.get_close_matches(plain, METHODS, n=3, cutoff=0.3)
        raise ExplainError("method", f"got {name!r}", "needed one of " + ", ".join(METHODS), "near: " + ", ".join(near))
    return METHODS[plain]


def takes_layer(name: str) -> bool:
    """Whether a method looks at a layer."""
    return "layer" in inspect.signature(METHODS[name]).parameters


def describe(name: str) -> str:
    """One line on a method: the first of its docstring."""
    return (METHODS[name].__doc__ or "").strip().partition("\n")[0]
