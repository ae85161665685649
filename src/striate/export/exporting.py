"""Exporting: make the file's bytes, compute with them, compare, and only then write."""

from __future__ import annotations

import copy
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from striate.errors import ExportError, did_you_mean
from striate.export.formats import FORMATS
from striate.export.subject import Subject
from striate.files import write_whole
from striate.training import Run


@dataclass(frozen=True)
class Exported:
    """A file that was exported and verified.

    Args:
        path: where it lies.
        format: one of :data:`FORMATS`.
        model: the network's name.
        bytes: the file's size.
        opset: ONNX's version of operators; None for other formats.
        images: how many images it was verified with, one alone and all as a batch.
        synthetic: whether they were noise, since none of the run's images were at hand.
        max_difference: the largest absolute difference between an output of the file and the network's own.
        tolerance: what it may be at most: the format's share of the largest output, or, where the network's own
            results in float32 are further than that from those in float64, four times as far as these.
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

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return dataclasses.asdict(self) | {"path": str(self.path)}


def export(
    source: Run | Subject | str | os.PathLike[str],
    format: str = "onnx",
    out: str | os.PathLike[str] | None = None,
    *,
    opset: int | None = None,
) -> Exported:
    """Writes a network to a file that other programs can use; the file's results are compared with the network's first.

    The file takes images as the network gets them, float32 (N, C, H, W) with any N, and gives its outputs (N, K); its
    metadata say by what preprocessing pixels become such images, and what the K classes are.

    Args:
        source: a run, its folder, or any other network as a :class:`Subject`.
        format: one of :data:`FORMATS`.
        out: the file; None for ``model`` in the run's folder, or the network's name in the current one, with the
            format's suffix.
        opset: of ONNX; None for what PyTorch's exporter prefers.

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
    subject = Subject.of_run(source) if isinstance(source, Run) else source
    model = copy.deepcopy(subject.model).cpu().eval()
    images = subject.images.cpu()
    several = images if len(images) > 1 else images.repeat(2, 1, 1, 1)
    with torch.no_grad():
        content, written = chosen.encode(model, several, subject.metadata(), opset)
        compute = chosen.decode(content, model)
        wanted, got = (torch.cat([run(images[:1]), run(several)]) for run in (model, compute))
    tolerance = chosen.tolerance * max(1.0, wanted.abs().max().item())
    difference = (wanted - got).abs().max().item()
    if difference > tolerance > 0:
        tolerance = max(tolerance, _ROUNDINGS * _rounding(model, several))
    if not difference <= tolerance:  # NaN too
        raise ExportError(format, f"results differ by {difference:.3g}", f"needed {tolerance:.3g} or less", _NOTHING)
    # Of pixels some are always about to be another class: there the differences say all.
    if wanted.dim() == 2 and not torch.equal(wanted.argmax(1), got.argmax(1)):
        raise ExportError(format, "an image is taken for another class", "needed the network's own", _NOTHING)
    write_whole(path, content)
    return Exported(
        path, format, subject.name, len(content), written, len(images), subject.synthetic, difference, tolerance
    )


_NOTHING: Final = "nothing is written"
#: How many times a network's own rounding error its results may be off: two computations, each in an order of its own.
_ROUNDINGS: Final = 4


def _rounding(model: torch.nn.Module, images: torch.Tensor) -> float:
    """How far results in float32 are from those in float64: deep networks that aren't trained blow rounding up."""
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(images.double())
        return float((model(images) - exact).abs().max())
