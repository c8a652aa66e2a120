"""Sphinx extension: the directive `{try-it}` stands where the detector runs in its reader's browser.

`tools/try_it.py` has written what it loads. Without these files the page is words and a picture, and says why. Only
this page has the scripts, and only it allows WebAssembly (`policy`).
"""

import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

SHARED = ("figures/touch", "figures/boxes")
PARTS = "pixels", "detect", "load", "stack", "glyphs", "scene", "stages", "pictures", "palette", "live", "page"
SCRIPTS = tuple(f"try/{name}" for name in PARTS)
MISSING = "This copy of the site was built without the detector, because npm's registry could not be reached."
SCRIPTLESS = "The detector runs by JavaScript, which this browser does not have or has switched off."


class TryIt(SphinxDirective):
    def run(self):
        listed = Path(self.env.srcdir) / "_build/extra/try/files.json"
        self.env.note_dependency(str(listed))
        if not listed.exists():
            return [nodes.paragraph("", MISSING)]
        base = "../" * self.env.docname.count("/") + "try/"
        data = json.dumps({"base": base, "files": json.loads(listed.read_text(encoding="utf-8"))})
        html = f'<div id="detector" class="touch-stage" hidden><script type="application/json">{data}</script></div>'
        html += f"<noscript><p>{SCRIPTLESS}</p></noscript>"
        return [nodes.raw("", html, format="html", classes=["try-it"])]


def add_scripts(app, pagename, templatename, context, doctree):
    if doctree and any("try-it" in node["classes"] for node in doctree.findall(nodes.raw)):
        for sheet in ("figures/touch.css", "try/try.css"):
            app.add_css_file(sheet)
        for name in SHARED + SCRIPTS:
            app.add_js_file(f"{name}.js", loading_method="defer")


def setup(app):
    app.add_directive("try-it", TryIt)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
