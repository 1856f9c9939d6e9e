"""What a translator is trained on: pairs chosen and split by document, as tokens, in batches under a token budget."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from datasets import Dataset
from torch.utils.data import Sampler

from phoenix_utils.alma import flat
from phoenix_utils.batches import IGNORED
from phoenix_utils.errors import PhoenixError
from phoenix_utils.translation import parallel, prompts
from phoenix_utils.translation.adapt_settings import AdaptSettings
from phoenix_utils.translation.parallel import ParallelRow, Rejected

# Rows are sorted by length inside windows of so many, so that batches are even and still random.
WINDOW = 512
PACKAGE = "package:pairs"


class ChosenPairs:
    """The pairs of a run: `instruction` and `other` to train on, `monolingual` texts, `samples` set aside, and
    `held_out` from pages that are only measured; `rejected` holds what was left out."""

    def __init__(self):
        self.instruction: list[ParallelRow] = []
        self.other: list[ParallelRow] = []
        self.monolingual: list[str] = []
        self.samples: list[ParallelRow] = []
        self.held_out: list[ParallelRow] = []
        self.rejected: list[Rejected] = []

    def counts(self) -> dict[str, int]:
        """How many of each, for the manifest."""
        return {name: len(rows) for name, rows in vars(self).items()}


def choose_pairs(settings: AdaptSettings) -> ChosenPairs:
    """Read, clean, split and sample the parallel text of a run; the same settings always choose the same pairs.

    A pair of a training page whose source also stands on a held-out page is left out, so that nothing measured
    was trained on. Raises PhoenixError where a source holds no usable pair, with the first row's fault.
    """
    chosen, rng = ChosenPairs(), random.Random(settings.seed)
    languages = settings.languages
    pool: list[ParallelRow] = []
    for name in settings.pairs:
        kept = 0
        for row in parallel.clean(parallel.read_parallel(name, *languages), *languages):
            if isinstance(row, Rejected):
                chosen.rejected.append(row)
                continue
            kept += 1
            if name == PACKAGE:
                chosen.instruction.append(row)
            else:
                (chosen.held_out if parallel.held_out_page(row.document or row.place) else pool).append(row)
        if not kept:
            reason = chosen.rejected[-1].reason if chosen.rejected else "it is empty"
            raise PhoenixError(f"{name} has no usable pair of {languages[0]} and {languages[1]}: {reason}")
    measured = {_key(row) for row in chosen.held_out}
    repeated = [row for row in pool if _key(row) in measured]
    chosen.rejected += [Rejected(row, "held_out", f"{row.place}: stands on a held-out page too") for row in repeated]
    pool = [row for row in pool if _key(row) not in measured]
    for rows in (pool, chosen.instruction, chosen.held_out):
        rng.shuffle(rows)
    # From what the reader cares about most: the same kind of text as the model will translate.
    chosen.samples = _take(chosen.instruction or pool, settings.sample_pairs)
    chosen.instruction = chosen.instruction[: settings.max_instruction_pairs] if settings.instruction_repeats else []
    chosen.other = _take(pool, settings.max_pairs)
    chosen.monolingual = [row.target_text for row in _take(pool, settings.monolingual_rows)]
    if len(chosen.monolingual) < settings.monolingual_rows:
        raise PhoenixError(
            f"monolingual_rows is {settings.monolingual_rows}, but only {len(chosen.monolingual)} pairs are left "
            "for it beside those trained on; lower it or max_pairs"
        )
    if not chosen.other and not chosen.instruction:
        raise PhoenixError("there are no pairs to train on; raise max_pairs or instruction_repeats")
    return chosen


def _key(row: ParallelRow) -> str:
    return flat(row.source_text).casefold()


def _take(rows: list[ParallelRow], most: int | None) -> list[ParallelRow]:
    """Remove and return the first rows."""
    taken = rows[:most]
    del rows[: len(taken)]
    return taken


def pair_tokens(tokenizer: Any, source_text: str, target_text: str, source: str, target: str) -> tuple[list, list]:
    """Token ids and labels of one pair: ALMA's prompt without loss, the translation and the stop token with it."""
    prompt = tokenizer(prompts.alma(flat(source_text), source, target))["input_ids"]
    answer = tokenizer(" " + flat(target_text), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return prompt + answer, [IGNORED] * len(prompt) + answer


def training_rows(chosen: ChosenPairs, tokenizer: Any, settings: AdaptSettings) -> tuple[Dataset, int, int]:
    """Tokenised rows, monolingual ones first; also how many those are and how many rows were too long.

    Raises PhoenixError where the tokenizer spells the target language in single bytes: the model never learnt it.
    """
    languages = settings.languages
    rows = []
    for text in chosen.monolingual:
        ids = tokenizer(flat(text))["input_ids"] + [tokenizer.eos_token_id]
        rows.append((ids, ids))
    pairs_ = chosen.other + chosen.instruction * settings.instruction_repeats
    rows += [pair_tokens(tokenizer, row.source_text, row.target_text, *languages) for row in pairs_]
    _check_language(tokenizer, [row.target_text for row in pairs_[:100]], settings)
    kept = [len(ids) <= settings.max_length for ids, _ in rows]
    monolingual = sum(kept[: len(chosen.monolingual)])
    too_long = len(rows) - sum(kept)
    rows = [row for row, fits in zip(rows, kept, strict=True) if fits]
    if len(rows) == monolingual:
        raise PhoenixError(f"no pair has at most {settings.max_length} tokens; raise max_length")
    columns = {"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}
    return Dataset.from_dict(columns), monolingual, too_long


def _check_language(tokenizer: Any, texts: list[str], settings: AdaptSettings) -> None:
    tokens = [token for text in texts for token in tokenizer.tokenize(text)]
    spelled = sum(token.startswith("<0x") or token == tokenizer.unk_token for token in tokens)
    if spelled > 0.2 * len(tokens):
        raise PhoenixError(
            f"{settings.model} does not know the language {settings.language!r}: its tokenizer spells "
            f"{spelled / len(tokens):.0%} of the text in single bytes; choose a model that was trained on it"
        )


class TokenBatches(Sampler[list[int]]):
    """Batches of rows of similar length whose tokens, padding included, stay under `batch_tokens`.

    The first `monolingual` rows are seen once, before everything else; then all others, `epochs` times. One pass
    over this sampler is the whole training, and depends on `seed` alone, so a resumed run sees the same batches.
    """

    def __init__(self, lengths: list[int], batch_tokens: int, *, epochs: int, seed: int, monolingual: int = 0):
        rng = random.Random(seed)
        self.batches = _packed(range(monolingual), lengths, batch_tokens, rng)
        for _ in range(epochs):
            self.batches += _packed(range(monolingual, len(lengths)), lengths, batch_tokens, rng)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def _packed(rows: range, lengths: list[int], batch_tokens: int, rng: random.Random) -> list[list[int]]:
    order, batches = list(rows), []
    rng.shuffle(order)
    for start in range(0, len(order), WINDOW):
        batch: list[int] = []
        for row in sorted(order[start : start + WINDOW], key=lambda row: lengths[row]):
            if batch and (len(batch) + 1) * lengths[row] > batch_tokens:  # sorted: this row is the longest so far
                batches.append(batch)
                batch = []
            batch.append(row)
        batches.append(batch)
    rng.shuffle(batches)
    return batches
