"""Measures of one answer, and how the answers of one model become a number.

Everything here is a pure function of texts. What draws units and gives intervals is in `scores.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from phoenix_utils import pairs

# A phrase or sentence said this often or more is a loop: held-out references never reach it.
MAX_REPEATS = 3
_WORD = re.compile(r"\w+")


def in_target_language(answer: str, language: str, source_language: str) -> bool:
    """Whether an answer's prose is in `language`, by the rule that the filters use.

    The identifier chooses between target, source and the languages they are confused with; up to 30 % of the
    letters may stand in foreign lines (a quotation). An answer without prose (empty, only code, only numbers)
    is in no language and counts as not. Very short ones are judged too, the target winning where it is close.
    """
    text = pairs.prose(answer)
    count = pairs.letters(text)
    if not count:
        return False
    if count < 20:  # the identifier abstains below 20 letters; said several times, a short text has them
        flat = " ".join(text.split())
        return pairs.detect_language(" ".join([flat] * (20 // count + 1)), language, source_language) in (
            None,
            language,
        )
    return pairs.wrong_language(answer, language, source_language) is None


def is_loop(answer: str) -> bool:
    """Whether an answer is stuck: a phrase in a row, a sentence anywhere, or letters in a word, again and
    again.

    It is the filters' repetition rule with nothing to compare with; code and formulas are left out.
    """
    return pairs.repeated("", answer, MAX_REPEATS) is not None


def word_pairs(answer: str) -> list[tuple[str, str]]:
    """Neighbouring words in small letters: the bigrams that distinct-2 counts (Li et al. 2016)."""
    words = [word.casefold() for word in _WORD.findall(answer)]
    return list(zip(words, words[1:], strict=False))


def preferred(chosen: Sequence[float], rejected: Sequence[float]) -> list[float]:
    """1 where the chosen answer scores higher, 0 where the rejected one does, 0.5 where they are equal."""
    return [float(np.sign(a - b) / 2 + 0.5) for a, b in zip(chosen, rejected, strict=True)]
