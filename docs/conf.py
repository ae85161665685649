"""How the handbook is built: ``make docs``, or ``python -m sphinx -W -b html docs build/docs``.

Every script runs; nothing is fetched, and the built pages load nothing from the network: MathJax comes from a package,
fonts are the browser's.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(HERE.parent / "src"))
os.environ.setdefault("STRIATE_TUNE", "0")
warnings.filterwarnings("ignore", category=UserWarning, module="torch")

project = "striate"
author = "The authors of striate"
extensions = [
    "formulas",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "exercises", "chapters", "tour", "handbook", "**/GALLERY_HEADER.rst"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
root_doc = "index"

html_theme = "furo"
html_title = "striate"
html_static_path = ["_static"]
html_css_files = ["handbook.css"]
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
html_permalinks_icon = "#"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
# Documents that are read on their own, too, link to files of the project that aren't pages.
suppress_warnings = ["config.cache"]

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": ["chapters", "exercises", "tour"],
    "gallery_dirs": ["gallery/chapters", "gallery/exercises", "gallery/tour"],
    "filename_pattern": r"/plot_",
    "within_subsection_order": "gallery_order.ByNumber",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "image_srcset": ["2x"],
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,
}
