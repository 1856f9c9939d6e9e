"""Random models and tokenizers small enough to train in a second, and run directories for them.

The tokenizers are real BPE ones, trained on the project's own conversations: one in the manner of Gemma
(starts every text with a beginning-of-sequence token, pads with a token of its own), one in the manner of
GPT-2 (no such start, and nothing to pad with but its end).
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from phoenix_utils import artifacts, corpora, tables

DATA = Path(__file__).resolve().parent.parent / "phoenix_utils" / "data"


def rows(name: str, most: int) -> list[dict]:
    """The first rows of a packaged file."""
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:most]]


def _bpe(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = (
        m["content"] for name in ("conversations", "conversations.de") for r in rows(name, 64) for m in r["messages"]
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def gemma_like() -> PreTrainedTokenizerFast:
    """A tokenizer that puts <bos> in front of every text and has a <pad> of its own."""
    tokenizer = _bpe(["<pad>", "<eos>", "<bos>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def gpt_like(pad_is_eos: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer without a start token whose end also pads, with one special token to spare."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_bpe(["<|endoftext|>", "<|fim_pad|>"]), eos_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|fim_pad|>"]})
    if pad_is_eos:
        tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def tiny_llama(vocab_size: int, hidden_size: int = 64) -> LlamaForCausalLM:
    """A Llama of two layers with random weights, the same at every call; bitsandbytes wants blocks of 64."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Larger than transformers' start, so that what a tiny model says depends on what it reads.
            if parameter.dim() > 1:
                parameter.normal_(std=0.2 if "embed" in name else 0.15)
    return model


def save_tiny(folder: Path, hidden_size: int = 64) -> Path:
    """A folder with a tiny model and the Gemma-like tokenizer, which `model` in any settings can name."""
    tokenizer = gemma_like()
    tokenizer.save_pretrained(folder)
    tiny_llama(len(tokenizer), hidden_size).save_pretrained(folder)
    return folder


def save_kept_rows(run_dir: Path, conversations: list[dict], pairs: list[dict]) -> Path:
    """A run directory whose filtering stage has kept these rows."""
    folder = artifacts.stage_path(str(run_dir), "filtering")
    tables.write_rows(folder / "chat.parquet", conversations, corpora.CHAT)
    tables.write_rows(folder / "preferences.parquet", pairs, corpora.PREFERENCES)
    return run_dir
