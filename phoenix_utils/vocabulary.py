"""Trim the vocabulary of a BPE model to the languages it is used for.

A multilingual model spends much of itself on words of languages that a run never sees: of the embedded model's
268 million parameters, 168 million are its 262,144 token vectors. Trimming keeps the tokens that the run's
languages use and drops the other rows; what is left computes exactly what it computed before.

    kept = kept_tokens(specification(tokenizer), word_forms(["en", "de"]), covered_texts())
    small_tokenizer, small_model = trim_tokenizer(tokenizer, kept), trim_model(model, kept)

Why the tokenisation of covered text cannot change: BPE applies, again and again, the merge of lowest rank that
fits. If every token on the way to each token of a text is kept, every merge that the full vocabulary would apply
is still there with its place in the order, and the merges that are gone are ones it did not choose. So
`kept_tokens` adds to each token its derivation: the tokens that its own merges pass through. Text that is not
covered falls apart into smaller kept tokens, in the end into bytes, so nothing becomes unknown.
"""

import hashlib
import importlib.util
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from phoenix_utils.errors import PhoenixError

WORDS = 50_000
"""How many words of each language's frequency list are looked at. Twice as many changed nothing measurable."""

COVERAGE = 0.994
"""Share of the expected use of word forms whose tokens are kept.

Measured with the embedded model on 24,000 English and German help paragraphs and two sets of English
instructions: 0.994 keeps about 78,000 tokens and makes those texts 0.9 to 2.5 % longer; 0.990 keeps 70,000 and
makes them 1.7 to 3.1 % longer, which breaks the promise of at most 3 %."""

RULES = 1
"""Version of the rules in this module; raise it when `kept_tokens` would choose other tokens than before."""

_CODE_WORDS = """
abs args array assert async await bash bool boolean break byte case catch char class cls const continue cout cpp
css csv data def default del delete dict div do double elif else end endl enum except exec export extends false
final finally float fn for foreach from func function git global goto grep href html http https if impl implements
import in include init input insert int interface is isinstance java javascript join json kwargs lambda len let
list long main map match math matplotlib mkdir mod module mut namespace new nil none not null np npm num numpy obj
object order os out override package pandas param parse pass path pd pip plt print printf println private
protected pub public py pytest python raise range re read regex repr req require res return rust self select set
short signed sizeof sort split sql sqrt src static std str string strip struct sudo sum super switch sys table
test then this throw throws to torch true try tuple type typedef typeof union unsigned update url use using utf
val values var vector void where while with xml yaml yield zip
"""
"""Words of programs, in the usual spellings, so that code in a conversation stays as short as it was."""

_SYMBOLS = frozenset(
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~0123456789 \t\n\r"
    "\u00a0\u200b«»„“”‚‘’‹›–—…•·§°¶†‡′″‰№¡¿€£¥¢©®™±×÷¬µ²³¹½¼¾≤≥≠≈∞√∑∏∂∫∈∉⊂∪∩→←↑↓↔⇒⇔✓✔✗✘─│├└┌┐┘┤┬┴┼═║■□●○★☆▪"
)
"""Digits, blanks and signs of prose, Markdown and code: every token made of nothing else is kept."""

_PLACEHOLDER = re.compile(r"unused|reserved|placeholder", re.IGNORECASE)
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*")
_SAME_LIST = {"no": "nb", "hr": "sh", "bs": "sh"}
_OTHER_SCRIPT = frozenset({"zh-hant", "zh-tw", "zh-hk", "zh-mo", "sr", "sr-cyrl"})


def word_list(language: str) -> Path | None:
    """The file of wordfreq's list for an ISO code ("de", "pt-BR"), or None where wordfreq has none.

    Only the path is looked up: wordfreq is not imported. Raises PhoenixError when `language` is no language code.
    """
    code = language.strip().lower().replace("_", "-") if isinstance(language, str) else ""
    if not _LANGUAGE.fullmatch(code):
        raise PhoenixError(f"language {language!r} is not a language code: write it as in 'de' or 'pt-BR'.")
    if code in _OTHER_SCRIPT:
        return None
    spec = importlib.util.find_spec("wordfreq")
    if spec is None or not spec.submodule_search_locations:
        raise PhoenixError("the package 'wordfreq' is not installed: run `pip install wordfreq`.")
    code = code.split("-")[0]
    code = _SAME_LIST.get(code, code)
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return next((f for size in ("large", "small") if (f := folder / f"{size}_{code}.msgpack.gz").is_file()), None)


def corpora_files() -> list[Path]:
    """The package's own corpora, whose texts count as covered."""
    return sorted((Path(__file__).parent / "data").glob("*.jsonl"))


def fingerprint(languages: Iterable[str]) -> str:
    """Twelve hex digits that change whenever the kept tokens could: languages, word lists, corpora, rules.

    Reads the files as bytes, so it takes milliseconds and imports nothing heavy.
    """
    digest = hashlib.sha256(f"{RULES} {WORDS} {COVERAGE} {_CODE_WORDS}".encode())
    for file in [*filter(None, map(word_list, sorted(set(languages)))), *corpora_files()]:
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def covered_texts() -> list[str]:
    """Texts whose tokenisation must not change: every text of the package's corpora, and words of programs."""
    texts = [space + form for word in _CODE_WORDS.split() for form in _cased(word) for space in ("", " ")]
    for file in corpora_files():
        for line in file.read_text(encoding="utf-8").splitlines():
            texts.extend(_strings(json.loads(line)) if line.strip() else ())
    return texts


def word_forms(languages: Iterable[str]) -> dict[str, float]:
    """Words as they stand in text, each with the share of a text that it is expected to make up.

    From the `WORDS` most frequent words of each language: lower case, Title and UPPER, with and without the
    space before, since a tokenizer has different tokens for them. Each language weighs the same; the shares are
    relative. Raises PhoenixError for a language that wordfreq has no list of.
    """
    import wordfreq

    forms: dict[str, float] = {}
    for language in sorted(set(languages)):
        file = word_list(language)
        if file is None:
            raise PhoenixError(f"wordfreq has no word list for {language!r}: keep the full vocabulary.")
        code = file.name.split("_")[1].split(".")[0]
        words = list(islice(wordfreq.get_frequency_dict(code).items(), WORDS))  # in order of frequency
        total = sum(frequency for _, frequency in words)
        for folded, frequency in words:
            for word in _unfolded(folded, code):
                lower, title, upper = _cased(word, code)
                for form, inside, bare in ((lower, 0.5, 0.1), (title, 0.3, 0.1), (upper, 0.02, 0.02)):
                    forms[" " + form] = forms.get(" " + form, 0.0) + inside * frequency / total
                    forms[form] = forms.get(form, 0.0) + bare * frequency / total
    return forms


def _unfolded(word: str, code: str) -> list[str]:
    """Undo what wordfreq's case folding did to the spelling: it turned German ß into ss, Greek ς into σ."""
    if code == "de" and "ss" in word:
        return [word, word.replace("ss", "ß")]  # which of the two is right, only a dictionary knows
    return [word[:-1] + "ς" if code == "el" and word.endswith("σ") else word]


def _cased(word: str, code: str = "") -> tuple[str, str, str]:
    """A word in lower case, Title and UPPER."""
    large = word.replace("i", "İ") if code == "tr" else word
    return word, large[:1].upper() + word[1:], large.upper()


def _scripts(forms: Mapping[str, float]) -> set[str]:
    """Scripts, as the first word of Unicode's character names ("LATIN"), that write 1 % of the letters or more."""
    shares: Counter[str] = Counter()
    for form, share in forms.items():
        for character in form:
            if character.isalpha():
                shares[_script(character)] += share
    return {script for script, share in shares.items() if share >= 0.01 * shares.total()}


@lru_cache(maxsize=None)
def _script(character: str) -> str:
    return unicodedata.name(character, "?").split(" ")[0]


def _strings(value) -> list[str]:
    """Every string inside a JSON value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _strings(item)]


def specification(tokenizer) -> dict:
    """The `tokenizer.json` of a fast BPE tokenizer as a dict.

    Raises PhoenixError for a tokenizer that is not BPE or that uses features trimming does not know.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    spec = json.loads(backend.to_str()) if hasattr(backend, "to_str") else {}
    model = spec.get("model", {})
    kind = model.get("type", type(tokenizer).__name__)
    if kind != "BPE":
        raise PhoenixError(f"the vocabulary of a {kind} tokenizer cannot be trimmed: only fast BPE tokenizers can.")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise PhoenixError("BPE vocabularies with subword prefixes or word suffixes cannot be trimmed.")
    # tokenizers before 0.20 wrote a merge as one string
    model["merges"] = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return spec


def kept_tokens(
    spec: dict, forms: Mapping[str, float], texts: Sequence[str] = (), coverage: float = COVERAGE
) -> list[int]:
    """Ids to keep, ascending.

    They are: the tokens that make up `coverage` of the expected use of `forms` (see `word_forms`); all tokens of
    `texts`; bytes, special and added tokens except reserved placeholders, tokens of digits, blanks and signs
    only, single characters of the forms' scripts; and the derivation of each. `spec` is what `specification`
    returns.
    """
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str(json.dumps(spec))
    use = np.zeros(1 + max(spec["model"]["vocab"].values()))
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

    One is its expected use in the languages, by rank; the other is its id, since BPE learns common tokens first.
    Word lists come from subtitles and encyclopaedias, the ids from all that the model was trained on: together
    they need fewer tokens for the same growth than either alone.
    """
    rank = np.empty(len(use))
    rank[np.argsort(-use, kind="stable")] = np.arange(1, len(use) + 1)
    order = np.argsort(np.log(rank) + 0.5 * np.log(np.arange(1, len(use) + 1)), kind="stable")
    order = order[use[order] > 0]
    covered = np.cumsum(use[order])
    return set(order[: 1 + np.searchsorted(covered, coverage * use.sum())].tolist())


def _always_kept(spec: dict, scripts: set[str]) -> set[int]:
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
        if from_bytes is not None and len(token) == 1 or model.get("byte_fallback") and _BYTE_TOKEN.fullmatch(token):
            kept.add(i)
            continue
        surface = _surface(token, from_bytes)
        if surface and (_SYMBOLS.issuperset(surface) or len(surface) == 1 and _script(surface) in scripts):
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
    """Byte-level BPE's spelling of the 256 bytes as printable characters (GPT-2's table), character to byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(hidden)}


def _is_byte_level(spec: dict) -> bool:
    return any(_holds_type(spec.get(part), "ByteLevel") for part in ("pre_tokenizer", "decoder", "normalizer"))


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
    """The `tokenizer.json` dict with only the tokens `kept`; new ids count up in the order of the old ones."""
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

    Special tokens, chat template, sides and length limit are taken over.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(json.dumps(trim_specification(specification(tokenizer), kept)))
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
