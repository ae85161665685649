"""Exporting: encodes a network, runs the encoded network, compares the results, and only then writes the file."""

from __future__ import annotations

import copy
import dataclasses
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.errors import ExportError, did_you_mean
from striate.export.formats import FORMATS, Compute, results
from striate.export.subject import Subject
from striate.files import write_whole
from striate.tasks.exportable import Exportable, without_suppression
from striate.training import Run


@dataclass(frozen=True)
class Exported:
    """A file that was exported and verified.

    Args:
        path: of the file.
        format: one of :data:`FORMATS`.
        model: the network's name.
        bytes: the file's size.
        opset: ONNX's version of operators; None for other formats.
        images: number of images used for verification, one alone and all as a batch.
        synthetic: whether they were noise, because the run's images weren't available.
        max_difference: the largest absolute difference between an output of the file and the network's own.
        tolerance: what it may be at most: the format's share of the largest output, or, where the network's own
            results in float32 are further than that from those in float64, four times as far as these.
        objects: number of objects detected on these images; None for networks that don't detect objects.
        sizes: the image sizes that the file takes, in words.
    """

    path: Path
    format: str
    model: str
    bytes: int
    opset: int | None
    images: int
    synthetic: bool
    max_difference: float
    tolerance: float
    objects: int | None = None
    sizes: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return dataclasses.asdict(self) | {"path": str(self.path)}


def export(
    source: Run | Subject | str | os.PathLike[str],
    format: str = "onnx",
    out: str | os.PathLike[str] | None = None,
    *,
    opset: int | None = None,
    suppression: str | None = None,
) -> Exported:
    """Writes a network to a file that other programs can use; the file's results are compared with the network's first.

    The file takes images as the network gets them, float32 (N, C, H, W) with any N, and, where the network can, any H
    and W. It gives outputs (N, K), of segmentation (N, K, H, W), of objects rows as
    :class:`striate.tasks.exportable.ExportableObjects` has them; its metadata say by what preprocessing pixels become
    such images, and what the K classes are.

    Args:
        source: a run, its folder, or any other network as a :class:`Subject`.
        format: one of :data:`FORMATS`.
        out: the file; None for ``model`` in the run's folder, or the network's name in the current one, with the
            format's suffix.
        opset: of ONNX; None for what PyTorch's exporter prefers.
        suppression: of a run whose network leaves out boxes that overlap better ones: ``"inside"`` the file, the
            default, or ``"outside"``, by the program that reads it.

    Raises:
        ExportError: an unknown format, no such folder, libraries that aren't installed, a network that the format can't
            hold, results that differ beyond the tolerance or name another class. No file is written then.
        RunError, ModelError, DataError: no finished run, or a damaged one.
        OSError: no room, no permission; what was there before still is.
    """
    if format not in FORMATS:
        raise ExportError(
            "format",
            f"got {format!r}",
            f"needed one of {', '.join(FORMATS)}",
            did_you_mean(format, FORMATS),
        )
    if opset is not None and format != "onnx":
        raise ExportError("opset", f"{format} has none", "needed it with onnx only")
    chosen = FORMATS[format]
    if isinstance(source, str | os.PathLike):
        source = Run.open(Path(source))
    default = source.path / "model" if isinstance(source, Run) else Path(source.name)
    path = Path(f"{default}{chosen.suffix}") if out is None else Path(out)
    if path.is_dir() or not path.parent.is_dir():
        raise ExportError(
            str(path), "is a folder" if path.is_dir() else "its folder isn't there", "needed a file's name"
        )
    subject = _subject(source, suppression)
    form = replace(subject.form, network=copy.deepcopy(subject.form.network).cpu().eval())
    images = subject.images.cpu()
    several = images if len(images) > 1 else images.repeat(2, 1, 1, 1)
    with torch.no_grad():
        content, written = chosen.encode(form, several, subject.metadata(), opset)
        compute = chosen.decode(content, form)
        found = [_compared(form, compute, some, chosen.tolerance, format) for some in _asked(form, images, several)]
    differences, tolerances, objects = zip(*found, strict=True)
    counts = [each for each in objects if each is not None]
    write_whole(path, content)
    return Exported(
        path,
        format,
        subject.name,
        len(content),
        written,
        len(images),
        subject.synthetic,
        max(differences),
        max(tolerances),
        max(counts, default=None),
        _sizes(form, images),
    )


_NOTHING: Final = "nothing is written"
#: Allowed difference as a multiple of the network's own rounding error: both computations sum in different orders.
_ROUNDINGS: Final = 4


def _subject(source: Run | Subject, suppression: str | None) -> Subject:
    if isinstance(source, Run):
        return Subject.of_run(source, suppression)
    without_suppression("a subject's form says already where boxes are left out", suppression)
    return source


def _asked(form: Exportable, images: Tensor, several: Tensor) -> list[Tensor]:
    """The inputs for verification: one image alone, all as a batch, and larger ones if the file takes them."""
    asked = [images[:1], several]
    if form.takes((images.shape[2], images.shape[3])):
        unit = form.unit or 1
        asked.append(F.pad(images[:1], (0, 2 * unit, 0, unit)))
    return asked


def _sizes(form: Exportable, images: Tensor) -> str:
    height, width = images.shape[2:]
    if not form.takes((height, width)):
        return f"{height}x{width}"
    return f"sides of {form.least} pixels or more" + f", multiples of {form.unit}" * (form.unit != 1)


def _compared(
    form: Exportable, compute: Compute, images: Tensor, share: float, format: str
) -> tuple[float, float, int | None]:
    """The largest difference between the file's results and the network's, what it may be, and how many objects count.

    Raises:
        ExportError: it is more, or the results say something else.
    """
    wanted, got = results(form.network, images), compute(images)
    tolerance = share * form.scale(wanted)
    differences = form.differences(wanted, got, images)
    if not bool((differences <= tolerance).all()) and tolerance > 0:
        own = _rounding(form, images)
        tolerance = max(tolerance, _ROUNDINGS * max([each for each in own.tolist() if each < torch.inf], default=0.0))
        # An object that comes and goes by the network's own rounding says nothing of the file.
        told = own < torch.inf
        differences = differences[told] if bool(told.any()) else differences
    difference = differences.max().item()
    if not difference <= tolerance:  # NaN too
        by = "by other objects" if difference == torch.inf else f"by {difference:.3g}"
        raise ExportError(format, f"results differ {by}", f"needed {tolerance:.3g} or less", _NOTHING)
    if not form.same(wanted, got):
        raise ExportError(format, "an image is taken for another class", "needed the network's own", _NOTHING)
    return difference, tolerance, form.counted(wanted)


def _rounding(form: Exportable, images: Tensor) -> Tensor:
    """The difference of results in float32 and float64 for each image: untrained deep networks amplify rounding."""
    with torch.no_grad():
        exact = results(copy.deepcopy(form.network).double(), images.double())
        single = tuple(each.double() if each.is_floating_point() else each for each in results(form.network, images))
        return form.differences(single, exact, images)
