"""Texts that a translation must not break: those of all corpora, generated Markdown, sentences with protected parts."""

import gzip
import json
import random
import re
from pathlib import Path

from phoenix_utils import corpora

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"


def all_texts() -> list[str]:
    """Every text of the packaged corpora and of ../shared/data."""
    texts = []

    def collect(value) -> None:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            for each in value.values():
                collect(each)
        elif isinstance(value, list):
            for each in value:
                collect(each)

    for path in sorted((ROOT / "phoenix_utils" / "data").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            collect(json.loads(line))
    if SHARED.is_dir():
        for line in (SHARED / "self_instruct" / "seed_tasks.jsonl").read_text(encoding="utf-8").splitlines():
            collect(json.loads(line))
        collect(json.loads((SHARED / "rasbt_preference" / "instruction-data-with-preference.json").read_text("utf-8")))
        with gzip.open(SHARED / "libreoffice_help" / "en_de_pairs.tsv.gz", "rt", encoding="utf-8") as file:
            for line in file:
                texts += line.rstrip("\n").split("\t")[3:5]
    return texts


LINES = [
    "# Title `x`", "- a *b* c", "  1. one", "> quoted **text**", "```py", "```", "~~~", "| a | b |", "|---|:-:|",
    "| `x|y` | $z$ |", "$$", "\\[", "\\]", "\\begin{align}", "\\end{align}", "    indented", "\tdeep", "<div>",
    "</div>", "<!-- a", "-->", '[a](b) ![c](d "e")', "[x]: http://a.b", "A sentence. Another one! " * 9,
    "{name} %s ${A} {{b}}", "me@a.example, https://a.example.", "***both*** __u__ ~~s~~", "word\\", "- [ ] task",
    "***", "Title\n=====", "", "", "日本語の文です。もう一つ。", "مرحبا بالعالم",
]  # fmt: skip


def generated_documents(count: int) -> list[str]:
    """Markdown documents as hypothesis makes them up: every construct, nested, broken and next to each other."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    line = st.one_of(
        st.text(max_size=60),
        st.sampled_from(LINES),
    )
    document = st.builds(
        lambda lines, ends: "".join(text + end for text, end in zip(lines, ends, strict=False)),
        st.lists(line, max_size=20),
        st.lists(st.sampled_from(["\n", "\n", "\n\n", "\r\n", "\r", ""]), min_size=20, max_size=20),
    )
    found: list[str] = []

    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), derandomize=True,
    )  # fmt: skip
    @given(document)
    def gather(text: str) -> None:
        found.append(text)

    gather()
    return found[:count]


CODE = ["`pip install rich`", "`x = a[0]`", "`SELECT * FROM t`", "`git rebase -i`", "`len(words)`", "`/etc/hosts`"]
FORMULAS = ["$a^2 + b^2 = c^2$", "$\\frac{n}{2}$", "\\(x_i \\le 5\\)", "$\\alpha$", "$f(x) = 3x$"]
LINKS = ["https://example.org/a/b?c=d", "www.example.com", "help@example.org", "https://example.com/x_(y)"]
PLACEHOLDERS = ["{name}", "{{ user.id }}", "%s", "%(count)d", "$HOME", "${TOKEN}", "{0}"]
BLOCKS = [
    "```python\ndef area(r):\n    return 3.14 * r ** 2  # not exact\n```",
    "```\nplain output, not a sentence\n```",
    "$$\n\\sum_{i=1}^{n} i = \\frac{n(n+1)}{2}\n$$",
    "    make install\n    make test",
    "<table>\n<tr><td></td></tr>\n</table>",
]


def documents_with_protected_text(count: int) -> list[tuple[str, list[str]]]:
    """(document, what must stand in its translation too): sentences of the measuring pairs with insertions."""
    rng = random.Random(7)
    sentences = [row["source_text"] for row in corpora.sentence_pairs("en", "de")]
    sentences = [text for text in sentences if not re.search(r"[`$\\{<|*\[%\n]|https?:|@", text) and len(text) < 200]
    made = []
    for number in range(count):
        lines, kept = [], []
        for kind in (CODE, FORMULAS, LINKS, PLACEHOLDERS):
            words = rng.choice(sentences).split(" ")
            span = rng.choice(kind)
            words.insert(rng.randrange(1, len(words)) if len(words) > 1 else 1, span)
            lines.append(" ".join(words))
            kept.append(span)
        address = f"(https://example.org/page/{number})"
        lines.append(f"- [{rng.choice(sentences).rstrip('.?!')}]{address}: **{rng.choice(sentences)}**")
        cells = [rng.choice(sentences), rng.choice(CODE), rng.choice(sentences), str(number)]
        lines.append(f"| {cells[0]} | {cells[1]} |\n|---|---|\n| {cells[2]} | {cells[3]} |")
        block = rng.choice(BLOCKS)
        lines.append(block)
        rng.shuffle(lines)
        if block.startswith("    "):  # behind a list item, four spaces are a paragraph of the item and no code
            lines.remove(block)
            lines.insert(0, block)
        made.append(("\n\n".join(lines), [*kept, address, cells[1], "|---|---|", "**", block]))
    return made
