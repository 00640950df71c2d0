"""Sphinx settings of the documentation site: `make docs` writes it into build/docs.

Everything is made from this checkout and nothing is fetched, neither while the site is built nor
while it is read.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent), str(HERE.parent / "kernels")]

from ecgan import __version__  # noqa: E402

project = "ECGAN"
copyright = "the authors of this repository, Apache License 2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "formulas",
    "repository",
    "settings",
    "signatures",
]
exclude_patterns = ["_ext"]
smartquotes = False  # quotes and dashes are as the source has them

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Single backticks in docstrings: a link where there is something of that name, else code.
default_role = "py:obj"
nitpicky = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature of the source, shortened by the extension signatures
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries = False

html_theme = "furo"
html_title = f"ECGAN {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": True,
    # The system's fonts: nothing to fetch.
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7db4f0", "color-brand-content": "#7db4f0"},
}
