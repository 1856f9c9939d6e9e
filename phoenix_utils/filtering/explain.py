"""Why a row was kept or rejected, in words: what `phoenix filter --explain` prints."""

import json

from phoenix_utils import artifacts, tables
from phoenix_utils.errors import PhoenixError, printable
from phoenix_utils.filtering.rules import findings, parts
from phoenix_utils.filtering.settings import RULES, FilteringSettings, stage_inputs
from phoenix_utils.profile import build_settings


def explain(run_dir: str, prompt_id: str, width: int = 300) -> str:
    """The verdict about a row of a finished filtering, with each finding beside the texts that it is about.

    A kept row is judged again, for what the rules that are switched off say about it; those that need the whole corpus
    (duplicates, thresholds of scores) and the length in tokens are left out then.

    Raises PhoenixError where the run has no filtering, or no row of that id.
    """
    folder = artifacts.stage_path(run_dir, "filtering")
    if not (folder / "rejected.parquet").is_file():
        raise PhoenixError(f"{folder} has no rejected.parquet: filter the run first, with `phoenix filtering`")
    stored = artifacts.read_manifest(folder / "manifest.json")["settings"]
    settings = build_settings(FilteringSettings, {**stored, "run_dir": str(run_dir)}, "filtering.")
    found = []
    for row in tables.read_rows(folder / "rejected.parquet"):
        if row["prompt_id"] == prompt_id:
            found.append(_rejected(row, width))
    gone = {text.split()[0] for text in found}
    for kind, path in stage_inputs(settings).items():
        for row in tables.read_rows(path):
            if row["prompt_id"] == prompt_id and kind not in gone:
                found.append(_kept(kind, row, settings, width))
    if not found:
        raise PhoenixError(f"{run_dir} has no translated row of the id {prompt_id!r}: ids stand in rejected.parquet")
    return printable("\n\n".join(found))


def _rejected(row: dict, width: int) -> str:
    whole, lines = json.loads(row["row"]), [f"{row['kind']} {row['prompt_id']}: rejected by {', '.join(row['rules'])}"]
    for finding in row["findings"]:
        lines += _finding(finding, whole, width)
    return "\n".join(lines)


def _kept(kind: str, row: dict, settings: FilteringSettings, width: int) -> str:
    off = [vars(each) for each in findings(row, settings, lambda messages: 0) if each.rule in settings.skip_rules]
    lines = [f"{kind} {row['prompt_id']}: kept, since no rule that is on found anything"]
    lines += ["switched off, and so without effect:"] if off else []
    for finding in off:
        lines += _finding(finding, row, width)
    return "\n".join(lines)


def _finding(finding: dict, row: dict, width: int) -> list[str]:
    """A finding in lines: the rule, what it means, what it saw, and the texts that it saw it in."""
    lines = [f"  {finding['rule']} ({RULES[finding['rule']]})", f"    part {finding['part']}: {finding['detail']}"]
    texts = {part: (source, text) for part, source, text in parts(row)}
    for name, text in zip(("source", "translation"), texts.get(finding["part"], ()), strict=False):
        flat = " ".join((text or "").split())
        lines.append(f"    {name}: {flat if len(flat) <= width else flat[:width] + ' …'}")
    return lines
