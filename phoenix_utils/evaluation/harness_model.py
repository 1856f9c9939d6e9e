"""The transformers engine as a model of lm-evaluation-harness: its requests and metrics, our way of computing them.

The harness takes a log-softmax over the whole vocabulary at every position of every option. Here only the positions of
an option's own tokens are looked at, and a question goes through the model once for all of its options; the numbers
stay the same (tested, and measured against the harness's own command line). Importing this module imports the harness.
"""

from __future__ import annotations

from lm_eval.models.huggingface import HFLM

from phoenix_utils.engine_transformers import TransformersEngine


class EngineLM(HFLM):
    """An engine's model and tokenizer with the harness's own rules for texts, templates, tokens and generation."""

    def __init__(self, engine: TransformersEngine, batch_size: int = 16):
        super().__init__(pretrained=engine.model, tokenizer=engine.tokenizer, batch_size=batch_size)
        self.scorer = engine

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, override_bs: int | None = None):
        """(sum of log-probabilities, whether greedy decoding would say it) for each (texts, context, continuation)."""
        # What does not fit is cut from the left, as the harness does; the last token is never read, only predicted.
        kept = [(context + said)[-(self.max_length + 1) :] for _, context, said in requests]
        sizes = [min(len(said), len(row) - 1) for row, (_, _, said) in zip(kept, requests, strict=True)]
        heads = [row[: len(row) - size] for row, size in zip(kept, sizes, strict=True)]
        tails = [row[len(row) - size :] for row, size in zip(kept, sizes, strict=True)]
        found = [(sum(logprobs), all(likeliest)) for logprobs, likeliest in self.scorer.score_tokens(heads, tails)]
        for (texts, _, _), answer in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found
