"""The two cards of a release, written from the manifests of the run: nothing in them is typed by hand."""

from __future__ import annotations

import json
import os.path
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from phoenix_utils import __version__, embedded, models, tables
from phoenix_utils.alma import language_name
from phoenix_utils.artifacts import read_json, stage_path
from phoenix_utils.evaluation.report import BETTER, pair_title, title
from phoenix_utils.evaluation.scores import METRICS, Metric
from phoenix_utils.gate import Part, Source
from phoenix_utils.paths import expanded
from phoenix_utils.translation import cost

TERMS = "GEMMA_TERMS.txt"
MODEL, DATA = "A language model", "A data set"
EMBEDDED_ON_THE_HUB = "google/gemma-3-270m"
VOCABULARY = {
    "trimmed": (
        "This model has {tokens:,} tokens: those of its base that the languages {languages} use, and the bytes. It is "
        "the model that was trained and measured. Texts in these languages are cut as by the base; all others still "
        "work, in more and smaller pieces."
    ),
    "full": (
        "The run worked with a part of the base's tokens. Here all {tokens:,} are back. The vectors of those that had "
        "been trimmed away are the base's, as published; training never touched them. The others are the run's. The "
        "measurements below were made before, on the trimmed model: this one may now and then choose a token that "
        "could not be chosen there."
    ),
    "own": "The vocabulary is that of the base, {tokens:,} tokens; nothing was trimmed.",
}
# What ends so is a path, though the file may be out of reach from where the card is written.
_DATA_FILES = (".jsonl", ".json", ".csv", ".parquet", ".tsv", ".txt", ".gz")
# What the cards say elsewhere, and what decides nothing about the result.
_NOT_SHOWN = (
    "language",
    "source_language",
    "model",
    "save_steps",
    "logging_steps",
    "report_to",
    "gradient_checkpointing",
)


def model_card(source: Source, parts: Sequence[Part], name: str, model: dict[str, Any]) -> str:
    """The model's README.md.

    `model` tells what was built: "vocabulary" (a key of VOCABULARY), "tokens" (their number), "stop" and "dtype".
    """
    from huggingface_hub import ModelCardData

    settings, trained = source.settings, source.manifests["sft"]["settings"]
    base, gemma = settings["model"], any(part.terms.hub_id == "gemma" and part.rows is None for part in parts)
    language = language_name(settings["language"])
    in_it = [part.terms for part in parts]
    data = ModelCardData(
        language=settings["language"],
        license=_license(parts),
        base_model=_on_the_hub(base),
        pipeline_tag="text-generation",
        library_name="transformers",
        base_model_relation="finetune",
        tags=["phoenix", *(["sft", "dpo"] if source.stage == "dpo" else ["sft"])],
    )
    return _render(
        "model_card.md.j2",
        card_data=data.to_yaml(),
        name=name,
        base=_named(base),
        language=language,
        steps="supervised fine-tuning" + (" and direct preference optimization" if source.stage == "dpo" else ""),
        phoenix=__version__,
        greeting=_greeting(source),
        stop=model["stop"],
        lineage=_lineage(source),
        weights=_weights(trained["method"], trained.get("lora_r"), model["dtype"]),
        vocabulary=VOCABULARY[model["vocabulary"]].format(
            tokens=model["tokens"],
            languages=" and ".join(language_name(settings[key]) for key in ("source_language", "language")),
        ),
        parts=parts,
        commercial=all(terms.commercial for terms in in_it),
        gemma=gemma,
        terms=TERMS,
        limits=_model_limits(source, base, language),
        settings={stage: _settings(source, stage) for stage in source.stages if stage in ("sft", "dpo")},
        **_measured(source),
        **_costs(source),
    )


def dataset_card(source: Source, parts: Sequence[Part], name: str) -> str:
    """The data set's README.md."""
    from huggingface_hub import DatasetCardData

    settings, summary = source.settings, read_json(stage_path(str(source.run_dir), "filtering") / "summary.json")
    kinds, of_rows = list(source.tables), [part for part in parts if part.rows is not None]
    translator = source.manifests["translation"]["settings"]["model"]
    rows = sum(part.rows or 0 for part in of_rows)
    data = DatasetCardData(
        language=settings["language"],
        license=sorted({part.terms.hub_id for part in of_rows}),
        size_categories=_size(rows),
        task_categories=["text-generation"],
        configs=[{"config_name": kind, "data_files": f"{kind}.parquet"} for kind in kinds],
    )
    rules = {rule: [summary[kind]["rules"].get(rule, 0) for kind in kinds] for rule in summary[kinds[0]]["rules"]}
    return _render(
        "dataset_card.md.j2",
        card_data=data.to_yaml(),
        name=name,
        phoenix=__version__,
        source_language=language_name(settings["source_language"]),
        language=language_name(settings["language"]),
        translator=_named(translator),
        how=source.manifests["translation"]["notes"].get("translator", ""),
        kinds=kinds,
        counts=[
            {"kind": kind, "use": {"chat": "SFT", "preferences": "DPO"}[kind]}
            | {key: f"{summary[kind][key]:,}" for key in ("rows_in", "kept", "rejected")}
            for kind in kinds
        ],
        rules=[{"rule": f"`{rule}`", "values": counts} for rule, counts in rules.items() if any(counts)],
        skipped=sorted({f"`{rule}`" for kind in kinds for rule in summary[kind].get("skipped", {})}),
        parts=[*(part for part in parts if "translator" in part.what), *of_rows],
        gemma=embedded.is_embedded(translator) or "gemma" in translator.lower(),
        limits=[
            "Translated by a machine and filtered by rules: what no rule sees is still in it.",
            "What the sources leave out or get wrong is left out and wrong here too.",
        ],
        settings={stage: _settings(source, stage) for stage in ("translation", "filtering")},
    )


def notice(source: Source, parts: Sequence[Part], what: str) -> str:
    """The NOTICE file: what was changed, and the words that a licence wants to go along."""
    made_of = "\n".join(f"- {part.what}: {part.license}; it asks to {part.terms.asks}" for part in parts)
    lines = [f"{what}, made with Phoenix {__version__}. It is made of:", "", made_of, ""]
    gemma = [part for part in parts if part.terms.hub_id == "gemma"]
    if gemma:
        is_base = what == MODEL and parts[0] in gemma
        changed = "The weights were modified: by training, and as README.md says under Vocabulary. " if is_base else ""
        lines += [
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
            "",
            f"{changed}Use is restricted by section 3.2 of those terms and by the Gemma Prohibited Use Policy found at "
            "ai.google.dev/gemma/prohibited_use_policy.",
            "",
        ]
    return "\n".join(lines)


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(template).render(values)


def _license(parts: Sequence[Part]) -> str:
    """The base model's licence, or "other" where what went in asks for more than it does."""
    more = any(not part.terms.commercial or "-sa-" in part.terms.hub_id for part in parts[1:])
    return "other" if more else parts[0].terms.hub_id


def _named(model: str) -> str:
    """A model in a sentence."""
    if embedded.is_embedded(model):
        return "Gemma 3 270M (base; its numbers come from a 4-bit file)"
    return models.public_name(model)


def _on_the_hub(model: str) -> str | None:
    if embedded.is_embedded(model):
        return EMBEDDED_ON_THE_HUB
    return None if expanded(model).exists() else model


def _public(value: Any) -> Any:
    """A setting as it may be shown to others: a path without its folders."""
    if isinstance(value, str):
        place = value.startswith(("/", "~", ".")) or value.lower().endswith(_DATA_FILES) or os.path.exists(value)
        return Path(value).name if place else value
    return ", ".join(str(_public(item)) for item in value) if isinstance(value, list) else value


def _settings(source: Source, stage: str) -> dict[str, Any]:
    values = source.manifests[stage]["settings"]
    return {
        key: _public(value) for key, value in values.items() if key not in _NOT_SHOWN and value not in (None, [], "")
    }


def _greeting(source: Source) -> str:
    """A short question in the language, as a Python string: the shortest that the model was trained on."""
    firsts = [row["messages"][0]["content"] for row in tables.read_rows(source.tables["chat"])]
    asked = [text for text in firsts if text.endswith("?")]
    return json.dumps(min(asked or firsts, key=len), ensure_ascii=False)


def _lineage(source: Source) -> list[dict[str, str]]:
    """One row for each step and kind of rows."""
    found, kinds = [], list(source.tables)
    by_step = {stage: source.manifests[stage]["counts"] for stage in source.stages}
    translator = source.manifests["translation"]["settings"]
    for kind in kinds:
        kept = by_step["filtering"]
        read = f"{kind} of {_public(translator[kind])}, by {_named(translator['model'])}"
        found += [("translation", read, "", kept[f"{kind}_in"])]
        found += [("filtering", kind, kept[f"{kind}_in"], kept[f"{kind}_out"])]
    for stage, name in (("sft", "rows"), ("dpo", "pairs")):
        if stage in source.stages:
            method = source.manifests[stage]["settings"]["method"]
            found += [(stage.upper(), f"{method}, {by_step[stage]['steps']} steps", by_step[stage][name], "")]
    shown = [(step, what, *(f"{n:,}" if n != "" else "" for n in rows)) for step, what, *rows in found]
    return [dict(zip(("step", "what", "rows_in", "rows_out"), row, strict=True)) for row in shown]


def _weights(method: str, rank: int | None, dtype: str) -> str:
    if method == "full":
        return f"All weights were trained. They are stored as {dtype}."
    rounded = " in its 4-bit form, which was turned back into ordinary numbers," if method == "qlora" else ""
    return f"Trained was a LoRA adapter of rank {rank} on the base{rounded} and then added into it. Stored as {dtype}."


def _shown(cell: dict[str, Any], metric: Metric) -> str:
    """A value with its interval."""
    scale, digits, unit = (100, 1, " %") if metric.share else (1, metric.digits, "")
    if cell["value"] is None:
        return "n/a"
    value = f"{scale * cell['value']:.{digits}f}{unit}"
    if cell["low"] is None:  # one unit has no interval
        return value
    low, high = (f"{scale * cell[key]:.{digits}f}" for key in ("low", "high"))
    return f"{value} [{low}, {high}]"


def _measured(source: Source) -> dict[str, Any]:
    """Scores, differences and benchmarks of this run's models."""
    scores, stored = (read_json(source.evaluation / f"{name}.json") for name in ("scores", "differences"))
    models = [name for name in ("base", "sft", "dpo") if name in scores]
    decoding = source.manifests["evaluation"]["settings"]
    how = "greedy decoding" if not decoding["temperature"] else f"temperature {decoding['temperature']}"
    return {
        "models": [title(name) for name in models],
        "decoding": f"{how}, repetition penalty {decoding['repetition_penalty']} (which spares the stop token)",
        "results": [
            {
                "title": metric.title,
                "better": BETTER[metric.better].replace(" is better", ""),
                "values": [_shown(scores[model][name], metric) for model in models],
                "n": scores[source.stage][name]["n"],
            }
            for name, metric in METRICS.items()
            if name in scores[source.stage]
        ],
        "differences": [
            f"{pair_title(pair, scores)}: {_difference(found)}"
            for pair, found in stored["paired"].items()
            if all(name in models for name in pair.split("-"))
        ],
        "harness": _harness(source.evaluation / "harness.jsonl", models),
        "not_run": stored.get("not_run", []),
    }


def _difference(found: dict[str, dict[str, Any]]) -> str:
    """The measures whose paired interval leaves zero out, and how many do not."""
    found = {name: cell for name, cell in found.items() if cell["low"] is not None}
    clear = {name: cell for name, cell in found.items() if name in METRICS and (cell["low"] > 0 or cell["high"] < 0)}
    told = "; ".join(f"{METRICS[name].title} {_shown(cell, METRICS[name])}" for name, cell in clear.items())
    left = f"{len(found) - len(clear)} of {len(found)} measures show no difference in this run"
    return f"{told}; {left}." if told else f"{left}."


def _harness(path: Path, models: Sequence[str]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, bool], dict[str, dict]] = defaultdict(dict)
    for row in tables.read_lines(path) if path.is_file() else ():
        rows[row["title"], row["chat_template"]][row["model"]] = row
    share = Metric("", "high", "", share=True)
    return [
        {
            "title": f"{name} (n {next(iter(found.values()))['n']})",
            "prompt": "chat template" if template else "plain",
            "values": [_shown(found[model], share) if model in found else "–" for model in models],
            "chance": f"{next(iter(found.values()))['chance']:.0%}",
        }
        for (name, template), found in rows.items()
    ]


def _model_limits(source: Source, base: str, language: str) -> list[str]:
    prompts = source.manifests["evaluation"]["counts"]["prompts"]
    limits = [
        f"Measured on {prompts} prompts: only large differences show; what no table names was not measured.",
        f"Trained on machine-translated data: its {language} has the translator's mistakes.",
        "No training for safety: nothing keeps it from false, harmful or one-sided answers. Do not put it before "
        "people who have not been told.",
    ]
    if embedded.is_embedded(base):
        limits.append(
            "A model of 0.27 B parameters knows little and states it firmly. It is made for learning how such models "
            "are trained, not for answers that anybody relies on."
        )
    return limits


def _costs(source: Source) -> dict[str, Any]:
    """Minutes and memory of each stage, and what follows from them where that can be told."""
    minutes = {stage: manifest["seconds"] / 60 for stage, manifest in source.manifests.items()}
    rows = [
        {
            "stage": stage,
            "minutes": f"{minutes[stage]:.1f}",
            "memory": source.manifests[stage].get("peak_memory_gb") or "–",
        }
        for stage in source.stages
    ]
    machine = source.manifests[source.stage].get("machine", {})
    total = sum(minutes.values())
    told = f"{total:.1f} minutes in all, with {machine.get('cores', 'an unknown number of')} CPU cores."
    if str(source.manifests[source.stage]["notes"].get("dtype_reason", "")).startswith("CPU"):
        euros = total / 60 * cost.power_price(cost.HOST_WATTS)
        told += (
            f" At an assumed {cost.HOST_WATTS:.0f} W and {cost.EUROS_PER_KWH:.2f} EUR per kWh that is "
            f"{euros:.3f} EUR of electricity."
        )
    else:
        told += " A rented GPU costs its price per hour for that time; the run did not note which one it was."
    return {"costs": rows, "cost": told}


def _size(rows: int) -> str:
    """The hub's name for a number of rows."""
    steps = {"n<1K": 1_000, "1K<n<10K": 10_000, "10K<n<100K": 100_000, "100K<n<1M": 1_000_000, "1M<n<10M": 10_000_000}
    return next((name for name, most in steps.items() if rows < most), "10M<n<100M")
