"""Configuration of Sphinx, which runs as `sphinx-build --fail-on-warning docs docs/_build`."""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

import salera_optax

project = "salera_optax"
author = "The salera_optax authors"
release = version = salera_optax.__version__
html_title = f"{project} {release}"
exclude_patterns = ["_build"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.katex",
]

# The docstrings: `x` is a link where something public is called x, and code otherwise. They state
# ranges and shapes, which says more than the annotations (an ArrayLike is a union of nine types).
default_role = "py:obj"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_use_ivar = True

# The formulas: KaTeX comes with its extension and writes MathML, which needs no style sheet and no
# fonts from elsewhere; any path has to stand for the style sheet.
myst_enable_extensions = ["dollarmath", "amsmath"]
katex_options = "output: 'mathml'"
katex_css_path = "katex-math.css"

myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks carry their outputs
html_theme = "furo"
pygments_style = "tango"  # has red and green for the two sides of a diff
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_copyright = False
html_show_sourcelink = False

_HERE = Path(__file__).parent
_NOTEBOOKS = _HERE.parent / "notebooks"
_PAGES = {
    "README.md": "/index.md",
    "CHANGELOG.md": "/changelog.md",
    "CONTRIBUTING.md": "/contributing.md",
    "benchmarks/results/README.md": "/results.md",
    "benchmarks/results/detector.md": "/detectors.md",
    "benchmarks/results/faults.md": "/faults.md",
    "benchmarks/results/tasks/tasks.md": "/tasks.md",
    "benchmarks/results/cost.md": "/cost.md",
    "benchmarks/results/h200/cost.md": "/cost-gpu.md",
}


def _link_pages(text: str) -> str:
    """Makes links that work on GitHub, from file to file, point to the pages of this site."""

    def page(link: re.Match[str]) -> str:
        return f"]({_PAGES.get(link[1], link[1].removeprefix('docs'))}"

    text = re.sub(rf"\]\((?:\.\./)*({'|'.join(_PAGES)}|docs/[\w/-]+\.md)", page, text)
    return re.sub(r"\]\((?:\.\./)*(notebooks/\w+\.ipynb)", r"](/\1", text)


def setup(app: Sphinx) -> None:
    """Brings the notebooks; links the pages, and the files that they include."""
    (_HERE / "notebooks").mkdir(exist_ok=True)
    for notebook in _NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(notebook, _HERE / "notebooks")

    def source_read(app: Sphinx, name: str, content: list[str]) -> None:
        content[0] = _link_pages(content[0])

    def include_read(app: Sphinx, path: object, name: str, content: list[str]) -> None:
        content[0] = _link_pages(content[0])

    app.connect("source-read", source_read)
    app.connect("include-read", include_read)
