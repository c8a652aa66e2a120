"""The built site: complete, self-contained, without a dead link, and readable in a browser that has no network."""

import configparser
import functools
import gzip
import json
import os
import re
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import torch
import torchvision
import yaml
from axe_playwright_python.sync_playwright import Axe
from pypdf import PdfReader

from frcnn_common import AnchorGenerator, ROIAlign, box_iou, decode_boxes, encode_boxes, nms
from frcnn_common.anchors import assign_anchors
from frcnn_common.lessons import PARTS
from frcnn_common.metrics import evaluate_detections, match_greedily
from tools import pdf

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build/html"
PATIENCE = 3_600_000  # milliseconds
NAMES = {  # the promised names, by the module that defines them
    "constants": "IMG_SIZE NUM_CLASSES DEVICE IMAGENET_MEAN IMAGENET_STD COCO_NAMES",
    "boxes": "box_iou encode_boxes decode_boxes",
    "nms": "nms batched_nms",
    "data": "COCOStreamDataset frcnn_collate_fn",
    "backbone": "Bottleneck ResNet50 FPN",
    "anchors": "AnchorGenerator",
    "rpn": "RPNHead RegionProposalNetwork",
    "roi": "ROIAlign TwoMLPHead FastRCNNPredictor",
    "detector": "FasterRCNN",
}
TARGETS = [f"frcnn_common.{module}.{name}" for module, names in NAMES.items() for name in names.split()]


def toc_pages():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    entries = [entry for part in toc["parts"] for entry in part["chapters"]]
    entries += [section for entry in entries for section in entry.get("sections", [])]
    return [toc["root"], *(entry["file"] for entry in entries)]


class Page(HTMLParser):
    """What a page links to, loads and can be linked at."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.update(attrs[key] for key in ("id", "name") if attrs.get(key))
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        loads = tag == "link" and not {"canonical", "next", "prev", "search", "index"} & set(
            attrs.get("rel", "").split()
        )
        self.loads += [attrs["href"]] if loads else []
        self.loads += [attrs[key] for key in ("src", "data", "poster") if tag != "a" and attrs.get(key)]


@pytest.fixture(scope="module")
def pages():
    if not (SITE / "index.html").exists():
        pytest.fail(f"there is no site in {SITE}: run `make book` first")
    return {name: Page(SITE / f"{name}.html") for name in [*toc_pages(), "search", "genindex"]}


@pytest.fixture(scope="module")
def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def address(settings):
    return settings["git_url"]


def is_local(url):
    return not urlsplit(url).scheme and not urlsplit(url).netloc


def test_no_page_shows_an_address_in_memory(pages):
    """As the signatures of the command line did."""
    texts = {name: re.sub(r"<[^>]+>", "", page.html) for name, page in pages.items()}
    found = {name: re.findall(r"at\s+0x[0-9a-f]{6,}", text)[:1] for name, text in texts.items()}
    assert not any(found.values()), found


def test_every_notebook_is_a_page():
    notebooks = [path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.glob("nbs/*/[!_.]*.ipynb")]
    assert sorted(notebooks) == sorted(name for name in toc_pages() if name.startswith("nbs/"))


def test_every_page_has_one_title_and_no_error(pages):
    for name in toc_pages():
        html = pages[name].html
        titles = html[html.index("<article") : html.index("</article>")].count("<h1")
        assert titles == 1, f"{name}: {titles} titles"
        assert "output traceback" not in html and "Traceback (most recent call last)" not in html, name
        assert 'class="system-message' not in html, name


def test_nothing_is_loaded_from_another_host(pages):
    outside = [
        (name, url) for name, page in pages.items() for url in page.loads if not is_local(url) and url[:5] != "data:"
    ]
    assert not outside
    sheets = [*SITE.glob("_static/**/*.css"), *SITE.glob("_sphinx_design_static/*.css")]
    imports = re.compile(r"""(?:@import\s+|url\()\s*['"]?(https?:)?//""")
    assert not [sheet for sheet in sheets if imports.search(sheet.read_text(encoding="utf-8", errors="ignore"))]
    for page in pages.values():
        assert "unpkg.com" not in page.html and "cdnjs" not in page.html and "jsdelivr" not in page.html


def test_every_link_and_anchor_resolves(pages):
    @functools.cache
    def anchors(path):
        return Page(path).anchors if path.suffix == ".html" else set()

    dead = []
    for name, page in pages.items():
        for url in filter(is_local, page.links + page.loads):
            target = urlsplit(urljoin(f"/{name}.html", url))
            path = SITE / unquote(target.path).lstrip("/")
            if path.is_dir():
                path /= "index.html"
            if not path.is_file() or (target.fragment and unquote(target.fragment) not in anchors(path)):
                dead.append((name, url))
    assert not dead


def test_pages_follow_one_another_in_reading_order(pages):
    """And the chapters come before all that is looked up."""
    names = toc_pages()
    for name, before, after in zip(names, [None, *names], [*names[1:], None]):
        turns = dict(re.findall(r'class="(left-prev|right-next)"\s+href="([^"]+)"', pages[name].html))
        led = {turn: urljoin(f"/{name}.html", url) for turn, url in turns.items()}
        wanted = {"left-prev": before, "right-next": after}
        assert led == {turn: f"/{page}.html" for turn, page in wanted.items() if page}, name
    chapters = [number for number, name in enumerate(names) if name.startswith("nbs/chapters/")]
    assert max(chapters) < min(n for n, name in enumerate(names) if name.startswith(("nbs/howto/", "nbs/api/")))


def test_search_engines_and_chats_are_told_of_every_page(pages, settings):
    site = settings["doc_host"] + settings["doc_baseurl"]
    listed = re.findall(r"<loc>(.*?)</loc>", (SITE / "sitemap.xml").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(f"{site}/{name}.html" for name in toc_pages())
    for name in toc_pages():
        preview = dict(re.findall(r'<meta property="og:(\w+)" content="([^"]*)"', pages[name].html))
        assert preview["url"] == f"{site}/{name}.html" and preview["title"] and preview["description"], name
        assert preview["image"].startswith(f"{site}/") and (SITE / preview["image"][len(site) + 1 :]).is_file(), name


def test_search_finds_the_chapters(pages):
    index = (SITE / "searchindex.js").read_text(encoding="utf-8")
    documents = json.loads(index[index.index("(") + 1 : index.rindex(")")])["docnames"]
    assert set(toc_pages()) <= set(documents)


def test_buttons_lead_to_the_repository_and_to_notebooks_that_run_alone(pages, address, settings):
    for name in toc_pages():
        assert f"{address}/edit/main/{name}." in pages[name].html, name
        assert any(link.startswith(address) for link in pages[name].links), name
        assert "theme-switch" in pages[name].html, name
        if name.startswith("nbs/"):
            site = settings["doc_host"] + settings["doc_baseurl"]
            (colab,) = [link for link in pages[name].links if "colab.research" in link]
            assert unquote(colab) == f"https://colab.research.google.com/#fileId={site}/colab/{name}.ipynb"
            assert (SITE / f"colab/{name}.ipynb").is_file()
            assert any(link.endswith(f"_sources/{name}.ipynb") for link in pages[name].links)


def test_the_address_stands_once(address):
    patterns = [
        "*.*",
        "Makefile",
        ".github/**/*.yml",
        "book/**/*.*",
        "nbs/**/*.ipynb",
        "frcnn_common/[!_]*.py",
        "t*s/*.py",
    ]
    files = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    files.discard(ROOT / "CITATION.cff")  # which has a test of its own, in test_tooling.py
    assert not [path for path in files if address.encode() in path.read_bytes()]


@pytest.mark.parametrize("target", TARGETS)
def test_every_promised_name_has_a_description_and_a_row(pages, target):
    defined = [name for name in toc_pages() if name.startswith("nbs/api/") and target in pages[name].anchors]
    assert len(defined) == 1, f"{target} is described on {defined or 'no page'}"
    assert any(link.endswith(f"#{target}") for link in pages["book/api"].links)


def test_directives_are_not_shown(pages):
    for name in toc_pages():
        text = re.sub(r"<[^>]+>", "", pages[name].html)
        assert not re.search(r"^#\s?\|", text, re.MULTILINE), name
        assert name == "book/checked" or "NBVAL_" not in text, name


def test_the_single_file_can_be_downloaded(pages):
    assert (SITE / "frcnn_common.py").read_bytes() == (ROOT / "_build/frcnn_common.py").read_bytes()
    assert any(link.endswith("/frcnn_common.py") for link in pages["book/api"].links)


# --- In a browser -----------------------------------------------------------------------------------------------------
ALLOWED = {"'self'", "file:", "data:", "'unsafe-inline'", "'unsafe-hashes'"}
WATCH = """
    window.forbidden = []
    document.addEventListener(
        "securitypolicyviolation", e => forbidden.push(`${e.effectiveDirective} ${e.blockedURI} ${e.sample}`)
    )
"""


@pytest.fixture(scope="module")
def server(pages, settings):
    """As on GitHub Pages: the site lies below its base address, and 404.html is sent for what is not there."""
    base = settings["doc_baseurl"]

    class Host(SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return super().translate_path(path.removeprefix(base))

        def send_error(self, code, *args, **more):
            self.send_response(code)
            self.end_headers()
            self.wfile.write((SITE / "404.html").read_bytes())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Host, directory=str(SITE))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}{base}"
        http.shutdown()


class Browser:
    """Chromium, whose pages wait for hours rather than half a minute: a busy machine is no error."""

    def __init__(self, chromium):
        self.chromium = chromium

    def new_page(self, **options):
        page = self.chromium.new_page(**options)
        page.set_default_timeout(PATIENCE)
        return page


@pytest.fixture(scope="module")
def browser():
    """Chromium: the system's, or the one that `make browser` got. A reader may do without; CI may not."""
    from playwright.sync_api import sync_playwright

    found = pdf.chromium()
    with sync_playwright() as playwright:
        if not (found or Path(playwright.chromium.executable_path).exists() or os.environ.get("CI")):
            pytest.skip("no Chromium on this machine: `make browser` gets one")
        chromium = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE
        )
        yield Browser(chromium)
        chromium.close()


def test_what_is_not_there_is_answered_by_a_page_whose_links_work_at_any_depth(server, browser):
    page = browser.new_page()
    answers = {}
    page.on("response", lambda answer: answers.update({answer.url: answer.status}))
    wrong = f"{server}/nbs/api/no/such/page.html"
    page.goto(wrong)
    assert answers.pop(wrong) == 404 and set(answers.values()) == {200}, answers
    assert page.locator("h1").inner_text() == "Page not found"
    base = urlsplit(server).path
    links = page.locator("a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    local = [urlsplit(link).path for link in links if link and is_local(link) and not link.startswith("#")]
    assert len(local) >= len(toc_pages())
    assert not [path for path in local if not (SITE / path.removeprefix(f"{base}/")).is_file()]
    page.get_by_role("link", name="Set-up").click()
    page.wait_for_url(f"{server}/book/setup.html")
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["book/index", "nbs/chapters/01_coco_dataloader", "nbs/api/03_boxes"])
def test_renders_offline_on_a_phone(server, browser, pages, name, theme):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    outside, errors = [], []

    def local_only(route):
        if route.request.url.startswith(server):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    page.route("**/*", local_only)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
    page.goto(f"{server}/{name}.html")
    formulas = page.locator(".math").count()
    if formulas:
        page.wait_for_selector("mjx-container")
    assert page.locator("mjx-container").count() >= formulas
    assert page.locator("mjx-merror").count() == 0
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)") == []
    assert not outside and not errors
    page.close()


LOOK = """() => {
    const all = what => [...document.querySelectorAll(what)]
    all("details").forEach(one => { one.open = true })
    all(".toggle-button-hidden").forEach(one => one.click())
    return {
        forbidden, width: document.documentElement.scrollWidth,
        cut: all("pre").filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText.slice(0, 200)),
        levels: all("h1, h2, h3, h4, h5, h6").map(one => Number(one.tagName[1])),
        wordless: all("img").filter(one => !one.alt || /[/]|[.]\\w{2,4}$/.test(one.alt)).map(one => one.outerHTML),
        loaded: performance.getEntries().filter(one => "encodedBodySize" in one).map(one => one.name),
        paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
    }
}"""
THIN = """() => { // of all colored words of one kind, and of all formulas, one is enough for axe-core
    document.getAnimations().forEach(one => one.finish())
    const kinds = new Set(), kindOf = one => one.closest("div.highlight").parentElement.className + one.className
    for (const one of document.querySelectorAll(".highlight span"))
        if (kinds.size === kinds.add(kindOf(one)).size) one.replaceWith(...one.childNodes)
    ;[...document.querySelectorAll("mjx-container")].slice(1).forEach(one => one.remove())
}"""


class Visitor:
    """A browser's window in one theme, and all that went wrong in it."""

    def __init__(self, browser, theme):
        self.page, self.wrong = browser.new_page(), []
        self.page.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
        self.page.add_init_script(WATCH)
        self.page.on("console", lambda told: self.wrong.append(told.text) if told.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", lambda request: self.wrong.append(f"{request.url} failed"))

    def visit(self, url, width):
        """What it saw, with everything unfolded, and which serious faults axe-core finds in it."""
        self.wrong.clear()
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.goto(url)
        if self.page.locator(".math").count():
            self.page.wait_for_selector("mjx-container")
        seen = self.page.evaluate(LOOK)
        self.page.evaluate(THIN)
        faults = Axe().run(self.page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
        faults = [fault for fault in faults if fault["impact"] in {"serious", "critical"}]
        axe = [(fault["id"], node["target"], node["html"][:200]) for fault in faults for node in fault["nodes"]]
        return seen | {"axe": axe, "wrong": [*self.wrong]}


@pytest.fixture(scope="module")
def visits(server, browser, pages):
    """What a phone and a wide screen saw of every page, in both themes."""
    visitors, seen = {theme: Visitor(browser, theme) for theme in ("light", "dark")}, {}
    for name, (theme, visitor), width in product([*pages, "404"], visitors.items(), (390, 1400)):
        seen[name, width, theme] = visitor.visit(f"{server}/{name}.html", width)
    for visitor in visitors.values():
        visitor.page.close()
    return seen


def found(visits, what):
    return {where: seen[what] for where, seen in visits.items() if seen[what]}


def test_no_page_is_wider_than_its_window(visits):
    assert not [where for where, seen in visits.items() if seen["width"] != where[1]]


def test_nothing_goes_wrong_on_a_page(visits):
    assert not found(visits, "wrong")


def test_no_page_has_what_axe_calls_serious(visits):
    assert not found(visits, "axe")


def test_no_line_of_code_is_cut_on_a_wide_screen(visits):
    assert not {where: cut for where, cut in found(visits, "cut").items() if where[1] == 1400}


def test_headings_are_in_order_under_one_title(visits):
    for where, seen in visits.items():
        levels = seen["levels"]
        assert levels.count(1) == 1 and levels[0] == 1, where
        assert all(after <= before + 1 for before, after in pairwise(levels)), (where, levels)


def test_every_picture_has_words_that_are_no_path(visits):
    assert not found(visits, "wordless")


@functools.cache
def sent(path):
    """The bytes that GitHub Pages sends for a file: texts are compressed."""
    body = path.read_bytes()
    return len(gzip.compress(body) if path.suffix in {".html", ".css", ".js", ".svg"} else body)


def test_no_page_is_heavy(visits, server, capsys):
    """At most 1.5 MB. How soon a page is seen is reported, and not asserted: that is the machine's speed."""
    weights = {}
    for (name, *_), seen in visits.items():
        files = {SITE / unquote(urlsplit(url.removeprefix(f"{server}/")).path) for url in seen["loaded"]}
        weights[name] = max(sum(map(sent, files)), weights.get(name, 0))
    paints = [seen["paint"] for seen in visits.values() if seen["paint"]]
    with capsys.disabled():
        print(f"\n{len(paints)} first paints: {median(paints):.0f} ms in the middle, {max(paints):.0f} ms at most")
        for name in sorted(weights, key=weights.get)[:-9:-1]:
            print(f"  {weights[name] / 1e6:.2f} MB  {name}")
    assert max(weights.values()) <= 1_500_000


def test_on_a_phone_wide_figures_scroll_and_others_fit(server, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{server}/nbs/chapters/03_rpn.html")
    hidden = "f => f.scrollWidth - f.clientWidth"
    assert page.eval_on_selector("#fig-rpn-overview", hidden) > 300
    assert page.eval_on_selector("#fig-rpn-losses", hidden) == 0
    page.close()


def test_every_page_has_a_policy_above_all_that_it_governs(pages):
    for name, page in pages.items():
        policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', page.html)
        assert policy and policy.start() < min(page.html.index("<script"), page.html.index("<link")), name
        directives = dict(part.split(maxsplit=1) for part in policy[1].split("; "))
        assert directives.pop("default-src") == directives.pop("base-uri") == "'none'", name
        sources = {source for value in directives.values() for source in value.split()}
        more = {"'wasm-unsafe-eval'"} if '<div id="detector"' in page.html else set()
        assert {s for s in sources if not s.startswith("'sha256-")} == ALLOWED | more, name
        assert "'unsafe-inline'" not in directives["script-src"] and "data:" not in directives["script-src"], name


def test_every_page_obeys_its_policy(visits):
    assert not found(visits, "forbidden")


def test_the_policy_forbids_what_the_build_did_not_write(server, browser):
    page = browser.new_page()
    page.add_init_script(WATCH)
    page.goto(f"{server}/book/index.html")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', `<img src='' onerror='window.ran = 1'>`)")
    page.evaluate("document.head.append(Object.assign(document.createElement('script'), {text: 'window.ran = 2'}))")
    page.evaluate("document.head.append(Object.assign(document.createElement('script'), {src: 'data:,ran=3'}))")
    page.evaluate("fetch('http://localhost:9/').catch(() => 0)")
    for _ in range(PATIENCE // 100):  # wait_for_function would need eval, which the policy forbids
        if page.evaluate("forbidden.length") >= 4:
            break
        page.wait_for_timeout(100)
    kinds = sorted(text.split()[0] for text in page.evaluate("forbidden"))
    assert kinds == ["connect-src", "script-src-attr", "script-src-elem", "script-src-elem"]
    assert page.evaluate("window.ran") is None
    page.close()


def test_controls_work_under_the_policy(server, browser):
    """Buttons with inline handlers, scripts that write styles, and what needs no script at all."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.add_init_script(WATCH + "window.print = () => { window.printed = true }")
    page.goto(f"{server}/nbs/chapters/02_backbone.html")
    modes = []
    for _ in range(3):
        page.locator(".theme-switch-button:visible").first.click()
        modes.append(page.evaluate("document.documentElement.dataset.mode"))
    assert sorted(modes) == ["auto", "dark", "light"]
    page.locator(".primary-toggle:visible").first.click()
    page.locator(".bd-sidebar-primary .bd-links a").first.wait_for(state="visible")
    page.locator(".overlay-primary").click(position={"x": 380, "y": 400})
    page.evaluate("document.querySelector('button[onclick=\"window.print()\"]').click()")
    assert page.evaluate("window.printed")
    page.locator(".copybtn").first.dispatch_event("click")
    page.wait_for_selector(".copybtn.success", state="attached")
    toggle = page.locator(".toggle-button").first
    toggle.dispatch_event("click")
    assert "toggle-button-hidden" not in toggle.get_attribute("class")
    assert page.evaluate("forbidden") == []
    page.close()


def test_search_in_a_browser(server, browser, pages):
    """The summaries come from the pages that were found, which the search page fetches."""
    page = browser.new_page()
    page.add_init_script(WATCH)
    page.goto(f"{server}/search.html?q=anchor")
    page.wait_for_selector("#search-results li p.context")
    assert page.locator("#search-results li a").count() >= 3
    assert page.evaluate("forbidden") == []
    page.close()


# --- On paper ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def book(pages, settings):
    path = SITE / f"{settings['repo']}.pdf"
    if not (path.exists() or os.environ.get("CI")):
        pytest.skip("no PDF of this site: `make pdf` prints one, with Chromium")
    return PdfReader(path)


def test_the_pdf_holds_every_page_at_the_number_that_its_contents_say(book, pages):
    wanted = [pdf.title_of(pages[name].html) for name in toc_pages()]
    entries = [(one.title, book.get_destination_page_number(one)) for one in book.outline if not isinstance(one, list)]
    squeezed = [re.sub(r"\s", "", title) for title in wanted]
    assert [re.sub(r"\s", "", title) for title, _ in entries] == squeezed
    front = "".join(sheet.extract_text() for sheet in book.pages[: entries[0][1]])
    front = re.sub(r"\s", "", front[front.index("Contents") :])
    for title, (_, sheet) in zip(squeezed, entries):
        assert f"{title}{sheet + 1}" in front
        assert re.search(rf"\b{sheet + 1}\b", book.pages[sheet].extract_text()), title


def test_the_pdf_links_to_its_own_pages_and_to_the_web_alone(book):
    links = [link.get_object() for sheet in book.pages for link in sheet.get("/Annots", ())]
    inside = [link["/Dest"] for link in links if "/Dest" in link]
    assert len(inside) > 2 * len(toc_pages()) and all(place[0].get_object()["/Type"] == "/Page" for place in inside)
    assert {urlsplit(link["/A"]["/URI"]).scheme for link in links if "/A" in link} <= {"http", "https"}


def test_the_landing_page_offers_the_pdf(book, pages, settings):
    assert f"../{settings['repo']}.pdf" in pages["book/index"].links


def test_on_paper_nothing_is_folded_or_cut(server, browser):
    """Solutions are shown, code that only draws is not."""
    page = browser.new_page(viewport={"width": 650, "height": 900})
    page.goto(f"{server}/nbs/chapters/01_coco_dataloader.html")
    page.evaluate(pdf.UNFOLD, [])
    page.emulate_media(media="print")
    solutions = page.locator(".tag_solution .cell_input")
    drawing = page.locator(".tag_hide-input:not(.tag_solution) .cell_input")
    assert solutions.count() >= 3 and all(one.is_visible() for one in solutions.all())
    assert drawing.count() >= 3 and not any(one.is_visible() for one in drawing.all())
    assert page.evaluate("[...document.querySelectorAll('pre')].filter(p => p.scrollWidth > p.clientWidth + 1)") == []
    assert page.locator("nav:visible, .prev-next-area:visible").count() == 0
    page.close()


# --- Figures that a reader can touch ----------------------------------------------------------------------------------
FIGURES = ROOT / "book/_static/figures"
CELLS = {
    path.stem: "\n".join(
        "".join(cell["source"])
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    )
    for path in sorted((ROOT / "nbs/chapters").glob("0*.ipynb"))
}
TOUCHED = {name: page for page, code in CELLS.items() for name in re.findall(r"^#\| touch: (\w+)$", code, re.MULTILINE)}


UNNAMED = "all => all.filter(one => !(one.ariaLabel || one.labels?.[0]?.innerText || one.innerText)).length"
FOCUS = """one => {
    const part = one.querySelector('.face, .ring'), style = getComputedStyle(part ?? one)
    return part ? style.strokeDasharray : style.outlineStyle
}"""


class Hand:
    """The mouse and the keyboard on `self.page`."""

    def drag(self, part, dx, dy):
        """Press the mouse on the middle of a part, and move it, in pixels."""
        part.scroll_into_view_if_needed()
        box = part.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx / 2, y + dy / 2)
        self.page.mouse.move(x + dx, y + dy)
        self.page.mouse.up()

    def press(self, part, *keys):
        part.focus()
        for key in keys:
            self.page.keyboard.press(key)


class Figure(Hand):
    """A figure in a browser, and the hand that touches it."""

    def __init__(self, page, name):
        self.page, self.root = page, page.locator(f"figure.touch-{name}.live")
        self.root.wait_for()
        self.data = json.loads(self.root.locator("script").text_content())

    def reading(self, name, nth=0):
        label = self.root.locator(".touch-readings span").get_by_text(name, exact=True).nth(nth)
        return label.locator("xpath=following-sibling::b[1]").text_content().replace("−", "-")

    def boxes(self):
        found = self.root.locator(".touch-box").evaluate_all("all => all.map(one => one.dataset.box)")
        return torch.tensor([json.loads(box) for box in found], dtype=torch.float32)

    def states(self, *acts):
        """Begin as the page does, then act and act again."""
        yield
        for act in acts:
            act()
            yield


@pytest.fixture
def touch(server, browser, request):
    """Open the page of a figure, and hand out the figure. Nothing may go wrong in it, nor break the page's policy."""
    opened, errors = [], []

    def open_figure(name, **options):
        if name not in TOUCHED:
            pytest.skip(f"no page has the figure {name}")
        page = browser.new_page(viewport={"width": 1200, "height": 900}, **options)
        page.add_init_script(WATCH)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{server}/nbs/chapters/{TOUCHED[name]}.html")
        opened.append(page)
        figure = Figure(page, name)
        stops = figure.root.locator(".touch-stage :is(button, input, [tabindex='0'])")
        assert stops.count() and stops.evaluate_all(UNNAMED) == 0
        figure.press(stops.first, "Shift")
        assert stops.first.evaluate(FOCUS) != "none", "the focus is not seen"
        return figure

    yield open_figure
    assert errors == [] and [page.evaluate("forbidden") for page in opened] == [[]] * len(opened)
    for page in opened:
        page.close()


def last_number(text):
    return float(text.split()[-1])


def test_two_boxes_have_the_overlap_that_the_library_gives_them(touch):
    figure = touch("iou")
    box = figure.root.locator(".touch-box")
    seen = set()
    for _ in figure.states(
        lambda: figure.drag(box.nth(1).locator(".face"), 30, 20),
        lambda: figure.press(box.nth(0), "ArrowRight", "ArrowDown", "Shift+ArrowRight"),
        lambda: figure.drag(box.nth(1).locator(".spot").nth(0), -25, 15),
        lambda: figure.root.get_by_role("button", name="0.5").click(),
    ):
        a, b = figure.boxes()
        shared = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
        overlap = box_iou(a[None], b[None]).item()
        assert last_number(figure.reading("IoU")) == pytest.approx(overlap, abs=6e-4)
        assert last_number(figure.reading("intersection")) == pytest.approx(shared.item(), abs=6e-3)
        assert last_number(figure.reading("union")) == pytest.approx((shared / overlap).item(), abs=6e-3)
        seen.add(figure.reading("IoU"))
    assert len(seen) == 5 and overlap == pytest.approx(0.5)


def test_deltas_lead_to_the_box_and_the_box_to_the_deltas(touch):
    figure = touch("deltas")
    box, sliders = figure.root.locator(".touch-box"), figure.root.locator("input[type=range]")
    anchor, seen = torch.tensor([figure.data["anchor"]]), set()
    for _ in figure.states(
        lambda: figure.drag(box.locator(".face"), 40, -30),
        lambda: figure.press(box, "ArrowLeft", "ArrowUp", "Shift+ArrowDown"),
        lambda: figure.press(sliders.nth(2), *["ArrowRight"] * 7),
        lambda: figure.press(sliders.nth(1), "Home"),
    ):
        deltas = figure.root.locator(".touch-slider .value").all_text_contents()
        deltas = torch.tensor([[float(text.replace("−", "-")) for text in deltas]])
        torch.testing.assert_close(deltas, encode_boxes(anchor, figure.boxes()), atol=6e-3, rtol=0)
        torch.testing.assert_close(figure.boxes(), decode_boxes(anchor, deltas), atol=0.5, rtol=0)
        seen.add(tuple(deltas[0].tolist()))
    assert len(seen) == 5 and deltas[0, 1] == -figure.data["limit"]


def test_anchors_are_assigned_as_by_the_library(touch):
    figure = touch("assign")
    data, low, high = figure.data, *figure.root.locator("input[type=range]").all()[:2]
    maps = [torch.empty(1, 1, *[-(-data["side"] // stride)] * 2) for stride in data["strides"]]
    anchors = AnchorGenerator(data["sizes"], data["ratios"], data["strides"])(maps, (data["side"],) * 2)
    bear = figure.root.locator(".touch-box").last
    seen = set()
    for _ in figure.states(
        lambda: figure.press(high, *["ArrowLeft"] * 4),
        lambda: figure.press(low, "ArrowRight"),
        lambda: figure.press(bear, *["ArrowLeft"] * 5, "Shift+ArrowDown"),
        lambda: figure.drag(bear.locator(".face"), 12, 30),
    ):
        labels, _ = assign_anchors(anchors, figure.boxes(), float(high.input_value()), float(low.input_value()))
        for kind, label in (("positive", 1), ("ignored", -1), ("negative", 0)):
            assert int(figure.reading(kind).replace(",", "")) == (labels == label).sum()
        for name, best in zip(data["names"], box_iou(anchors, figure.boxes()).amax(dim=0).tolist()):
            assert f"best IoU {best:.2f}" in figure.reading(name)
        seen.add(figure.reading("ignored"))
    assert len(seen) == 5


def test_the_walk_and_the_rounds_keep_what_the_library_keeps(touch):
    figure = touch("nms")
    boxes, scores = torch.tensor(figure.data["boxes"]), torch.tensor(figure.data["scores"])
    threshold, step = figure.root.locator("input[type=range]").all()
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    seen = set()
    for _ in figure.states(
        lambda: figure.press(threshold, *["ArrowLeft"] * 8),
        lambda: figure.press(threshold, *["ArrowRight"] * 11),
        lambda: figure.press(step, "Home", *["ArrowRight"] * 9),
        lambda: figure.root.get_by_role("button", name="one step").click(),
    ):
        looks = figure.root.locator(".touch-frame").evaluate_all("all => all.map(one => one.classList[1])")
        kept = nms(boxes, scores, float(threshold.input_value())).tolist()
        walked = int(step.input_value())
        assert [n for n, look in enumerate(looks) if look == "kept"] == [n for n in sorted(kept) if n < walked]
        assert looks.count("waiting") == len(boxes) - walked
        cells = figure.root.locator(".touch-cell").evaluate_all("all => all.map(one => one.classList[1])")
        assert [n for n, look in enumerate(cells[-len(boxes) :]) if look == "kept"] == sorted(kept)
        seen.add((len(kept), walked))
    assert len(seen) == 5


def test_a_box_is_pooled_and_aligned_as_by_the_peers(touch):
    figure = touch("roi")
    data, box = figure.data, figure.root.locator(".touch-box")
    fmap, dots = torch.tensor(data["map"])[None, None], figure.root.locator("input[type=range]")
    seen = set()
    for _ in figure.states(
        lambda: figure.drag(box.locator(".spot").last, 21, -13),
        lambda: figure.press(box, "ArrowRight", "ArrowDown", "ArrowDown", "Shift+ArrowRight"),
        lambda: figure.drag(figure.root.locator(".touch-region"), 57, 40),
        lambda: figure.press(dots, "ArrowRight", "ArrowRight"),
    ):
        rois, scale = [figure.boxes()], 1 / data["stride"]
        pooled = torchvision.ops.roi_pool(fmap, rois, data["out"], scale).flatten()
        aligned = ROIAlign(data["out"], k_min=3, k_max=3)([fmap], rois, (256, 256)).flatten()
        for name, expected in (("pooled", pooled), ("ROIAlign", aligned)):
            shown = [float(value) for value in figure.reading(name).replace("/", " ").split()]
            torch.testing.assert_close(torch.tensor(shown), expected, atol=6e-3, rtol=0)
        formula = figure.root.locator(".touch-formula").text_content()
        seen.add(formula)
    assert len(seen) == 5


def test_a_box_is_read_on_the_level_that_the_library_chooses(touch):
    figure = touch("level")
    box, seen = figure.root.locator(".touch-box"), set()
    for _ in figure.states(
        lambda: figure.drag(box.locator(".spot").last, -60, 60),
        lambda: figure.drag(box.locator(".spot").first, 80, 0),
        lambda: figure.press(box, *["Shift+ArrowUp"] * 30),
    ):
        k = ROIAlign().assign_levels(figure.boxes()).item()
        width, height = (figure.boxes()[0, 2:] - figure.boxes()[0, :2]) / 2**k
        assert figure.reading("level").endswith(f"P{k}, stride {2**k}")
        shown = [
            float(value) for value in re.findall(r"[\d.]+", figure.reading("cells") + " " + figure.reading("a bin is"))
        ]
        expected = [width.item(), height.item(), width.item() / 7, height.item() / 7]
        assert shown == pytest.approx(expected, abs=0.051)
        seen.add(figure.reading("a bin is"))
    assert len(seen) == 4


def test_proposals_find_what_the_library_says(touch):
    figure = touch("proposals")
    data, (head, number) = figure.data, figure.root.locator("input[type=range]").all()
    truth, seen = torch.tensor(data["objects"]), set()
    for _ in figure.states(
        lambda: figure.press(head, "ArrowRight", "ArrowRight"),
        lambda: figure.press(number, *["ArrowRight"] * 12),
        lambda: figure.press(head, "End"),
    ):
        best = torch.tensor(data["boxes"][int(head.input_value())][: int(number.input_value())])
        good = box_iou(best, truth) >= data["threshold"]
        looks = figure.root.locator(".touch-frame").evaluate_all("all => all.map(one => one.classList[1])")
        assert [look == "kept" for look in looks] == good.any(dim=1).tolist()
        assert figure.reading("objects found here") == f"{good.any(dim=0).sum()} of {len(truth)}"
        curve = data["recalls"][int(head.input_value())]
        assert figure.reading("recall in all scenes") == f"{curve[len(best) - 1]:.2f}"
        seen.add((len(best), head.input_value()))
    assert len(seen) == 4


def test_detections_find_what_the_library_says(touch):
    figure = touch("detections")
    data, (moment, score) = figure.data, figure.root.locator("input[type=range]").all()
    truth, seen = {key: torch.tensor(value) for key, value in data["truth"].items()}, set()
    for _ in figure.states(
        lambda: figure.press(moment, "ArrowLeft"),
        lambda: figure.press(score, *["ArrowLeft"] * 6),
        lambda: figure.press(moment, "End"),
    ):
        found = data["moments"][int(moment.input_value())]
        sure = torch.tensor(found["scores"]) > float(score.input_value())
        fits = box_iou(torch.tensor(found["boxes"])[sure], truth["boxes"]) >= 0.5
        fits &= torch.tensor(found["labels"])[sure][:, None] == truth["labels"]
        looks = figure.root.locator(".touch-frame").evaluate_all("all => all.map(one => one.classList[1])")
        assert [look == "kept" for look in looks] == fits.any(dim=1).tolist()
        assert figure.reading("objects found") == f"{fits.any(dim=0).sum()} of {len(truth['boxes'])}"
        assert int(figure.reading("wrong boxes")) == (~fits.any(dim=1)).sum()
        seen.add((moment.input_value(), score.input_value()))
    assert len(seen) == 4


def test_a_finger_moves_a_box_and_not_the_page(touch):
    figure = touch("iou", has_touch=True)
    face, before = figure.root.locator(".touch-box .face").nth(1), figure.boxes()[1]
    face.scroll_into_view_if_needed()
    scrolled, place = figure.page.evaluate("scrollY"), face.bounding_box()
    x, y = place["x"] + 60, place["y"] + 60
    hand = figure.page.context.new_cdp_session(figure.page)
    for kind, points in (
        ("touchStart", [{"x": x, "y": y}]),
        ("touchMove", [{"x": x + 20, "y": y - 15}]),
        ("touchMove", [{"x": x + 40, "y": y - 30}]),
        ("touchEnd", []),
    ):
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    left, top, right, bottom = (figure.boxes()[1] - before).tolist()
    assert left == pytest.approx(right) and top == pytest.approx(bottom) and left > 0.3 and top < -0.2
    after = face.bounding_box()
    assert (after["x"] - place["x"], after["y"] - place["y"]) == pytest.approx((40, -30), abs=8)  # all of its way
    assert figure.page.evaluate("scrollY") == scrolled


def test_a_second_finger_and_the_other_buttons_of_a_mouse_move_nothing(touch):
    figure = touch("iou", has_touch=True)
    face = figure.root.locator(".touch-box .face").nth(1)
    face.scroll_into_view_if_needed()
    before, place = figure.boxes(), face.bounding_box()
    one, two = ({"x": place["x"] + by, "y": place["y"] + by, "id": by} for by in (50, 70))
    hand = figure.page.context.new_cdp_session(figure.page)
    away = [{**finger, "x": finger["x"] + 40} for finger in (one, two)]
    for kind, points in (("touchStart", [one]), ("touchStart", [one, two]), ("touchMove", [one, away[1]])):
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert torch.equal(figure.boxes(), before)
    for kind, points in (("touchMove", away), ("touchEnd", [])):
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    moved = figure.boxes()
    assert moved[1, 0] > before[1, 0]
    figure.page.mouse.move(one["x"] + 40, one["y"])
    figure.page.mouse.down(button="right")
    figure.page.mouse.move(one["x"] + 10, one["y"])
    figure.page.mouse.up(button="right")
    assert torch.equal(figure.boxes(), moved)


def test_a_figure_speaks_only_once_it_is_touched(touch):
    figure = touch("cut")
    said = figure.root.locator(".touch-said")
    figure.page.wait_for_timeout(700)
    assert not said.text_content()
    figure.press(figure.root.locator("input[type=range]").last, "ArrowLeft")
    figure.page.wait_for_timeout(700)
    assert said.text_content()
    counts = figure.root.locator(".touch-scenes svg").evaluate_all("all => all.map(one => one.ariaLabel)")
    wrong = sum(int(re.search(r"(\d+) wrong$", count)[1]) for count in counts)
    assert wrong == figure.root.locator(".touch-frame.wrong").count()


def test_the_field_of_a_cell_grows_by_the_formula(touch):
    figure = touch("field")
    layers, layer = figure.data["layers"], figure.root.locator("input[type=range]")
    knob, seen = figure.root.locator(".touch-knob"), set()
    for _ in figure.states(
        lambda: figure.press(layer, *["ArrowRight"] * 4),
        lambda: figure.press(knob, "ArrowLeft", "ArrowDown"),
        lambda: figure.press(layer, "End"),
    ):
        count, stride = int(layer.input_value()), 1
        x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
        for one in layers[:count]:
            stride *= one["stride"]
        for one in reversed(layers[:count]):  # back from one cell: what a transposed convolution reaches
            kernel = torch.ones(1, 1, one["kernel"], one["kernel"], dtype=x.dtype)
            x = torch.nn.functional.conv_transpose2d(x, kernel, stride=one["stride"])
        assert f"= {x.shape[-1]} pixels" in figure.reading("field")
        assert f"= {stride} pixels" in figure.reading("stride")
        seen.add((count, figure.reading("cell")))
    assert len(seen) == 4


def test_a_step_of_the_pyramid_has_the_numbers_of_pytorch(touch):
    figure = touch("pyramid")
    low, high, kernel = (torch.tensor(figure.data[name])[None, None].float() for name in ("low", "high", "kernel"))
    step, weight = figure.root.locator("input[type=range]").all()
    seen = set()
    for _ in figure.states(
        lambda: figure.press(weight, "ArrowLeft", "ArrowLeft", "ArrowLeft"),
        lambda: figure.press(figure.root.locator(".touch-map").last, "ArrowDown", "ArrowRight"),
        lambda: figure.press(step, "ArrowLeft"),
    ):
        lateral = float(weight.input_value()) * low
        up = torch.nn.functional.interpolate(high, size=low.shape[-2:])
        maps = [low, lateral, high, up, lateral + up, torch.nn.functional.conv2d(lateral + up, kernel, padding=1)]
        shown = figure.root.locator(".touch-map").evaluate_all(
            "all => all.map(map => [...map.querySelectorAll('text:not(.title)')].map(one => one.textContent))"
        )
        for texts, values in zip(shown[: int(step.input_value()) + 2], maps):
            numbers = torch.tensor([float(text.replace("−", "-")) for text in texts])
            torch.testing.assert_close(numbers, values.flatten(), atol=0.51, rtol=0)
        seen.add((figure.reading("sum"), figure.reading("3 × 3")))
    assert len(seen) == 4 and shown[-1] == [""] * 16


def test_average_precision_is_built_as_in_the_lessons(touch):
    figure = touch("ranks")
    walk, seen = figure.root.locator("input[type=range]").last, set()
    for _ in figure.states(
        lambda: figure.root.get_by_role("button", name="3 wrong").click(),
        lambda: figure.press(walk, "ArrowLeft", "ArrowLeft"),
        lambda: figure.root.get_by_role("button", name="1 right").click(),
    ):
        rank = int(walk.input_value())
        buttons = figure.root.locator(".touch-row button")
        hits = torch.tensor(buttons.evaluate_all("all => all.map(one => one.ariaPressed === 'true')"))
        walked = torch.tensor(figure.data["scores"])[:rank], hits[:rank], figure.data["objects"]
        same_curve(figure, *walked)
        seen.add(figure.reading("AP"))
    assert len(seen) == 4


def same_curve(figure, scores, hits, objects, name="AP"):
    """Precision, recall and AP that a figure shows are those of the lessons, down the list to where it is."""
    precision, recall = (values[-1].item() for values in PARTS["precision_recall"].right(scores, hits, objects))
    assert last_number(figure.reading("precision")) == pytest.approx(precision, abs=6e-3)
    assert last_number(figure.reading("recall")) == pytest.approx(recall, abs=6e-3)
    expected = PARTS["average_precision"].right(scores, hits, objects)
    assert float(figure.reading(name)) == pytest.approx(float(expected), abs=6e-5)


def test_two_thresholds_give_the_ap_of_the_library(touch):
    """By mouse and keys: after each act the boxes that the library keeps, right where it says so, and its AP."""
    figure = touch("cut")
    data, (kind, least, most, rank) = figure.data, figure.root.locator("input[type=range]").all()
    seen = set()
    for _ in figure.states(
        lambda: figure.press(least, *["ArrowRight"] * 9),
        lambda: figure.press(most, *["ArrowRight"] * 8),
        lambda: figure.press(least, "Home"),
        lambda: figure.press(kind, "ArrowRight"),
        lambda: figure.press(most, "Home"),
        lambda: figure.press(kind, "End"),
        lambda: figure.press(rank, "ArrowLeft", "ArrowLeft", "ArrowLeft"),
        lambda: most.click(),
    ):
        k, score, thr = int(kind.input_value()), float(least.input_value()), float(most.input_value())
        found, truth, hits = [], [], []
        for row, objects in zip(data["found"][k], data["truth"][k], strict=True):
            scores = torch.tensor(row["scores"], dtype=torch.float64)
            boxes, objects = (torch.tensor(b, dtype=torch.float64).view(-1, 4) for b in (row["boxes"], objects))
            boxes, scores = boxes[scores > score], scores[scores > score]
            kept = nms(boxes, scores, thr)
            ones = torch.ones(max(len(kept), len(objects)), dtype=torch.int64)
            found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": ones[: len(kept)]})
            truth.append({"boxes": objects, "labels": ones[: len(objects)]})
            hits.append(match_greedily(box_iou(boxes[kept], objects), (0.5,))[0] >= 0)
        scores, hits = torch.cat([row["scores"] for row in found]), torch.cat(hits)
        order, walked = scores.argsort(descending=True, stable=True), int(rank.input_value())
        scores, hits = scores[order], hits[order]
        same_curve(figure, scores[:walked], hits[:walked], sum(len(row["boxes"]) for row in truth), "AP50")
        frames = figure.root.locator(".touch-frame")
        assert frames.count() == len(hits)
        looks = {look: figure.root.locator(f".touch-frame.{look}").count() for look in ("kept", "wrong")}
        assert looks == {"kept": hits[:walked].sum(), "wrong": (~hits[:walked]).sum()}
        if walked == len(hits):
            expected = evaluate_detections(found, truth, num_classes=2, names=("", data["names"][k])).AP50
            assert float(figure.reading("AP50")) == pytest.approx(expected, abs=6e-5)
        seen.add((k, score, thr, walked))
    assert len(seen) == 9


def test_losses_and_slopes_are_autograds(touch):
    figure = touch("losses")
    logit, error = figure.root.locator(".touch-knob").all()
    beta, classes = figure.data["beta"], figure.data["classes"]

    def entropy(z):
        return torch.nn.functional.cross_entropy(torch.cat([z, torch.zeros(classes - 1)])[None], torch.tensor([0]))

    def smooth(d):
        return torch.nn.functional.smooth_l1_loss(d, torch.zeros(1), beta=beta)

    seen = set()
    for _ in figure.states(
        lambda: [figure.drag(knob, -60, 0) for knob in (logit, error)],
        lambda: [figure.press(knob, "Shift+ArrowLeft", "ArrowLeft", "ArrowUp") for knob in (logit, error)],
        lambda: [figure.press(knob, *["Shift+ArrowLeft"] * 6) for knob in (logit, error)],
    ):
        for nth, (name, loss) in enumerate({"logit": entropy, "error": smooth}.items()):
            value = torch.tensor([float(figure.reading(name))], requires_grad=True)
            (slope,) = torch.autograd.grad(loss(value), value)
            assert float(figure.reading("loss", nth)) == pytest.approx(loss(value).item(), abs=6e-5)
            assert float(figure.reading("slope", nth)) == pytest.approx(slope.item(), abs=6e-4)
        seen.add((figure.reading("logit"), figure.reading("error")))
    assert len(seen) == 4


@pytest.mark.parametrize("page_name", sorted(set(TOUCHED.values())))
def test_figures_work_from_the_disk_and_leave_their_pictures_to_print(browser, page_name):
    page = browser.new_page()
    page.goto((SITE / f"nbs/chapters/{page_name}.html").as_uri())
    figures = [Figure(page, name) for name, where in TOUCHED.items() if where == page_name]
    for media in ("screen", "print"):
        page.emulate_media(media=media)
        for figure in figures:
            picture, stage = figure.root.locator("> img"), figure.root.locator("> .touch-stage")
            assert (stage.is_visible(), picture.is_visible()) == (media == "screen", media == "print")
            assert picture.get_attribute("alt") and picture.get_attribute("src").endswith(".webp")
    page.close()


@pytest.mark.parametrize("page_name", sorted(set(TOUCHED.values())))
def test_without_scripts_a_figure_is_a_picture(server, browser, page_name):
    page = browser.new_page(java_script_enabled=False)
    page.goto(f"{server}/nbs/chapters/{page_name}.html")
    for name in [name for name, where in TOUCHED.items() if where == page_name]:
        assert page.locator(f"figure.touch-{name} > img").is_visible()
    assert page.locator(".touch-stage").count() == 0
    page.close()


def test_only_a_page_with_figures_loads_their_scripts_and_it_stays_light(pages):
    for name, page in pages.items():
        used = set(re.findall(r'<figure class="[^"]*touch-(\w+)', page.html))
        loaded = [url for url in page.loads if "_static/figures/" in url]
        files = {Path(urlsplit(url).path).stem for url in loaded}
        shared = {"touch", "boxes"} if used or '<div id="detector"' in page.html else set()
        assert files == used | shared, name
        data = re.findall(r'<script type="application/json">.*?</script>', page.html, re.DOTALL)
        weight = sum(map(len, data)) + sum((FIGURES / Path(urlsplit(url).path).name).stat().st_size for url in loaded)
        assert weight <= 400_000, name


def test_a_script_is_short_and_nothing_moves_by_itself():
    for path in FIGURES.glob("*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 150 and max(map(len, lines)) <= 120, path.name
    assert not re.search("animation|transition", (FIGURES / "touch.css").read_text(encoding="utf-8"))
