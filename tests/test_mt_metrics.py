"""BLEU from counts is sacreBLEU's (chrF is compared in test_evaluation)."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_utils import mt_metrics

SENTENCE = st.lists(st.sampled_from("der die das Hund , . läuft schnell 3,5 km heim".split()), min_size=1).map(" ".join)


@given(st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_bleu_equals_sacrebleu(rows):
    hypotheses, references = zip(*rows, strict=True)
    found = mt_metrics.bleu(mt_metrics.bleu_counts(hypotheses, references))(np.ones((1, len(rows))))[0]
    assert found == pytest.approx(sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score, abs=1e-9)


def test_a_draw_is_the_corpus_that_was_drawn():
    hypotheses = ["der Hund läuft sehr schnell heim", "das ist ein anderer Satz", "drei Hunde"]
    references = ["der Hund läuft schnell heim", "das ist noch ein anderer Satz hier", "drei Katzen"]
    counts = mt_metrics.bleu_counts(hypotheses, references)
    drawn = [0, 0, 1]
    wanted = sacrebleu.corpus_bleu([hypotheses[i] for i in drawn], [[references[i] for i in drawn]]).score
    assert mt_metrics.bleu(counts)(np.array([[2.0, 1.0, 0.0]]))[0] == pytest.approx(wanted)


def test_signatures_name_the_metric():
    assert mt_metrics.bleu_signature().startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
