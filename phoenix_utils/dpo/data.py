"""Preference pairs as TRL reads them: a prompt, and two answers to it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset

from phoenix_utils import artifacts, chat, tables
from phoenix_utils.batches import held_out_count
from phoenix_utils.errors import PhoenixError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PAIRS = pa.schema([("prompt", _MESSAGES), ("chosen", _MESSAGES), ("rejected", _MESSAGES)])


def read_pairs(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of `preferences.parquet` as `prompt_id` and three lists of messages: prompt, chosen, rejected.

    In the file both sides repeat the prompt; here the prompt is what stands before the answer, and each side
    is the answer alone. Raises PhoenixError, with the row's id, for a pair that says nothing about a
    preference.
    """
    for row in tables.read_rows(path):
        chosen, rejected = (
            [{"role": m["role"], "content": m["content"]} for m in row[side]] for side in ("chosen", "rejected")
        )
        _check(row["prompt_id"], chosen, rejected)
        yield {
            "prompt_id": row["prompt_id"],
            "prompt": chosen[:-1],
            "chosen": chosen[-1:],
            "rejected": rejected[-1:],
        }


def _check(prompt_id: str, chosen: list[dict], rejected: list[dict]) -> None:
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if len(side) < 2 or side[-1]["role"] != "assistant" or not side[-1]["content"].strip():
            raise PhoenixError(f"row {prompt_id!r}: its {name} side is no prompt with an answer after it; drop the row")
    if chosen[-1]["content"] == rejected[-1]["content"]:
        raise PhoenixError(f"row {prompt_id!r}: chosen equals rejected, which prefers nothing; drop the row")
    if chosen[:-1] != rejected[:-1]:
        raise PhoenixError(f"row {prompt_id!r}: the two sides answer different prompts; drop the row")


def prepare(
    pairs: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, file: Path
) -> tuple[Dataset, int]:
    """Write the pairs that fit into a memory-mapped Arrow `file`, longest first.

    Returns the dataset and how many pairs were too long: a cut answer has another log-probability than the whole one,
    so the comparison would be of two beginnings. Similar lengths beside each other spare the reference's pass over the
    data its padding. A file that exists is used again: TRL keeps reference log-probabilities beside it, which are found
    again only if the file has not changed. Raises PhoenixError where no pair fits.
    """
    count_file = file.with_suffix(".json")
    if file.is_file() and count_file.is_file():
        return Dataset.from_file(str(file)), artifacts.read_json(count_file)["too_long"]
    kept, too_long, full_prompts = [], 0, 0
    for pair in pairs:
        sides = [len(chat.loss_mask(tokenizer, pair["prompt"] + pair[side])[0]) for side in ("chosen", "rejected")]
        if max(sides) > max_length:
            too_long += 1
            text = chat.render(tokenizer, pair["prompt"], add_generation_prompt=True)
            full_prompts += len(tokenizer(text, add_special_tokens=False)["input_ids"]) >= max_length
            continue
        messages = {name: chat.escape_messages(tokenizer, pair[name]) for name in PAIRS.names}
        kept.append((max(sides), messages))
    if not kept:
        full = f" (the prompt alone fills the limit in {full_prompts} of them)" if full_prompts else ""
        raise PhoenixError(
            f"none of the {too_long} pairs has at most {max_length} tokens{full}; raise max_length"
            if too_long
            else "there are no preference pairs to train on; look at the filtering stage"
        )
    kept.sort(key=lambda item: -item[0])
    with artifacts.write_atomic(file) as partial, pa.OSFile(str(partial), "wb") as sink:
        with pa.ipc.new_stream(sink, PAIRS) as writer:
            for start in range(0, len(kept), 1000):
                rows = [messages for _, messages in kept[start : start + 1000]]
                writer.write_batch(pa.RecordBatch.from_pylist(rows, PAIRS))
    artifacts.write_json(count_file, {"too_long": too_long})
    return Dataset.from_file(str(file)), too_long


def set_aside(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """The pairs to train on and those that are only measured (none where `share` is 0), both still longest first.

    Raises PhoenixError where that leaves nothing on one side.
    """
    if not share:
        return dataset, None
    count = held_out_count(len(dataset), share, "pairs")
    chosen = set(random.Random(seed).sample(range(len(dataset)), count))
    return tuple(
        dataset.select([row for row in range(len(dataset)) if (row in chosen) == aside]) for aside in (False, True)
    )


def save_tokens(dataset: Dataset, file: Path) -> None:
    """Write the token columns of a prepared dataset to `file`, and drop what `datasets` has kept beside it."""
    dataset = dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    tables_of_rows = dataset.with_format("arrow").iter(batch_size=1000)
    first = next(tables_of_rows)
    with artifacts.write_atomic(file) as partial, pa.OSFile(str(partial), "wb") as sink:
        with pa.ipc.new_stream(sink, first.schema.remove_metadata()) as writer:
            for table in chain([first], tables_of_rows):
                writer.write_table(table.replace_schema_metadata(None))
    for path in file.parent.glob("cache-*.arrow"):
        path.unlink()
