"""Read a Gemma 3 GGUF file: its facts, its tokenizer, its weights.

The header is read here rather than by a library: the usual reader builds several objects for each of the
262,144 tokens and takes half a minute for what takes a second. The result is the same, tensor for tensor and
merge for merge, as transformers' own `gguf_file=` loading; a test holds the two together.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import re
import struct
from collections.abc import Sequence

import numpy as np

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CONTROL, _USER_DEFINED = 3, 4

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_TOKEN_VECTORS = "token_embd.weight"


class GgufFile:
    """The content of a GGUF file held in memory.

    `facts` are its key-value pairs (arrays of numbers as numpy arrays, of strings as lists), `kinds` the type number of
    each, with that of its elements or None; `tensors` maps a name to (shape, quantisation type number, offset of its
    first byte).
    """

    def __init__(self, content: bytes):
        self._content, self._at = content, 8
        if content[:4] != b"GGUF":
            raise ValueError("not a GGUF file")
        tensor_count, fact_count = self._scalar("Q"), self._scalar("Q")
        self.facts, self.kinds = {}, {}
        for _ in range(fact_count):
            name, kind = self._string(), self._scalar("I")
            of_elements = struct.unpack_from("<I", content, self._at)[0] if kind == _ARRAY else None
            self.kinds[name], self.facts[name] = (kind, of_elements), self._value(kind)
        tensors = {}
        for _ in range(tensor_count):
            name = self._string()
            shape = [self._scalar("Q") for _ in range(self._scalar("I"))]
            tensors[name] = (shape[::-1], self._scalar("I"), self._scalar("Q"))
        alignment = self.facts.get("general.alignment", 32)
        start = -(-self._at // alignment) * alignment
        self.tensors = {name: (shape, kind, start + at) for name, (shape, kind, at) in tensors.items()}

    def _scalar(self, code: str):
        value = struct.unpack_from("<" + code, self._content, self._at)[0]
        self._at += struct.calcsize("<" + code)
        return value

    def _string(self) -> str:
        length = self._scalar("Q")
        self._at += length
        return self._content[self._at - length : self._at].decode()

    def _value(self, kind: int):
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        kind, count = self._scalar("I"), self._scalar("Q")
        if kind in (_STRING, _ARRAY):
            return [self._value(kind) for _ in range(count)]
        values = np.frombuffer(self._content, np.dtype(_SCALARS[kind]).newbyteorder("<"), count, self._at)
        self._at += values.nbytes
        return values

    def tensor(self, name: str, rows: Sequence[int] | None = None) -> np.ndarray:
        """A tensor as float32, all of it or only some of its rows (quantisation never crosses a row)."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        shape, kind, start = self.tensors[name]
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        row_bytes = shape[-1] // block * size
        count = int(np.prod(shape[:-1], dtype=int))
        stored = np.frombuffer(self._content, np.uint8, count * row_bytes, start)
        stored = stored.reshape(*shape[:-1], row_bytes)
        stored = stored if rows is None else stored[np.asarray(rows)]
        return np.ascontiguousarray(dequantize(stored, GGMLQuantizationType(kind)), dtype=np.float32)


def gemma_weights(file: GgufFile, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """Weights of a Gemma 3 text model under transformers' names, float32; token vectors only for `rows`."""
    weights = {}
    for name in file.tensors:
        array = file.tensor(name, rows if name == _TOKEN_VECTORS else None)
        # GGUF stores the factor of a norm, transformers its distance from one
        weights[transformers_name(name)] = array - 1 if name.endswith("norm.weight") else array
    return weights


def transformers_name(name: str) -> str:
    """The name that transformers has for a tensor of a Gemma 3 file."""
    if name == _TOKEN_VECTORS:
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    layer, part = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name).groups()
    return f"model.layers.{layer}.{_LAYER[part]}.weight"


def gemma_config(file: GgufFile, vocab_size: int) -> dict:
    """Keyword arguments of transformers' `Gemma3TextConfig` for a file; token ids are those of the file."""
    facts = {name.removeprefix("gemma3."): value for name, value in file.facts.items()}
    return {
        "vocab_size": vocab_size,
        "hidden_size": facts["embedding_length"],
        "intermediate_size": facts["feed_forward_length"],
        "num_hidden_layers": facts["block_count"],
        "num_attention_heads": facts["attention.head_count"],
        "num_key_value_heads": facts["attention.head_count_kv"],
        "head_dim": facts["attention.key_length"],
        "query_pre_attn_scalar": facts["attention.key_length"],
        "max_position_embeddings": facts["context_length"],
        "rms_norm_eps": round(facts["attention.layer_norm_rms_epsilon"], 12),  # 1e-6 made a float32
        "sliding_window": facts["attention.sliding_window"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": facts["rope.freq_base"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }


def gemma_tokenizer(file: GgufFile) -> dict:
    """The file's tokenizer as the content of a `tokenizer.json`; it puts `<bos>` before a text, as Gemma
    wants.

    The file has no merges: they follow from the order of the tokens. Runs of blanks are stored as blanks,
    where the tokenizer looks for the visible blank that its normaliser makes of them.
    """
    stored = file.facts["tokenizer.ggml.tokens"]
    tokens = ["▁" * len(token) if " " in token and not token.strip() else token for token in stored]
    vocab = {token: i for i, token in enumerate(tokens)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    kinds = file.facts["tokenizer.ggml.token_type"]
    bos = file.facts["tokenizer.ggml.bos_token_id"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], **special, "special": kind == _CONTROL}
            for i, kind in enumerate(kinds.tolist())
            # respelled runs of blanks are reached by merges: text has blanks there, not their visible form
            if kind == _CONTROL or kind == _USER_DEFINED and tokens[i] == stored[i]
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": _begins_with(tokens[bos], bos),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokens[file.facts["tokenizer.ggml.unknown_token_id"]],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(tokens, vocab),
        },
    }


def _merges(tokens: list[str], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of tokens that make a third one, in the third one's place."""
    return [
        (token[:cut], token[cut:])
        for token in tokens
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in vocab and token[cut:] in vocab
    ]


def _begins_with(token: str, index: int) -> dict:
    """The post-processor that puts one token before each text."""
    (first, a), (second, b) = (
        ({"SpecialToken": {"id": token, "type_id": place}}, {"Sequence": {"id": part, "type_id": place}})
        for place, part in enumerate("AB")
    )
    return {
        "type": "TemplateProcessing",
        "single": [first, a],
        "pair": [first, a, second, b],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }
