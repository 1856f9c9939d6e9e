"""The server engine against a running vLLM server, compared with the transformers engine."""

import pytest
from real_vllm import ADAPTER, LANGUAGES, MODEL

from phoenix_utils.decoding import GenerationParams
from phoenix_utils.engines import open_engine
from phoenix_utils.errors import PhoenixError
from phoenix_utils.translation.settings import TranslationSettings
from phoenix_utils.translation.translator import Translator

pytest.importorskip("vllm.version", reason="vLLM is not installed in this environment: run make test-vllm")


@pytest.fixture
def engine(served):
    """The packaged adapter, which the server knows by the name of its folder."""
    return open_engine("server", MODEL, languages=LANGUAGES, adapter=ADAPTER, base_url=served.url)


@pytest.fixture
def base(served):
    """The base model of the same server."""
    return open_engine("server", MODEL, languages=LANGUAGES, base_url=served.url)


def test_translations_with_the_adapter_are_those_of_transformers(engine, translations):
    reported = []
    done = engine.generate(translations.prompts, translations.params, lambda indices, _: reported.append(indices))
    translations.compare("server, adapter", done)
    assert len(reported) > 1 and sorted(sum(reported, [])) == list(range(len(done)))
    assert not engine._plain, "vLLM understands a request in full"


def test_translations_of_the_base_model_are_those_of_transformers(base, base_translations):
    base_translations.compare("server, base", base.generate(base_translations.prompts, base_translations.params))


def test_prompts_sent_as_text_mean_the_same(engine, translations):
    engine._plain = True
    translations.compare("server, adapter, as text", engine.generate(translations.prompts, translations.params))


def test_scores_are_those_of_transformers(engine, translations):
    translations.compare_scores("server, adapter", engine.score(translations.prompts, translations.targets))
    assert engine.score(["Hi"], [""]) == [0.0]


def test_a_newline_before_the_answer_does_not_end_it(base, newline_first):
    newline_first.compare("server, newline first", base.generate(newline_first.prompts, newline_first.params))


def test_the_translation_stage_speaks_to_a_server(served, translations):
    translator = Translator(TranslationSettings(engine="server", base_url=served.url, concurrency=4))
    texts = ["The dog sleeps.", "Please close the window.", "We meet at noon."]
    done = translator.translate_segments(texts)
    assert not [translation.fault for translation in done if translation.fault]
    assert done[0].text == "Der Hund schläft."


def test_mistakes_are_one_sentence(served, base):
    other = open_engine("server", MODEL, languages=LANGUAGES, adapter=ADAPTER.parent, base_url=served.url)
    with pytest.raises(PhoenixError, match="has no model 'adapters' .*404.*--lora-modules adapters=FOLDER"):
        other.generate(["Hi"], GenerationParams())
    with pytest.raises(PhoenixError, match="refuses a request .400 .*2048"):
        base.generate(["word " * 3000], GenerationParams())


# Last: it ends the server.
def test_a_server_that_is_killed_half_way(served, engine, translations):
    engine.retries, engine.concurrency = 1, 2
    reported = []

    def on_batch(indices, _):
        reported.extend(indices)
        served.kill()

    with pytest.raises(PhoenixError, match=f"the server at {served.url} failed 2 times .* the same command resumes"):
        engine.generate(translations.prompts, translations.params, on_batch)
    assert 0 < len(reported) < len(translations.prompts)
