"""Export: a trained network as a file for other programs, verified before it is written.

>>> from striate.export import export
>>> export("runs/first", "onnx").max_difference                      # doctest: +SKIP
9.5367431640625e-07
"""

from striate.export.exporting import Exported, export
from striate.export.formats import FORMATS
from striate.export.subject import Subject

__all__ = ["FORMATS", "Exported", "Subject", "export"]
