"""Text from a model that transformers loads: batches by length, a shared beginning once, finished rows leave."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

from phoenix_utils import decoding, engine_scoring
from phoenix_utils.decoding import Completion, GenerationParams, OnBatch
from phoenix_utils.engine_inputs import ChatPrompts, common_prefix, encode_prompts

# Tokens that go through the model at once where text is only read: more are no faster, and need more padding.
READ_TOKENS = 1024
# Positions whose logits are computed at once.
HEAD_ROWS = 256


class TransformersEngine(ChatPrompts):
    """Batched generation with transformers on any device.

    Prompts are sorted by length and batched under a token budget; the beginning that all prompts share (few-shot
    examples) goes through the model once; finished sequences leave the batch, so one long answer does not make
    the others wait. Greedy results do not depend on the batching beyond floating-point noise.

    Parameters: `model` a causal language model, `tokenizer` its fast tokenizer, `batch_tokens` the most tokens
    (prompt plus as much again for the answer) that one batch may hold, `max_rows` the most rows.
    """

    def __init__(self, model, tokenizer, batch_tokens: int = 32768, max_rows: int = 96):
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens, self.max_rows = batch_tokens, max_rows
        self.stop_ids = _stop_ids(model, tokenizer)
        # Told of each token of an answer (not of a beam's) as soon as it is chosen: for reading along.
        self.on_token: Callable[[int], None] | None = None
        if getattr(model.config, "_attn_implementation", None) == "sdpa":
            from phoenix_utils import kv_cache

            model.set_attn_implementation(kv_cache.NAME)

    def generate(
        self, prompts: Sequence[str], params: GenerationParams, on_batch: OnBatch | None = None
    ) -> list[Completion]:
        """Complete each prompt (see Engine); results come in the order of `prompts`."""
        import torch

        from phoenix_utils import cpu_linear

        ids = self._encode(prompts)
        prefix = common_prefix(ids)
        # An answer is seldom more than twice as long as the part of the prompt that is its own.
        sizes = [len(row) + min(params.max_new_tokens, 2 * (len(row) - len(prefix))) for row in ids]
        results: list[Completion | None] = [None] * len(prompts)
        generator = torch.Generator().manual_seed(params.seed)
        self.model.eval()
        with torch.inference_mode(), cpu_linear.packed(self.model):
            cache = self._prefix_cache(prefix) if prefix and params.num_beams == 1 else None
            for batch in self._batches([size * params.num_beams for size in sizes], self.batch_tokens):
                rows = [ids[index] for index in batch]
                if params.num_beams > 1:
                    finished = self._beam_batch(rows, len(prefix), params)
                else:
                    finished = self._generate_batch(rows, prefix, cache, params, generator)
                for index, completion in zip(batch, finished, strict=True):
                    results[index] = completion
                if on_batch:
                    on_batch(batch, finished)
        return results  # type: ignore[return-value]

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[float]:
        """Mean log-probability per token (nats) of each target after its prompt."""
        return [sum(row) / max(1, len(row)) for row in self.token_logprobs(prompts, targets)]

    def token_logprobs(self, prompts: Sequence[str], targets: Sequence[str]) -> list[list[float]]:
        """Log-probability (nats) of every token of each target, the prompt given.

        Prompt and target are tokenised apart, as they are at generation time; special tokens written in a
        target count as tokens of it.
        """
        heads = self._encode(prompts)
        tails = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in targets]
        return [logprobs for logprobs, _ in self.score_tokens(heads, tails)]

    def score_tokens(self, heads: list[list[int]], tails: list[list[int]]) -> list[engine_scoring.TargetScore]:
        """Log-probability (nats) of every token of each tail after its head, and whether each one is the likeliest.

        A head with several tails (a question and its options) goes through the model once.
        """
        import torch

        from phoenix_utils import cpu_linear

        results: list[engine_scoring.TargetScore] = [([], []) for _ in tails]
        most = min(self.batch_tokens, READ_TOKENS)
        self.model.eval()
        with torch.inference_mode(), cpu_linear.packed(self.model):
            groups = engine_scoring.by_head(heads, tails) if self._head_apart else []
            for batch in self._batches([len(heads[g[0]]) + sum(len(tails[i]) for i in g) for g in groups], most):
                members = [groups[place] for place in batch]
                for index, found in zip(
                    itertools.chain(*members), self._score_groups(heads, tails, members), strict=True
                ):
                    results[index] = found
            passes = engine_scoring.shared_passes(
                heads, tails, sorted({*range(len(tails))} - {*itertools.chain(*groups)})
            )
            for batch in self._batches([len(row) for row, _ in passes], most):
                rows = [passes[place][0] for place in batch]
                spans = [(at, *span) for at, place in enumerate(batch) for span in passes[place][1]]
                for (*_, index), found in zip(spans, self._score_batch(rows, spans), strict=True):
                    results[index] = found
        return results

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return encode_prompts(self.tokenizer, prompts, limit)

    def _batches(self, sizes: list[int], most: int) -> Iterator[list[int]]:
        """Indices in batches of similar size, at most `most` in all, longest first: memory peaks at once or never."""
        order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
        for places in _groups([sizes[index] for index in order], most, self.max_rows):
            yield [order[place] for place in places]

    def _prefix_cache(self, prefix: list[int]):
        import torch

        from phoenix_utils import kv_cache

        cache = kv_cache.new_cache()
        ids = torch.tensor([prefix], device=self.model.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _prefill(self, rows: list[list[int]], prefix: list[int], cache, room: int):
        """Read the prompts of a batch: logits behind each, mask and positions so far, and the common cache.

        Rows of similar length go through the model together and their caches are joined behind it: left to itself, a
        batch would spend half of its time on the padding of its shorter rows.
        """
        import torch

        from phoenix_utils import kv_cache

        longest = max(map(len, rows))
        window = getattr(self.model.config, "sliding_window", None)
        if window and longest + room > window:
            prefix = []  # padding stands between prefix and row, which only a sliding window would notice
        skip = len(prefix)
        logits, caches = [], []
        for places in _groups(list(map(len, rows)), READ_TOKENS, self.max_rows):
            group = [rows[place] for place in places]
            past = kv_cache.repeated(cache, len(group)) if prefix else kv_cache.new_cache()
            ids, mask = self._padded(group, skip)
            logits.append(self._next_logits(ids, mask, _positions(mask)[:, skip:], past))
            caches.append(past)
        if len(caches) > 1:
            mask = self._mask(rows, skip)
        return torch.cat(logits), mask, mask.sum(1, keepdim=True) - 1, kv_cache.joined(caches, skip)

    def _padded(self, rows: list[list[int]], skip: int):
        """Ids behind the first `skip` tokens, padded on the left, and the mask of the whole rows."""
        import torch

        width, pad = max(map(len, rows)), self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(row)) + row[skip:] for row in rows], device=self.model.device)
        return ids, self._mask(rows, skip)

    def _mask(self, rows: list[list[int]], skip: int):
        import torch

        width = max(map(len, rows))
        mask = [[1] * skip + [0] * (width - len(row)) + [1] * (len(row) - skip) for row in rows]
        return torch.tensor(mask, device=self.model.device)

    def _generate_batch(self, rows, prefix, cache, params: GenerationParams, generator) -> list[Completion]:
        import torch

        logits, mask, positions, past = self._prefill(rows, prefix, cache, params.max_new_tokens)
        active = list(range(len(rows)))
        state = [decoding.Sequence(row) for row in rows]
        limits = [sequence.limit(params, len(prefix)) for sequence in state]
        while True:
            chosen, logprobs = decoding.choose_tokens(
                logits, [state[i] for i in active], params, generator, self.stop_ids
            )
            for row, token, logprob in zip(active, chosen.tolist(), logprobs.tolist(), strict=True):
                self._advance(state[row], token, logprob, params.stop)
                if not state[row].finish_reason and len(state[row].tokens) >= limits[row]:
                    state[row].finish_reason = "length"
            keep = [place for place, row in enumerate(active) if not state[row].finish_reason]
            if not keep:
                return [sequence.completion(self.tokenizer, params.stop) for sequence in state]
            if len(keep) < len(active):
                select = torch.tensor(keep, device=chosen.device)
                chosen, mask, positions = chosen[select], mask[select], positions[select]
                past.batch_select_indices(select)
                active = [active[place] for place in keep]
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
            positions = positions + 1
            logits = self._next_logits(chosen[:, None], mask, positions, past)

    def _next_logits(self, ids, mask, positions, past):
        """Logits of shape (rows, vocabulary) behind each row's last token; `past` grows by `ids`."""
        found = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=1,
        )
        return found.logits[:, -1].float()

    def _beam_batch(self, rows: list[list[int]], shared: int, params: GenerationParams) -> list[Completion]:
        """Beam search by transformers itself; a token that begins with a stop text ends a beam."""
        import torch

        sequences = [decoding.Sequence(row) for row in rows]
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        ends = sorted(self.stop_ids | self._stop_tokens(params.stop))
        found = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            num_beams=params.num_beams,
            do_sample=False,
            repetition_penalty=params.repetition_penalty,
            max_new_tokens=max(sequence.limit(params, shared) for sequence in sequences),
            eos_token_id=ends,
            pad_token_id=pad,
            return_dict_in_generate=True,
            output_scores=True,
        )
        for sequence, tokens, score in zip(
            sequences, found.sequences[:, width:].tolist(), found.sequences_scores.tolist(), strict=True
        ):
            end = next((at for at, token in enumerate(tokens) if token in ends), None)
            sequence.tokens = tokens[:end]
            sequence.finish_reason = "length" if end is None else "stop"
            sequence.logprobs = [score]  # a beam's score is its mean log-probability already
        return [sequence.completion(self.tokenizer, params.stop) for sequence in sequences]

    @functools.cache  # noqa: B019 - an engine lives as long as its process
    def _stop_tokens(self, stops: tuple[str, ...]) -> set[int]:
        """Tokens of the vocabulary that begin with one of the stop texts."""
        if not stops:
            return set()
        texts = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
        return {token for token, text in enumerate(texts) if text.startswith(stops)}

    def _advance(self, sequence: decoding.Sequence, token: int, logprob: float, stops: tuple[str, ...]) -> None:
        sequence.logprobs.append(logprob)
        if token in self.stop_ids:
            sequence.finish_reason = "stop"
            return
        sequence.tokens.append(token)
        if self.on_token:
            self.on_token(token)
        if stops:
            tail = self.tokenizer.decode(sequence.tokens[-8:], skip_special_tokens=True)
            # The first token may carry the newline that models put before an answer.
            if any(stop in tail.lstrip("\n ") for stop in stops) and sequence.has_text(self.tokenizer):
                sequence.finish_reason = "stop"

    def _score_batch(
        self, rows: list[list[int]], spans: list[tuple[int, int, int, int]]
    ) -> list[engine_scoring.TargetScore]:
        """Log-probabilities of the tokens in each span (row, first place, length, …) of right-padded rows."""
        import torch

        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        device = self.model.device
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        row = torch.tensor([at for at, _, length, _ in spans for _ in range(length)], device=device, dtype=torch.long)
        place = torch.tensor([p for _, start, length, _ in spans for p in range(start, start + length)], device=device)
        if not len(row):
            return [([], []) for _ in spans]
        # Only positions that predict a token of a target need logits: the vocabulary is the widest layer.
        lengths = [length for _, _, length, _ in spans]
        if self._head_apart:
            hidden = self.model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            return engine_scoring.cut(self._of_targets(hidden[row, place - 1], ids[row, place]), lengths)
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[row, place - 1].float()
        return engine_scoring.cut(engine_scoring.target_logprobs(logits, ids[row, place]), lengths)

    def _score_groups(self, heads, tails, groups: list[list[int]]) -> list[engine_scoring.TargetScore]:
        """The tails of each group behind a copy of their head's keys and values; in the order of the groups."""
        import torch

        from phoenix_utils import kv_cache

        decoder, device = self.model.get_decoder(), self.model.device
        ids, mask = self._padded([heads[group[0]] for group in groups], 0)
        positions, past = _positions(mask), kv_cache.new_cache()
        first = decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=past, use_cache=True
        ).last_hidden_state[:, -1]
        owner = torch.tensor([place for place, group in enumerate(groups) for _ in group], device=device)
        rows = [tails[index] for index in itertools.chain(*groups)]
        hidden = first[owner][:, None]
        if width := max(map(len, rows)) - 1:  # the last token of a tail predicts nothing that is asked for
            past.batch_select_indices(owner)
            pad = self.tokenizer.pad_token_id or 0
            ids = torch.tensor([row[:-1] + [pad] * (width + 1 - len(row)) for row in rows], device=device)
            own = torch.tensor([[1] * (len(row) - 1) + [0] * (width + 1 - len(row)) for row in rows], device=device)
            later = decoder(
                input_ids=ids,
                attention_mask=torch.cat([mask[owner], own], dim=1),
                position_ids=positions[owner, -1:] + 1 + torch.arange(width, device=device),
                past_key_values=past,
                use_cache=True,
            ).last_hidden_state
            hidden = torch.cat([hidden, later], dim=1)
        row = torch.tensor([at for at, tail in enumerate(rows) for _ in tail], device=device)
        place = torch.tensor([p for tail in rows for p in range(len(tail))], device=device)
        targets = torch.tensor(list(itertools.chain(*rows)), device=device)
        return engine_scoring.cut(self._of_targets(hidden[row, place], targets), list(map(len, rows)))

    def _of_targets(self, hidden, targets) -> tuple[list[float], list[bool]]:
        """Log-probability of each target after its hidden state, and whether it is the likeliest, a part at a time.

        A slice of the logits that stays in the processor's cache is read several times for the price of once.
        """
        head = self.model.get_output_embeddings()
        values, likeliest = [], []
        for states, wanted in zip(hidden.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True):
            found = engine_scoring.target_logprobs(head(states).float(), wanted)
            values += found[0]
            likeliest += found[1]
        return values, likeliest

    @functools.cached_property
    def _head_apart(self) -> bool:
        """Whether the model's logits are its output layer on the decoder's result and nothing else; tried out once."""
        import torch

        ids = torch.arange(8, device=self.model.device)[None] % self.model.config.get_text_config().vocab_size
        try:
            hidden = self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            logits = self.model.get_output_embeddings()(hidden)
        except (AttributeError, TypeError):
            return False
        return torch.allclose(logits, self.model(input_ids=ids, use_cache=False).logits, rtol=1e-4, atol=1e-4)


def _groups(sizes: list[int], most: int, max_rows: int) -> Iterator[list[int]]:
    """Places of neighbours, in groups whose rows, padded to the largest, hold at most `most` tokens, or of one row."""
    group: list[int] = []
    width = 0
    for place, size in enumerate(sizes):
        if group and (len(group) == max_rows or (len(group) + 1) * max(width, size) > most):
            yield group
            group, width = [], 0
        group.append(place)
        width = max(width, size)
    if group:
        yield group


def _positions(mask):
    """Position of each token among those of its row that are not padding."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def _stop_ids(model, tokenizer) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None) if hasattr(model, "generation_config") else None
    ids = configured if isinstance(configured, (list, tuple)) else [configured]
    return {token for token in (*ids, tokenizer.eos_token_id) if token is not None}
