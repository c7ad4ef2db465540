"""The documentation as a site: `make docs` builds it by Sphinx, from the pages beside this file."""

import fused_sampler

project = "fused-sampler"
author = "The fused-sampler authors"
release = fused_sampler.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"fused-sampler {release}"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_heading_anchors = 4  # links such as filters.md#top_p, as GitHub has them

# Docstrings are Google's style; between single backticks stands code, a link where it is a name.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Fields", "params_style")]  # of what calls return
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings name dtypes and shapes, and one signature is enough
