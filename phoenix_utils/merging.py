"""One model instead of a base and an adapter, without losing what the adapter learnt.

After LoRA that is a sum: W + B·A. After QLoRA there is a trap. The adapter was trained on *rounded* weights, the 4-bit
ones, and has learnt to make up for their rounding. Added to the unrounded base it makes another model, and added to
4-bit weights it is itself rounded away. So the 4-bit weights are turned back into ordinary numbers first, exactly the
ones the adapter has seen in training, and the adapter is added to those (Dettmers et al. 2023 describe what it is
trained on).
"""

from __future__ import annotations

import shutil
from operator import itemgetter
from pathlib import Path

from phoenix_utils import artifacts, chat, hardware, models
from phoenix_utils.errors import PhoenixError


def merge_adapter(adapter: Path, base: str, languages: tuple[str, str], target: Path, dtype: str = "float32") -> Path:
    """Write base and adapter as one model, tokenizer and lineage included, into the new folder `target`.

    `dtype` is what the sum is stored in; it is computed in float32. Whether the adapter was trained on 4-bit weights is
    read from its lineage. Raises PhoenixError where `target` exists, and as `models.load_adapter` does.
    """
    import torch

    from phoenix_utils import training

    if target.exists():
        raise PhoenixError(f"{target} exists: choose another folder for the merged model")
    lineage = models.read_lineage(adapter)
    quantized = lineage.get("method") == "qlora"
    machine = hardware.describe()
    with training.quiet():
        model = models.load_model(base, languages, dtype="float32", quantize=quantized, hardware=machine)
        if quantized:
            model = model.dequantize(torch.float32)
        merged = models.load_adapter(model, adapter, base=base).merge_and_unload(safe_merge=True)
    merged = merged.to(getattr(torch, dtype))
    if hasattr(merged.config, "quantization_config"):
        del merged.config.quantization_config
    merged.hf_quantizer, merged.is_quantized = None, False
    tokenizer = chat.saved_tokenizer(adapter, base, languages)
    chat.set_stop_token(merged, tokenizer)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with training.quiet():
        merged.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    models.write_lineage(
        partial,
        merged,
        base,
        **{key: value for key, value in lineage.items() if key not in ("base", "base_shape")},
        merged_from=artifacts.sha256_file(adapter / "adapter_model.safetensors"),
    )
    partial.rename(target)
    return target


def restore_vocabulary(folder: Path, whole: str | Path) -> None:
    """Give the model in `folder`, whose vocabulary was trimmed, every token of its base in `whole` again, in place.

    A token is found by its spelling. The vectors of tokens that were trimmed away come back from the base as published:
    no training has touched them. Those that were kept stay what they are in `folder`, trained where training reached
    them, as do all other weights. Chat template and stop token stay the folder's.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with models.without_bars():
        small, full = (AutoModelForCausalLM.from_pretrained(place, dtype="auto") for place in (folder, whole))
    tokenizer, complete = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(whole)
    ids = complete.get_vocab()
    rows = [ids[token] for token, _ in sorted(tokenizer.get_vocab().items(), key=itemgetter(1))]
    full, kept = full.to(small.dtype), small.state_dict()
    with torch.no_grad():
        for name, tensor in full.state_dict().items():  # views of the weights themselves
            if tensor.shape == kept[name].shape:
                tensor.copy_(kept[name])
            else:
                tensor[rows] = kept[name]
    complete.chat_template, complete.eos_token = tokenizer.chat_template, tokenizer.eos_token
    complete.padding_side = tokenizer.padding_side
    chat.set_stop_token(full, complete)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with models.without_bars():
        full.save_pretrained(folder)
    complete.save_pretrained(folder)
