"""Sphinx extension: each page says, in a Content-Security-Policy, that it runs and loads only what this build wrote.

It says so in a `<meta>` element, for GitHub Pages sends no headers of ours. Inline scripts are allowed by their hashes,
and WebAssembly where the detector runs (`try_it`), on no other page.
"""

import base64
import hashlib
import re
from html import unescape

SCRIPT = re.compile(r"<script(?![^>]*(?:\ssrc=|application/json))[^>]*>(.*?)</script>", re.DOTALL)
HANDLER = re.compile(r'\son[a-z]+="([^"]*)"')
PLACE = re.compile(r'(<meta charset="utf-8" />)(?:\s*<meta http-equiv="Content-Security-Policy"[^>]*>)?')
DETECTOR, WASM = '<div id="detector"', "'wasm-unsafe-eval'"
OWN = "'self' file:"  # whence the page came, or the disk: Firefox takes no other file for 'self'
POLICY = (
    f"default-src 'none'; script-src {OWN} 'unsafe-hashes' {{}}; style-src {OWN} 'unsafe-inline'; "
    f"img-src {OWN} data:; font-src {OWN}; connect-src {OWN}; form-action {OWN}; base-uri 'none'"
)


def add_policies(app, exception):
    """Write the policy of every page above all that it governs.

    A page may run its own inline scripts, and the handlers of all: search reads other pages, whose buttons have some.
    """
    if exception or app.builder.format != "html":
        return
    paths = [app.builder.outdir / f"{name}.html" for name in [*app.env.found_docs, "search", "genindex", "404"]]
    pages = {path: path.read_text(encoding="utf-8") for path in paths}
    handlers = {unescape(handler) for html in pages.values() for handler in HANDLER.findall(html)}
    for path, html in pages.items():
        inline = sorted({*SCRIPT.findall(html), *handlers})
        policy = POLICY.format(" ".join([*map(source_of, inline), *[WASM] * (DETECTOR in html)]))
        meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}" />'
        path.write_text(PLACE.sub(rf"\1{meta}", html, count=1), encoding="utf-8")


def source_of(script):
    """What a policy calls an inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def setup(app):
    app.connect("build-finished", add_policies)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
