"""The page "Try it" in a browser: it finds what the library finds, and everything on it does what it says."""

import base64
import io
import json
import re
import statistics

import numpy as np
import pytest
import test_site
import torch
from PIL import Image

from frcnn_common.inference import Detector
from frcnn_common.openmoji import draw_scene
from frcnn_common.rpn import flatten_levels

browser, pages, server, settings = test_site.browser, test_site.pages, test_site.server, test_site.settings
FILES = test_site.SITE / "try/files.json"
SCENES = 50
STARTED = ["elephant", "pizza", "teddy bear", "robot face"]
FOUND = """async () => {
    await tryIt.settled()
    const {kept, before, time, canvas} = tryIt.found, sides = tryIt.sides(canvas)
    const row = one => [one.score, one.label, ...one.box.map((value, k) => value * sides[k % 2])]
    return {kept: kept.map(row), before: before.map(row), time, size: [canvas.width, canvas.height]}
}"""
FAIL = "void ([tryIt.right, tryIt.look] = [tryIt.look, () => Promise.reject(new Error('no memory'))])"
MEND = "void (tryIt.look = tryIt.right)"
EMPTY_MODULE = "WebAssembly.compile(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])).then(() => true, () => false)"


class Stage(test_site.Hand):
    """The page, once the detector is loaded."""

    def __init__(self, page):
        self.page, self.root = page, page.locator("#detector")
        page.get_by_role("button", name=re.compile("Load the detector")).click()
        page.locator("#fig-try-it.live").wait_for(state="attached")
        self.glyphs = self.root.locator(".try-scene [role=application]")

    def found(self):
        return self.page.evaluate(FOUND)

    def picture(self):
        """What the detector gets."""
        url = self.page.evaluate("document.querySelector('.try-scene canvas').toDataURL()")
        return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")

    def agrees(self, detector, score):
        """Whether the page shows what a detector of the library finds in its picture; the differences, if it does."""
        found, own = self.found(), detector(self.picture(), score=score)
        return differences(found["kept"], np.column_stack([own[key] for key in ("scores", "labels", "boxes")]))

    def glyph(self, nth):
        """Name, place, side and turn of a glyph of the scene, as a screen reader hears them."""
        label = self.glyphs.nth(nth).get_attribute("aria-label")
        return [label.partition(":")[0], *map(int, re.findall(r"-?\d+", label)[:4])]


def differences(found, own):
    """The largest differences of scores and boxes; both lists have to hold as many of each class."""
    found, own = (np.reshape(rows, (-1, 6)) for rows in (found, own))
    found, own = (rows[np.lexsort((-rows[:, 0], rows[:, 1]))] for rows in (found, own))
    assert found[:, 1].tolist() == own[:, 1].tolist()
    score, boxes = abs(found[:, 0] - own[:, 0]).max(initial=0), abs(found[:, 2:] - own[:, 2:]).max(initial=0)
    assert score <= 1e-3 and boxes <= 0.5
    return score, boxes


@pytest.fixture(scope="module")
def detector():
    return Detector.load("tiny")


@pytest.fixture
def visit(server, browser):
    """Open the page. Nothing may go wrong on it, leave its policy or come from elsewhere."""
    if not FILES.exists():
        pytest.skip("npm's registry could not be reached: the page is a picture")
    opened, errors = [], []

    def open_page(theme="light", width=1400, height=900, has_touch=False):
        page = browser.new_page(viewport={"width": width, "height": height}, has_touch=has_touch)
        page.add_init_script(test_site.WATCH + f"; localStorage.mode = localStorage.theme = '{theme}'")
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: request.url.startswith((server, "data:")) or errors.append(request.url))
        page.goto(f"{server}/book/try_it.html")
        opened.append(page)
        return page

    yield open_page
    assert errors == [] and [page.evaluate("forbidden") for page in opened] == [[]] * len(opened)
    for page in opened:
        page.close()


def test_what_is_loaded_and_when(server, visit, capsys):
    page, asked, folder = visit(), [], f"{server}/try/"
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.locator(".try-load").wait_for()
    assert page.locator("#fig-try-it").is_visible() and not [url for url in asked if url.startswith(folder)]
    Stage(page)
    assert not page.locator("#fig-try-it").is_visible()
    paths = {url.removeprefix(folder) for url in asked if url.startswith(folder)}
    loaded = sum((FILES.parent / path).stat().st_size for path in paths)
    assert {entry["file"] for entry in json.loads(FILES.read_text()).values() if "file" in entry} <= paths
    assert loaded <= 25_000_000
    with capsys.disabled():
        print(f"\nTry it: {len(paths)} files, {loaded / 1e6:.1f} MB")


def test_only_this_page_may_run_webassembly(server, visit, browser):
    assert visit().evaluate(EMPTY_MODULE)
    other = browser.new_page()
    other.goto(f"{server}/book/index.html")
    assert not other.evaluate(EMPTY_MODULE)
    other.close()


def test_the_browser_finds_what_the_library_finds(visit, detector, capsys):
    stage, found, times, most = Stage(visit()), 0, [], np.zeros(2)
    stage.press(stage.page.get_by_label("lowest score"), "Home")
    for number in range(SCENES):
        jpeg = draw_scene(number, "val")["image"]["bytes"]
        file = {"name": "scene.jpg", "mimeType": "image/jpeg", "buffer": jpeg}
        stage.page.locator("input[type=file]").set_input_files(file)
        seen, own = stage.found(), detector(image := Image.open(io.BytesIO(jpeg)), score=0.05)
        assert tuple(seen["size"]) == image.size
        own = np.column_stack([own[key] for key in ("scores", "labels", "boxes")])
        most = np.maximum(most, differences(seen["kept"], own))
        times.append(seen["time"])
        found += len(own)
    with capsys.disabled():
        print(f"\nTry it: {found} detections in {SCENES} scenes; scores differ by at most {most[0]:.1e}, boxes by")
        print(f"{most[1]:.1e} pixels; {statistics.median(times):.0f} ms a scene (median)")


def test_the_stages_show_what_the_library_computes(visit, detector):
    stage = Stage(visit())
    model, (pixels, inner, _) = detector.model, detector.prepare(stage.picture())
    with torch.no_grad():
        features = model.fpn(model.backbone(pixels[None]))
        maps, _ = model.rpn.head(features)
        proposals = model.rpn(features, inner, image_sizes=[inner])[0][0]
        logits, _ = model.predictor(model.box_head(model.roi_align(features, [proposals], inner)))
    shown = stage.root.locator(".try-maps span").all_text_contents()
    assert shown == [f"P{k}, highest {level.sigmoid().max():.2f}" for k, level in enumerate(maps, 2)]
    regions = stage.page.evaluate("tryIt.found.regions.map(one => [one.box, one.probabilities])")
    boxes, probabilities = (torch.tensor(values) for values in zip(*regions, strict=True))
    torch.testing.assert_close(boxes, proposals, atol=1e-2, rtol=0)
    torch.testing.assert_close(probabilities, logits.softmax(dim=1), atol=1e-4, rtol=0)
    stage.root.get_by_role("button", name="next ones").click()
    best = probabilities[6:12].topk(3)
    names = ["no object", *detector.names[1:]]
    expected = [f"{names[n]} {p:.2f}" for ps, ns in zip(*best) for p, n in zip(ps.tolist(), ns.tolist())]
    assert stage.root.locator(".try-bars span").all_text_contents() == expected
    assert flatten_levels(maps, 1).shape[1] == stage.page.evaluate("tryIt.found.seen.logits.data.length")


def test_every_slider_changes_what_it_should(visit):
    stage = Stage(visit())
    names = "proposals drawn", "proposals used", "lowest score", "largest overlap"
    drawn, used, score, overlap = (stage.page.get_by_label(name) for name in names)
    frames = stage.root.locator(".try-proposal")
    assert (frames.count(), used.get_attribute("aria-valuetext")) == (32, "200")
    stage.press(drawn, "End")
    assert frames.count() == 200 == stage.page.evaluate("tryIt.found.regions.length")
    stage.press(score, "Home")
    stage.press(overlap, "End")
    doubles = stage.agrees(Detector.load("tiny", nms_thr=0.95), 0.05), len(stage.found()["kept"])
    stage.press(overlap, *["ArrowLeft"] * 13)
    assert float(overlap.input_value()) == pytest.approx(0.3)
    stage.agrees(Detector.load("tiny", nms_thr=0.3), 0.05)
    all_found = stage.found()
    assert len(all_found["kept"]) < doubles[1]
    assert stage.root.locator(".touch-frame.dropped").count() == len(all_found["before"]) - len(all_found["kept"])
    stage.press(score, *["ArrowRight"] * 17)
    stage.agrees(Detector.load("tiny", nms_thr=0.3), float(score.input_value()))
    assert len(stage.found()["kept"]) < len(all_found["kept"])
    stage.press(drawn, "Home", "ArrowRight")
    assert frames.count() == 2 and stage.root.locator(".try-regions li").count() == 6
    stage.press(used, "Home")
    assert frames.count() == 1 and stage.root.locator(".try-regions li").count() == 1
    assert drawn.get_attribute("aria-valuetext") == "all 1"
    assert stage.root.get_by_role("img", name="proposals: the best 1 over the scene").count() == 1
    assert len(stage.found()["kept"]) <= 1


def test_a_scene_is_composed_by_mouse_and_by_keyboard(visit, detector):
    stage = Stage(visit())
    assert [stage.glyph(n)[0] for n in range(4)] == STARTED
    pizza, before = stage.glyphs.nth(1), stage.glyph(1)
    scale = stage.root.locator(".try-scene canvas").evaluate("one => one.width / one.clientWidth")
    stage.drag(pizza.locator(".face"), 30, 40)
    assert stage.glyph(1)[1:3] == pytest.approx([before[1] + 30 * scale, before[2] + 40 * scale], abs=1.1)
    stage.press(pizza, "ArrowLeft", "ArrowUp", "Shift+ArrowUp", "Shift+ArrowRight")
    moved = stage.glyph(1)
    assert moved[3:] == [84, 20] and moved[1] == pytest.approx(before[1] + 30 * scale - 4, abs=1.1)
    stage.drag(stage.root.locator(".try-scene .spot"), 25, 25)
    assert stage.glyph(1)[3] > 90
    stage.agrees(detector, 0.5)
    for name, check in (
        ("smaller", lambda old, new: new[3] < old[3]),
        ("larger", lambda old, new: new[3] > old[3]),
        ("turn left", lambda old, new: new[4] == old[4] - 10),
        ("turn right", lambda old, new: new[4] == old[4] + 10),
    ):
        old = stage.glyph(1)
        stage.root.get_by_role("button", name=name, exact=True).click()
        assert check(old, stage.glyph(1)), name
    stage.root.get_by_role("button", name="to the front").click()
    assert stage.glyph(3)[0] == "pizza"
    stage.press(stage.glyphs.nth(0), "Delete")
    assert stage.glyphs.count() == 3 and stage.agrees(detector, 0.5)
    assert "elephant" not in stage.root.locator(".try-left .touch-readings b").last.text_content()


def test_glyphs_come_by_click_by_mouse_and_by_arrow_keys(visit, detector):
    stage = Stage(visit())
    banana = stage.root.get_by_role("button", name="add: banana")
    banana.click()
    stage.root.get_by_role("button", name="add: banana").click()
    places = np.array([stage.glyph(n)[1:3] for n in range(6)])
    gaps = np.hypot(*(places[:, None] - places).transpose(2, 0, 1))[np.triu_indices(6, 1)]
    assert [stage.glyph(n)[0] for n in (4, 5)] == ["banana"] * 2 and gaps.min() > 40
    stage.root.get_by_role("button", name="remove", exact=True).click()
    stage.root.get_by_role("button", name="remove", exact=True).click()
    banana.scroll_into_view_if_needed()
    start, scene = banana.bounding_box(), stage.root.locator(".try-scene canvas").bounding_box()
    x, y = start["x"] + start["width"] / 2, start["y"] + start["height"] / 2
    stage.drag(banana, scene["x"] + scene["width"] / 4 - x, scene["y"] + scene["height"] * 0.75 - y)
    assert stage.glyph(4)[:3] == ["banana", 80, 180]
    stage.drag(banana, 60, 3)  # dropped beside the scene
    stage.page.mouse.move(x, y)
    stage.page.mouse.down(button="right")
    stage.page.mouse.up(button="right")
    stage.page.mouse.move(x + 60, y)
    assert stage.glyphs.count() == 5 and stage.page.locator(".try-ghost").count() == 0
    stage.press(stage.root.locator(".try-glyphs button").first, "ArrowRight", "ArrowRight", "Enter")
    assert stage.glyph(5)[0] == "car"
    assert stage.agrees(detector, 0.5)
    stage.root.get_by_role("button", name="things it does not know").click()
    assert not banana.is_visible()
    first = stage.root.locator(".try-glyphs button:visible").first
    stage.press(first, "ArrowDown")
    above, below = first.bounding_box(), stage.root.locator(".try-glyphs button:focus").bounding_box()
    assert below["x"] == above["x"] and above["height"] < below["y"] - above["y"] < 1.5 * above["height"]
    stage.root.get_by_role("button", name="start again").click()
    stage.found()
    assert [stage.glyph(n)[0] for n in range(stage.glyphs.count())] == STARTED


def test_limits_and_nothing_chosen(visit):
    stage = Stage(visit())
    larger, smaller = (stage.root.get_by_role("button", name=name) for name in ("larger", "smaller"))
    for button, other, side in ((larger, smaller, 320), (smaller, larger, 16)):
        while button.is_enabled():
            button.click()
        assert stage.glyph(3)[3] == side and other.is_enabled()
    stage.root.locator(".try-scene svg").click(position={"x": 5, "y": 5})
    assert larger.is_disabled() and not stage.root.locator(".try-scene .spot").is_visible()


def test_a_thing_that_has_the_focus_can_be_moved_when_none_is_chosen(visit):
    stage = Stage(visit())
    touch = "new PointerEvent('pointerdown', {isPrimary: true})"
    deselect = f"document.querySelector('.try-scene svg').dispatchEvent({touch})"
    stage.drag(stage.glyphs.nth(1).locator(".face"), 10, 10)
    stage.page.evaluate(deselect)
    before = stage.glyph(1)
    stage.drag(stage.glyphs.nth(1).locator(".face"), 20, 0)
    assert stage.glyph(1)[1] > before[1]
    stage.page.evaluate(deselect)
    stage.press(stage.glyphs.nth(1), "ArrowDown")
    assert stage.glyph(1)[2] == before[2] + 4
    stage.page.evaluate(deselect)
    stage.press(stage.glyphs.nth(1), "Delete")
    assert [stage.glyph(n)[0] for n in range(3)] == ["elephant", "teddy bear", "robot face"]


def test_the_keyboard_keeps_its_place(visit):
    stage = Stage(visit())
    picture, label = stage.page.get_by_label("picture"), "document.activeElement.ariaLabel"
    for background in ("1", "2", "3"):
        stage.page.keyboard.press("ArrowDown") if background != "1" else stage.press(picture, "ArrowDown")
        stage.found()
        assert picture.input_value() == background
    assert [stage.glyph(n)[0] for n in range(4)] == STARTED
    stage.press(stage.root.get_by_role("button", name="add: cake"), "Enter")
    assert stage.page.evaluate(label) == "add: cake"
    front = stage.root.get_by_role("button", name="to the front")
    stage.press(stage.glyphs.nth(0), "ArrowUp")
    stage.press(front, "Enter")
    assert front.evaluate("one => one === document.activeElement")
    stage.press(stage.glyphs.nth(0), "Delete")
    assert stage.page.evaluate(label).startswith("elephant: x ")


def test_the_handle_is_never_cut_off(visit):
    stage = Stage(visit())
    larger, spot = stage.root.get_by_role("button", name="larger"), stage.root.locator(".try-scene .dot")
    stage.press(stage.glyphs.nth(1), *["ArrowRight"] * 30)
    scene = stage.root.locator(".try-scene svg").bounding_box()
    while larger.is_enabled():
        dot = spot.bounding_box()
        assert dot["x"] > scene["x"] - 1 and dot["x"] + dot["width"] < scene["x"] + scene["width"] + 1
        assert dot["y"] > scene["y"] - 1 and dot["y"] + dot["height"] < scene["y"] + scene["height"] + 1
        larger.click()


def test_it_answers_while_the_hand_moves(visit):
    """Moves that never rest: the scene is another each time that the detector could begin."""
    stage = Stage(visit())
    answers = """async () => {
        const hand = document.querySelector(".try-scene [role=application]"), shown = new Set([tryIt.found])
        for (let move = 0; move < 2000 && shown.size < 4; move++) {
            hand.dispatchEvent(new KeyboardEvent("keydown", {key: move % 2 ? "ArrowLeft" : "ArrowRight"}))
            await new Promise((resolve) => setTimeout(resolve, 20))
            shown.add(tryIt.found)
        }
        return shown.size
    }"""
    stage.press(stage.glyphs.nth(0), "ArrowUp")
    assert stage.page.evaluate(answers) == 4


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1280, 900), (390, 844)])
def test_scene_and_palette_are_seen_together(visit, width, height):
    stage = Stage(visit(width=width, height=height))
    stage.root.get_by_role("button", name="things it does not know").click()
    glyphs, scene = stage.root.locator(".try-glyphs:visible"), stage.root.locator(".try-scene")
    glyphs.evaluate("one => one.scrollIntoView({block: 'end', behavior: 'instant'})")
    below, above = glyphs.bounding_box(), scene.bounding_box()
    assert above["y"] >= 40 and above["y"] + above["height"] < below["y"] and below["y"] + below["height"] < height + 1
    stage.root.locator(".try-stage").nth(2).evaluate(
        "one => one.scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    assert 40 <= scene.bounding_box()["y"] < 100


def test_what_the_page_says_of_scene_62(visit):
    stage = Stage(visit())
    text = stage.page.get_by_text("Choose scene 62").text_content()
    stage.page.get_by_label("picture").select_option(label=stage.root.get_by_text("scene 62:").text_content())
    score, overlap = stage.page.get_by_label("lowest score"), stage.page.get_by_label("largest overlap")
    counts = [stage.found()["kept"]]
    stage.press(score, *["ArrowLeft"] * 6)
    counts.append(stage.found()["kept"])
    stage.press(score, *["ArrowRight"] * 6)
    stage.press(overlap, *["ArrowRight"] * 6)
    counts.append(stage.found()["kept"])
    assert (score.input_value(), overlap.input_value()) == ("0.5", "0.8")
    tags, labels = stage.root.locator(".touch-tag").all_text_contents(), [row[1] for row in counts[-1]]
    names = Detector.load("tiny").names
    assert tags[::-1] == [f"{names[label]} {score:.2f}" for score, label, *_ in counts[-1]]  # the best above the others
    expected = [names[n] + f" ×{labels.count(n)}" * (labels.count(n) > 1) for n in dict.fromkeys(labels)]
    assert stage.root.locator(".try-left .touch-readings b").last.text_content() == ", ".join(expected)
    assert stage.root.locator(".touch-goal").count() == 7 and "seven things" in text
    assert list(map(len, counts)) == [12, 18, 19] and re.search("twelve boxes.* 18 .* 19,", text, re.DOTALL)


def test_words_lead_to_the_glossary(visit):
    stage = Stage(visit())
    links = stage.root.locator("a[href^='glossary']")
    glossary = (test_site.SITE / "book/glossary.html").read_text(encoding="utf-8")
    anchors = {link.partition("#")[2] for link in links.evaluate_all("all => all.map(one => one.getAttribute('href'))")}
    assert len(anchors) >= 6 and all(f'id="{anchor}"' in glossary for anchor in anchors)


def test_a_finger_adds_a_glyph_and_moves_it_and_not_the_page(visit, detector):
    stage = Stage(visit(width=390, has_touch=True))
    stage.root.get_by_role("button", name="add: cake").tap()
    face, before = stage.glyphs.nth(4).locator(".face"), stage.glyph(4)
    face.scroll_into_view_if_needed()
    scrolled, place = stage.page.evaluate("scrollY"), face.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    hand = stage.page.context.new_cdp_session(stage.page)
    ways = ("touchStart", 0, 0), ("touchMove", 20, -15), ("touchMove", 40, -30), ("touchEnd", None, None)
    for kind, dx, dy in ways:
        points = [] if dx is None else [{"x": x + dx, "y": y + dy}]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    scale = stage.root.locator(".try-scene canvas").evaluate("one => one.width / one.clientWidth")
    expected = [before[1] + 40 * scale, before[2] - 30 * scale]
    assert stage.glyph(4)[1:3] == pytest.approx(expected, abs=1.1)
    assert stage.page.evaluate("scrollY") == scrolled
    assert stage.agrees(detector, 0.5)


def test_a_validation_scene_is_shown_as_it_is(visit, detector):
    stage = Stage(visit())
    scene = json.loads((FILES.parent / "data.json").read_text())["scenes"][3]
    stage.page.get_by_label("picture").select_option(label=scene["name"])
    stage.agrees(detector, 0.5)
    np.testing.assert_array_equal(stage.picture(), Image.open(FILES.parent / scene["file"]).convert("RGB"))
    assert stage.glyphs.count() == 0 and stage.root.locator(".touch-goal").count() == len(scene["boxes"])
    assert stage.root.get_by_text("The white dotted boxes are the truth").is_visible()


def test_a_picture_is_dropped(visit, detector):
    stage, file = Stage(visit()), io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 500, 3), np.uint8)).save(file, "PNG")
    drop = """([text, name, type]) => {
        const data = new DataTransfer()
        data.items.add(new File([Uint8Array.from(atob(text), one => one.charCodeAt(0))], name, {type}))
        document.querySelector(".try-scene").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}))
    }"""
    stage.page.evaluate(drop, [base64.b64encode(file.getvalue()).decode(), "noise.png", "image/png"])
    assert stage.found()["size"] == [500, 300]
    np.testing.assert_array_equal(stage.picture(), Image.open(file))
    stage.agrees(detector, 0.5)
    stage.page.evaluate(drop, [base64.b64encode(b"no picture").decode(), "words.png", "image/png"])
    stage.found()
    assert "words.png is no picture" in stage.root.locator(".try-complaint").text_content()
    assert stage.found()["size"] == [500, 300]
    picture = stage.page.get_by_label("picture")
    assert picture.locator("option:checked").text_content() == "your own"
    picture.select_option(index=0)
    assert stage.found()["size"] == [320, 240] and not stage.root.locator(".try-complaint").text_content()
    picture.select_option(label="your own")
    assert stage.found()["size"] == [500, 300]
    file = io.BytesIO()
    Image.new("RGB", (60, 400)).save(file, "PNG")
    stage.page.evaluate(drop, [base64.b64encode(file.getvalue()).decode(), "tall.png", "image/png"])
    assert stage.found()["size"] == [60, 400]
    assert stage.root.locator(".try-stack").evaluate_all("all => Math.max(...all.map(one => one.clientHeight))") <= 630


def test_each_picture_keeps_what_is_put_on_it(visit):
    stage = Stage(visit())
    picture, places = stage.page.get_by_label("picture"), [stage.glyph(n) for n in range(4)]
    picture.select_option(index=8)
    stage.root.get_by_role("button", name="add: cake").click()
    assert stage.glyphs.count() == 1
    picture.select_option(index=2)
    assert stage.found() and [stage.glyph(n) for n in range(stage.glyphs.count())] == places
    picture.select_option(index=8)
    assert stage.found() and stage.glyph(0)[0] == "cake" and stage.glyphs.count() == 1
    stage.press(stage.page.get_by_label("lowest score"), "Home")
    stage.root.get_by_role("button", name="start again").click()
    assert stage.found() and [stage.glyph(n) for n in range(stage.glyphs.count())] == places
    assert stage.page.get_by_label("lowest score").input_value() == "0.5"
    picture.select_option(index=8)
    assert stage.found() and stage.glyphs.count() == 0


def test_a_picture_with_transparency_lies_on_white_and_keeps_no_trail(visit):
    stage, file = Stage(visit()), io.BytesIO()
    Image.new("RGBA", (300, 200), (200, 0, 0, 0)).save(file, "PNG")
    picture = {"name": "clear.png", "mimeType": "image/png", "buffer": file.getvalue()}
    stage.page.locator("input[type=file]").set_input_files(picture)
    assert stage.found()["size"] == [300, 200] and stage.picture().getextrema() == ((255, 255),) * 3
    stage.root.get_by_role("button", name="add: cake").click()
    stage.press(stage.glyphs.first, *["ArrowRight"] * 9, "Delete")
    assert stage.picture().getextrema() == ((255, 255),) * 3


def test_the_last_picture_that_is_asked_for_is_shown(visit):
    stage = Stage(visit())
    scenes, held = json.loads((FILES.parent / "data.json").read_text())["scenes"], []
    picture = stage.page.get_by_label("picture")
    stage.page.route(f"**/{scenes[2]['file']}", lambda route: held.append(route))
    picture.select_option(label=scenes[2]["name"])
    picture.select_option(label=scenes[5]["name"])
    stage.found()
    with stage.page.expect_response(f"**/{scenes[2]['file']}"):
        held[0].continue_()
    stage.found()
    np.testing.assert_array_equal(stage.picture(), Image.open(FILES.parent / scenes[5]["file"]).convert("RGB"))
    assert picture.locator("option:checked").text_content() == scenes[5]["name"]


def test_what_goes_wrong_later_is_said(server, browser, visit):
    visit()
    page = browser.new_page()
    page.goto(f"{server}/book/try_it.html")
    stage, complaint = Stage(page), page.locator(".try-complaint")
    picture = page.get_by_label("picture")
    page.route("**/background-3.jpg", lambda route: route.abort())
    picture.select_option(label="background 3")
    stage.found()
    assert "“background 3” did not arrive" in complaint.text_content() and picture.input_value() == "0"
    page.evaluate(FAIL)
    stage.press(stage.glyphs.first, "ArrowLeft")
    stage.found()
    assert "has not answered" in complaint.text_content() and "no memory" in complaint.text_content()
    page.evaluate(MEND)
    stage.press(stage.glyphs.first, "ArrowLeft")
    stage.found()
    assert not complaint.text_content()
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_and_every_control_has_a_name(visit, theme):
    page = visit(theme, width=390)
    stage = Stage(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    stops = stage.root.locator(":is(button, input, select, [tabindex='0'])")
    assert stops.count() > 20
    page.emulate_media(media="print")
    assert page.locator("#fig-try-it").is_visible() and not stage.root.is_visible()
    page.emulate_media(media="screen")
    unnamed = "all => all.filter(one => !(one.ariaLabel || one.labels?.[0]?.innerText || one.innerText)).length"
    assert stops.evaluate_all(unnamed) == 0


def test_a_load_that_fails_can_be_tried_again(server, browser, visit):
    visit()
    page = browser.new_page()
    page.route("**/data.json", lambda route: route.abort())
    page.goto(f"{server}/book/try_it.html")
    page.get_by_role("button", name=re.compile("Load the detector")).click()
    again = page.get_by_role("button", name="Try again")
    again.wait_for()
    assert page.locator(".try-message").text_content().startswith("A part of the detector did not arrive.")
    page.unroute("**/data.json")
    again.click()
    page.locator("#fig-try-it.live").wait_for(state="attached")
    assert not page.locator(".try-message").text_content() and again.count() == 0
    page.close()


def test_where_it_cannot_run_it_says_so_and_leaves_nothing_behind(server, browser, visit):
    visit()
    page = browser.new_page()
    page.goto(f"{server}/book/try_it.html")
    page.evaluate(FAIL)
    page.get_by_role("button", name=re.compile("Load the detector")).click()
    page.get_by_text("The detector cannot run in this browser: no memory").wait_for()
    assert page.locator("#detector > div, #detector progress").count() == 0
    page.evaluate(MEND)
    page.get_by_role("button", name="Try again").click()
    page.locator("#fig-try-it.live").wait_for(state="attached")
    assert page.locator(".try-stages").count() == 1
    page.close()


def test_without_webassembly_it_says_so(server, browser, visit):
    visit()
    page = browser.new_page()
    page.add_init_script("delete window.WebAssembly")
    page.goto(f"{server}/book/try_it.html")
    page.get_by_text("The detector needs WebAssembly").wait_for()
    assert page.locator(".try-load").count() == 0 and page.locator("#fig-try-it").is_visible()
    page.close()


def test_from_the_disk_it_says_how_to_serve_it(browser, visit):
    visit()
    page = browser.new_page()
    page.goto((test_site.SITE / "book/try_it.html").as_uri())
    page.get_by_text("python -m http.server").wait_for()
    assert page.locator(".try-load").count() == 0 and page.locator("#fig-try-it").is_visible()
    page.close()


def test_without_scripts_it_is_words_and_a_picture(server, browser, pages):
    page = browser.new_page(java_script_enabled=False)
    page.goto(f"{server}/book/try_it.html")
    assert page.locator("#fig-try-it img").is_visible() and not page.locator("#detector:visible").count()
    assert ("<noscript><p>The detector runs by JavaScript" in pages["book/try_it"].html) == FILES.exists()
    page.close()


def test_its_scripts_are_short():
    scripts = sorted((test_site.ROOT / "book/_static/try").glob("*.js"))
    for path in scripts:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 150 and max(map(len, lines)) <= 120, path.name
    assert len(scripts) == 11
