"""What Jupyter Book leaves to be done on its pages: drawings for the dark, and no scripts for running cells.

The drawings are SVG in one style (`phoenix_utils/plots.py`), so that a dark version is the same file with a few colours
exchanged. The colours of the data stay: each has a contrast of 3 or more on both papers.
"""

import re
from pathlib import Path

# On the left the colours of `plots._STYLE` and of flow.svg; dark paper is the theme's own.
PAPER, INK = "#121212", "#e6e6e6"
EXCHANGED = {
    "#ffffff": PAPER,
    "#222222": INK,
    "#000000": INK,
    "#e3e3e3": "#3a3a3a",  # grid
    "#888888": "#8c8c8c",  # axes
    "#f7f5f0": "#1c1c1c",  # flow.svg: panel, its border, products, arrows
    "#d8d3c8": "#3a3a3a",
    "#ece8df": "#303030",
    "#4a5560": "#9aa5b0",
}
IMAGE = re.compile(r'<img(?P<rest>[^>]*?\ssrc="(?P<src>[^"]*_images/[^"]+)\.svg"[^>]*?)\s*/?>')
KEPT = "open-in-colab"
# Until a reader has chosen light or dark, the theme calls its own empty default an error.
UNDECIDED = ('localStorage.getItem("mode") || "";', 'localStorage.getItem("mode") || "auto";')
# The theme and Jupyter Book each put the same script there, which is an error in the browser, and it would fetch more.
LIVE_CODE = re.compile(r"<script>const THEBE_JS_URL.*?</script>|<script[^>]*sphinx-thebe\.js[^>]*></script>", re.S)


def darken(svg: str) -> str:
    """The drawing on dark paper."""
    return re.sub(r"#[0-9a-fA-F]{6}\b", lambda found: EXCHANGED.get(found[0].lower(), found[0]), svg)


def finish_pages(html: Path) -> int:
    """Write a dark copy of each drawing of the built book and have its pages show it in the dark; how many."""
    drawings = [path for path in (html / "_images").glob("*.svg") if path.stem != KEPT]
    for path in drawings:
        path.with_name(f"{path.stem}.dark.svg").write_text(darken(path.read_text(encoding="utf-8")), encoding="utf-8")
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = LIVE_CODE.sub("", text).replace(*UNDECIDED)
        page.write_text(IMAGE.sub(_both, text), encoding="utf-8")
    return len(drawings)


def _both(found: re.Match) -> str:
    if found["src"].endswith(KEPT):
        return found[0]
    tags = []
    for theme, source in (("light", f"{found['src']}.svg"), ("dark", f"{found['src']}.dark.svg")):
        rest = found["rest"].replace(f"{found['src']}.svg", source)
        kind = f"only-{theme}"
        rest = rest.replace('class="', f'class="{kind} ') if 'class="' in rest else f' class="{kind}"{rest}'
        tags.append(f"<img{rest} />")
    return f'<span class="drawing">{"".join(tags)}</span>'
