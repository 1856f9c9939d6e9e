"""Settings and profiles: one pydantic model a stage, one YAML file a run.

A profile names the values that all stages share at its top (`language`, `model`, `seed`, …) and then has one
section a stage. A section may override a shared value: the translator is `translation.model`. The defaults of
every settings model are the values of the `mini` profile, so a notebook that is opened and run as it is does
what `mini` does.
"""

from __future__ import annotations

import difflib
import html
import math
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from phoenix_utils import secrecy
from phoenix_utils.errors import PhoenixError
from phoenix_utils.html_table import html_table

SHARED_KEYS = ("language", "source_language", "model", "seed")
# How a run is carried out, not what it computes: these never make an earlier result "another run's".
UNHASHED_KEYS = ("run_dir", "redo")
# Characters of a file of settings; the shipped ones have some 10,000.
LONGEST_FILE = 200_000
DEEPEST = 20
# What names a folder: it can neither leave the one above it nor speak to a terminal.
FOLDER_NAME = r"^(?!\.{1,2}$)[\w.-]{1,100}\Z"
# The GPUs whose speed and price `translation/cost.py` has assumptions for.
GpuName = Literal["T4", "L4", "RTX 4090", "L40S", "A100 80GB", "H100 80GB"]


class Strict(BaseModel):
    """Base of everything read from a profile: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    @field_validator("*")
    @classmethod
    def _holds_no_secret(cls, value: Any) -> Any:
        """Settings are written into manifests and notebooks."""
        text = "\n".join(word for word in (value if isinstance(value, list) else [value]) if isinstance(word, str))
        if secrecy.hide(text) != text:
            raise ValueError(
                "it holds a token or a password, and settings are written down: take it out and set HF_TOKEN or "
                "OPENAI_API_KEY in the environment"
            )
        if "\0" in text:
            raise ValueError("it holds a NUL character, which no name and no path can: take it out")
        return value


class StageSettings(Strict):
    """The settings that every stage has; a stage's own model adds its fields."""

    run_dir: str = Field("runs/mini", description="folder of this run; a relative one lies below the project")
    language: str = Field("de", pattern=r"^[a-z]{2,3}$", description="target language, an ISO 639 code")
    source_language: str = Field("en", pattern=r"^[a-z]{2,3}$", description="language of the source data")
    model: str = Field(
        "embedded:gemma-3-270m", min_length=1, description="hub id, local folder, or embedded:gemma-3-270m"
    )
    seed: int = Field(42, ge=0, lt=2**32, description="seed of every random choice in this stage")
    redo: bool = Field(False, description="move results made by other settings aside and start again")

    @classmethod
    def from_namespace(cls, namespace: dict[str, Any]) -> typing.Self:
        """Build the settings from the variables of a notebook's parameters cell (pass `globals()`)."""
        return build_settings(cls, {name: namespace[name] for name in cls.model_fields if name in namespace})

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language."""
        return self.source_language, self.language

    def fingerprint_values(self) -> dict[str, Any]:
        """The values that decide the result; `run_dir` and `redo` do not."""
        return {key: value for key, value in self.model_dump().items() if key not in UNHASHED_KEYS}

    def _repr_html_(self) -> str:
        rows = (
            (
                f"<code>{name}</code>",
                f"<code>{html.escape(repr(getattr(self, name)))}</code>",
                html.escape(field.description or ""),
            )
            for name, field in type(self).model_fields.items()
        )
        return html_table(("setting", "value", "meaning"), rows)


class HardwareNeeds(Strict):
    """The least a profile needs, which `phoenix check` compares with the machine, and what an hour of it costs."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="kind of device the profile is written for")
    gpus: int = Field(0, ge=0, description="number of GPUs")
    gpu_memory_gb: float = Field(0.0, ge=0, description="memory of each GPU in GB")
    ram_gb: float = Field(6.0, ge=0, description="main memory in GB")
    gpu: GpuName | None = Field(None, description="the GPU that `phoenix check` estimates time and cost for")
    price_per_hour: float | None = Field(
        None,
        ge=0,
        description="EUR per hour and GPU, null for an assumed rent; own hardware: watts / 1000 x EUR per kWh",
    )


class Profile(Strict):
    """One run: shared values, what hardware it needs, and the settings of each stage."""

    name: str
    description: str
    hardware: HardwareNeeds
    stages: dict[str, StageSettings]


@dataclass
class Plan:
    """A validated run: the profile's settings with overrides, and which stages to run."""

    profile: Profile
    run_dir: Path
    stages: list[str]
    problems: list[str] = field(default_factory=list)

    def settings(self, stage: str) -> StageSettings:
        """The settings of one stage, run directory included."""
        return self.profile.stages[stage]

    def refuse_problems(self) -> None:
        """Raise PhoenixError where the machine lacks something that the run needs."""
        if self.problems:
            raise PhoenixError(f"profile {self.profile.name!r} cannot run here: it " + "; it ".join(self.problems))


def build_settings(model: type[Strict], values: dict[str, Any], prefix: str = "") -> Any:
    """Validate `values` as `model`; the first problem becomes a PhoenixError that names key, value and remedy."""
    try:
        return model(**values)
    except ValidationError as error:
        raise PhoenixError(_explain(model, error.errors()[0], prefix)) from None


def _explain(model: type[BaseModel], problem: dict[str, Any], prefix: str) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    full, given = f"{prefix}{key}", problem["input"]
    if problem["type"] == "extra_forbidden":
        return (
            f"unknown key {full!r}{_did_you_mean(key, model.model_fields)}; known keys: {', '.join(model.model_fields)}"
        )
    if problem["type"] == "missing":
        return f"{full} is missing; add it to the profile"
    advice = ""
    if isinstance(given, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", given):
        mantissa, exponent = re.split("[eE]", given)
        mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
        advice = f"; YAML reads {given} as text: write {mantissa}e{exponent}"
    elif isinstance(given, bool):
        advice = "; YAML reads no, yes, on and off as true or false: put the value in quotes"
    return f"{full} is {given!r}, a {type(given).__name__}: {problem['msg'][0].lower()}{problem['msg'][1:]}{advice}"


def _did_you_mean(key: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(key[:100], list(known), n=1)  # a longer one is like none
    return f" (did you mean {close[0]!r}?)" if close else ""


def choose(kind: str, given: str, known: typing.Iterable[str]) -> None:
    """Raise a PhoenixError unless `given` is one of `known`; `kind` names it in the sentence."""
    known = list(known)
    if given not in known:
        raise PhoenixError(f"unknown {kind} {given!r}{_did_you_mean(given, known)}; known: {', '.join(known)}")


def parse_override(model: type[Strict], key: str, text: str, prefix: str = "") -> Any:
    """Read the text of `--set stage.key=text` as the type that the setting has.

    Unlike YAML, `2e-4` is a number here and `no` stays a language code, since the type is known.
    """
    choose("key", f"{prefix}{key}", [f"{prefix}{name}" for name in model.model_fields])
    annotation = model.model_fields[key].annotation
    if text.lower() in ("none", "null") and type(None) in typing.get_args(annotation):
        return None
    is_list = typing.get_origin(annotation) is list
    given = [part.strip() for part in text.strip("[]").split(",") if part.strip()] if is_list else text
    try:
        value = TypeAdapter(annotation).validate_python(given, strict=False)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise PhoenixError(f"{prefix}{key} is {text!r}: {message[0].lower()}{message[1:]}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise PhoenixError(f"{prefix}{key} is {text!r}: a finite number is wanted")
    return value


def find_profile(name: str, folders: list[Path]) -> Path:
    """The file of a profile given by name (`mini`) or by path (`my.yaml`)."""
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise PhoenixError(f"the profile file {name!r} does not exist; give its path, or the name of a shipped profile")
    shipped = {path.stem: path for folder in folders for path in shipped_profiles(folder)}
    choose("profile", name, shipped)
    return shipped[name]


def shipped_profiles(folder: Path) -> list[Path]:
    """The profiles of a folder; `adapt_*.yaml` are settings of a translator's training instead."""
    return sorted(path for path in folder.glob("*.yaml") if not path.stem.startswith("adapt_"))


def load_settings(path: Path | None, model: type[StageSettings], overrides: dict[str, str]) -> Any:
    """Settings of one stage from a flat YAML file (None: the defaults) with the texts of `--set`.

    Raises PhoenixError for a missing file and anything unknown or of the wrong type in it.
    """
    if path is not None and not path.is_file():
        raise PhoenixError(f"the settings file {str(path)!r} does not exist; give the path of a .yaml file")
    values = read_yaml(path) if path else {}
    texts = {key: parse_override(model, key, text) for key, text in overrides.items()}
    return build_settings(model, {**{str(key): value for key, value in values.items()}, **texts})


def load_profile(
    path: Path, models: dict[str, type[StageSettings]], overrides: dict[str, dict[str, str]] | None = None
) -> Profile:
    """Read a profile file into validated settings for every stage in `models`.

    `overrides` holds the texts of `--set`, as {stage: {key: text}}. Raises PhoenixError for anything unknown,
    missing or of the wrong type, naming the key as it is written in the file.
    """
    data = read_yaml(path)
    choose_known = ("name", "description", "hardware", *SHARED_KEYS, *models)
    for key in data:
        choose("key", str(key), choose_known)
    shared = {key: data[key] for key in SHARED_KEYS if key in data}
    needs = _read_needs(path, data, overrides)
    stages = {}
    for stage, model in models.items():
        section = data.get(stage)
        section = {} if section is None else section
        if not isinstance(section, dict):
            raise PhoenixError(f"{path.name}: {stage} is {section!r}; a section of settings is wanted")
        values = {
            **shared,
            **section,
            **{
                key: parse_override(model, key, text, f"{stage}.")
                for key, text in (overrides or {}).get(stage, {}).items()
            },
        }
        if "price_per_hour" in model.model_fields and values.get("price_per_hour") is None and needs.price_per_hour:
            values["price_per_hour"] = needs.price_per_hour * max(1, needs.gpus)
        stages[stage] = build_settings(model, values, f"{stage}.")
    name = str(data.get("name", path.stem))
    if not re.match(FOLDER_NAME, name):
        raise PhoenixError(
            f"{path.name}: name is {name!r}; letters, digits, '.', '_' and '-' make the name of a folder"
        )
    description = str(data.get("description", ""))
    return build_settings(Profile, {"name": name, "description": description, "hardware": needs, "stages": stages})


def _read_needs(path: Path, data: dict, overrides: dict[str, dict[str, str]] | None) -> HardwareNeeds:
    needs = data.get("hardware") or {}
    if not isinstance(needs, dict):
        raise PhoenixError(f"{path.name}: hardware is {needs!r}; a section of settings is wanted")
    texts = (overrides or {}).get("hardware", {})
    needs = {**needs, **{key: parse_override(HardwareNeeds, key, text, "hardware.") for key, text in texts.items()}}
    return build_settings(HardwareNeeds, needs, "hardware.")


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file; raises PhoenixError where it is damaged, empty or no set of keys."""
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > LONGEST_FILE:
            raise PhoenixError(f"{path} has {len(text):,} characters; settings need fewer than {LONGEST_FILE:,}")
        _refuse_bombs(path, text)
        _refuse_repeats(path, yaml.compose(text, yaml.SafeLoader))
        data = yaml.safe_load(text)
    # Beside its own errors, PyYAML lets through what its constructors raise: "2001-99-99", "!!timestamp x".
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise PhoenixError(f"{path} is not valid YAML{line}; mend the file") from None
    if not isinstance(data, dict) or not data:
        raise PhoenixError(f"{path} is empty or not a set of keys; copy a shipped profile and change it")
    return data


def _refuse_repeats(path: Path, node: yaml.Node | None) -> None:
    """Raise PhoenixError for a key that stands twice in one section: YAML would keep the last and say nothing."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise PhoenixError(
                    f"{path} has {key.value!r} again at line {key.start_mark.line + 1}: keep one of them"
                )
            seen.add(key.value if isinstance(key.value, str) else None)
        children = [value for _, value in node.value]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    for child in children:
        _refuse_repeats(path, child)


def _refuse_bombs(path: Path, text: str) -> None:
    """Raise PhoenixError for YAML that is small and costs much: aliases of aliases, lists in lists in lists."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise PhoenixError(f"{path} repeats a part of itself by an alias (*name): write it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise PhoenixError(
                f"{path} is not valid YAML for settings: more than {DEEPEST} lists or sections in another"
            )
