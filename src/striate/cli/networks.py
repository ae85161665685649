"""The command that lists networks: models."""

from __future__ import annotations

from striate.cli.app import Json, app, print_json, show


@app.command()
def models(as_json: Json = False) -> None:
    """List the networks that can be trained.

    \b
    Example:
      striate models
    """
    from striate import models as known
    from striate.report import tables

    described = {name: known.describe(name) for name in known.names()}
    if as_json:
        print_json(described)
    else:
        show(
            tables.grouped(
                {about: {name: described[name] for name in listed} for about, listed in known.families().items()}
            )
        )
