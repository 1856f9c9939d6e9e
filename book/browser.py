"""Read the built book in a real Chromium as a reader does: `make book-browser`, or `python book/browser.py`.

Every page is opened from its file, without a server, on a desk's and on a telephone's width, light and dark. A finding
is one line: an error in the console, a file of the book that does not load, anything fetched from elsewhere, what
sticks out sideways, a picture without words for those who do not see it, text too faint to read. Then a reader's
four gestures: search, open a solution, copy a code cell, switch to dark.

Playwright (`pip install -e '.[browser]'`) drives a browser that is there already: `$CHROMIUM`, or the first of
chromium, chromium-browser, google-chrome on the path, or the one that `playwright install chromium` fetched.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "book" / "_build" / "html"
WIDTHS = {"desk": (1280, 900), "telephone": (390, 844)}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Boxes that reach beyond the window and that no scrolling parent holds.
STICKS_OUT = """() => {
  const width = document.documentElement.clientWidth, found = [];
  const held = (box) => {
    for (let up = box.parentElement; up && up !== document.body; up = up.parentElement)
      if (getComputedStyle(up).overflowX !== 'visible' && up.getBoundingClientRect().right <= width + 1) return true;
    return false;
  };
  for (const box of document.querySelectorAll('main article *, main > :not(div)')) {
    const seen = box.getBoundingClientRect();
    const name = `<${box.tagName.toLowerCase()} class="${box.getAttribute('class') || ''}">`;
    if (seen.width && seen.right > width + 1 && !held(box)) found.push(`${name} ends at ${seen.right | 0} px`);
  }
  const whole = document.documentElement.scrollWidth;
  if (whole > width + 1) found.push(`the page is ${whole} px wide`);
  return found.slice(0, 3);
}"""

# Pictures whose words are missing or are only the name of a file.
UNDESCRIBED = """() => [...document.images]
  .filter((image) => !image.alt || /\\.(png|svg|jpe?g|webp)$/.test(image.alt))
  .map((image) => image.getAttribute('src').split('/').pop().slice(0, 60))"""

# Contrast as WCAG 2.1 defines it: 4.5 for text, 3 for large text.
FAINT = """() => {
  const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true}), known = new Map();
  const rgba = (colour) => {
    if (!known.has(colour)) {
      const parts = colour.match(/^rgba?\\(([^)]+)\\)$/);
      if (parts) {
        const [r, g, b, a = 1] = parts[1].split(/[ ,/]+/).map(Number);
        known.set(colour, [r, g, b, a]);
      } else {
        pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
        known.set(colour, [r, g, b, a / 255]);
      }
    }
    return known.get(colour);
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const ground = (box) => {
    const layers = [];
    for (let up = box; up; up = up.parentElement) {
      const layer = rgba(getComputedStyle(up).backgroundColor);
      if (layer[3]) layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const box = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || box.closest('script, style, noscript, svg, .headerlink, .visually-hidden, .sr-only')) continue;
    if (!box.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const style = getComputedStyle(box), under = ground(box), ink = rgba(style.color).slice();
    for (let up = box; up; up = up.parentElement) ink[3] *= +getComputedStyle(up).opacity;
    const [a, b] = [light(over(ink, under)), light(under)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5) - 0.005) {
      const name = `<${box.tagName.toLowerCase()} class="${box.getAttribute('class') || ''}">`;
      const what = `${name} ${style.color} on rgb(${under.map(Math.round)}) has ${ratio.toFixed(2)}`;
      if (!found.has(what)) found.set(what, text.slice(0, 30));
    }
  }
  return [...found].map(([what, text]) => `${what}: "${text}"`);
}"""

# Where on this disk the run lies does not belong into a picture.
FOLDERS_ASIDE = """() => document.querySelectorAll('p code')
  .forEach((box) => { box.textContent = box.textContent.replace(/^.*\\/(?=runs\\/)/, ''); })"""


def browser_path() -> str | None:
    """The Chromium to drive; None leaves it to Playwright to use the one it fetched."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def chromium() -> Iterator:
    """A running headless browser; Playwright raises where none is to be found."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path())
        try:
            yield browser
        finally:
            browser.close()


def check_page(page, path: Path, shots: Path | None = None, name: str = "") -> list[str]:
    """What a reader of the page at `path` would stumble over at the width that `page` has."""
    found: list[str] = []

    def on_console(message) -> None:
        if message.type == "error":
            found.append(f"console: {message.text[:200]}")

    def on_request(request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            found.append(f"fetches {request.url}")

    listeners = {
        "console": on_console,
        "pageerror": lambda error: found.append(f"script error: {error}"),
        "request": on_request,
        "requestfailed": lambda request: found.append(f"does not load: {request.url.split('/html/')[-1]}"),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    page.goto(path.as_uri(), wait_until="load")
    page.evaluate("() => window.MathJax?.startup?.promise")
    found += [f"sticks out: {what}" for what in page.evaluate(STICKS_OUT)]
    found += [f"no words for the picture {what}" for what in page.evaluate(UNDESCRIBED)]
    for theme in ("light", "dark"):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        page.wait_for_timeout(50)
        found += [f"faint ({theme}): {what}" for what in page.evaluate(FAINT)]
        if shots:
            page.screenshot(path=shots / f"{name}-{theme}.png", full_page=True, animations="disabled")
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    return found


def check_pages(browser, html: Path, shots: Path | None = None, only: str = "") -> list[str]:
    """The findings on every page below `html`, each with the page and the width it was seen at."""
    found = []
    # `_static` holds a theme's building blocks, which no reader opens; index.html only leads to the first page.
    paths = [path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts]
    paths = [path for path in paths if path != html / "index.html" and re.search(only, str(path.relative_to(html)))]
    for name, (width, height) in WIDTHS.items():
        page = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
        for path in paths:
            place = path.relative_to(html)
            shot = f"{'_'.join(place.with_suffix('').parts)}-{name}"
            found += [f"{place} at {width} px: {line}" for line in check_page(page, path, shots, shot)]
        page.close()
    return found


def check_gestures(browser, html: Path, code: str, solution: str) -> list[str]:
    """A reader's gestures: copy, dark and search on the page `code`, opening a hidden cell on the page `solution`."""
    found = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto((html / f"{code}.html").as_uri())
    cell = page.locator("div.highlight").first
    cell.hover()
    cell.locator("button.copybtn").click()
    page.wait_for_timeout(200)
    copied, shown = page.evaluate("() => navigator.clipboard.readText()"), cell.locator("pre").inner_text()
    if copied.strip() != shown.strip():
        found.append(f"{code}: the copy button copies {copied[:40]!r}, not {shown[:40]!r}")
    for _ in range(3):
        if page.evaluate("() => document.documentElement.dataset.theme") == "dark":
            break
        page.locator("button.theme-switch-button:visible").first.click()
    else:
        found.append(f"{code}: the button for dark does not lead there")
    page.locator("button.search-button__button:visible, button.search-button-field:visible").first.click()
    page.keyboard.type("QLoRA")
    page.keyboard.press("Enter")
    try:
        page.locator("#search-results li a").first.wait_for(timeout=10_000)
    except Exception:
        found.append("search finds no page for QLoRA")
    page.goto((html / f"{solution}.html").as_uri())
    hidden = page.locator("details.hide").last
    before = hidden.locator("pre").first.is_visible()
    hidden.locator("summary").click()
    if before or not hidden.locator("pre").first.is_visible():
        found.append(f"{solution}: the last hidden cell is {'open already' if before else 'not opened by a click'}")
    context.close()
    return found


def take_screens(browser, html: Path, report: Path) -> None:
    """Draw the README's two pictures again: a page of the book, and the report of a run."""
    from PIL import Image

    for name, path in (("book", html / "book/deep/dpo_derivation.html"), ("report", report)):
        page = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="light")
        page.goto(path.resolve().as_uri(), wait_until="load")
        page.evaluate(FOLDERS_ASIDE)
        page.wait_for_timeout(500)
        target = ROOT / "book" / "figures" / f"screen_{name}.png"
        page.screenshot(path=target)
        Image.open(target).convert("RGB").quantize(96).save(target, optimize=True)
        page.close()


def main() -> int:
    """Read the command line, go through the book, print the findings."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--html", type=Path, default=HTML, help="folder of the built book")
    parser.add_argument("--shots", type=Path, help="keep a picture of every page, width and theme in this folder")
    parser.add_argument("--only", default="", help="pages whose path this pattern is found in")
    parser.add_argument("--report", type=Path, help="a run's report.html: draw the README's two pictures and stop")
    arguments = parser.parse_args()
    html = arguments.html.resolve()
    if not (html / "book/welcome.html").is_file():
        print(f"{html} holds no built book: run `make book` first", file=sys.stderr)
        return 2
    if arguments.shots:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        if arguments.report:
            take_screens(browser, html, arguments.report)
            return 0
        found = check_pages(browser, html, arguments.shots, arguments.only)
        if not arguments.only:
            found += check_gestures(browser, html, "book/setup", "notebooks/03_sft")
        print("\n".join([*found, f"{len(found)} findings, {browser.browser_type.name} {browser.version}"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
