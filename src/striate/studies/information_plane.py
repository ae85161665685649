"""The information plane of the same small network with tanh and with ReLU, while it learns digits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from striate.analysis.information import Binning, InformationPlane, information
from striate.studies.digits import accuracy, digits, train
from striate.studies.panels import Plane
from striate.studies.study import Check, Finding, Measured, Say, study

_EPOCHS = (0, 1, 2, 4, 8, 16, 32, 64, 100)
_ACTIVATIONS = {"tanh": torch.nn.Tanh, "ReLU": torch.nn.ReLU}
_BINS = 10


@study(
    "information-plane",
    "While a network learns, its layers first take in information about the label, and then, whatever the activation "
    "function, lose information about the input.",
)
def information_plane(seeds: Sequence[int], say: Say) -> Finding:
    """Trains 64-16-8-4-10 networks with both activations and measures the last hidden layer at nine epochs.

    Formula: S13.
    """
    planes: dict[str, list[InformationPlane]] = {kind: [] for kind in _ACTIVATIONS}
    right: dict[str, list[float]] = {kind: [] for kind in _ACTIVATIONS}
    for seed in seeds:
        data = digits(seed)
        for kind in _ACTIVATIONS:
            torch.manual_seed(seed)
            network = _network(kind)
            states = _train(network, data.images, data.labels, seed)
            right[kind].append(100 * accuracy(network, data.test_images, data.test_labels))
            planes[kind].append(
                information(
                    network,
                    data.images,
                    data.labels,
                    checkpoints=states,
                    layers=[name for name, _ in network.named_children() if name.startswith("hidden")],
                    binning=Binning(_BINS, atom=0.0 if kind == "ReLU" else None),
                )
            )
            say(f"seed {seed}: {kind}: {right[kind][-1]:.2f} % right on held-out digits")
    rows, lost, gained = [], {}, {}
    for kind, measured in planes.items():
        last = [plane.of("hidden3") for plane in measured]
        falls = [100 * (max(row.input for row in each) - each[-1].input) / each[-1].input for each in last]
        lost[kind] = Measured.of(f"{kind}: fall of I(input; last hidden layer) from its peak", falls, "% of its end")
        gained[kind] = Measured.of(
            f"{kind}: rise of I(last hidden layer; label)", [each[-1].label - each[0].label for each in last], "nats"
        )
        ends = Measured.of(f"{kind}: I(input; last hidden layer) at the end", [each[-1].input for each in last], "nats")
        rows += [lost[kind], ends, gained[kind], Measured.of(f"{kind}: accuracy on held-out digits", right[kind], "%")]
    return Finding(
        tuple(rows),
        (
            Check("information about the label rises with tanh", gained["tanh"].value > 0.1),
            Check("information about the label rises with ReLU", gained["ReLU"].value > 0.1),
            *(
                Check(
                    f"information about the input falls by more than 5 % from its peak with {kind}, in every seed",
                    all(_fall(plane) > 0.05 for plane in planes[kind]),
                )
                for kind in _ACTIVATIONS
            ),
        ),
        (
            "A network without noise loses nothing that bins don't take: I(X; T) of continuous T is infinite.",
            f"Each layer is cut into {_BINS} bins over its whole range in training; other bins give other curves.",
            "Saxe et al. (2018) found compression with tanh, whose units saturate, and mostly none with ReLU.",
        ),
        tuple(Plane(f"{kind}, seed {seeds[0]}", planes[kind][0]) for kind in _ACTIVATIONS),
    )


def _fall(plane: InformationPlane) -> float:
    about_input = [row.input for row in plane.of("hidden3")]
    return (max(about_input) - about_input[-1]) / about_input[-1]


def _network(kind: str) -> torch.nn.Sequential:
    network = torch.nn.Sequential()
    network.add_module("flatten", torch.nn.Flatten())
    for index, (inputs, outputs) in enumerate(((64, 16), (16, 8), (8, 4)), 1):
        network.add_module(f"linear{index}", torch.nn.Linear(inputs, outputs))
        network.add_module(f"hidden{index}", _ACTIVATIONS[kind]())
    network.add_module("output", torch.nn.Linear(4, 10))
    return network


def _train(network: torch.nn.Module, images: Tensor, labels: Tensor, seed: int) -> dict[int, dict[str, Tensor]]:
    """The states of the network before training and after each of some epochs."""
    states: dict[int, dict[str, Tensor]] = {}

    def keep(epoch: int) -> None:
        if epoch in _EPOCHS:
            states[epoch] = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    keep(0)
    train(network, images, labels, seed=seed, epochs=_EPOCHS[-1], batch_size=64, after_epoch=keep)
    return states
