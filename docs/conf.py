"""Settings of the documentation, which `make docs` builds into docs/_build/html.

Nothing is fetched from the network, neither by the build nor by a reader of the pages.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE / "_ext")]

os.environ.setdefault("MPLBACKEND", "agg")

import diffusion  # noqa: E402

project = "diffusion-rerank"
author = "The diffusion-rerank developers"
copyright = author
release = version = diffusion.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "benchmarks",
    "import_graph",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_templates", "_concepts"]
# A block without a language is no Python.
highlight_language = "text"
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}

# --- Markdown ---

myst_enable_extensions = ["attrs_inline", "deflist", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = [
    # `fit` in a docstring may be that of several classes.
    "ref.python",
    "config.cache",
]

# --- Docstrings ---

# Backticks in docstrings are links where the name is known, and code otherwise.
default_role = "py:obj"
autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# --- Examples ---

sphinx_gallery_conf = {
    "examples_dirs": ["_concepts", "../examples"],
    "gallery_dirs": ["concepts", "examples"],
    # All of them are run; a failure ends the build.
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py",
    "abort_on_example_error": False,
    "only_warn_on_example_error": False,
    "doc_module": ("diffusion", "features"),
    "backreferences_dir": "api/examples",
    "within_subsection_order": "order.Order",
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,
    # The last value of a cell is not shown: it is a part of a picture.
    "capture_repr": (),
    "notebook_extensions": set(),
    "remove_config_comments": True,
    "plot_gallery": "True",
    "matplotlib_animations": False,
}

# --- Pages ---

html_theme = "pydata_sphinx_theme"
html_title = "diffusion-rerank"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
# A page of its own has no section to navigate.
html_sidebars = {"papers": []}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["release"],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
    "show_toc_level": 2,
}
