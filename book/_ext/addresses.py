"""Sphinx extension: the repository's address from `settings.ini`, where it stands once, and no unneeded scripts.

Pages of text write the address as `{{ repo }}` (its name), `{{ repo_url }}` and `{{ site_url }}`, and the
version as `{{ package_version }}`, in code blocks too.
"""

import configparser
from pathlib import Path

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


def setup(app):
    app.connect("config-inited", set_addresses)
    app.connect("source-read", fill_in)
    app.connect("html-page-context", drop_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
