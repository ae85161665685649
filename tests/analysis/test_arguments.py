"""Inputs in whatever form people have them, for every measure; and mistakes, which are one line each."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from test_trace import assert_unchanged, state
from torch import Tensor, nn

from striate import analysis
from striate.analysis import (
    adversarial,
    checkerboard,
    disturbed,
    effective_receptive_field,
    equivariance,
    fgsm,
    fit_gabor,
    information,
    pgd,
    receptive_field,
    robustness,
    shift_consistency,
    summarize,
)
from striate.analysis.examples import prepared
from striate.errors import AnalysisError


class Classifier(nn.Module):
    """Two layers and a mean; what it takes besides the image moves the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3, 2, padding=1), nn.Linear(3, 4)

    def features(self, image: Tensor) -> Tensor:
        return self.head(self.conv(image).tanh().mean((2, 3)))

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image)


class Named(Classifier):
    def forward(self, image: Tensor, bias: Tensor, *, scale: Tensor) -> Tensor:
        return self.features(image) * scale[:, None] + bias


class OneDictionary(Classifier):
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.features(batch["image"]) * batch["scale"][:, None] + batch["bias"]


class OneList(Classifier):
    def forward(self, parts: list[Tensor]) -> Tensor:
        return self.features(parts[0]) * parts[2][:, None] + parts[1]


class Positional(Classifier):
    def forward(self, image: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        return self.features(image) * scale[:, None] + bias


class Anything(Classifier):
    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        image, bias, scale = (*inputs, *named.values())
        return self.features(image) * scale[:, None] + bias


LABELS = np.array([0, 1, 2, 3, 0], dtype=np.int32)


def arrays() -> dict[str, np.ndarray]:
    """Five images and what goes with them, float64 as NumPy makes them, the images running backwards in memory."""
    draw = np.random.default_rng(0)
    return {"image": draw.random((5, 2, 8, 8))[::-1], "bias": draw.random(4), "scale": draw.random(5) + 1}


#: Every measure of a network, on its inputs.
MEASURES: dict[str, Callable[[nn.Module, Any], Any]] = {
    "summarize": summarize,
    "receptive_field": receptive_field,
    "checkerboard": checkerboard,
    "effective_receptive_field": lambda model, given: effective_receptive_field(model, given, "conv", np.array([1, 2])),
    "equivariance": lambda model, given: equivariance(model, given, np.array([1, 2])),
    "robustness": lambda model, given: robustness(model, given, LABELS, {"noise": np.array([0, 0.1])}),
    "shift_consistency": lambda model, given: shift_consistency(model, given, np.int64(1), pairs=np.int32(2)),
    "fgsm": lambda model, given: fgsm(model, given, LABELS, np.float32(0.1)),
    "pgd": lambda model, given: pgd(model, given, LABELS, 0.1, steps=np.int64(2)),
    "adversarial": lambda model, given: adversarial(model, given, LABELS, np.array([0.0, 0.1]), steps=2),
    "information": lambda model, given: information.information(model, given, LABELS, layers=["conv"]),
}  # fmt: skip


def plain(result: Any) -> Any:
    return result if isinstance(result, Tensor) else result.to_dict()


def close(one: Any, other: Any) -> bool:
    """Whether two results agree; the names of networks and inputs apart."""
    if isinstance(one, Mapping):
        apart = ("model", "input", "inputs", "kind", "rows")
        return all(close(one[key], other[key]) for key in one if key not in apart)
    if isinstance(one, Tensor):
        return torch.allclose(one, other, atol=1e-5)
    return one == pytest.approx(other, abs=1e-5) if isinstance(one, float) else one == other


@pytest.mark.parametrize("name", MEASURES)
def test_inputs_in_every_form(name: str) -> None:
    torch.manual_seed(0)
    base, given = Classifier(), arrays()
    tensors = {key: torch.from_numpy(value.copy()) for key, value in given.items()}
    forms: list[tuple[type[Classifier], Any]] = [
        (Named, given),
        (Named, collections.OrderedDict(tensors)),
        (OneDictionary, given),
        (OneDictionary, [given]),
        (OneList, list(given.values())),
        (Positional, tuple(tensors.values())),
        (Positional, dict(reversed(given.items()))),
        (Anything, [*given.values()]),
        (Anything, tensors),
    ]
    found = []
    for kind, inputs in forms:
        model = kind()
        model.load_state_dict(base.state_dict())
        before = state(model.train())
        found.append(plain(MEASURES[name](model, inputs)))
        assert_unchanged(before, state(model))
    assert all(close(found[0], other) for other in found[1:])


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_formats_follow_the_network(name: str, dtype: torch.dtype) -> None:
    result = plain(MEASURES[name](Classifier().to(dtype), arrays()["image"]))
    assert not isinstance(result, Tensor) or result.dtype == dtype


@pytest.mark.parametrize("name", MEASURES)
def test_lazy_layers_are_made_on_a_copy(name: str) -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.LazyConv2d(3, 3, 2), nn.LazyBatchNorm2d(), nn.LazyLinear(4)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(self.norm(self.conv(image)).flatten(1))

    model, generator = Lazy(), torch.get_rng_state()
    MEASURES[name](model, arrays()["image"])
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.nn.parameter.is_lazy(parameter) for parameter in model.parameters())
    assert model.training
    assert type(model.conv) is nn.LazyConv2d
    assert "uninitialized" in repr(next(model.parameters())).lower()


SIZES = ((2, 8, 8), [2, 8, 8], torch.Size((2, 8, 8)), tuple(np.array([2, 8, 8])), range(2, 9, 3))


@pytest.mark.parametrize("size", SIZES)
def test_sizes_of_every_kind(size: Any) -> None:
    shape = (1, *map(int, size))
    model = nn.LazyConv2d(3, 1) if size == range(2, 9, 3) else Classifier()
    assert summarize(model, size).input_shape == shape
    assert receptive_field(model, size).input_shape == shape
    assert summarize(model, [np.int64(5), *size]).input_shape == (5, *shape[1:])


def test_sizes_stand_for_several_inputs() -> None:
    _, example = prepared(Named(), {"scale": torch.Size([5]), "image": (5, 2, 8, 8), "bias": [1, 4]})
    shapes = {name: tuple(tensor.shape) for name, tensor in example.tensors.items()}
    assert list(shapes.items()) == [("image", (5, 2, 8, 8)), ("bias", (1, 1, 4)), ("scale", (1, 5))]
    assert summarize(nn.Bilinear(3, 4, 2), [(3,), (4,)]).macs == 24
    # Beside a tensor a sequence of numbers is what it is.
    unpool = [torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.long), [5, 5]]
    assert summarize(nn.MaxUnpool2d(2), unpool).rows[0].output_shape == (1, 1, 5, 5)


def test_a_network_on_another_device_than_its_example() -> None:
    with torch.device("meta"):
        model = Classifier()
    images = torch.rand(2, 2, 8, 8)
    assert summarize(model, images).macs == summarize(Classifier(), images).macs
    assert receptive_field(model, images).at("conv").size == (3, 3)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.mix = nn.Conv2d(1, 2, 3), nn.Conv2d(3, 2, 5, 2), nn.Linear(2, 2)

    def forward(self, left: Tensor, right: Tensor, weight: Tensor) -> Tensor:
        return self.left(left).mean((2, 3)) + self.right(right).mean((2, 3)) @ self.mix(weight)


def test_the_field_in_each_of_several_inputs() -> None:
    inputs = {"left": torch.rand(1, 1, 9, 9), "right": torch.rand(1, 3, 12, 15), "weight": torch.rand(2, 2)}
    first = receptive_field(Pair(), inputs)
    assert (first.input, first.input_shape, first.at("left").size) == ("left", (1, 1, 9, 9), (3, 3))
    assert (first.at("right").size, first.at("right").note) == ((0, 0), "doesn't depend on left")
    for name in ("right", 1, np.int64(1)):
        second = receptive_field(Pair(), inputs, input=name)
        assert (second.input, second.at("right").size, second.at("left").size) == ("right", (5, 5), (0, 0))
        assert second.at("add").size == (12, 15)
        assert second.support("right", (1, 2)).sum() == 25
    density = effective_receptive_field(Pair(), inputs, "right", input="right").density
    assert density.shape == (12, 15)
    assert first.to_dict()["inputs"] == {"left": [1, 1, 9, 9], "right": [1, 3, 12, 15], "weight": [2, 2]}


def test_a_layer_that_two_inputs_go_through() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.both = nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Bilinear(3, 3, 2)

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.both(*(self.pool(self.conv(each)).flatten(1) for each in (one, other)))

    model, inputs = Twins(), [torch.rand(2, 1, 7, 7), torch.rand(2, 1, 8, 6)]
    for name, calls, size in (("one", ("conv@1", "conv"), (7, 7)), ("other", ("conv", "conv@1"), (8, 6))):
        found = receptive_field(model, inputs, input=name)
        assert [found.at(call).size for call in calls] == [(3, 3), (0, 0)]
        assert found.at("both").size == size
        assert (effective_receptive_field(model, inputs, "conv", (1, 2), input=name).density > 0).sum() == 9


def test_rows_of_other_inputs_go_along_with_their_images() -> None:
    # More images than go through at once.
    model, number = Named(), 300
    inputs = {"image": torch.rand(number, 2, 4, 4), "bias": torch.zeros(4), "scale": torch.linspace(-1, 1, number)}
    with torch.no_grad():
        classes = model(**inputs).argmax(1)
    assert robustness(model, inputs, classes, {"brightness": [0]}).accuracy == 1


def test_names_are_the_callers() -> None:
    for name, measure in {
        "summarize": lambda **named: summarize(Classifier(), (2, 8, 8), **named),
        "receptive_field": lambda **named: receptive_field(Classifier(), (2, 8, 8), **named),
        "checkerboard": lambda **named: checkerboard(Classifier(), (2, 8, 8), **named),
        "equivariance": lambda **named: equivariance(Classifier(), (2, 8, 8), [1], **named),
        "robustness": lambda **named: robustness(Classifier(), arrays()["image"], LABELS, ["noise"], **named),
        "adversarial": lambda **named: adversarial(Classifier(), arrays()["image"], LABELS, [0.1], steps=1, **named),
        "shift_consistency": lambda **named: shift_consistency(Classifier(), (2, 8, 8), 1, pairs=2, **named),
    }.items():
        assert measure().model == "Classifier", name
        assert measure(name="my net").model == "my net", name


JUNK = (
    None, "x", 1.5, object(), [], {}, "", b"x", True, float("nan"), [None], ["x"], {"x": None}, np.array("x"),
    -(10**30), torch.rand(2, 3), np.zeros((0, 2)), ...,
)  # fmt: skip
IMAGES = torch.rand(5, 2, 8, 8, generator=torch.Generator().manual_seed(0))

#: Each public function's arguments by name, of which one at a time is spoilt.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "summarize": (summarize, {"model": Classifier(), "input_size": (2, 8, 8), "roofline": analysis.Roofline(1e9, 1e9)}),
    "receptive_field": (receptive_field, {"model": Classifier(), "input_size": (2, 8, 8), "input": 0}),
    "checkerboard": (checkerboard, {"model": Classifier(), "input_size": (2, 8, 8)}),
    "effective_receptive_field": (
        effective_receptive_field,
        {"model": Classifier(), "images": IMAGES, "layer": "conv", "position": (1, 1), "input": 0},
    ),
    "equivariance": (
        equivariance,
        {"model": Classifier(), "images": IMAGES, "shifts": [1], "borders": "zeros", "seed": 0, "input": 0},
    ),
    "robustness": (
        robustness,
        {"model": Classifier(), "images": IMAGES, "labels": LABELS, "disturbances": ["noise"], "prepare": torch.clone,
         "seed": 0, "input": 0},
    ),
    "disturbed": (disturbed, {"images": IMAGES, "name": "noise", "level": 0.1, "seed": 0}),
    "shift_consistency": (
        shift_consistency,
        {"model": Classifier(), "images": IMAGES, "max_shift": 1, "borders": "zeros", "pairs": 2, "seed": 0,
         "prepare": torch.clone, "input": 0},
    ),
    "fgsm": (
        fgsm, {"model": Classifier(), "images": IMAGES, "labels": LABELS, "epsilon": 0.1, "prepare": torch.clone},
    ),
    "pgd": (
        pgd,
        {"model": Classifier(), "images": IMAGES, "labels": LABELS, "epsilon": 0.1, "steps": 1, "step_size": 0.1,
         "restarts": 1, "seed": 0, "prepare": torch.clone, "input": 0},
    ),
    "adversarial": (
        adversarial,
        {"model": Classifier(), "images": IMAGES, "labels": LABELS, "epsilons": [0.1], "steps": 1, "restarts": 1,
         "seed": 0, "prepare": torch.clone, "input": 0},
    ),
    "fit_gabor": (fit_gabor, {"kernel": torch.eye(5), "starts": 1}),
    "sample": (analysis.Gabor().sample, {"size": (3, 3)}),
    "information": (
        information.information,
        {"model": Classifier(), "images": IMAGES, "labels": LABELS, "checkpoints": {1: Classifier().state_dict()},
         "layers": ["conv"], "method": "kernel", "binning": information.Binning(4), "noise": 0.1, "unit": "bits",
         "input": 0},
    ),
    "entropy": (information.entropy, {"symbols": [1, 2], "unit": "bits"}),
    "mutual_information": (information.mutual_information, {"x": [1, 2], "y": [1, 2], "unit": "bits"}),
    "Binning": (information.Binning, {"count": 3, "kind": "width", "atom": 0, "span": (0, 1)}),
    "binned": (information.Binning(3), {"values": [1.0, 2.0]}),
    "ksg": (information.ksg, {"x": range(9), "y": range(9), "neighbours": 2, "unit": "bits"}),
    "ksg_labels": (information.ksg_labels, {"x": range(9), "labels": [0] * 9, "neighbours": 2, "unit": "bits"}),
    "neighbour_entropy": (information.neighbour_entropy, {"x": range(9), "neighbours": 2, "unit": "bits"}),
    "gaussian_copula": (
        information.gaussian_copula, {"x": range(9), "y": np.random.default_rng(0).random(9), "unit": "bits"},
    ),
    "kernel_bounds": (information.kernel_bounds, {"x": range(9), "noise": 1, "unit": "bits"}),
    "pooling_entropy": (
        information.pooling_entropy,
        {"maps": torch.rand(8, 1, 32, 32), "kind": "max", "size": 2, "binning": information.Binning(2, atom=None),
         "unit": "bits"},
    ),
    "filter_match": (
        information.filter_match,
        {"kernels": torch.rand(2, 1, 3, 3), "images": torch.rand(9, 1, 8, 8), "classes": 2,
         "binning": information.Binning(4), "seed": 0, "unit": "bits"},
    ),
    "validate": (
        information.validate,
        {"estimator": information.mutual_information, "case": information.symmetric_channel(0.1), "samples": 50,
         "repeats": 2, "bound": 0.1, "seed": 0},
    ),
    "gaussian": (information.gaussian, {"correlation": 0.5, "dimensions": 2}),
    "symmetric_channel": (information.symmetric_channel, {"flipped": 0.1}),
    "erasure_channel": (information.erasure_channel, {"erased": 0.1}),
    "independent": (information.independent, {"symbols": 3}),
    "labelled_intervals": (information.labelled_intervals, {"labels": 3, "overlap": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_spoilt_arguments_are_one_line(name: str) -> None:
    act, arguments = CALLS[name]
    act(**arguments)
    for argument in arguments:
        for junk in JUNK:
            raised: Exception | None = None
            try:
                act(**(arguments | {argument: junk}))
            except Exception as error:
                raised = error
            told = f"{argument}={junk!r}: {type(raised).__name__}: {raised}"
            assert raised is None or isinstance(raised, AnalysisError), told
            assert "\n" not in str(raised), told
            assert len(str(raised)) < 400, told


def test_every_public_function_is_spoilt() -> None:
    public = {*analysis.__all__, *information.__all__}
    functions = {name for name in public if callable(getattr(analysis, name, getattr(information, name, None)))}
    made = {name for name in functions if isinstance(getattr(analysis, name, getattr(information, name, None)), type)}
    assert functions - made - set(CALLS) == {"binned"} - set(CALLS)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (Named(), {"image": IMAGES}, r"inputs: got image; needed image, bias, scale"),
        (Named(), {"picture": IMAGES, "bias": IMAGES}, r"inputs: got picture, bias; needed image, bias, scale"),
        (Positional(), [IMAGES], r"inputs: got 1; needed 3 \(image, bias, scale\)"),
        (Positional(), [IMAGES] * 4, r"inputs: got 4; needed 3 \(image, bias, scale\)"),
        (Classifier(), {"picture": IMAGES}, r"doesn't go through .*; inputs by name would be called image$"),
        (Classifier(), {"a": 1, "b": "x"}, r"input size: got int 1; needed a size"),
        (Classifier(), np.array(["x"]), r"input: got .*; needed a size"),
        ("resnet18", (3, 8, 8), r"model: got str; needed a torch.nn.Module"),
        (nn.Sequential(nn.LazyLinear(3), nn.Linear(4, 1)), (5,), r"Sequential: its lazy layers don't take the input"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit(model: Any, given: Any, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        summarize(model, given)


def test_which_input_is_meant() -> None:
    inputs = {"left": torch.rand(1, 1, 9, 9), "right": torch.rand(1, 3, 12, 15), "weight": torch.rand(2, 2)}
    with pytest.raises(AnalysisError, match=r"got 'rigth'; needed left or right or weight; did you mean right"):
        receptive_field(Pair(), inputs, input="rigth")
    with pytest.raises(AnalysisError, match=r"input: got 3; needed 0 to 2"):
        receptive_field(Pair(), inputs, input=3)
    with pytest.raises(AnalysisError, match=r"has no axes to look along"):
        receptive_field(nn.Linear(4, 4), (4,))
    with pytest.raises(AnalysisError, match=r"input weight.* has no axes"):
        receptive_field(Pair(), inputs, input="weight")


def test_an_example_is_prepared_once() -> None:
    model = nn.Sequential(nn.LazyConv2d(2, 3))
    made, example = prepared(model, (1, 5, 5))
    again, same = prepared(made, example)
    assert again is made
    assert same is example
    assert copy.deepcopy(model)
