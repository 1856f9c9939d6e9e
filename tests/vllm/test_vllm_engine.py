"""The vllm engine on the embedded model, compared with the transformers engine."""

import pytest
from real_vllm import ADAPTER, LANGUAGES, MODEL

from phoenix_utils.decoding import GenerationParams
from phoenix_utils.engines import open_engine
from phoenix_utils.errors import PhoenixError

pytest.importorskip("vllm.version", reason="vLLM is not installed in this environment: run make test-vllm")


@pytest.fixture(scope="module")
def engine(translations, base_translations, newline_first):
    """The vllm engine with the packaged adapter, which vLLM applies beside the weights."""
    opened = open_engine("vllm", MODEL, languages=LANGUAGES, adapter=ADAPTER)
    yield opened
    opened.llm.llm_engine.engine_core.shutdown()


@pytest.fixture
def base(engine):
    """The same engine without its adapter: loading another would take a minute."""
    lora, engine.lora = engine.lora, None
    yield engine
    engine.lora = lora


def test_translations_with_the_adapter_are_those_of_transformers(engine, translations):
    reported = []
    done = engine.generate(
        translations.prompts, translations.params, lambda indices, found: reported.append((indices, found))
    )
    translations.compare("vllm, adapter", done)
    assert len(reported) > 1, "what is finished is reported before the last one is"
    seen = {index: completion for indices, found in reported for index, completion in zip(indices, found, strict=True)}
    assert [seen[index] for index in range(len(done))] == done


def test_translations_of_the_base_model_are_those_of_transformers(base, base_translations):
    base_translations.compare("vllm, base", base.generate(base_translations.prompts, base_translations.params))


def test_scores_are_those_of_transformers(engine, translations):
    translations.compare_scores("vllm, adapter", engine.score(translations.prompts, translations.targets))
    assert engine.score(["Hi"], [""]) == [0.0] and engine.score([], []) == []


def test_a_newline_before_the_answer_does_not_end_it(base, newline_first):
    newline_first.compare("vllm, newline first", base.generate(newline_first.prompts, newline_first.params))
    raw = base.generate(newline_first.prompts, GenerationParams(max_new_tokens=1))
    assert any(completion.text.startswith("\n") for completion in raw), "no prompt tries it: choose others"


def test_sampling_follows_its_seed_and_varies_within_a_call(engine):
    def texts(seed):
        params = GenerationParams(max_new_tokens=8, temperature=1.5, seed=seed)
        return [completion.text for completion in engine.generate(["Once upon a time"] * 4, params)]

    assert texts(1) == texts(1) != texts(2) and len(set(texts(1))) > 1


def test_an_interruption_leaves_nothing_behind(engine, translations):
    def interrupt(indices, _):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(translations.prompts, translations.params, interrupt)
    assert not engine.llm.llm_engine.has_unfinished_requests()
    (done,) = engine.generate(translations.prompts[:1], translations.params)
    assert done.text == translations.completions[0].text


def test_mistakes_are_one_sentence(engine):
    assert engine.generate([], GenerationParams()) == []
    with pytest.raises(PhoenixError, match="the vllm engine has no beam search"):
        engine.generate(["Hi"], GenerationParams(num_beams=2))
    with pytest.raises(PhoenixError, match="prompt 1 has .* tokens and the model reads"):
        engine.generate(["Hi", "word " * 40_000], GenerationParams())


def test_a_model_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PhoenixError, match="vLLM could not load .*: its messages above say why"):
        open_engine("vllm", str(tmp_path), languages=LANGUAGES)
