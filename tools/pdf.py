"""Print the built site as one PDF, and offer it on the landing page.

python tools/pdf.py [SITE]      the default site is _build/html

Chromium prints each page; here they get a title, a table of contents with page numbers, an outline, and links that stay
inside. On paper nothing can be unfolded: solutions are printed, and code that only draws is left out.
"""

import io
import re
import shutil
import sys
from html import escape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from PIL import Image
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, FloatObject, NameObject, NullObject, TextStringObject

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools import student

PATIENCE = 3_600_000  # milliseconds
QUALITY = 90  # of 100
OFFER = "<!-- the book as PDF -->"  # where the landing page offers it
NUMBERED = """
@page { size: A4; margin: 18mm 18mm 20mm; @bottom-center { content: counter(page); font: 9pt sans-serif; } }
html { counter-reset: page %d; }
"""
UNFOLD = """async targets => {
    document.documentElement.dataset.theme = "light"
    document.querySelectorAll("details").forEach(one => { one.open = true })
    document.querySelectorAll(".toggle-button-hidden").forEach(one => one.click())
    document.getAnimations().forEach(one => one.finish())
    await Promise.all([...document.images].map(one => one.decode()))
    if (document.querySelector(".math")) await MathJax.startup.promise
    // Chromium writes only those places into a PDF to which a link of the same page leads.
    const links = targets.map(target => Object.assign(document.createElement("a"), {href: "#" + target, text: "."}))
    const box = document.createElement("div")
    box.style = "font-size: 1px; line-height: 1px; opacity: 0.01"
    box.append(...links)
    document.querySelector(".bd-article").append(box)
}"""
FRONT = """<!doctype html><html lang="en"><title>{title}</title><style>
@page {{ size: A4; margin: 22mm 22mm 20mm; }} @page :first {{ margin-top: 90mm; }}
body {{ font: 10pt/1.5 sans-serif; }} h1 {{ font-size: 30pt; margin: 0; }} h2 {{ break-before: page; font-size: 18pt; }}
h3 {{ margin: 1em 0 0; font-size: 10pt; break-after: avoid; }}
a {{ display: flex; color: inherit; text-decoration: none; }}
a i {{ flex: 1; margin: 0 0.5em 0.4em; border-bottom: 1px dotted gray; }}
</style><body><h1>{title}</h1><p>{description}</p><p>{copyright}. Version {version}, {site_url}</p>
<p>Solutions are printed where you would unfold them; code that only draws its figure is left out. Figures that can
be touched on the site are pictures here. Drawings by OpenMoji, CC BY-SA 4.0.</p>
<h2>Contents</h2>{entries}</body></html>"""


def chromium():
    """The system's Chromium, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def parts_of(toc, site):
    """The captions of a table of contents, each with the files of its pages."""
    parts = [{"caption": "", "chapters": [{"file": toc["root"]}]}, *toc["parts"]]
    return [(part["caption"], [site / f"{page['file']}.html" for page in part["chapters"]]) for part in parts]


def title_of(html):
    return re.sub(r"<[^>]+>", "", re.search(r"<h1>(.*?)<a class=\"headerlink", html, re.DOTALL)[1]).strip()


def places_in(htmls):
    """For each page the places in it to which links of any page lead."""
    places = {path: set() for path in htmls}
    for path, html in htmls.items():
        for url, place in re.findall(r'href="([^":#]+\.html)#([^"]+)"', html):
            places.get((path.parent / url).resolve(), set()).add(place)
    return places


def as_jpeg(route):
    """Give Chromium a JPEG for a picture of another kind, which it would write into the PDF nearly uncompressed."""
    picture = Image.open(unquote(urlsplit(route.request.url).path)).convert("RGBA")
    paper, file = Image.new("RGB", picture.size, "white"), io.BytesIO()
    paper.paste(picture, mask=picture.getchannel("A"))
    paper.save(file, "JPEG", quality=QUALITY)
    route.fulfill(body=file.getvalue(), content_type="image/jpeg")


def printed(page, **options):
    return PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True, print_background=True, **options)))


def print_front(page, parts, htmls, settings, starts):
    """The title and the table of contents; a page's number is that of its first sheet."""
    entries = []
    for caption, paths in parts:
        entries.append(f"<h3>{escape(caption)}</h3>")
        for path in paths:
            line = f"{title_of(htmls[path])}<i></i>{starts.get(path, 0) + 1}"
            entries.append(f'<a href="{path.as_uri()}">{line}</a>')
    more = {"site_url": student.site_address(), "entries": "".join(entries)}
    page.set_content(FRONT.format_map({**settings, **more}))
    return printed(page)


def print_page(page, path, places, start):
    page.goto(path.as_uri())
    page.evaluate(UNFOLD, sorted(places))
    page.add_style_tag(content=NUMBERED % start)
    return printed(page, outline=True, tagged=True)


def relink(writer, readers, starts, site, site_url):
    """Let links to pages of the book lead to their place in this file, and those to other files to the site."""

    def destination(path, place):
        spot = readers[path].named_destinations.get(f"/{place}")
        number = starts[path] + (readers[path].get_destination_page_number(spot) if spot else 0)
        corner = (spot.left, spot.top) if spot else (None, None)
        numbers = [NullObject() if value is None else FloatObject(value) for value in (*corner, None)]
        return ArrayObject([writer.pages[number].indirect_reference, NameObject("/XYZ"), *numbers])

    for path, reader in readers.items():
        for sheet in writer.pages[starts[path] : starts[path] + len(reader.pages)]:
            for link in (one.get_object() for one in sheet.get("/Annots", ())):
                url = urlsplit(link.get("/A", {}).get("/URI", ""))
                target = Path(unquote(url.path))
                if "/Dest" in link:
                    link[NameObject("/Dest")] = destination(path, str(link["/Dest"])[1:])
                elif url.scheme == "file" and target in starts:
                    del link["/A"]
                    link[NameObject("/Dest")] = destination(target, url.fragment)
                elif url.scheme == "file":
                    link["/A"][NameObject("/URI")] = TextStringObject(f"{site_url}/{target.relative_to(site)}")


def offer(site, name, count):
    """Put a link to the PDF on the landing page."""
    path = site / "book/index.html"
    size = (site / name).stat().st_size / 1e6
    text = f'<p>On paper: <a href="../{name}" download>the whole book as PDF</a> ({count} pages, {size:.0f} MB).</p>'
    html = path.read_text(encoding="utf-8")
    path.write_text(re.sub(f"{OFFER}(<p>.*?</p>)?", OFFER + text, html, flags=re.DOTALL), encoding="utf-8")


def main(site=ROOT / "_build/html"):
    site, settings = Path(site).resolve(), student.settings()
    parts = parts_of(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")), site)
    htmls = {path: path.read_text(encoding="utf-8") for _, paths in parts for path in paths}
    places = places_in(htmls)
    with sync_playwright() as playwright:
        if not (chromium() or Path(playwright.chromium.executable_path).exists()):
            print("No PDF: it takes a Chromium to print one, and `make browser` gets one.")
            return
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.route(re.compile(r"\.(webp|png)$"), as_jpeg)
        readers, starts = {}, {}
        start = len(print_front(page, parts, htmls, settings, starts).pages)
        for path in htmls:
            starts[path] = start
            readers[path] = print_page(page, path, places[path], start)
            start += len(readers[path].pages)
        front = print_front(page, parts, htmls, settings, starts)
        browser.close()
    writer = PdfWriter()
    for reader in (front, *readers.values()):
        writer.append(reader)
    relink(writer, {site: front, **readers}, {site: 0, **starts}, site, student.site_address())
    writer.add_metadata({"/Title": settings["title"], "/Author": settings["author"]})
    name = f"{settings['repo']}.pdf"
    writer.write(site / name)
    offer(site, name, len(writer.pages))


if __name__ == "__main__":
    main(*sys.argv[1:])
