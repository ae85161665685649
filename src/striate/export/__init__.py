"""Export: a trained network as a file for other programs, verified before it is written.

>>> import tempfile
>>> from striate.export import export
>>> from striate.training import Recipe, fit
>>> with tempfile.TemporaryDirectory() as folder:
...     run = fit(Recipe("lenet5", epochs=1, out=f"{folder}/first"), quiet=True)
...     exported = export(run, "torch-export")
>>> exported.path.name, exported.max_difference <= exported.tolerance
('model.pt2', True)
"""

from striate.export.exporting import Exported, export
from striate.export.formats import FORMATS
from striate.export.subject import Subject

__all__ = ["FORMATS", "Exported", "Subject", "export"]
