"""The command line: parse, call, print. What a command does is elsewhere, and loaded only once it is asked for.

The commands of ``striate --help`` stand in the order of the imports.
"""

from striate.cli import train  # isort: skip
from striate.cli import evaluate  # isort: skip
from striate.cli import predict  # isort: skip
from striate.cli import export  # isort: skip
from striate.cli import networks  # isort: skip
from striate.cli import measure  # isort: skip
from striate.cli import invariance  # isort: skip
from striate.cli import explain  # isort: skip
from striate.cli import study  # isort: skip
from striate.cli.app import main

__all__ = [
    "evaluate",
    "explain",
    "export",
    "invariance",
    "main",
    "measure",
    "networks",
    "predict",
    "study",
    "train",
]
