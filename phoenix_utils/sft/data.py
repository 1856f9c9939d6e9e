"""Conversations in, token ids and labels out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset

from phoenix_utils import artifacts, chat, tables
from phoenix_utils.batches import IGNORED
from phoenix_utils.errors import PhoenixError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


def read_conversations(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of `chat.parquet`, messages reduced to role and content."""
    for row in tables.read_rows(path):
        messages = [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
        yield {"prompt_id": row["prompt_id"], "messages": messages}


def token_counts(tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, Any]]) -> list[tuple[int, int]]:
    """(all tokens, trained tokens) of each conversation."""
    masks = (chat.loss_mask(tokenizer, row["messages"])[1] for row in rows)
    return [(len(mask), sum(mask)) for mask in masks]


def tokenize(
    rows: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, file: Path
) -> tuple[Dataset, int]:
    """Tokenise conversations into a memory-mapped Arrow `file`; also returns how many were too long.

    Labels equal the ids where the assistant speaks and `IGNORED` elsewhere, so TRL has nothing left to
    decide. A conversation longer than `max_length` is left out whole: cut off, it would teach answers that
    never end. Raises PhoenixError, with the row's id, for a conversation without an answer, and where none is
    short enough.
    """
    kept = too_long = 0
    with artifacts.write_atomic(file) as partial, pa.OSFile(str(partial), "wb") as sink:
        with pa.ipc.new_stream(sink, TOKENS) as writer:
            for row in rows:
                ids, mask = _encode(tokenizer, row)
                if len(ids) > max_length:
                    too_long += 1
                    continue
                labels = [token if bit else IGNORED for token, bit in zip(ids, mask, strict=True)]
                writer.write_batch(pa.RecordBatch.from_pylist([{"input_ids": ids, "labels": labels}], TOKENS))
                kept += 1
    if not kept:
        raise PhoenixError(
            f"none of the {too_long} conversations has at most {max_length} tokens; raise max_length"
            if too_long
            else "there are no conversations to train on; look at the filtering stage"
        )
    return Dataset.from_file(str(file)), too_long


def _encode(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    try:
        return chat.loss_mask(tokenizer, row["messages"])
    except PhoenixError as error:
        raise PhoenixError(f"row {row['prompt_id']!r}: {error}") from None
