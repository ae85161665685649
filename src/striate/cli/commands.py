"""All commands; those of ``striate --help`` stand in the order of the imports."""

from striate.cli import check  # isort: skip
from striate.cli import train  # isort: skip
from striate.cli import evaluate  # isort: skip
from striate.cli import predict  # isort: skip
from striate.cli import export  # isort: skip
from striate.cli import networks  # isort: skip
from striate.cli import measure  # isort: skip
from striate.cli import invariance  # isort: skip
from striate.cli import explain  # isort: skip
from striate.cli import study  # isort: skip
from striate.cli import studio  # isort: skip
from striate.cli.app import app, main

__all__ = [
    "app",
    "check",
    "evaluate",
    "explain",
    "export",
    "invariance",
    "main",
    "measure",
    "networks",
    "predict",
    "studio",
    "study",
    "train",
]
