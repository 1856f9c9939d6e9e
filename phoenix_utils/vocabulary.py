"""Trim the vocabulary of a BPE model to the languages it is used for.

A multilingual model spends much of itself on words of languages that a run never sees: of the embedded
model's 268 million parameters, 168 million are its 262,144 token vectors. Trimming keeps the tokens that the
run's languages use and drops the other rows; what is left computes exactly what it computed before.

    kept = kept_tokens(specification(tokenizer), word_forms(("en", "de")), covered_texts())
    small_tokenizer, small_model = trim_tokenizer(tokenizer, kept), trim_model(model, kept)

Why the tokenisation of covered text cannot change: BPE applies, again and again, the merge of lowest rank
that fits. If every token on the way to each token of a text is kept, every merge that the full vocabulary
would apply is still there with its place in the order, and the merges that are gone are ones it did not
choose. So `kept_tokens` adds to each token its derivation: the tokens that its own merges pass through. Text
that is not covered falls apart into smaller kept tokens, in the end into bytes, so nothing becomes unknown.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice

import numpy as np

from phoenix_utils.errors import PhoenixError

COVERAGE = 0.994
"""Share of the expected use of word forms whose tokens are kept.

Measured with the embedded model on 24,000 English and German help paragraphs and two sets of English
instructions: 0.994 keeps 76,000 tokens and makes those texts 0.8 to 2.5 % longer; 0.990 keeps 67,000 and
makes them up to 3.1 % longer, which breaks the promise of at most 3 %."""

RULES = 1
"""Version of the rules in this module; raise it when `kept_tokens` would choose other tokens than before."""

_SYMBOLS = frozenset(
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~0123456789 \t\n\r"
    "\u00a0\u200b«»„“”‚‘’‹›–—…•·§°¶†‡′″‰№¡¿€£¥¢©®™±×÷¬µ²³¹½¼¾≤≥≠≈∞√∑∏∂∫∈∉⊂∪∩→←↑↓↔⇒⇔✓✔✗✘─│├└┌┐┘┤┬┴┼═║■□●○★☆▪"
    "。、，．：；！？（）「」『』【】《》〈〉・～।॥،؛؟"
)
"""Digits, blanks and signs of prose, Markdown and code: every token made of nothing else is kept."""

_PLACEHOLDER = re.compile(r"unused|reserved|placeholder", re.IGNORECASE)
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def _scripts(forms: Mapping[str, float]) -> set[str]:
    """Scripts, as the first word of Unicode's character names ("LATIN"), that write 1 % of the letters or
    more."""
    shares: Counter[str] = Counter()
    for form, share in forms.items():
        for character in form:
            if character.isalpha():
                shares[_script(character)] += share
    return {script for script, share in shares.items() if share >= 0.01 * shares.total()}


@cache
def _script(character: str) -> str:
    return unicodedata.name(character, "?").split(" ")[0]


def specification(tokenizer) -> dict:
    """The `tokenizer.json` of a fast BPE tokenizer as a dict.

    Raises PhoenixError for a tokenizer that is not BPE or that uses features trimming does not know.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    spec = json.loads(backend.to_str()) if hasattr(backend, "to_str") else {}
    model = spec.get("model", {})
    kind = model.get("type", type(tokenizer).__name__)
    if kind != "BPE":
        raise PhoenixError(
            f"the vocabulary of a {kind} tokenizer cannot be trimmed, only that of a BPE one: keep it whole"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise PhoenixError("a BPE vocabulary with subword prefixes or word suffixes cannot be trimmed: keep it whole")
    # tokenizers before 0.20 wrote a merge as one string
    model["merges"] = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return spec


def kept_tokens(
    spec: dict, forms: Mapping[str, float], texts: Sequence[str] = (), coverage: float = COVERAGE
) -> list[int]:
    """Ids to keep, ascending.

    They are: the tokens that make up `coverage` of the expected use of `forms` (`wordlists.word_forms`); all
    tokens of `texts`; bytes, special and added tokens except reserved placeholders, tokens of digits, blanks
    and signs only; of the scripts that the forms are written in, the single characters, and every token where
    the script is not Latin; and the derivation of each. `spec` is what `specification` returns.
    """
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str(json.dumps(spec))
    last = max([*spec["model"]["vocab"].values(), *(token["id"] for token in spec["added_tokens"])])
    use = np.zeros(last + 1)
    for form, ids in zip(forms, _encode(encoder, forms), strict=True):
        use[ids] += forms[form]
    kept = _always_kept(spec, _scripts(forms)) | _most_used(use, coverage)
    for ids in _encode(encoder, texts):
        kept.update(ids)
    return sorted(_with_derivations(spec["model"], kept))


def _encode(encoder, texts: Iterable[str]) -> Iterator[list[int]]:
    texts = iter(texts)
    while batch := list(islice(texts, 50_000)):
        for encoding in encoder.encode_batch_fast(batch, add_special_tokens=False):
            yield encoding.ids


def _most_used(use: np.ndarray, coverage: float) -> set[int]:
    """The ids that make up the share `coverage` of all use, taken in order of two signs of a common token.

    One is its expected use in the languages, by rank; the other is its id, since BPE learns common tokens
    first. Word lists come from subtitles and encyclopaedias, the ids from all that the model was trained on:
    together they need fewer tokens for the same growth than either alone.
    """
    rank = np.empty(len(use))
    rank[np.argsort(-use, kind="stable")] = np.arange(1, len(use) + 1)
    order = np.argsort(np.log(rank) + 0.5 * np.log(np.arange(1, len(use) + 1)), kind="stable")
    order = order[use[order] > 0]
    covered = np.cumsum(use[order])
    return set(order[: 1 + np.searchsorted(covered, coverage * use.sum())].tolist())


def _always_kept(spec: dict, scripts: set[str]) -> set[int]:
    """Ids that are kept whatever the words are, for languages written in `scripts`."""
    # Vocabularies are mostly Latin (159,000 of Gemma's tokens; 19,000 are Chinese, 13,000 Cyrillic), so all of
    # another script costs little; and where words are not set apart by spaces, word lists would not do.
    whole = scripts - {"LATIN"}
    model, vocab = spec["model"], spec["model"]["vocab"]
    from_bytes = _byte_alphabet() if _is_byte_level(spec) else None
    added = {token["content"]: token["id"] for token in spec["added_tokens"]}
    kept = {i for content, i in added.items() if not _PLACEHOLDER.search(content)}
    kept |= _post_processor_ids(spec.get("post_processor"))
    if model.get("unk_token") in vocab:
        kept.add(vocab[model["unk_token"]])
    for token, i in vocab.items():
        if token in added:
            continue
        is_byte = len(token) == 1 if from_bytes else _BYTE_TOKEN.fullmatch(token)
        text = _surface(token, from_bytes)
        if (
            is_byte
            or (text and _SYMBOLS.issuperset(text))
            or (len(text) == 1 and _script(text) in scripts)
            or any(_script(character) in whole for character in text)
        ):
            kept.add(i)
    return kept


def _surface(token: str, from_bytes: dict[str, int] | None) -> str:
    """The text a token stands for; "" where its bytes are only part of a character."""
    if from_bytes is None:
        return token.replace("▁", " ")
    try:
        return bytes(from_bytes[ch] for ch in token).decode()
    except (KeyError, UnicodeDecodeError):
        return ""


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's spelling of the 256 bytes as printable characters (GPT-2's table), character to
    byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(hidden)}


def _is_byte_level(spec: dict) -> bool:
    return any(_holds_type(spec.get(part), "ByteLevel") for part in ("normalizer", "pre_tokenizer", "decoder"))


def _holds_type(value, kind: str) -> bool:
    if isinstance(value, dict):
        return value.get("type") == kind or any(_holds_type(inner, kind) for inner in value.values())
    return isinstance(value, list) and any(_holds_type(inner, kind) for inner in value)


def _with_derivations(model: dict, kept: set[int]) -> set[int]:
    """`kept` and every token that BPE passes through while it builds one of them from characters."""
    vocab, ranks = model["vocab"], {pair: rank for rank, pair in enumerate(model["merges"])}
    names = {i: token for token, i in vocab.items()}
    closed = set(kept)
    for i in kept:
        parts = list(names.get(i, ""))
        closed.update(vocab[ch] for ch in parts if ch in vocab)
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda n: ranks.get((parts[n], parts[n + 1]), len(ranks)))
            if (parts[best], parts[best + 1]) not in ranks:
                break  # a special token: nothing builds it from characters
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
            closed.add(vocab[parts[best]])
    return closed


def trim_specification(spec: dict, kept: Sequence[int]) -> dict:
    """The `tokenizer.json` dict with only the tokens `kept`; new ids count up in the order of the old
    ones."""
    new_id = {old: new for new, old in enumerate(sorted(kept))}
    model = spec["model"]
    vocab = {token: new_id[i] for token, i in model["vocab"].items() if i in new_id}
    merges = [(a, b) for a, b in model["merges"] if a in vocab and b in vocab and a + b in vocab]
    return {
        **spec,
        "model": {**model, "vocab": vocab, "merges": merges},
        "added_tokens": [{**t, "id": new_id[t["id"]]} for t in spec["added_tokens"] if t["id"] in new_id],
        "post_processor": _renumbered(spec.get("post_processor"), new_id),
    }


def _post_processor_ids(processor) -> set[int]:
    """Ids of the tokens that a post-processor puts around a text."""
    if isinstance(processor, list):
        return {i for inner in processor for i in _post_processor_ids(inner)}
    if not isinstance(processor, dict):
        return set()
    ids = {i for token in processor.get("special_tokens", {}).values() for i in token["ids"]}
    ids |= {processor[end][1] for end in ("sep", "cls") if end in processor}  # Bert's and RoBERTa's form
    return ids | _post_processor_ids(processor.get("processors"))


def _renumbered(processor, new_id: dict[int, int]):
    """A post-processor whose tokens carry their new ids."""
    if isinstance(processor, list):
        return [_renumbered(inner, new_id) for inner in processor]
    if not isinstance(processor, dict):
        return processor
    changed = dict(processor)
    if "special_tokens" in changed:
        changed["special_tokens"] = {
            name: {**token, "ids": [new_id[i] for i in token["ids"]]}
            for name, token in changed["special_tokens"].items()
        }
    for end in ("sep", "cls"):
        if end in changed:
            changed[end] = [changed[end][0], new_id[changed[end][1]]]
    if "processors" in changed:
        changed["processors"] = _renumbered(changed["processors"], new_id)
    return changed


def trim_tokenizer(tokenizer, kept: Sequence[int]):
    """A fast tokenizer with only the tokens `kept` (old ids); the given one stays as it is.

    Special tokens, chat template, sides and length limit are taken over. Raises PhoenixError when one of the
    special tokens is not kept: a placeholder that took the part of a special token belongs into the `texts`
    of `kept_tokens`.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(json.dumps(trim_specification(specification(tokenizer), kept)))
    if lost := [token for token in tokenizer.all_special_tokens if backend.token_to_id(token) is None]:
        raise PhoenixError(f"special tokens {lost} are not among the kept ones: add them to the covered texts")
    settings = ("chat_template", "padding_side", "truncation_side", "model_max_length")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: value for name in settings if (value := getattr(tokenizer, name, None)) is not None},
        **tokenizer.special_tokens_map,
    )


def trim_model(model, kept: Sequence[int]):
    """Keep only the rows `kept` (old ids) of a causal model's token vectors and output layer, in place.

    The logits of the kept tokens stay what they were. Token ids in the model's configuration and generation
    configuration get their new numbers; an id whose token is dropped becomes None. Returns the model.
    """
    import torch

    new_id = {old: new for new, old in enumerate(sorted(kept))}
    vectors, output = model.get_input_embeddings(), model.get_output_embeddings()
    tensors = [layer.weight for layer in (vectors, output) if layer is not None]
    tensors += [output.bias] if getattr(output, "bias", None) is not None else []
    with torch.no_grad():
        for tensor in {id(t): t for t in tensors}.values():  # tied ones only once
            tensor[: len(new_id)] = tensor[torch.tensor(list(new_id), device=tensor.device)]
    if vectors.padding_idx is not None:
        vectors.padding_idx = new_id.get(vectors.padding_idx)
    # the wanted rows stand first now: cutting off the rest is what transformers knows to do for every model
    model.resize_token_embeddings(len(new_id))
    configs = (model.config, model.config.get_text_config(), model.generation_config)
    for config in {id(c): c for c in configs if c is not None}.values():
        for name, value in config.to_dict().items():
            if name.endswith("token_id") and isinstance(value, int):
                setattr(config, name, new_id.get(value))
            elif name.endswith("token_id") and isinstance(value, list):
                setattr(config, name, [new_id[i] for i in value if i in new_id] or None)
    return model
