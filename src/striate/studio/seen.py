"""The receptive field of one number of a recording, and the influence of each position in it."""

from __future__ import annotations

import weakref
from collections.abc import MutableMapping

import torch
from torch import Tensor

from striate.analysis.dependence import Maybe, Notes
from striate.analysis.examples import chosen
from striate.analysis.field import seen_by
from striate.analysis.following import dependences
from striate.analysis.operators import Value
from striate.errors import StudioError
from striate.studio.gradients import Backward, Target
from striate.studio.recording import Recording

_KNOWN: MutableMapping[Recording, dict[Value, Maybe]] = weakref.WeakKeyDictionary()


def source_of(recording: Recording) -> Value:
    """The input whose positions are shown: the first one that is a map.

    Raises:
        StudioError: no input is a map.
    """
    inputs = recording.trace.inputs
    source = inputs[chosen({name: value.shape for name, value in inputs.items()}, None)]
    if len(source.shape) < 3:
        raise StudioError("receptive field", "the input has no axes to look along", "needed (N, C, H, W) or (N, C, L)")
    return source


def receptive_field(recording: Recording, value: int, place: tuple[int, ...]) -> Tensor:
    """The exact set of positions of the picture on which a number depends, as a mask (H, W).

    Raises:
        AnalysisError: there is no rule for an operator in between.
        StudioError: no input is a map.
    """
    source = source_of(recording)
    if recording not in _KNOWN:
        _KNOWN[recording] = dependences(recording.trace, source, Notes())
    known = recording.values[value]
    return seen_by(recording.names[value], known.shape, _KNOWN[recording].get(known), place, source.shape[2:])


def strengths(backward: Backward, value: int, place: tuple[int, ...]) -> Tensor | None:
    """The influence of each position: the sum of absolute gradients over channels, (H, W); None if unknown.

    Source: Luo, Li, Urtasun & Zemel, "Understanding the effective receptive field" (2016), section 3, of one picture.
    """
    recording = backward.recording
    if value not in backward.differentiable:
        return None
    source = recording.number_of(source_of(recording))
    found = backward.of(Target(value, place), (source,)).of.get(source)
    if found is None:
        return None
    picture = place[0] if place and len(found) > 1 and recording.values[value].shape[0] == len(found) else 0
    return torch.nan_to_num(found[picture].abs().sum(0).float())
