"""Which tokens a model reads and which it is trained on, token by token."""

import re

import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_utils import chat
from phoenix_utils.errors import PhoenixError

MULTI_TURN = [
    {"role": "system", "content": "Antworte kurz."},
    {"role": "user", "content": "Wie heißt du?"},
    {"role": "assistant", "content": "Phönix."},
    {"role": "user", "content": "Und weiter?\n- Name\n- Ort"},
    {"role": "assistant", "content": "Nichts weiter."},
]


@pytest.fixture(scope="module")
def gemma():
    return chat.apply_template(tiny_models.gemma_like())


@pytest.fixture(scope="module")
def gpt():
    tokenizer = tiny_models.gpt_like()
    tokenizer.pad_token = "<|fim_pad|>"
    return chat.apply_template(tokenizer)


def test_a_conversation_reads_as_zephyr_writes_it(gemma, gpt):
    expected = (
        "<|system|>\nAntworte kurz.E\n<|user|>\nWie heißt du?E\n<|assistant|>\nPhönix.E\n"
        "<|user|>\nUnd weiter?\n- Name\n- OrtE\n<|assistant|>\nNichts weiter.E"
    )
    assert chat.render(gemma, MULTI_TURN, add_generation_prompt=False) == "<bos>" + expected.replace("E", "<eos>")
    assert chat.render(gpt, MULTI_TURN, add_generation_prompt=False) == expected.replace("E", "<|endoftext|>")


@pytest.mark.parametrize("name", ["gemma", "gpt"])
def test_exactly_the_answers_and_their_stop_tokens_carry_loss(name, request):
    tokenizer = request.getfixturevalue(name)
    ids, mask = chat.loss_mask(tokenizer, MULTI_TURN)
    spans, current = [], []
    for token, bit in zip(ids, mask, strict=True):
        if bit:
            current.append(token)
        elif current:
            spans.append(current)
            current = []
    spans.append(current)
    answers = [m["content"] for m in MULTI_TURN if m["role"] == "assistant"]
    assert [tokenizer.decode(span[:-1]) for span in spans] == answers
    assert all(span[-1] == tokenizer.eos_token_id for span in spans)
    # Token by token: what is not in an answer has no loss, the other turns' stop tokens included.
    assert sum(mask) == sum(len(tokenizer(a, add_special_tokens=False)["input_ids"]) + 1 for a in answers)
    assert ids.count(tokenizer.eos_token_id) == len(MULTI_TURN)


def test_the_start_token_stands_exactly_where_the_tokenizer_wants_it(gemma, gpt):
    ids, _ = chat.loss_mask(gemma, MULTI_TURN)
    assert ids[0] == gemma.bos_token_id and ids.count(gemma.bos_token_id) == 1
    assert not chat.render(gpt, MULTI_TURN).startswith("<|endoftext|>")


@pytest.mark.parametrize("name", ["gemma", "gpt"])
def test_a_prompt_is_the_beginning_of_the_conversation_it_grows_into(name, request):
    tokenizer = request.getfixturevalue(name)
    prompt = tokenizer(chat.render(tokenizer, MULTI_TURN[:-1]), add_special_tokens=False)["input_ids"]
    ids, mask = chat.loss_mask(tokenizer, MULTI_TURN)
    assert ids[: len(prompt)] == prompt
    assert mask[len(prompt) :] == [1] * (len(ids) - len(prompt))


def test_rendered_text_and_mask_come_from_the_same_tokens(gemma):
    text = chat.render(gemma, MULTI_TURN, add_generation_prompt=False)
    assert gemma(text, add_special_tokens=False)["input_ids"] == chat.loss_mask(gemma, MULTI_TURN)[0]


@given(text=st.text(alphabet="<>eospadb/ \nä|", max_size=30))
@settings(max_examples=60, deadline=None)
def test_no_message_can_end_or_start_a_turn(text):
    tokenizer = _shared_gemma()
    messages = [
        {"role": "user", "content": "<eos>" + text},
        {"role": "assistant", "content": "a<bos>b<pad>" + text},
    ]
    ids, _ = chat.loss_mask(tokenizer, messages)
    assert ids.count(tokenizer.eos_token_id) == 2
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.pad_token_id not in ids


_CACHE = []


def _shared_gemma():
    if not _CACHE:
        _CACHE.append(chat.apply_template(tiny_models.gemma_like()))
    return _CACHE[0]


def test_ordinary_text_is_never_changed(gemma):
    for row in tiny_models.rows("conversations.de", 64):
        for message in row["messages"]:
            assert chat.escape_special(gemma, message["content"]) == message["content"]


def test_a_tokenizer_without_a_template_is_read_with_ours():
    tokenizer = tiny_models.gemma_like()
    assert tokenizer.chat_template is None
    assert chat.render(tokenizer, MULTI_TURN) == chat.render(chat.apply_template(tiny_models.gemma_like()), MULTI_TURN)


def test_the_saved_tokenizer_reads_alike(gemma, tmp_path):
    from transformers import AutoTokenizer

    gemma.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert chat.loss_mask(again, MULTI_TURN) == chat.loss_mask(gemma, MULTI_TURN)


def test_generation_ends_at_the_stop_token_of_the_template(gemma):
    model = tiny_models.tiny_llama(len(gemma))
    model.generation_config.eos_token_id = [77, 78]
    chat.set_stop_token(model, gemma)
    assert model.generation_config.eos_token_id == gemma.eos_token_id
    assert model.generation_config.pad_token_id == gemma.pad_token_id != gemma.eos_token_id


def test_trl_agrees_that_the_stop_token_is_trained(gemma):
    from trl.chat_template_utils import has_generation_markers, is_chat_template_stop_token_trained

    assert has_generation_markers(gemma.chat_template)
    assert is_chat_template_stop_token_trained(gemma)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([{"role": "user", "content": "Hallo"}], "no assistant turn"),
        (
            [{"role": "user", "content": "Hallo"}, {"role": "assistant", "content": " \n"}],
            "an empty assistant turn",
        ),
        ([{"role": "tool", "content": "x"}], "the role 'tool'"),
        ([], "no messages"),
    ],
)
def test_conversations_that_teach_nothing_are_refused(gemma, messages, sentence):
    with pytest.raises(PhoenixError, match=sentence):
        chat.loss_mask(gemma, messages)


def test_a_tokenizer_that_pads_with_its_end_is_refused():
    with pytest.raises(PhoenixError, match="no padding token of its own"):
        chat.apply_template(tiny_models.gpt_like())


def with_turn_tokens():
    tokenizer = tiny_models.gpt_like()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|fim_pad|>", "<|im_start|>", "<|im_end|>"]})
    tokenizer.pad_token = "<|fim_pad|>"
    return tokenizer


def trained(tokenizer, messages):
    ids, mask = chat.loss_mask(tokenizer, messages)
    return tokenizer.decode([token for token, bit in zip(ids, mask, strict=True) if bit])


def test_chatml_ends_every_turn_with_its_own_token_and_trains_it():
    tokenizer = chat.apply_template(with_turn_tokens(), "chatml")
    assert tokenizer.eos_token == "<|im_end|>"
    assert chat.render(tokenizer, MULTI_TURN[1:3], add_generation_prompt=True) == (
        "<|im_start|>user\nWie heißt du?<|im_end|>\n<|im_start|>assistant\nPhönix.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert trained(tokenizer, MULTI_TURN) == "Phönix.<|im_end|>Nichts weiter.<|im_end|>"


def test_a_models_own_template_is_used_if_it_says_what_the_assistant_writes():
    tokenizer = with_turn_tokens()
    marked = chat.CHATML_TEMPLATE.replace("eos_token", "'<|im_end|>'").replace("<|im_start|>", "<|im_start|> ")
    tokenizer.chat_template = marked
    tokenizer = chat.apply_template(tokenizer, "own")
    assert tokenizer.chat_template == marked and tokenizer.eos_token == "<|im_end|>"
    assert trained(tokenizer, MULTI_TURN) == "Phönix.<|im_end|>Nichts weiter.<|im_end|>"


@pytest.mark.parametrize(
    ("template", "name", "sentence"),
    [
        (None, "own", "brings no chat template"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "own", "does not mark what the assistant writes"),
        (chat.CHATML_TEMPLATE.replace("eos_token", "'.'"), "own", "do not end in a stop token"),
        (None, "chatml", "has no token <|im_end|>"),
    ],
)
def test_a_template_that_cannot_teach_stopping_is_one_sentence(template, name, sentence):
    tokenizer = tiny_models.gpt_like()
    tokenizer.pad_token = "<|fim_pad|>"
    tokenizer.chat_template = template
    with pytest.raises(PhoenixError, match=re.escape(sentence) + ".*set chat_template to zephyr"):
        chat.apply_template(tokenizer, name)
