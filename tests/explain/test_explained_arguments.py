"""Arguments as people pass them, to every public function: other kinds of numbers, and what makes no sense."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from striate import explain
from striate.errors import ExplainError, StriateError
from striate.explain.arguments import array, kind_of, pair, real, whole
from striate.explain.methods import METHODS


def small() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))


def linear() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))


def trained(images: Tensor, labels: Tensor) -> nn.Module:
    return small()


IMAGE = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
PICTURE = IMAGE[0]
#: A good call of every public function.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    **{name: (function, {"model": small(), "image": IMAGE, "target": 1}) for name, function in METHODS.items()},
    "default_layer": (explain.default_layer, {"model": small(), "image": IMAGE, "target": 1}),
    "deletion_insertion": (
        explain.deletion_insertion,
        {"model": small(), "image": IMAGE, "map_": IMAGE[0], "target": 1, "steps": 2},
    ),
    "faithfulness": (
        explain.faithfulness,
        {"model": small(), "image": IMAGE, "map_": IMAGE[0], "target": 1, "subsets": 2},
    ),
    "pointing_game": (
        explain.pointing_game,
        {"explanation": explain.saliency(small(), IMAGE), "boxes": [(0, 0, 4, 4)], "tolerance": 1},
    ),
    "check": (explain.check, {"method": explain.saliency, "model": small(), "image": IMAGE, "target": 1, "seed": 1}),
    "model_randomisation": (
        explain.model_randomisation,
        {"method": explain.saliency, "model": small(), "image": IMAGE, "target": 1, "stages": 1, "seed": 1},
    ),
    "label_randomisation": (
        explain.label_randomisation,
        {
            "method": explain.saliency,
            "train": trained,
            "images": IMAGE.expand(3, -1, -1, -1),
            "labels": torch.arange(3),
            "shown": IMAGE,
            "seed": 0,
        },
    ),
    "likeness": (explain.likeness, {"first": IMAGE[0], "second": IMAGE[0].flip(1)}),
    "filters": (explain.filters, {"model": small(), "layer": "0", "fit": False, "most": 2}),
    "activation_maps": (explain.activation_maps, {"model": small(), "image": IMAGE, "layer": "0"}),
    "top_patches": (
        explain.top_patches,
        {"model": small(), "images": IMAGE, "layer": "0", "channel": 1, "count": 1, "batch_size": 2},
    ),
    "hierarchy": (explain.hierarchy, {"model": small(), "image": IMAGE, "channels": 1}),
    "maximize": (
        explain.maximize,
        {
            "model": small(),
            "input_size": (1, 8, 8),
            "layer": "0",
            "channel": 1,
            "position": (1, 1),
            "data": IMAGE,
            "count": 1,
            "steps": 1,
            "rate": 0.1,
            "jitter": 0,
            "seed": 0,
        },
    ),
    "deep_dream": (
        explain.deep_dream,
        {"model": small(), "picture": PICTURE, "layer": "0", "channel": 1, "octaves": 1, "steps": 1, "ratio": 1.4},
    ),
    "invert": (explain.invert, {"model": small(), "image": IMAGE, "layers": "0", "steps": 1, "alpha": 6, "seed": 0}),
    "smallest_perturbation": (
        explain.smallest_perturbation,
        {"model": linear(), "picture": PICTURE, "candidates": 2, "norm": "l2", "explain": explain.saliency},
    ),
    "class_named": (explain.class_named, {"text": "cat", "classes": ["dog", "cat"]}),
    "segmentation_target": (explain.segmentation_target, {"category": 1, "region": torch.ones(8, 8)}),
    "detection_target": (explain.detection_target, {"category": 1, "box": (0, 0, 4, 4)}),
}
QUICK: dict[str, dict[str, Any]] = {
    "rise": {"masks": 2, "cells": 3},
    "smooth_grad": {"samples": 2},
    "integrated_gradients": {"steps": 2, "baseline": 0.0},
    "occlusion": {"window": 4, "stride": 2},
    "score_cam": {"batch_size": 2},
}
JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2.5,
    10**30,
    float("nan"),
    "x",
    "",
    b"x",
    [],
    [[1, 2], [3]],
    {},
    {"a": 1},
    (),
    (1, "a", None),
    object(),
    int,
    nn.ReLU(),
    np.array(["a"]),
    np.array([[1.5]]),
    np.float32("inf"),
    np.bool_(True),
    torch.tensor([True, False]),
    torch.tensor(1j),
    torch.zeros(0),
    torch.zeros(2, 2, 2, 2, 2),
    lambda *_: None,
)


def public() -> list[str]:
    names = [name for name in explain.__all__ if inspect.isfunction(getattr(explain, name))]
    return [name for name in names if name != "probing"]


def test_every_public_function_is_called() -> None:
    assert set(CALLS) == set(public())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_are_one_line(name: str) -> None:
    function, good = CALLS[name]
    good = {**good, **QUICK.get(name, {})}
    function(**good)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for junk in JUNK:
            try:
                function(**{**good, parameter.name: junk})
            except StriateError:  # which is one line, whatever it says
                continue
            except Exception as error:
                pytest.fail(f"{name}({parameter.name}={junk!r}) raised {type(error).__name__}: {error}")


@pytest.mark.parametrize("name", CALLS)
def test_numbers_and_arrays_of_every_kind_will_do(name: str) -> None:
    function, good = CALLS[name]
    good = {**good, **QUICK.get(name, {})}

    def told(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.numpy()
        if isinstance(value, int) and not isinstance(value, bool):
            return np.int64(value)
        return np.float64(value) if isinstance(value, float) else value

    def other(value: Any) -> Any:
        return torch.tensor(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    for kind in (told, other):
        function(**{key: kind(value) for key, value in good.items()})


@pytest.mark.parametrize(
    "target",
    [1, np.int64(1), np.uint8(1), torch.tensor(1), np.array(1), [1, 1], (1, np.int32(1)), np.array([1, 1])]
    + [torch.tensor([1, 1]), [torch.tensor(1), 1], np.array([1, 1], dtype=np.uint16), range(1, 2)],
)
def test_a_class_of_every_kind(target: Any) -> None:
    images = torch.rand(1 if isinstance(target, range) else 2, 1, 8, 8)
    found = explain.saliency(small(), images, target)
    assert found.classes == (1,) * len(images)
    assert torch.equal(found.map, explain.saliency(small(), images, [1] * len(images)).map)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (True, "target: got True; needed a whole number"),
        (np.bool_(False), "target: got False"),
        (torch.tensor(True), "target: got True"),
        ([True, 1], "target: got True"),
        (1.0, "target: got 1.0"),
        (torch.tensor([0.5, 1]), "target: got 0.5"),
        ("cat", "target: got 'cat'; needed the number of a class; class_named"),
        (torch.eye(2).long(), r"target: got int64 of 2x2; .*argmax\(1\)"),
        ({1: 2}, "target: got a dict"),
        (b"1", "target: got b'1'"),
    ],
)
def test_what_is_no_class(target: Any, message: str) -> None:
    for method in (explain.grad_cam, explain.occlusion):
        with pytest.raises(ExplainError, match=message):
            method(small(), torch.rand(2, 1, 8, 8), target)


@pytest.mark.parametrize(
    "made",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: x[:, :, ::-1][:, :, ::-1],
        lambda x: np.asfortranarray(x),
        lambda x: x[0],
        lambda x: np.broadcast_to(x, x.shape),
    ],
)
def test_arrays_of_numpy(made: Callable[[Any], Any]) -> None:
    x = torch.rand(1, 1, 8, 8)
    for name in ("grad_cam", "saliency", "occlusion"):
        assert torch.equal(METHODS[name](small(), made(x.numpy()), 1).map, METHODS[name](small(), x, 1).map)


def test_a_lazy_network_is_refused_until_it_has_run() -> None:
    lazy = nn.Sequential(nn.LazyConv2d(3, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    for name, (function, good) in CALLS.items():
        if "model" in good:
            with pytest.raises(ExplainError, match=r"is lazy and has no weights yet; .*; run it once"):
                function(**{**good, **QUICK.get(name, {}), "model": lazy})
    lazy(IMAGE)
    assert explain.saliency(lazy, IMAGE).map.any()


def test_numbers() -> None:
    assert [whole("n", each) for each in (2, np.int8(2), torch.tensor(2), np.array(2))] == [2] * 4
    assert [real("x", each) for each in (2, 2.5, np.float16(2.5), torch.tensor(2.5))] == [2, 2.5, 2.5, 2.5]
    assert [pair("p", each) for each in (2, np.int64(2), (2, 2), [2, np.int64(2)], np.array([2, 2]))] == [(2, 2)] * 5
    assert array("a", np.arange(3)).tolist() == [0, 1, 2]
    assert [kind_of(each) for each in (None, 1.5, [1], np.zeros((2, 1), np.uint8))] == [
        "None",
        "1.5",
        "a list",
        "uint8 of 2x1",
    ]
