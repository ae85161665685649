"""The information plane: the information of a network's layers about its input and about the label, over training.

A network without noise maps different inputs to different activations. So I(X; T) is infinite for a continuous T, and
ln N for a finite set of N images, whatever the network has learnt (Saxe et al. 2018; Goldfeld et al. 2019). If a
measured number changes during training, the reason is the processing of T before the measurement, which is therefore
part of the result:

``"binned"``: T is rounded into bins. The binned T' is a function of X, so I(X; T') = H(T'), the entropy of the layer's
binned vector over the images given; I(T'; Y) is counted likewise. Nothing is estimated beyond these images. Where each
image has a symbol of its own H(T') is ln N and I(T'; Y) is H(Y): the bins are too fine to say anything.

``"kernel"``: Gaussian noise is added to T for the measurement, not for the network. I(X; T + Z) is bounded from above
by the pairwise distances of the activations; I(T + Z; Y) is the difference of two such bounds, hence an estimate.

The numbers depend on the bins or on the noise, and on the scale of the activations, so these must be reported, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from striate.analysis import arguments
from striate.analysis.arguments import Array
from striate.analysis.examples import first_line
from striate.analysis.information.continuous import kernel_bounds
from striate.analysis.information.discrete import (
    Binning,
    Numbers,
    Symbols,
    Unit,
    codes,
    entropy,
    in_unit,
    mutual_information,
)
from striate.analysis.probing import Images, Subject
from striate.analysis.trace import layer_paths
from striate.errors import AnalysisError

_BATCH = 512


@dataclass(frozen=True)
class LayerInformation:
    """One layer at one moment of training, in the unit of the plane.

    Args:
        layer: its path; of a layer that runs more than once ``"relu:2"`` is its second call.
        epoch: of the checkpoint.
        units: numbers that the layer puts out for an image.
        unit_entropy: mean entropy of a single binned unit.
        entropy: of the binned vector; differential entropy of T + Z with ``"kernel"``, which may be negative.
        input: I(X; T') or the upper bound of I(X; T + Z).
        label: I(T'; Y) or the estimate of I(T + Z; Y).
        saturated: whether ``input`` is within 1 % of ln N, where it says how many images there are and nothing else.
    """

    layer: str
    epoch: int
    units: int
    unit_entropy: float
    entropy: float
    input: float
    label: float
    saturated: bool


@dataclass(frozen=True)
class InformationPlane:
    """Layers at checkpoints.

    Args:
        rows: layer by layer within each epoch.
        images: N.
        label_entropy: H(Y), which no layer can exceed with ``"binned"``.
        ceiling: ln N, the most that can be known of which image it was.
        unit: ``"nats"`` or ``"bits"``.
        measured: what exactly the numbers are: the quantity, and the bins or the noise.
    """

    rows: tuple[LayerInformation, ...]
    images: int
    label_entropy: float
    ceiling: float
    unit: Unit
    measured: str

    @property
    def layers(self) -> tuple[str, ...]:
        """In the order in which they run."""
        return tuple(dict.fromkeys(row.layer for row in self.rows))

    def of(self, layer: str) -> tuple[LayerInformation, ...]:
        """The rows of one layer, epoch by epoch."""
        return tuple(row for row in self.rows if row.layer == layer)

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


def information(
    model: torch.nn.Module,
    images: Images,
    labels: Array | Sequence[int],
    *,
    checkpoints: Mapping[int, Mapping[str, Tensor]] | None = None,
    layers: Sequence[str] | None = None,
    method: Literal["binned", "kernel"] = "binned",
    binning: Binning = Binning(),  # noqa: B008, as it is frozen
    noise: float = 0.1,
    unit: Unit = "nats",
    input: str | int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> InformationPlane:
    """How much each layer's activations hold about the input and about the label, at each checkpoint.

    Read what is measured at the top of this module: without bins or noise I(X; T) would be infinite. Compression, a
    falling I(X; T), is no law of training: tanh shows it as its units saturate, ReLU mostly doesn't (Saxe et al., "On
    the information bottleneck theory of deep learning", ICLR 2018, figure 1).

    Args:
        model: any network; a copy of it runs, in evaluation mode.
        images: (N, ...) as the network takes them; among other inputs as a list or a dictionary.
        labels: (N,) classes.
        checkpoints: state dictionaries by epoch; the model as it is, as epoch 0, by default.
        layers: paths; by default all without layers inside.
        method: ``"binned"`` or ``"kernel"``.
        binning: with equal widths its span is the range of the layer over all checkpoints, unless it has one.
        noise: standard deviation of Z, in the units of the activations.
        unit: ``"nats"`` or ``"bits"``.
        input: which input the images are, by its name or number; by default the first with axes to look along.
        progress: takes a line for each checkpoint.

    Raises:
        AnalysisError: an unknown layer or method, one that doesn't run or gives no tensor, labels of another length,
            one class only, no checkpoints, activations that are constant at every checkpoint or aren't finite.

    >>> x = torch.arange(8.0).reshape(-1, 1)
    >>> plane = information(torch.nn.Sequential(torch.nn.ReLU()), x - 4, torch.arange(8) > 4, unit="bits")
    >>> row = plane.rows[0]
    >>> round(row.input, 3), round(row.label, 3)  # five zeros and three others; 0 to 4 against 5 to 7
    (1.549, 0.954)
    """
    subject = Subject(model, images, input=input).copied()
    twin, number = subject.model.eval(), len(subject.images) if subject.images.dim() else 0
    chosen = _chosen(twin, layers, subject.name)
    needed = f"needed one for each of {number} images"
    kinds = arguments.array("information", labels, needed)
    if not number or kinds.shape != (number,):
        raise AnalysisError("information", f"got labels {kinds.shape}", needed)
    if len(np.unique(kinds)) < 2:
        raise AnalysisError("information", "got images of one class", "needed two classes or more")
    arguments.word("method", method, ("binned", "kernel"))
    noise = arguments.number("noise", noise, above=0)
    if not isinstance(binning, Binning):
        raise AnalysisError("binning", f"got {binning!r}", "needed a Binning", "as Binning(8)")
    own = {name: tensor.clone() for name, tensor in twin.state_dict().items()}
    states: Mapping[int, Mapping[str, Tensor]] = {0: own} if checkpoints is None else checkpoints
    if not isinstance(states, Mapping) or not states:
        got = "no checkpoints" if isinstance(states, Mapping) else f"{type(states).__name__} for checkpoints"
        raise AnalysisError("information", f"got {got}", "needed state dictionaries by epoch")

    def activations(epoch: int) -> dict[str, Numbers]:
        try:
            twin.load_state_dict(states[epoch])
        except (RuntimeError, TypeError, AttributeError) as error:
            told = f"doesn't fit {subject.name} ({first_line(error)})"
            raise AnalysisError(f"checkpoint {epoch}", told, "needed a state dictionary of this network") from error
        return _activations(subject, chosen)

    spans: dict[str, tuple[float, float]] = {}
    for epoch in states:
        for layer, values in activations(epoch).items():
            low, high = spans.get(layer, (math.inf, -math.inf))
            spans[layer] = min(low, float(values.min())), max(high, float(values.max()))
    for layer, (low, high) in spans.items():
        if not (math.isfinite(low) and math.isfinite(high)):
            raise AnalysisError(layer, "its activations aren't finite", "needed finite numbers")
        if low == high:
            raise AnalysisError(layer, f"its activations are all {low:g}", "needed values that vary", "leave it out")
    ceiling = math.log(number)
    rows = []
    for epoch in states:
        for layer, values in activations(epoch).items():
            fitted = binning
            if binning.kind == "width" and binning.span is None:
                fitted = Binning(binning.count, "width", binning.atom, spans[layer])
            binned = fitted(values)
            single = float(np.mean([entropy(column) for column in binned.T]))
            measure = _by_counting(binned, kinds) if method == "binned" else _by_kernels(values, kinds, noise)
            whole, about_input, about_label = (in_unit(nats, unit) for nats in measure)
            rows.append(
                LayerInformation(
                    layer,
                    epoch,
                    values.shape[1],
                    in_unit(single, unit),
                    whole,
                    about_input,
                    about_label,
                    measure[1] > 0.99 * ceiling,
                )
            )
        progress(f"epoch {epoch}: information of {len(spans)} layers measured")
    measured = (
        f"H(T') = I(X; T') and I(T'; Y) of activations in {binning}"
        if method == "binned"
        else f"upper bound of I(X; T + Z), estimate of I(T + Z; Y), Gaussian noise Z of deviation {noise:g}"
    )
    return InformationPlane(tuple(rows), number, entropy(kinds, unit=unit), in_unit(ceiling, unit), unit, measured)


def _by_counting(binned: Symbols, labels: Symbols) -> tuple[float, float, float]:
    """Entropy, I(X; T') and I(T'; Y) of binned activations (N, units), in nats."""
    vectors = codes(binned)
    return entropy(vectors), entropy(vectors), mutual_information(vectors, labels)


def _by_kernels(values: Numbers, labels: Symbols, noise: float) -> tuple[float, float, float]:
    """Differential entropy of T + Z, the bound of I(X; T + Z) and the estimate of I(T + Z; Y), in nats."""
    about_input = kernel_bounds(values, noise).upper
    within = sum(
        float((labels == kind).mean()) * kernel_bounds(values[labels == kind], noise).upper
        for kind in np.unique(labels)
    )
    constant = values.shape[1] / 2 * math.log(2 * math.pi * math.e * noise**2)
    return about_input + constant, about_input, about_input - within


def _chosen(model: torch.nn.Module, layers: Sequence[str] | None, name: str) -> tuple[str, ...]:
    paths = layer_paths(model)
    if layers is None:
        return tuple(path for path in paths if not any(model.get_submodule(path).children()))
    return tuple(arguments.layer(layer, paths, name) for layer in arguments.several("layers", layers))


def _activations(subject: Subject, layers: Sequence[str]) -> dict[str, Numbers]:
    """(N, units) of each call of each layer, in the order in which they run."""
    twin, images = subject.model, subject.images
    found: dict[str, list[Numbers]] = {}
    calls: dict[str, int] = {}

    def keep(path: str, output: object) -> None:
        if not isinstance(output, Tensor) or output.dim() < 1 or not output.is_floating_point():
            raise AnalysisError(path, "its output is no tensor of numbers", "needed (N, ...)", "leave it out")
        calls[path] = calls.get(path, 0) + 1
        name = path if calls[path] == 1 else f"{path}:{calls[path]}"
        # A copy: the next layer may write into the same memory.
        found.setdefault(name, []).append(output.reshape(len(output), -1).to("cpu", torch.float64, copy=True).numpy())

    # A layer with several names is one layer, under the first of them.
    hooked = {twin.get_submodule(path): path for path in reversed(layers)}
    handles = [
        module.register_forward_hook(lambda _, __, output, path=path: keep(path, output))
        for module, path in hooked.items()
    ]
    with torch.no_grad():
        for first in range(0, len(images), _BATCH):
            calls.clear()
            subject.answer(images[first : first + _BATCH], first)
    for handle in handles:
        handle.remove()
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    if silent := [path for path in hooked.values() if path not in joined]:
        raise AnalysisError(silent[0], "it doesn't run", "needed a layer that runs on the images", "leave it out")
    if wrong := [name for name, values in joined.items() if len(values) != len(images)]:
        raise AnalysisError(wrong[0], "its output has another batch size", f"needed {len(images)}", "leave it out")
    return joined
