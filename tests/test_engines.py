"""The transformers engine against transformers' own generate and against direct arithmetic, on a tiny model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from phoenix_utils import decoding, engine_transformers
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.engines import GenerationParams
from phoenix_utils.errors import PhoenixError

PROMPTS = [
    "Once upon a time there was a fox.",
    "Hi",
    "One two three four five six seven eight nine ten eleven.",
    "a b",
    "What is the question that nobody asks?",
]
SHARED = "The examples that every prompt begins with are long. "


@pytest.fixture(scope="module")
def tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<pad>", "<eos>", "<bos>", *letters])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


def tiny_model(sliding_window: int = 512):
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=sliding_window,
        eos_token_id=1,
        pad_token_id=0,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=16,
        bos_token_id=2,
        initializer_range=0.4,
    )
    return Gemma3ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def expected(model, tokenizer, prompt: str, **options) -> str:
    ids = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=24, do_sample=False, pad_token_id=0, **options)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("prefix", ["", SHARED])
def test_greedy_text_equals_generate_whatever_the_batching(model, tokenizer, rows, prefix):
    prompts = [prefix + prompt for prompt in PROMPTS]
    engine = TransformersEngine(model, tokenizer, max_rows=rows)
    done = engine.generate(prompts, GenerationParams(max_new_tokens=24))
    assert [c.text for c in done] == [expected(model, tokenizer, prompt) for prompt in prompts]


@pytest.mark.parametrize("read_tokens", [1, 24, 60, 10_000])
def test_prompts_read_in_groups_give_the_same_text_and_log_probabilities(model, tokenizer, monkeypatch, read_tokens):
    prompts = [SHARED + prompt for prompt in PROMPTS]
    params = GenerationParams(max_new_tokens=12)
    whole = TransformersEngine(model, tokenizer).generate(prompts, params)
    monkeypatch.setattr(engine_transformers, "READ_TOKENS", read_tokens)
    grouped = TransformersEngine(model, tokenizer).generate(prompts, params)
    assert [done.text for done in grouped] == [done.text for done in whole]
    assert [done.mean_logprob for done in grouped] == pytest.approx([done.mean_logprob for done in whole], abs=1e-5)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 200))
def test_groups_keep_order_and_hold_no_more_than_they_may(lengths, most):
    rows = [[number] * length for number, length in enumerate(lengths)]
    places = engine_transformers._groups(lengths, most, max_rows=30)
    groups = [[rows[place] for place in group] for group in places]
    assert [row for group in groups for row in group] == rows
    assert all(len(group) == 1 or len(group) * max(map(len, group)) <= most for group in groups)


def test_a_sliding_window_shorter_than_the_prompt_changes_nothing(tokenizer):
    model = tiny_model(sliding_window=8)
    prompts = [SHARED + prompt for prompt in PROMPTS[:3]]
    done = TransformersEngine(model, tokenizer, max_rows=1).generate(prompts, GenerationParams(max_new_tokens=24))
    assert [c.text for c in done] == [expected(model, tokenizer, prompt) for prompt in prompts]


def test_repetition_penalty_is_that_of_generate(model, tokenizer):
    engine = TransformersEngine(model, tokenizer)
    done = engine.generate(PROMPTS, GenerationParams(max_new_tokens=24, repetition_penalty=1.3))
    assert [c.text for c in done] == [expected(model, tokenizer, p, repetition_penalty=1.3) for p in PROMPTS]


@pytest.mark.parametrize("rows", [1, 5])
def test_beam_search_is_that_of_generate_whatever_the_batching(model, tokenizer, rows):
    engine = TransformersEngine(model, tokenizer, max_rows=rows)
    done = engine.generate(PROMPTS, GenerationParams(max_new_tokens=12, num_beams=3))
    wanted = [model.generate(**tokenizer(p, return_tensors="pt"), max_new_tokens=12, num_beams=3, pad_token_id=0,
                             do_sample=False, return_dict_in_generate=True, output_scores=True)
              for p in PROMPTS]  # fmt: skip
    texts = [
        tokenizer.decode(out.sequences[0, len(tokenizer(prompt)["input_ids"]) :], skip_special_tokens=True)
        for prompt, out in zip(PROMPTS, wanted, strict=True)
    ]
    assert [c.text for c in done] == texts
    assert [c.mean_logprob for c in done] == pytest.approx([out.sequences_scores.item() for out in wanted], rel=1e-4)


def test_a_beam_ends_at_a_stop_text(model, tokenizer):
    engine = TransformersEngine(model, tokenizer)
    (whole,) = engine.generate(["Hello"], GenerationParams(max_new_tokens=12, num_beams=2))
    stop = next(c for c in whole.text if c.isprintable() and c.strip())
    (cut,) = engine.generate(["Hello"], GenerationParams(max_new_tokens=12, num_beams=2, stop=(stop,)))
    assert stop not in cut.text and cut.finish_reason in ("stop", "length")


def test_the_repetition_penalty_spares_the_stop_token(model, tokenizer):
    logits = torch.tensor([[0.0, 5.0, 4.9, -1.0]])
    sequence = decoding.Sequence(prompt=[1, 2])
    params = GenerationParams(repetition_penalty=2.0)
    assert decoding.choose_tokens(logits, [sequence], params, None, {1})[0].tolist() == [1]
    assert decoding.choose_tokens(logits, [sequence], params, None, {2})[0].tolist() == [2]


def test_reasons_and_log_probabilities(model, tokenizer):
    engine = TransformersEngine(model, tokenizer)
    (cut,) = engine.generate(["Hello"], GenerationParams(max_new_tokens=5))
    assert cut.finish_reason == "length" and cut.mean_logprob < 0
    forced = TransformersEngine(model, tokenizer)
    first = tokenizer(cut.text, add_special_tokens=False)["input_ids"][0]
    forced.stop_ids = {first}
    (stopped,) = forced.generate(["Hello"], GenerationParams(max_new_tokens=5))
    assert stopped.finish_reason == "stop" and stopped.text == ""


def test_a_stop_text_ends_a_completion_and_is_not_part_of_it(model, tokenizer):
    engine = TransformersEngine(model, tokenizer)
    (whole,) = engine.generate(["Hello"], GenerationParams(max_new_tokens=20, repetition_penalty=3.0))
    stop = next(c for c in whole.text[3:] if c not in whole.text[:3] and c.isprintable() and c.strip())
    params = GenerationParams(max_new_tokens=20, repetition_penalty=3.0, stop=(stop,))
    (cut,) = engine.generate(["Hello"], params)
    assert cut.finish_reason == "stop" and cut.text == whole.text.lstrip("\n ").split(stop)[0]


def test_sampling_follows_its_seed(model, tokenizer):
    engine = TransformersEngine(model, tokenizer)

    def texts(seed):
        params = GenerationParams(max_new_tokens=16, temperature=1.5, top_p=0.9, top_k=50, seed=seed)
        return [c.text for c in engine.generate(PROMPTS, params)]

    assert texts(1) == texts(1) != texts(2)


def test_scores_equal_a_direct_computation(model, tokenizer):
    engine = TransformersEngine(model, tokenizer, max_rows=3)
    targets = ["yes indeed", "n", "a longer target than the others", "x y", ""]
    for prompt, target, values in zip(PROMPTS, targets, engine.token_logprobs(PROMPTS, targets), strict=True):
        head = tokenizer(prompt)["input_ids"]
        tail = tokenizer(target, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logprobs = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        direct = [logprobs[len(head) - 1 + place, token].item() for place, token in enumerate(tail)]
        assert values == pytest.approx(direct, abs=1e-5)
    assert engine.score(["Hi"], [""]) == [0.0]


@pytest.mark.parametrize("window", [8, 512])
@pytest.mark.parametrize("rows", [1, 2, 96])
def test_targets_that_share_a_head_are_scored_as_if_alone(tokenizer, rows, window):
    model = tiny_model(sliding_window=window)
    engine = TransformersEngine(model, tokenizer, max_rows=rows)
    heads = [PROMPTS[0], PROMPTS[2], PROMPTS[0], PROMPTS[0], PROMPTS[2], PROMPTS[1], PROMPTS[1], PROMPTS[0]]
    tails = [" yes", "n", " a much longer one", "x", "", "no", " yes", "x"]
    ids = [[tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] for texts in (heads, tails)]
    for head, tail, (values, likeliest) in zip(*ids, engine.score_tokens(*ids), strict=True):
        with torch.no_grad():
            logprobs = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)[len(head) - 1 : -1 or None]
        assert values == pytest.approx([row[t].item() for row, t in zip(logprobs, tail, strict=False)], abs=1e-5)
        assert likeliest == [row.argmax().item() == t for row, t in zip(logprobs, tail, strict=False)]


def test_batches_are_reported_as_they_finish_and_results_keep_their_order(model, tokenizer):
    seen = {}
    engine = TransformersEngine(model, tokenizer, max_rows=2)
    done = engine.generate(
        PROMPTS,
        GenerationParams(max_new_tokens=4),
        lambda places, batch: seen.update(zip(places, batch, strict=True)),
    )
    assert [seen[place] for place in range(len(PROMPTS))] == done


def test_nothing_to_do_and_too_much(model, tokenizer):
    engine = TransformersEngine(model, tokenizer)
    assert engine.generate([], GenerationParams()) == [] and engine.score([], []) == []
    model.config.max_position_embeddings, kept = 10, model.config.max_position_embeddings
    try:
        with pytest.raises(PhoenixError, match="prompt 1 has .* tokens and the model reads 10"):
            engine.generate(["Hi", "x" * 50], GenerationParams())
    finally:
        model.config.max_position_embeddings = kept
