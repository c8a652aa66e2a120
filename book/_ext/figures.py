"""Sphinx extension: a figure that a reader can touch brings its script, `book/_static/figures/NAME.js`.

Below the cell that draws the figure stands another, `#| touch: NAME`, which ends with `touch_data(…)` of
`frcnn_common.touch`. Its output goes into the figure. The picture is what print, the PDF and a browser without scripts
show. Only a page with such a figure loads scripts, and only its own.
"""

from docutils import nodes
from sphinx.errors import ExtensionError

SHARED = ("touch", "boxes")
MARK = "tag_touch-"  # the class that MyST-NB gives to a cell with such a tag


def hand_over_data(app, doctree, docname):
    """Put the data of each cell `touch` into the figure above it, and the name of its script among the classes."""
    figure = None
    for node in list(doctree.findall(lambda node: isinstance(node, nodes.figure | nodes.container))):
        if isinstance(node, nodes.figure):
            figure = node
        for name in [name.removeprefix(MARK) for name in node["classes"] if name.startswith(MARK)]:
            if figure is None:
                raise ExtensionError(f"{docname}: no figure stands above the cell `#| touch: {name}`")
            figure["classes"] += ["touch", f"touch-{name}"]
            figure.insert(0, list(node.findall(nodes.raw)))
            node.parent.remove(node)


def add_scripts(app, pagename, templatename, context, doctree):
    figures = doctree.findall(nodes.figure) if doctree else []
    names = [name[6:] for figure in figures for name in figure["classes"] if name.startswith("touch-")]
    if names:
        app.add_css_file("figures/touch.css")
        for name in dict.fromkeys([*SHARED, *names]):
            app.add_js_file(f"figures/{name}.js", loading_method="defer")


def setup(app):
    app.connect("doctree-resolved", hand_over_data)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
