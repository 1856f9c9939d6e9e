"""Several candidates for each segment, and the one from which the source can best be guessed back.

A fluent translation that dropped half of its source makes that half unlikely when one translates back. So candidates
are ranked by forward plus backward log-probability (Li et al. 2016, arXiv 1510.03055, as for noisy-channel decoding),
both per token and from the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from phoenix_utils.alma import alma, flat
from phoenix_utils.translation.protect import Masked, mask
from phoenix_utils.translation.translator import OnBatch, Translation, Translator


class RerankingTranslator:
    """Stands where a Translator stands: its greedy translation and `samples` sampled ones compete.

    `temperature` and `top_p` shape the samples. It costs `samples` further generations and as many scorings.
    """

    def __init__(self, translator: Translator, samples: int = 4, temperature: float = 0.7, top_p: float = 0.95):
        self.translator, self.samples = translator, samples
        self.settings = translator.settings
        self.sampling = replace(translator.params, temperature=temperature, top_p=top_p)

    def translate_segments(self, texts: Sequence[str | Masked], on_batch: OnBatch | None = None) -> list[Translation]:
        """One Translation for each segment (see Translator); `on_batch` hears of all of them at the end."""
        segments = [mask(text) if isinstance(text, str) else text for text in texts]
        candidates = [[greedy] for greedy in self.translator.translate_segments(segments)]
        engine, pair = self.translator.engine, (self.settings.language, self.settings.source_language)
        asked = [self.translator.prompt(segment.text) for segment in segments]
        for _ in range(self.samples):
            self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
            for place, completion in enumerate(engine.generate(asked, self.sampling)):
                sample = self.translator.judged(segments[place], completion)
                if not sample.fault:
                    candidates[place].append(sample)
        offered = [(place, each) for place, group in enumerate(candidates) for each in group]
        backward = engine.score(
            [alma(flat(each.text), *pair) for _, each in offered],
            [" " + flat(segments[place].source) for place, _ in offered],
        )
        best: list[tuple[float, Translation] | None] = [None] * len(segments)
        for (place, each), score in zip(offered, backward, strict=True):
            total = score + each.mean_logprob - (1e6 if each.fault else 0.0)  # any sound sample beats a failure
            if best[place] is None or total > best[place][0]:
                best[place] = total, each
        chosen = [each for _, each in best]
        if on_batch:
            on_batch(list(range(len(chosen))), chosen)
        return chosen
