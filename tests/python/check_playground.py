"""Uses the playground of a server in headless Chromium, as a person would.

    python -m venv venv && venv/bin/pip install playwright      (1.65.2, with Debian's chromium)
    EMBERLM_API_KEY=secret emberlm serve RUN --port 8000 &
    venv/bin/python tests/python/check_playground.py http://127.0.0.1:8000 secret --shots shots

In light and dark, on a screen and at the width of a phone: enters the key, generates by keyboard,
walks over the tokens, stops a text, goes on with it, and selects another model before the first is
known. Nothing may be wider than the screen, nothing may be asked of anybody else, and the console
must stay empty. Screenshots go to a folder.
"""

import argparse
import pathlib

from playwright.sync_api import sync_playwright

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("key", nargs="?")
parser.add_argument("--chromium", default="/usr/bin/chromium")
parser.add_argument("--prompt", default="Once upon a time, Anna")
parser.add_argument("--shots", type=pathlib.Path)
args = parser.parse_args()
url = args.url.rstrip("/")

# What is told of a model that was left meanwhile, and that it cannot be told, comes last; the name
# that is shown then.
SELECT_TWICE = """async () => {
  const usual = window.fetch, left = { ...about, id: "left" };
  let answer;
  window.fetch = (path, options) => path === "/api/models/left"
    ? new Promise(resolve => { answer = resolve; }) : usual(path, options);
  for (const late of [new Response(JSON.stringify(left)), new Response("{}", { status: 503 })]) {
    const slow = show("left");
    await show($("model").value);
    answer(late);
    await slow;
  }
  window.fetch = usual;
  return about.id;
}"""

SCREENS = {"screen": (1200, 900), "phone": (375, 812)}


def check(page, name):
    page.goto(url + "/")
    if args.key:
        page.wait_for_selector("#door:not([hidden])")
        page.keyboard.type(args.key)
        page.keyboard.press("Enter")
    page.wait_for_selector("#room:not([hidden])")
    page.wait_for_selector("#curves *", state="attached")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.fill("#prompt", args.prompt)
    page.fill("#max_tokens", "120")
    page.fill("#seed", "4")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#pace:not(:empty)")
    text = page.inner_text("#answer")
    assert text.startswith(args.prompt) and len(text) > len(args.prompt), text
    page.focus("#answer")
    for key in ["ArrowDown", "ArrowRight", "ArrowLeft", "ArrowLeft"]:
        page.keyboard.press(key)
    assert page.locator(".chosen").count() == 1
    shares = [float(it.strip("<%")) for it in page.locator(".percent").all_inner_texts()]
    assert len(shares) >= 5 and sum(shares) <= 101, shares
    page.locator(".token").nth(3).hover()
    assert page.locator(".token").nth(3).get_attribute("class") == "token chosen"
    page.locator("#curves").hover()
    assert "step" in page.inner_text("#point")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == page.viewport_size["width"], f"{width} wide"
    if args.shots:
        page.screenshot(path=args.shots / f"{name}.png", full_page=True)

    # The same seed writes the same; another prompt goes on from there.
    page.click("#go")
    page.wait_for_selector("#pace:not(:empty)")
    assert page.inner_text("#answer") == text
    page.click("#on")
    assert page.input_value("#prompt") == text

    # A long text is stopped by a key, and its place is free.
    page.fill("#max_tokens", "4000")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".token")
    page.keyboard.press("Escape")
    page.wait_for_selector("#pace:not(:empty)")
    assert page.inner_text("#pace").endswith("stopped")
    assert page.is_disabled("#stop") and page.inner_text("#error") == ""
    page.fill("#max_tokens", "5")

    assert page.evaluate(SELECT_TWICE) == page.input_value("#model")


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
            page.on("request", lambda it: it.url.startswith(url) or outside.append(it.url))
            check(page, f"{screen}-{scheme}")
            assert not problems and not outside, (problems, outside)
            context.close()
            print(f"{screen}, {scheme}: as it should be")
    browser.close()
