"""Reranking: the candidate that explains its source best wins, and a sound sample beats a failure."""

from phoenix_utils.decoding import Completion
from phoenix_utils.translation import TranslationSettings, Translator
from phoenix_utils.translation.rerank import RerankingTranslator


class Sampling:
    """Greedy and two samples by script; a translation's backward score by table."""

    def __init__(self, greedy: str, samples: list[str], backward: dict[str, float]):
        self.greedy, self.samples, self.backward, self.seeds = greedy, list(samples), backward, []

    def generate(self, prompts, params, on_batch=None):
        if params.temperature:
            self.seeds.append(params.seed)
            done = [Completion(self.samples.pop(0), "stop", -1.0) for _ in prompts]
        else:
            done = [Completion(self.greedy, "stop", -1.0) for _ in prompts]
        if on_batch:
            on_batch(list(range(len(done))), done)
        return done

    def score(self, prompts, targets):
        lines = [prompt.split("\n")[1].partition(": ")[2] for prompt in prompts]
        assert all(prompt.startswith("Translate this from German to English:") for prompt in prompts)
        return [self.backward[line] for line in lines]


def rerank(text: str, greedy: str, samples: list[str], backward: dict[str, float]):
    engine = Sampling(greedy, samples, backward)
    translator = RerankingTranslator(Translator(TranslationSettings(), engine), samples=len(samples))
    told = {}
    (done,) = translator.translate_segments([text], lambda at, got: told.update(zip(at, got, strict=True)))
    assert told == {0: done} and len(set(engine.seeds)) == len(samples)  # no sample is drawn twice
    return done


def test_the_candidate_that_leads_back_to_the_source_wins():
    scores = {"Kurz.": -5.0, "Der ganze Satz.": -1.0, "Der Satz.": -2.0}
    assert rerank("The whole sentence.", "Kurz.", ["Der Satz.", "Der ganze Satz."], scores).text == "Der ganze Satz."
    assert rerank("The whole sentence.", "Der ganze Satz.", ["Kurz.", "Der Satz."], scores).text == "Der ganze Satz."


def test_a_sample_that_lost_code_is_no_candidate_and_a_sound_one_beats_a_failed_greedy():
    scores = {"Starte `ls`.": -9.0, "`neu`": -0.1, "Starte jetzt.": -0.1}
    done = rerank("Run `ls`.", "`neu`", ["Starte X1.", "Starte jetzt."], scores)
    assert (done.text, done.fault) == ("Starte `ls`.", "")
