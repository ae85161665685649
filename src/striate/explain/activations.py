"""Activations of layers for an image, channel by channel, and the parts of many images that excite a channel most."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.analysis import FieldRow, ReceptiveFields, receptive_field
from striate.drawing import Pictured, drawer
from striate.errors import ExplainError
from striate.explain.arguments import checked
from striate.explain.inputs import Call, Input, call_of
from striate.explain.places import Grid
from striate.explain.probe import grid_at, grids_in, layer_named, probing
from striate.explain.result import picture_of
from striate.explain.subject import in_batches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Names of the hierarchy's stages, and the largest receptive field of each as a share of the image's longer side.
STAGES: Final = {"edges": Fraction(1, 12), "textures": Fraction(1, 4), "parts": Fraction(2, 3), "objects": None}


@dataclass(frozen=True, eq=False)
class ActivationMaps(Pictured):
    """A layer's output for an image.

    Args:
        layer: its path.
        maps: (K, h, w).
        picture: (1 or 3, H, W) in 0..1, the image.
    """

    layer: str
    maps: Tensor
    picture: Tensor

    @property
    def strongest(self) -> tuple[int, ...]:
        """The channels by the mean of their absolute values, strongest first."""
        return tuple(self.maps.abs().mean((1, 2)).argsort(descending=True, stable=True).tolist())

    def figure(self, *, alike: bool = True, most: int = 63) -> Figure:
        """A grid of maps, in the order of the channels.

        Args:
            alike: one colour scale for all maps; otherwise each has its own, which makes weak maps look strong.
            most: largest number of maps; the strongest are shown.
        """
        return drawer().draw(self, alike=alike, most=most)

    def to_dict(self) -> dict[str, Any]:
        """The maps, for JSON."""
        return {"layer": self.layer, "maps": self.maps.tolist()}


@dataclass(frozen=True, eq=False)
class Patch:
    """A part of an image that excites a channel.

    Args:
        image: its number in the data.
        position: (y, x) in the layer's map.
        activation: at this position.
        top, left: of the patch in the image; negative if the field extends beyond the border.
        pixels: (C, h, w), the whole field of the position, as the network's input; 0 outside of the image.
        inside: bool (h, w), the pixels that lie in the image.
    """

    image: int
    position: tuple[int, int]
    activation: float
    top: int
    left: int
    pixels: Tensor
    inside: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Where it lies, for JSON."""
        return {
            "image": self.image,
            "position": list(self.position),
            "activation": self.activation,
            "top": self.top,
            "left": self.left,
            "size": list(self.inside.shape),
        }


@dataclass(frozen=True, eq=False)
class Patches(Pictured):
    """The parts of images that excite a channel the most, one for each image, strongest first.

    Args:
        layer, channel: the channel.
        images: number of images that were searched.
        patches: strongest first.
        names: of the images, if they have any.
    """

    layer: str
    channel: int
    images: int
    patches: tuple[Patch, ...]
    names: tuple[str, ...] = ()

    def name_of(self, image: int) -> str:
        """What an image is called: its name, or ``"image 3"``."""
        return self.names[image] if self.names else f"image {image}"

    def to_dict(self) -> dict[str, Any]:
        """Where the patches lie, for JSON."""
        return {
            "layer": self.layer,
            "channel": self.channel,
            "images": self.images,
            "patches": [patch.to_dict() for patch in self.patches],
        }


@dataclass(frozen=True, eq=False)
class Stage:
    """One level of the hierarchy.

    Args:
        name: ``"edges"`` to ``"objects"``.
        layer: whose fields have that size.
        field: (height, width) of its receptive field, without what is seen globally (squeeze and excitation).
        channels: the strongest ones.
        maps: (channels, h, w).
        patches: where each of these channels is excited the most.
    """

    name: str
    layer: str
    field: tuple[int, int]
    channels: tuple[int, ...]
    maps: Tensor
    patches: tuple[Patch, ...]


@dataclass(frozen=True, eq=False)
class Hierarchy(Pictured):
    """An image from pixels to objects.

    Args:
        picture: (1 or 3, H, W) in 0..1: the pixels.
        stages: by the size of their fields.
    """

    picture: Tensor
    stages: tuple[Stage, ...]

    def to_dict(self) -> dict[str, Any]:
        """Layers, fields, channels and patches, for JSON."""
        return {
            "stages": [
                {
                    "name": stage.name,
                    "layer": stage.layer,
                    "field": list(stage.field),
                    "channels": list(stage.channels),
                    "patches": [patch.to_dict() for patch in stage.patches],
                }
                for stage in self.stages
            ]
        }


@checked
def activation_maps(model: torch.nn.Module, image: Input, layer: str) -> ActivationMaps:
    """What a layer puts out for an image: maps, or tokens laid out as the grid that they come from.

    Args:
        model: any network; it is left as it is.
        image: (C, H, W), normalised as the network wants it; or all inputs of a network that takes several
            (:class:`striate.explain.Inputs`).
        layer: path of a layer whose output has places.

    Raises:
        ExplainError: no such layer, or one without places; several images.

    >>> activation_maps(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3)), torch.rand(1, 8, 8), "0").maps.shape
    torch.Size([4, 6, 6])

    Formula: S27.
    """
    call, layer = _single(call_of(model, image)), layer_named(model, layer)
    source = call.images
    grid = grid_at(model, call, layer)
    with probing(model, layer, call=call) as probe, torch.no_grad():
        probe(source)
        maps = grid.maps(probe[layer])[0].float().cpu()
    return ActivationMaps(layer, maps, picture_of(source)[0])


@checked
def top_patches(
    model: torch.nn.Module, images: Input, layer: str, channel: int, *, count: int = 9, batch_size: int = 64
) -> Patches:
    """The parts of images that excite a channel the most, cut out at the exact receptive field.

    There is one patch for each image, at the maximum of its map. If a field extends beyond the border, so does the
    patch, because the network saw its padding there. If no rule describes all fields of a layer, or the layer sees the
    whole image, the patch covers the positions that the activation depends on.

    Args:
        model: any network; it is left as it is.
        images: (N, C, H, W), normalised as the network wants them; or all inputs of a network that takes several.
        layer: path of a layer whose output has places.
        channel: of its output.
        count: how many at most.
        batch_size: images at a time.

    Raises:
        ExplainError: no such layer or channel, a layer without places.
        AnalysisError: a layer whose fields can't be known.

    Source: Zeiler & Fergus, "Visualizing and understanding convolutional networks" (2014), figure 2.

    >>> layers = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1))
    >>> best = top_patches(layers, torch.rand(4, 1, 8, 8), "0", 0, count=1).patches[0]
    >>> best.pixels.shape, (best.top, best.left) == (best.position[0] - 1, best.position[1] - 1)
    (torch.Size([1, 3, 3]), True)
    """
    call, layer = call_of(model, images), layer_named(model, layer)
    source = call.images
    grid = grid_at(model, call, layer)
    if not 0 <= channel < grid.channels:
        raise ExplainError("channel", f"got {channel}", f"needed 0 to {grid.channels - 1} in {layer}")
    if count < 1 or batch_size < 1:
        raise ExplainError("count and batch_size", f"got {count} and {batch_size}", "needed 1 or more")
    tops, places = [], []
    with probing(model, layer, call=call) as probe, torch.no_grad():
        for part in in_batches(len(source), batch_size, f"patches for {layer}"):
            probe(source[part.to(source.device)], part)
            found = grid.maps(probe[layer])[:, channel].float().flatten(1).max(1)
            tops.append(found.values.cpu())
            places.append(found.indices.cpu())
    activations, where = torch.cat(tops), torch.cat(places)
    fields = _fields(model, call)
    best = activations.argsort(descending=True, stable=True)[:count].tolist()
    patches = tuple(
        _cut(source, each, float(activations[each]), int(where[each]), grid, fields, layer) for each in best
    )
    return Patches(layer, channel, len(source), patches)


def strongest_of(parts: Sequence[Patches], count: int = 9) -> Patches:
    """Patches that a channel was shown a part at a time, as one; images are numbered through."""
    first = parts[0]
    starts = itertools.accumulate((part.images for part in parts), initial=0)
    patches = [
        dataclasses.replace(patch, image=start + patch.image)
        for start, part in zip(starts, parts, strict=False)
        for patch in part.patches
    ]
    return dataclasses.replace(
        first,
        images=sum(part.images for part in parts),
        patches=tuple(sorted(patches, key=lambda patch: -patch.activation)[:count]),
        names=tuple(name for part in parts for name in part.names),
    )


@checked
def hierarchy(model: torch.nn.Module, image: Input, *, channels: int = 4) -> Hierarchy:
    """An image from pixels over edges, textures and parts to objects, at layers chosen by their receptive fields.

    Edges are shown at the last layer whose field covers at most 1/12 of the image's longer side, textures up to 1/4,
    parts up to 2/3, objects at the last layer with spatial positions. A small network, or one with large kernels, has
    fewer stages. The names are only labels; the patches show what the channels respond to.

    Args:
        model: any network whose fields are known; it is left as it is.
        image: (C, H, W), normalised as the network wants it; or all inputs of a network that takes several
            (:class:`striate.explain.Inputs`).
        channels: how many to show, those with the largest activations of each stage.

    Raises:
        ExplainError: no layer with places; several images.
        AnalysisError: a network that can't be traced.

    >>> layers = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 8, 9))
    >>> [(stage.name, stage.layer, stage.field) for stage in hierarchy(layers, torch.rand(1, 48, 48)).stages]
    [('edges', '0', (3, 3)), ('textures', '1', (11, 11))]

    Formula: S11.
    """
    if channels < 1:
        raise ExplainError("channels", f"got {channels}", "needed 1 or more")
    call = _single(call_of(model, image))
    source = call.images
    grids = grids_in(model, call)
    if not grids:
        raise ExplainError(type(model).__name__, "has no layer whose output has places", "needed a map")
    fields = _fields(model, call)
    chosen = list(_stages(fields, grids, max(source.shape[2:])))
    stages = []
    with probing(model, *(layer for _, layer, _ in chosen), call=call) as probe, torch.no_grad():
        probe(source)
        for name, layer, size in chosen:
            maps = grids[layer].maps(probe[layer])[0].float().cpu()
            peaks = maps.flatten(1).max(1)
            best = peaks.values.argsort(descending=True, stable=True)[:channels].tolist()
            patches = tuple(
                _cut(source, 0, float(peaks.values[k]), int(peaks.indices[k]), grids[layer], fields, layer)
                for k in best
            )
            stages.append(Stage(name, layer, size, tuple(best), maps[best], patches))
    return Hierarchy(picture_of(source)[0], tuple(stages))


def _stages(fields: ReceptiveFields, grids: dict[str, Grid], side: int) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """For each stage that the network has: its name, its layer and the field's size."""
    known = [(layer, _extent(_row(fields, layer))) for layer in grids]
    sized = [(layer, size) for layer, size in known if size is not None and max(size) > 1]
    taken = 0
    for name, share in STAGES.items():
        within = [(layer, size) for layer, size in sized if share is None or max(size) <= share * side]
        within = [(layer, size) for layer, size in within if max(size) > taken]
        if within:
            layer, size = within[-1] if share is None else max(within, key=lambda each: max(each[1]))
            taken = max(size)
            yield name, layer, size


def _row(fields: ReceptiveFields, layer: str) -> FieldRow:
    """A layer's row, of its last call, and not that of a function with the same name."""
    calls = [row for row in fields if row.level != "operation" and row.name.partition("@")[0] == layer]
    return calls[-1] if calls else fields.at(layer)


def _extent(row: FieldRow) -> tuple[int, int] | None:
    local = [each or whole for each, whole in zip(row.local, row.size, strict=True)]
    return None if len(local) != 2 or local[0] is None or local[1] is None else (local[0], local[1])


def _single(call: Call) -> Call:
    if len(call.images) != 1:
        raise ExplainError("image", f"got {len(call.images)} images", "needed one")
    return call


class _OfImages(torch.nn.Module):
    """A network as one of images alone, its other inputs held; its layers keep their paths."""

    def __init__(self, model: torch.nn.Module, call: Call) -> None:
        super().__init__()
        self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        self.held = (model, call)

    def forward(self, images: Tensor) -> Any:
        model, call = self.held
        args, kwargs = call.of(images)
        return model(*args, **kwargs)


def _fields(model: torch.nn.Module, call: Call) -> ReceptiveFields:
    return receptive_field(model if call.alone else _OfImages(model, call), tuple(call.images.shape[1:]))


def _cut(
    images: Tensor, image: int, activation: float, place: int, grid: Grid, fields: ReceptiveFields, layer: str
) -> Patch:
    """The patch that a place of a grid, counted row by row, sees of an image."""
    position = divmod(place, grid.size[1])
    spans = _spans(fields, layer, grid, position)
    (top, bottom), (left, right) = spans
    height, width = images.shape[2:]
    frame = (-left, right - width + 1, -top, bottom - height + 1)
    pixels = F.pad(images[image].float().cpu(), frame)
    inside = F.pad(torch.ones(height, width), frame).bool()
    return Patch(image, (position[0], position[1]), activation, top, left, pixels, inside)


def _spans(fields: ReceptiveFields, layer: str, grid: Grid, position: tuple[int, int]) -> list[tuple[int, int]]:
    """First and last row and column of the field, padding included."""
    row = _row(fields, layer)
    place = {"map": position, "channels last": (*position, 0)}.get(
        grid.form, (grid.extra + position[0] * grid.size[1] + position[1], 0)
    )
    spans = []
    box = None
    for axis, (size, stride, start) in enumerate(zip(row.size, row.stride, row.start, strict=True)):
        if grid.form == "map" and isinstance(stride, int) and stride and size is not None and start is not None:
            first = start + position[axis] * stride
            spans.append((first, first + size - 1))
        else:
            box = fields.box(row.name, place) if box is None else box
            if box is None:
                raise ExplainError(layer, f"sees nothing of the image at {position}", "needed a place that sees some")
            spans.append(box[axis])
    return spans
