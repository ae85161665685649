"""``python -m benchmarks`` times the operations, ``steps`` and ``zoo`` whole networks, ``until`` whole processes to an
accuracy, ``capture`` first calls, ``beside`` steps beside other programs, ``overhead`` the training loop,
``explanations`` class activation maps of a batch, ``norms`` batch normalisation, ``detection`` suppression and pooling
of boxes; ``mnist`` and ``scenes`` train with several seeds, ``photographs`` on a few real pictures with outlines or
boxes, ``fine-tuning`` compares training with logistic regression on features; ``peers`` compares detectors and
segmenters with torchvision's; ``studio`` times what clicks ask of the studio's server.
"""

from __future__ import annotations

import os
import sys

import typer

# What is timed is what a process comes to in the end, so everything is measured when it is met first; but for where
# first calls are timed.
if sys.argv[1:2] not in (["capture"], ["zoo"]):
    os.environ.setdefault("STRIATE_TUNE", "1")

from benchmarks import (
    beside,
    capture,
    detection,
    explanations,
    fine_tuning,
    mnist,
    norms,
    operations,
    photographs,
    scenes,
    steps,
    studio,
    training_overhead,
    until,
    zoo,
)
from benchmarks.agreement import command as peers

app = typer.Typer(add_completion=False, help=__doc__)
app.command("operations")(operations.main)
app.command("steps")(steps.main)
app.command("mnist")(mnist.main)
app.command("scenes")(scenes.main)
app.command("explanations")(explanations.main)
app.command("norms")(norms.main)
app.command("detection")(detection.main)
app.command("beside")(beside.main)
app.command("capture")(capture.main)
app.command("until")(until.main)
app.command("overhead")(training_overhead.main)
app.command("fine-tuning")(fine_tuning.main)
app.command("peers")(peers.main)
app.command("zoo")(zoo.main)
app.command("photographs")(photographs.main)
app.command("studio")(studio.main)


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        operations.main()


if __name__ == "__main__":
    app()
