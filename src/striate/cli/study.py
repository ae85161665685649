"""The command that tests claims of textbooks: study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from striate.cli.app import Json, app, draw, print_json, show


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A study; without one, all are listed.")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="How often everything random is drawn anew.")] = 3,
    out: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw what was measured.")] = None,
    as_json: Json = False,
) -> None:
    """Test a claim of the textbooks by an experiment, with a verdict, the numbers and their spread over seeds.

    \b
    Example:
      striate study
      striate study conv-vs-dense --seeds 5 --out conv-vs-dense.png
    """
    from striate import studies
    from striate.report import studies as report
    from striate.report import tables

    if name is None:
        claims = {each.name: each.claim for each in studies.studies().values()}
        if as_json:
            print_json(claims)
        else:
            show(tables.described(claims))
        return
    outcome = studies.run(name, seeds, lambda line: print(line, file=sys.stderr, flush=True))
    if out is not None:
        draw(out, lambda: report.figure(outcome))
    if as_json:
        print_json(outcome.to_dict())
    else:
        show(report.verdict(outcome), report.numbers(outcome), report.circumstances(outcome))
