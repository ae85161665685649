"""The command that tests a trained network: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from striate.cli import pictures
from striate.cli.app import Json, MaxPixels, SkipBroken, app, print_json, say, show
from striate.errors import readable


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="The folder of a finished run.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Other data, of the run's classes: all of it is tested [default: the run's held-out images]."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    tta: Annotated[bool, typer.Option("--tta", help="Look at each image and at its mirror image.")] = False,
    skip_broken: SkipBroken = False,
    max_pixels: MaxPixels = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write predictions, measures and pictures there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test a trained network on the run's held-out images, or on other data.

    The run identifies its held-out images by their content. Images that were added later are not tested; missing and
    edited ones are reported.

    \b
    Example:
      striate evaluate runs/first
      striate evaluate runs/first --data folder:photos --out report
      striate evaluate runs/first --tta --json
    """
    from striate.report import tables
    from striate.tasks.scores import Measures
    from striate.training import Run
    from striate.training.assess import assess_run
    from striate.training.folder import EVALUATION, refuse_own

    opened = Run.open(run)
    if out is not None:
        refuse_own(out / EVALUATION)
    tested = assess_run(
        opened, data, device=device, views=2 if tta else 1, skip_broken=skip_broken, max_pixels=max_pixels
    )
    for note in tested.notes:
        say(note)
    outcome = opened.task.outcome(tested.images, tested.assessment)
    if out is not None:
        pictures.report(out, opened, tested, outcome)
    if as_json:
        notes = {"notes": list(tested.notes)} if tested.notes else {}
        print_json({"path": run, **outcome.record, **notes})
        return
    print_evaluation(tested.evaluation, "images" if tested.changes is None else "held-out images")
    if isinstance(outcome.measures, Measures):
        show(tables.measured(outcome.measures))
    if out is not None:
        show(f"all of it is in {readable(out)}")


def print_evaluation(evaluation: Any, images: str = "held-out images") -> None:
    """The measures of any task: a summary, and a row for each class."""
    from striate.report import summing_up

    show(*summing_up.told(evaluation, images))
