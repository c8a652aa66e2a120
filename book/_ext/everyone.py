"""Sphinx extension: pages that everyone can use: light pictures, and no list whose items are none.

A figure of matplotlib's is a PNG of up to megabytes. Pages show it as WebP, which looks the same at a fraction of that.
"""

from pathlib import Path

from docutils import nodes
from PIL import Image

QUALITY = 88  # of 100


def slim_pictures(app, doctree, docname):
    """Let the pictures that a page has drawn be WebP."""
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir, image["uri"])
        if path.suffix == ".png" and path.is_relative_to(Path(app.srcdir, "_build")):
            slim = path.with_suffix(".webp")
            if not slim.exists():
                Image.open(path).save(slim, quality=QUALITY)
            image["uri"] = Path(image["uri"]).with_suffix(".webp").as_posix()
            image["candidates"] = {"*": image["uri"]}
            app.env.images.add_file(docname, image["uri"])


def no_list(app, pagename, templatename, context, doctree):
    """Docutils calls the references a list of items that it gives another role; screen readers then count none."""
    context["body"] = context.get("body", "").replace('<div role="list" class="citation-list">', "<div>")


def setup(app):
    app.connect("doctree-resolved", slim_pictures, priority=900)  # after `notebooks`, which measures the pictures
    app.connect("html-page-context", no_list)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
