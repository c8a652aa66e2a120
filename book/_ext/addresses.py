"""Sphinx extension: the repository's address from `settings.ini`, where it stands once, and no unneeded scripts.

Pages of text write the address as `{{ repo }}` (its name), `{{ repo_url }}` and `{{ site_url }}`, and the
version as `{{ package_version }}`, in code blocks too. `sitemap.xml` has the address of each page.
"""

import configparser
from pathlib import Path
from urllib.parse import quote

from docutils import nodes

NAMES = ("repo", "repo_url", "site_url", "package_version")


def set_addresses(app, config):
    """Give the theme, its buttons and the pages the address."""
    parser = configparser.ConfigParser()
    parser.read(Path(app.srcdir) / "settings.ini", encoding="utf-8")
    project = parser["DEFAULT"]
    site = project["doc_host"] + project["doc_baseurl"]
    config.html_baseurl = f"{site}/"
    config.ogp_site_url = config.html_baseurl
    config.notfound_urls_prefix = f"{project['doc_baseurl']}/"
    config.html_context |= {"repo": project["repo"], "repo_url": project["git_url"], "site_url": site}
    config.html_context["package_version"] = project["version"]
    config.html_theme_options |= {
        "repository_url": project["git_url"],
        "repository_branch": project["branch"],
        "use_edit_page_button": True,
        "use_repository_button": True,
        "use_issues_button": True,
    }


def fill_in(app, docname, source):
    for name in NAMES:
        source[0] = source[0].replace(f"{{{{ {name} }}}}", app.config.html_context[name])


def drop_scripts(app, pagename, templatename, context, doctree):
    """Leave out thebe, which would load its script from another host, and MathJax on a page without formulas."""
    formulas = doctree and next(doctree.findall(lambda node: isinstance(node, nodes.math | nodes.math_block)), None)
    unwanted = ("thebe",) if formulas else ("thebe", "mathjax")
    files = {file: f"{file}{getattr(file, 'attributes', '')}".lower() for file in context["script_files"]}
    context["script_files"] = [file for file, text in files.items() if not any(name in text for name in unwanted)]


def lead_to_colab(app, pagename, templatename, context, doctree):
    """Let the rocket lead to the notebooks that `tools/colab.py` writes: they bring their package along."""
    own = f"{app.config.html_baseurl}colab/{pagename}.ipynb"
    for group in context["header_buttons"]:
        if group.get("label") == "launch-buttons":
            colab = next(button for button in group["buttons"] if button["text"] == "Colab")
            colab["url"] = f"https://colab.research.google.com/#fileId={quote(own, safe='')}"
            if not pagename.startswith("nbs/"):  # a page of text
                group["buttons"].remove(colab)


def list_pages(app, exception):
    """Write `sitemap.xml`, which tells search engines of all pages, whichever of them this build has written anew."""
    if exception or app.builder.format != "html":
        return
    pages = "".join(
        f"<url><loc>{app.config.html_baseurl}{name}.html</loc></url>\n" for name in sorted(app.env.found_docs)
    )
    sitemap = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{pages}</urlset>\n'
    (app.builder.outdir / "sitemap.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n{sitemap}', encoding="utf-8"
    )


def setup(app):
    app.connect("build-finished", list_pages)
    app.connect("config-inited", set_addresses)
    app.connect("source-read", fill_in)
    app.connect("html-page-context", drop_scripts, priority=900)
    app.connect("html-page-context", lead_to_colab, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
