"""Vocabulary trimming keeps its promises: on two small tokenizers of other kinds and on the embedded model."""

import csv
import gzip
import hashlib
import json

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from phoenix_utils import vocabulary, wordlists

GERMAN = [m["content"] for row in tiny_models.rows("conversations.de", 16) for m in row["messages"]]


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """BPE on characters with `▁` for the space and byte fallback, as Llama 2 and Gemma have it."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.train_from_iterator(
        (m["content"] for row in tiny_models.rows("conversations", 64) for m in row["messages"]),
        trainers.BpeTrainer(vocab_size=1500, special_tokens=tokens),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece-like"])
def pair(request):
    """(whole tokenizer, trimmed tokenizer, kept ids), the German texts covered."""
    whole = tiny_models.gemma_like() if request.param == "byte-level" else sentencepiece_like()
    spec = vocabulary.specification(whole)
    kept = vocabulary.kept_tokens(spec, {" und": 0.5, " der": 0.5}, GERMAN)
    return whole, vocabulary.trim_tokenizer(whole, kept), kept


def test_covered_text_is_cut_the_same_way(pair):
    whole, trimmed, kept = pair
    assert len(trimmed) < len(whole)
    for text in GERMAN:
        assert trimmed.tokenize(text) == whole.tokenize(text)
        old = whole(text, add_special_tokens=False)["input_ids"]
        assert [kept[new] for new in trimmed(text, add_special_tokens=False)["input_ids"]] == old


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_unicode_text_round_trips(pair, text):
    _, trimmed, _ = pair
    ids = trimmed(text, add_special_tokens=False)["input_ids"]
    # A text may spell a special token, which decoding drops only when asked to.
    assert trimmed.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text.replace("▁", " ")


def test_special_tokens_keep_their_part(pair):
    whole, trimmed, _ = pair
    assert trimmed.special_tokens_map == whole.special_tokens_map
    assert trimmed.tokenize(trimmed.eos_token) == [trimmed.eos_token]


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_kept_tokens_are_unchanged(tied):
    torch.manual_seed(0)
    whole = tiny_models.gemma_like()
    kept = vocabulary.kept_tokens(vocabulary.specification(whole), {" und": 1.0}, GERMAN[:3])
    model = tiny_models.tiny_llama(len(whole))
    model.config.tie_word_embeddings = tied
    model.tie_weights() if tied else None
    old = torch.tensor([whole(GERMAN[0])["input_ids"]])
    new = torch.tensor([[kept.index(token) for token in old[0].tolist()]])
    with torch.no_grad():
        before = model(old).logits[..., kept].clone()
        after = vocabulary.trim_model(model, kept)(new).logits
    assert after.shape[-1] == len(kept) and torch.equal(before, after)
    assert model.config.vocab_size == len(kept)


@pytest.fixture(scope="module")
def embedded_pair(trimmed_model_dir):
    from phoenix_utils import embedded

    return embedded.ensure_full(), trimmed_model_dir


def test_the_embedded_model_loses_nothing_it_keeps(embedded_pair):
    full, small = embedded_pair
    whole, trimmed = AutoTokenizer.from_pretrained(full), AutoTokenizer.from_pretrained(small)
    assert len(trimmed) < 80_000 < len(whole)
    for text in wordlists.covered_texts():
        assert trimmed.tokenize(text) == whole.tokenize(text)
    text = "Der Zug nach Köln fährt um 7:45 Uhr ab, aber nur werktags."
    old, new = whole(text)["input_ids"], trimmed(text)["input_ids"]
    names = trimmed.convert_ids_to_tokens(range(len(trimmed)))
    ids = torch.tensor(whole.convert_tokens_to_ids(names))
    with torch.no_grad():
        before = AutoModelForCausalLM.from_pretrained(full, dtype=torch.float32)(torch.tensor([old])).logits[0][:, ids]
        after = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)(torch.tensor([new])).logits[0]
    assert torch.allclose(before, after, atol=1e-3)


def test_unseen_text_grows_by_three_percent_at_most(embedded_pair, shared_data):
    full, small = embedded_pair
    whole, trimmed = AutoTokenizer.from_pretrained(full), AutoTokenizer.from_pretrained(small)
    sides = {"help, English": [], "help, German": [], "instructions": []}
    with gzip.open(shared_data / "libreoffice_help/en_de_pairs.tsv.gz", "rt", encoding="utf-8") as stream:
        for page, _, _, english, german in csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            if int(hashlib.sha256(page.encode()).hexdigest(), 16) % 10 == 0:
                sides["help, English"].append(english)
                sides["help, German"].append(german)
    for line in (shared_data / "self_instruct/seed_tasks.jsonl").read_text(encoding="utf-8").splitlines():
        sides["instructions"].append(json.loads(line)["instruction"])
    for name, texts in sides.items():
        before, after = (sum(map(len, t(texts[:3000])["input_ids"])) for t in (whole, trimmed))
        assert after <= 1.03 * before, f"{name}: {after / before - 1:.1%} more tokens"
