"""Uses the page of `emberlm inspect --attention` in headless Chromium, as a person would.

    python -m venv venv && venv/bin/pip install playwright      (1.65.2, with Debian's chromium)
    emberlm inspect RUN --attention "Anna had a red ball." --out attention.html
    venv/bin/python tests/python/check_inspect.py attention.html --shots shots

and for a translator, whose encoder reads other tokens than its decoder, also with a long --target.

In light and dark, on a screen and at the width of a phone: clicks a head and a token, walks from
token to token and from head to head by keyboard, through every layer, points at a number, goes back
by the address. The
numbers of every head are recomputed in the page: rows of weights must sum to one, and the weights
times the values must be what the model gave. Nothing may be wider than the screen, nothing may be
asked of anybody, and the console must stay empty. Screenshots go to a folder.
"""

import argparse
import pathlib

from playwright.sync_api import sync_playwright

parser = argparse.ArgumentParser()
parser.add_argument("page", type=pathlib.Path)
parser.add_argument("--chromium", default="/usr/bin/chromium")
parser.add_argument("--shots", type=pathlib.Path)
args = parser.parse_args()
url = args.page.resolve().as_uri()

SCREENS = {"screen": (1200, 900), "phone": (375, 812)}

# Of all layers: how far rows are from one, and weights times values from what the model gave.
RECOMPUTE = """() => {
  let sums = 0, values = 0, outputs = 0;
  for (const layer of layers) {
    for (const head of layer.heads) for (let i = 0; i < layer.queries; i += 1) {
      const row = head.weights.row(i);
      sums = Math.max(sums, Math.abs(row.reduce((sum, x) => sum + x, 0) - 1));
      for (let k = 0; k < layer.headDim; k += 1) {
        let sum = 0;
        for (let j = 0; j < layer.keys; j += 1) sum += row[j] * head.value.row(j)[k];
        values = Math.max(values, Math.abs(sum - head.attended.row(i)[k]));
      }
    }
    for (let i = 0; i < layer.output.values.length; i += 1) {
      let sum = layer.bias.values[i % layer.width];
      for (const head of layer.heads) sum += head.contribution.values[i];
      outputs = Math.max(outputs, Math.abs(sum - layer.output.values[i]));
    }
  }
  return [sums, values, outputs, layers.length, layers[0].heads.length, own.length];
}"""


def heading(page):
    return page.evaluate("[at.layer, at.head, at.place]")


def check(page, name):
    page.goto(url)
    sums, values, outputs, layers, heads, tokens = page.evaluate(RECOMPUTE)
    assert sums < 1e-5 and values < 1e-4 and outputs < 1e-4, (sums, values, outputs)
    titles = [it.split(". ")[1] for it in page.locator(".step h3").all_inner_texts()]
    for title in ["Q, K, V", "QKᵀ", "Scaled", "Masked", "Softmax", "Times V", "Projection"]:
        assert title in titles, titles
    assert page.locator("#tokens button").count() == tokens

    # By mouse: the last head of the last layer, the first token.
    last = page.locator(".layer").last.locator("button").last
    last.click()
    page.locator("#tokens button").first.click()
    assert heading(page) == [layers - 1, heads - 1, 0]
    tokens = page.evaluate("own.length")
    assert last.get_attribute("aria-checked") == "true"
    assert page.locator("[aria-checked=true]").count() == 2
    assert page.locator("td.bar").count() >= 1

    # By keyboard: to the next token, which a cell of a map also chooses.
    page.keyboard.press("ArrowRight")
    assert heading(page)[2] == min(1, tokens - 1)
    page.keyboard.press("End")
    assert heading(page)[2] == tokens - 1
    assert page.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"
    page.locator(".layer").last.locator("button[aria-checked=true]").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert heading(page)[:2] == [max(0, layers - 2), max(0, heads - 2)], heading(page)

    # A number under the pointer, and a row that is clicked.
    weights = page.locator("canvas[aria-label^=weights]").first
    weights.scroll_into_view_if_needed()
    box = weights.bounding_box()
    corner = (box["x"] + box["width"] - 3, box["y"] + box["height"] - 3)
    page.mouse.move(*corner)
    tip = page.inner_text("#tip")
    assert tip.startswith(f"{tokens - 1} ") and tip.endswith("%"), tip
    page.mouse.click(*corner)
    assert heading(page)[2] == tokens - 1
    page.mouse.move(1, 1)
    assert page.is_hidden("#tip")

    # Through all layers, each time from the last token: what looks and what is looked at are its own.
    facts = page.evaluate("facts.layers")
    for number, facts_of_layer in [*enumerate(facts), *reversed([*enumerate(facts)])]:
        page.locator("#tokens button").last.click()
        page.locator(".layer").nth(number).locator("button").first.click()
        buttons = page.locator("#tokens button")
        assert buttons.count() == facts_of_layer["queries"], facts_of_layer["path"]
        side = "source" if facts_of_layer["ofSource"] else "tokens"
        assert page.evaluate(f"own.join() === facts.{side}.map(shown).join()")
        assert heading(page)[2] < facts_of_layer["queries"]
        assert page.locator("#tokens [aria-checked=true]").count() == 1
        side = "source" if facts_of_layer["ofSource"] or facts_of_layer["cross"] else "tokens"
        keys = page.evaluate(f"facts.{side}.map((text, place) => place + ' ' + shown(text))")
        assert facts_of_layer["keys"] == len(keys)
        for named in page.locator("td:has(code)").all_text_contents():
            assert named in keys, (named, facts_of_layer["path"])

    # The address brings back what was looked at.
    layer, head, place = heading(page)
    page.reload()
    assert heading(page) == [layer, head, place]
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == page.viewport_size["width"], f"{width} wide"
    if args.shots:
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=args.shots / f"{name}.png", full_page=True)
    page.goto(url + "#layer=99&head=-1&token=x")
    page.reload()
    assert heading(page)[:2] == [0, 0]


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
            page.on("request", lambda it: it.url.startswith(("file:", "data:")) or outside.append(it.url))
            check(page, f"{screen}-{scheme}")
            assert not problems and not outside, (problems, outside)
            context.close()
            print(f"{screen}, {scheme}: as it should be")
    browser.close()
