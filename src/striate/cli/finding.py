"""`striate predict` for networks that find objects, or the class of each pixel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from striate.cli.app import print_json, say
from striate.errors import RunError, readable

if TYPE_CHECKING:
    import torch

    from striate.tasks.finding import Finding
    from striate.training import Run

#: Largest number of objects that a line on the terminal names.
_NAMED: Final = 6


def found_on(
    run: Run,
    files: Sequence[Path],
    device: torch.device,
    *,
    threshold: float | None,
    out: Path | None,
    max_pixels: int | None,
    as_json: bool,
) -> None:
    """Prints what a run's network finds on picture files, and writes it to files.

    Args:
        run: of any task but classification.
        files: the pictures.
        device: where to compute.
        threshold: the smallest score of an object; None for the threshold of the run's evaluation.
        out: a .jsonl file, or a folder for pictures; None for neither.
        max_pixels: largest number of pixels of a file.
        as_json: print JSON instead of lines.
    """
    from striate.data import MAX_PIXELS
    from striate.data.progress import progress
    from striate.tasks.finding import find
    from striate.tasks.objects import ObjectMeasures

    if threshold is None:
        threshold = run.evaluation.threshold if isinstance(run.evaluation, ObjectMeasures) else 0.0
    task: Any = run.task
    found = find(
        task, run.model().to(device), run.preprocessing, files, device=device, max_pixels=max_pixels or MAX_PIXELS
    )
    told: list[dict[str, Any]] = []
    failed = 0
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(_writer(run, out, threshold))
        advance = stack.enter_context(progress("predicting", len(files))) if out is not None or as_json else None
        for each in found:
            if advance is not None:
                advance()
            if each.error is not None:
                failed += 1
                say(f"error: {each.error}")
                continue
            write(each)
            if as_json:
                told.append(_as_dict(run, each, threshold))
            elif out is None:
                print(f"{readable(each.file)}  {_line(run, each, threshold)}", flush=True)
    if as_json:
        print_json({"path": str(run.path), "threshold": threshold, "predictions": told})
    elif out is not None:
        print(f"{len(files) - failed:,} picture{'s' * (len(files) - failed != 1)} in {readable(out)}")
    if failed:
        raise typer.Exit(1 if failed < len(files) else 2)


@contextlib.contextmanager
def _writer(run: Run, out: Path | None, threshold: float) -> Iterator[Any]:
    """The writer of results: lines of a file, pictures in a folder, or nothing."""
    from striate.tasks.writing import ObjectWriter

    if out is None:
        yield lambda each: None
    elif out.suffix == "":
        out.mkdir(parents=True, exist_ok=True)
        used: set[str] = set()
        yield lambda each: _draw(run, each, out / _name(each, used), threshold)
    elif run.task.name == "semantic":
        raise RunError("--out", f"got {readable(out)}", "needed a folder: class maps are pictures")
    else:
        with ObjectWriter(out, run.classes) as writer:
            yield lambda each: writer.write(readable(each.file), each.found.above(threshold))


def _name(each: Finding, used: set[str]) -> str:
    """A unique name for the picture of a file; files of several folders may have the same name."""
    stem = Path(str(each.file)).stem
    name, number = stem, 1
    while name in used:
        number += 1
        name = f"{stem}-{number}"
    used.add(name)
    return f"{name}.png"


def _draw(run: Run, each: Any, path: Path, threshold: float) -> None:
    from striate.files import write_whole
    from striate.report import figures, maps, objects
    from striate.tasks.writing import write_class_map

    if run.task.name == "semantic":
        write_class_map(path.with_suffix(".map.png"), each.found, run.classes)
        figure = maps.draw_class_map(each.picture, each.found, run.classes)
    else:
        figure = objects.draw_detections(each.picture, each.found, run.classes, threshold=threshold)
    write_whole(path, figures.png(figure))


def _line(run: Run, each: Any, threshold: float) -> str:
    if run.task.name == "semantic":
        counts = each.found.flatten().bincount(minlength=len(run.classes)).double()
        order = counts.argsort(descending=True).tolist()[:_NAMED]
        shares = (counts / counts.sum()).tolist()
        return "  ".join(f"{run.classes[index]} {shares[index]:.1%}" for index in order if shares[index] > 0)
    sure = each.found.above(threshold)
    if not len(sure):
        return "nothing"
    pairs = list(zip(sure.labels.tolist(), sure.scores.tolist(), strict=True))
    more = f"  and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else ""
    return "  ".join(f"{run.classes[label]} {score:.1%}" for label, score in pairs[:_NAMED]) + more


def _as_dict(run: Run, each: Any, threshold: float) -> dict[str, Any]:
    name = readable(each.file)
    if run.task.name == "semantic":
        counts = each.found.flatten().bincount(minlength=len(run.classes)).tolist()
        return {"image": name, "pixels": dict(zip(run.classes, counts, strict=True))}
    sure = each.found.above(threshold)
    rows = zip(sure.labels.tolist(), sure.scores.tolist(), sure.boxes.tolist(), strict=True)
    objects = [{"class": run.classes[label], "score": score, "box": box} for label, score, box in rows]
    return {"image": name, "objects": objects}
