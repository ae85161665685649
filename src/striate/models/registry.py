"""The register of networks: each name has one builder, and registering a name twice is an error.

Names and descriptions of striate's own networks come from the catalogue. Their builders come from files that are
imported when a network is needed, so listing the networks doesn't wait for PyTorch.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from striate.errors import ModelError, did_you_mean
from striate.models.catalogue import FAMILIES, MODULES, TASKS

if TYPE_CHECKING:
    import torch

Builder = TypeVar("Builder", bound="Callable[..., torch.nn.Module]")

#: Images with no side longer than this are small.
SMALL: Final = 64


@dataclass(frozen=True)
class _Entry:
    builder: Callable[..., torch.nn.Module]
    description: str
    task: str

    @property
    def has_small_form(self) -> bool:
        return "small_input" in inspect.signature(self.builder).parameters

    @property
    def module(self) -> str:
        builder = self.builder.func if isinstance(self.builder, functools.partial) else self.builder
        return builder.__module__


_ENTRIES: dict[str, _Entry] = {}


def register(builder: Builder, name: str = "", description: str = "", task: str = "classification") -> Builder:
    """Registers a function or class that takes ``num_classes``, ``in_channels`` and possibly ``small_input``.

    Args:
        builder: makes the network; the defaults of its arguments become those of :func:`create`.
        name: by default the builder's own, in lower case.
        description: one line; by default the first of the builder's docstring.
        task: what the network does, one of ``striate.models.TASKS``.

    Raises:
        ModelError: a name that is taken, an unknown task.
    """
    name = name or builder.__name__.lower()
    if task not in TASKS:
        raise ModelError("models.register", f"got task {task!r}", f"needed one of {', '.join(TASKS)}")
    entry = _Entry(builder, description or (builder.__doc__ or "").strip().partition("\n")[0], task)
    if name in _ENTRIES or (name in MODULES and entry.module != _module(name)):
        raise ModelError("models.register", f"a model named {name!r} exists", "needed a new name")
    _ENTRIES[name] = entry
    return builder


def names(task: str | None = None) -> tuple[str, ...]:
    """The names of all networks, grouped by paper; with a task, only of the networks for this task.

    >>> [name for name in names("classification") if name.startswith("lenet")]
    ['lenet5', 'lenet5_1998']
    """
    every = tuple(dict.fromkeys((*MODULES, *_ENTRIES)))
    return every if task is None else tuple(name for name in every if task_of(name) == task)


def task_of(name: str) -> str:
    """What a network does, one of ``striate.models.TASKS``.

    >>> task_of("lenet5")
    'classification'
    """
    for family in FAMILIES:
        if name in family.networks:
            return family.task
    return _entry(name).task


def create(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    small_input: bool = False,
) -> torch.nn.Module:
    """A new network, with random weights from torch's global generator or with given ones.

    Every network has ``input_size``, the (H, W) that it was made for. A classifier's output is (N, num_classes), larger
    is likelier. The inputs and outputs of networks for other tasks are described in their files.

    Args:
        name: one of :func:`names`.
        num_classes: length of the output; None for the network's own number: 1000, or 10 for digits.
        in_channels: channels of the images; None for the network's own, 3 or 1.
        weights: what :func:`load_weights` takes, or ``"pretrained"`` for those that a package ships. A head for other
            classes stays random, with a ``WeightsWarning``.
        small_input: the form for images of about 32x32 pixels; the network's docstring says what differs.

    Raises:
        ModelError: an unknown name, a form or sizes that the network can't have, weights that can't be read or belong
            to another network.

    >>> sum(parameter.numel() for parameter in create("lenet5").parameters())
    61706
    """
    from striate.models.shipped import shipped
    from striate.models.weights import load_weights

    builder = _entry(name).builder
    given: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    given = {what: value for what, value in given.items() if value is not None}
    for what, value in given.items():
        if value < 1:
            raise ModelError(name, f"{what} is {value}", "needed 1 or more")
    if small_input:
        if not _entry(name).has_small_form:
            raise ModelError(name, "has no form for small images", "needed small_input=False")
        given["small_input"] = True
    model = builder(**given)
    if weights is not None:
        load_weights(model, shipped(name).file() if weights == "pretrained" else weights, new_head=True)
    return model


def has_small_form(name: str, image_size: tuple[int, int]) -> bool:
    """Whether images of (H, W) are small, no side above 64, and the network has a form for such.

    >>> has_small_form("resnet18", (28, 28)), has_small_form("resnet18", (224, 224)), has_small_form("lenet5", (28, 28))
    (True, False, False)
    """
    return max(image_size) <= SMALL and _entry(name).has_small_form


def input_shape(name: str) -> tuple[int, int, int]:
    """The (C, H, W) of the images that a network was made for.

    >>> input_shape("lenet5"), input_shape("efficientnet_b1")
    ((1, 28, 28), (3, 240, 240))
    """
    import torch

    channels: int = inspect.signature(_entry(name).builder).parameters["in_channels"].default
    with torch.device("meta"):  # some sizes depend on the form, and real weights would take seconds
        height, width = cast("tuple[int, int]", create(name).input_size)
    return channels, height, width


def describe(name: str) -> str:
    """One line on a network: what it is, its parameters, the images that it was made for."""
    for family in FAMILIES:
        if name in family.networks:
            return family.networks[name]
    return _entry(name).description


def families() -> dict[str, tuple[str, ...]]:
    """The names of the networks of each paper, under what the paper is about.

    >>> families()["LeNet-5, as usually written today and as it was in 1998."]
    ('lenet5', 'lenet5_1998')
    """
    found = {family.about: list(family.networks) for family in FAMILIES}
    for name, entry in _ENTRIES.items():
        if name not in MODULES:
            about = (sys.modules[entry.module].__doc__ or "").strip().partition("\n")[0]
            found.setdefault(about, []).append(name)
    return {about: tuple(listed) for about, listed in found.items()}


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES and name in MODULES:
        importlib.import_module(_module(name))  # registers the network
    if name not in _ENTRIES:
        near = did_you_mean(name, names())
        # If a name is similar, the message names only this one: the full list is long.
        raise ModelError("model", f"got {name!r}", "" if near else "needed one of " + ", ".join(names()), near)
    return _ENTRIES[name]


def _module(name: str) -> str:
    return f"striate.models.{MODULES[name]}"
