"""Looks into a page of `emberlm compare --html` in headless Chromium, as a person would.

    python -m venv venv && venv/bin/pip install playwright      (1.65.2, with Debian's chromium)
    emberlm compare one other --html comparison.html
    venv/bin/python tests/python/check_comparison.py comparison.html --shots shots

In light and dark, on a screen and at the width of a phone: plots over every axis, hides a run,
looks closer by dragging, and points at the curves. Nothing may be wider than the screen, nothing may
be asked of anybody, and the console must stay empty. Screenshots go to a folder.
"""

import argparse
import json
import pathlib

from playwright.sync_api import sync_playwright

parser = argparse.ArgumentParser()
parser.add_argument("page", type=pathlib.Path)
parser.add_argument("--chromium", default="/usr/bin/chromium")
parser.add_argument("--shots", type=pathlib.Path)
args = parser.parse_args()
url = args.page.resolve().as_uri()

SCREENS = {"screen": (1200, 900), "phone": (375, 812)}


def check(page, name):
    page.goto(url)
    report = json.loads(page.text_content("#data"))
    runs = [run["name"] for run in report["runs"]]
    page.wait_for_selector("#plot canvas")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == page.viewport_size["width"], f"{width} wide"
    if args.shots:
        page.screenshot(path=args.shots / f"{name}.png", full_page=True)

    # Rounded to seconds before they are minutes.
    times = page.evaluate("[59.94, 59.96, 119.7, 3599.6].map(lasting)")
    assert times == ["59.9 s", "1 min 0 s", "2 min 0 s", "1 h 0 min"], times

    # What the tables say is what the data say.
    head = page.locator("#results thead th").all_inner_texts()
    assert head[1:] == runs, head
    row = page.locator("#results tr", has_text="best validation loss").first
    if row.count():
        cells = row.locator("td").all_inner_texts()
        losses = [run["summary"] and f"{run['summary']['best_val_loss']:.4f}" for run in report["runs"]]
        assert cells == [loss or "" for loss in losses], cells
    # Nobody is the best by tokens that are cut otherwise, or of another text.
    marked = set(page.locator("#results tr:has(.best) th").all_inner_texts())
    of_training = {it for it in marked if not it.startswith("measured: ")}
    if not report["same_task"]:
        assert not marked, marked
    if not report["same_tokenizer"]:
        assert marked <= {"measured: bits a byte"}, marked
    if not report["same_validation"]:
        assert not of_training, marked
    if not report["same_text"]:
        assert marked <= of_training, marked
    if not (report["same_tokenizer"] or report["whole"]):
        assert not marked, marked
    same_loss = all(report[f"same_{what}"] for what in ["task", "tokenizer", "validation"])
    if same_loss and row.count() and sum(map(bool, losses)) > 1:
        assert "best validation loss" in marked, marked
    keys = page.locator("#differences tbody th").all_inner_texts()
    assert keys == [difference["key"] for difference in report["differences"]], keys
    assert page.locator(".text").count() == sum(
        text is not None for written in report["texts"] for text in written["texts"]
    )

    # Every axis and quantity, by keyboard.
    for axis in ["tokens", "flops", "seconds", "step"]:
        page.select_option("#x", axis)
        page.wait_for_selector("#plot canvas")
    page.select_option("#y", "perplexity")
    page.focus("#logx")
    page.keyboard.press("Space")
    page.focus("#logy")
    page.keyboard.press("Space")
    page.wait_for_selector("#plot canvas")
    page.locator("#plot .u-over").hover()
    assert all(run in page.inner_text("#point") for run in runs), page.inner_text("#point")
    first = page.locator("#legend button").first
    first.click()
    assert first.get_attribute("aria-pressed") == "false"
    page.locator("#plot .u-over").hover(position={"x": 40, "y": 40})
    assert f"{runs[0]}, validation" not in page.inner_text("#point")
    first.click()

    # Closer, and back.
    box = page.locator("#plot .u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60, steps=4)
    page.mouse.up()
    page.click("#whole")
    page.uncheck("#train")
    page.wait_for_selector("#plot canvas")
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]


with sync_playwright() as playwright:
    if args.shots:
        args.shots.mkdir(parents=True, exist_ok=True)
    browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
    for scheme in ["light", "dark"]:
        for screen, (width, height) in SCREENS.items():
            context = browser.new_context(
                color_scheme=scheme, viewport={"width": width, "height": height}
            )
            page, problems, outside = context.new_page(), [], []
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda it: it.url == url or outside.append(it.url))
            check(page, f"{scheme}-{screen}")
            outside = [it for it in outside if not it.startswith("data:")]
            assert not problems and not outside, (problems, outside)
            context.close()
            print(f"{scheme}, {screen}: well")
    browser.close()
