"""Text from a model that transformers loads: batches by length, a shared beginning once, finished rows leave."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

from phoenix_utils import decoding
from phoenix_utils.decoding import Completion, GenerationParams
from phoenix_utils.engines import ChatPrompts, common_prefix, encode_prompts


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
        if getattr(model.config, "_attn_implementation", None) == "sdpa":
            from phoenix_utils import kv_cache

            model.set_attn_implementation(kv_cache.NAME)

    def generate(
        self,
        prompts: Sequence[str],
        params: GenerationParams,
        on_batch: Callable[[list[int], list[Completion]], None] | None = None,
    ) -> list[Completion]:
        """Complete each prompt (see Engine); results come in the order of `prompts`."""
        import torch

        ids = self._encode(prompts)
        prefix = common_prefix(ids)
        # An answer is seldom more than twice as long as the part of the prompt that is its own.
        sizes = [len(row) + min(params.max_new_tokens, 2 * (len(row) - len(prefix))) for row in ids]
        results: list[Completion | None] = [None] * len(prompts)
        generator = torch.Generator().manual_seed(params.seed)
        self.model.eval()
        with torch.inference_mode():
            cache = self._prefix_cache(prefix) if prefix and params.num_beams == 1 else None
            for batch in self._batches([size * params.num_beams for size in sizes]):
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
        import torch

        heads = self._encode(prompts)
        tails = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in targets]
        results: list[list[float]] = [[] for _ in tails]
        passes = _shared_passes(heads, tails)
        self.model.eval()
        with torch.inference_mode():
            for batch in self._batches([len(row) for row, _ in passes]):
                rows = [passes[place][0] for place in batch]
                spans = [(at, *span) for at, place in enumerate(batch) for span in passes[place][1]]
                for (*_, index), values in zip(spans, self._score_batch(rows, spans), strict=True):
                    results[index] = values
        return results

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return encode_prompts(self.tokenizer, prompts, limit)

    def _batches(self, sizes: list[int]) -> Iterator[list[int]]:
        """Indices in batches of similar size, longest first, so that memory peaks at once or never."""
        order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
        batch: list[int] = []
        for index in order:
            if batch and (len(batch) == self.max_rows or (len(batch) + 1) * sizes[batch[0]] > self.batch_tokens):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _prefix_cache(self, prefix: list[int]):
        import torch

        from phoenix_utils import kv_cache

        cache = kv_cache.new_cache()
        ids = torch.tensor([prefix], device=self.model.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _start(self, rows: list[list[int]], prefix: list[int], cache, room: int):
        """Left-padded ids, attention mask, positions and cache of a batch, behind the shared prefix if it fits."""
        import copy

        import torch

        from phoenix_utils import kv_cache

        longest = max(map(len, rows))
        window = getattr(self.model.config, "sliding_window", None)
        if prefix and (not window or longest + room <= window):
            # Padding stands between prefix and row, which only a sliding window would notice.
            past = copy.deepcopy(cache)
            past.batch_repeat_interleave(len(rows))
            skip = len(prefix)
        else:
            past, skip = kv_cache.new_cache(), 0
        width = longest - skip
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(row) + skip) + row[skip:] for row in rows])
        mask = torch.tensor([[1] * skip + [0] * (longest - len(row)) + [1] * (len(row) - skip) for row in rows])
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, skip:]
        device = self.model.device
        return ids.to(device), mask.to(device), positions.to(device), past

    def _generate_batch(self, rows, prefix, cache, params: GenerationParams, generator) -> list[Completion]:
        import torch

        ids, mask, positions, past = self._start(rows, prefix, cache, params.max_new_tokens)
        active = list(range(len(rows)))
        state = [decoding.Sequence(row) for row in rows]
        limits = [sequence.limit(params, len(prefix)) for sequence in state]
        for _ in range(params.max_new_tokens):
            logits = (
                self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=past,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )
            chosen, logprobs = decoding.choose_tokens(
                logits, [state[i] for i in active], params, generator, self.stop_ids
            )
            for row, token, logprob in zip(active, chosen.tolist(), logprobs.tolist(), strict=True):
                self._advance(state[row], token, logprob, params.stop)
                if not state[row].finish_reason and len(state[row].tokens) >= limits[row]:
                    state[row].finish_reason = "length"
            keep = [place for place, row in enumerate(active) if not state[row].finish_reason]
            if not keep:
                break
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], dim=1)
            if len(keep) < len(active):
                select = torch.tensor(keep, device=ids.device)
                ids, mask, positions = ids[select], mask[select], positions[select]
                past.batch_select_indices(select)
                active = [active[place] for place in keep]
        return [sequence.completion(self.tokenizer, params.stop) for sequence in state]

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
        if stops:
            tail = self.tokenizer.decode(sequence.tokens[-8:], skip_special_tokens=True)
            # The first token may carry the newline that models put before an answer.
            if any(stop in tail.lstrip("\n ") for stop in stops) and sequence.has_text(self.tokenizer):
                sequence.finish_reason = "stop"

    def _score_batch(self, rows: list[list[int]], spans: list[tuple[int, int, int, int]]) -> list[list[float]]:
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
            return [[] for _ in spans]
        # Only positions that predict a token of a target need logits: the vocabulary is the widest layer.
        if self._head_apart:
            hidden = self.model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logits = self.model.get_output_embeddings()(hidden[row, place - 1])
        else:
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[row, place - 1]
        logits = logits.float()
        found = (logits.gather(1, ids[row, place][:, None])[:, 0] - logits.logsumexp(-1)).tolist()
        ends = list(itertools.accumulate(length for _, _, length, _ in spans))
        return [found[end - length : end] for end, (_, _, length, _) in zip(ends, spans, strict=True)]

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


def _shared_passes(
    heads: list[list[int]], tails: list[list[int]]
) -> list[tuple[list[int], list[tuple[int, int, int]]]]:
    """The rows that have to go through the model, each with the spans (first place, length, index) to read from it.

    A row with which another begins is read from that one: the earlier turns of a conversation, whose last turn has
    them as its history. In the order of tokens such rows stand next to each other.
    """
    order = sorted(range(len(heads)), key=lambda index: heads[index] + tails[index], reverse=True)
    passes: list[tuple[list[int], list[tuple[int, int, int]]]] = []
    for index in order:
        row = heads[index] + tails[index]
        if not passes or passes[-1][0][: len(row)] != row:
            passes.append((row, []))
        passes[-1][1].append((len(heads[index]), len(tails[index]), index))
    return passes


def _stop_ids(model, tokenizer) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None) if hasattr(model, "generation_config") else None
    ids = configured if isinstance(configured, (list, tuple)) else [configured]
    return {token for token in (*ids, tokenizer.eos_token_id) if token is not None}
