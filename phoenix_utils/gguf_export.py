"""A trained Gemma 3 as one GGUF file, for llama.cpp and what is built on it.

The embedded base came as a GGUF file. Its header already says everything that such a program has to know, the tokenizer
with its scores above all, which no other form of the model holds. So the header is taken over, the numbers are the
trained ones, and the chat template comes along. Tensors are written as float32: the file says exactly what the
safetensors say, and `llama-quantize` makes smaller ones of it.

A model of another origin needs llama.cpp's own converter, a script in its repository that no package registry carries:

    python llama.cpp/convert_hf_to_gguf.py runs/NAME/release/model --outtype f16 --outfile model.gguf
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_utils import embedded
from phoenix_utils.errors import PhoenixError

if TYPE_CHECKING:
    from phoenix_utils.gguf_file import GgufFile

_STRING, _UINT32 = 8, 4
# What the writer says itself, and what described the 4-bit numbers.
_NOT_TAKEN_OVER = ("general.architecture", "general.quantization_version", "general.file_type", "general.name")


def check_exportable(base: str) -> None:
    """Raise PhoenixError, with the steps that remain, unless a model made of `base` can be exported."""
    if not embedded.is_embedded(base):
        raise PhoenixError(
            f"--gguf exports models made of {embedded.PREFIX}{embedded.MODELS[0]} only, whose GGUF header is at hand; "
            f"for {base} release without it and give the folder model/ to convert_hf_to_gguf.py of llama.cpp, which no "
            "package registry carries (the book's page on releases has the commands)"
        )


def export(folder: Path, target: Path, source: GgufFile, name: str) -> None:
    """Write the model in `folder`, with all the tokens of `source`, as the GGUF file `target`, in float32.

    `source` is the file that the base came as, `name` what the new file calls the model.
    """
    import gguf
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    from phoenix_utils.gguf_file import transformers_name

    weights = load_file(folder / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    writer = gguf.GGUFWriter(target, source.facts["general.architecture"])
    writer.add_key_value("general.name", name, gguf.GGUFValueType(_STRING))
    for key, value in source.facts.items():
        if key not in _NOT_TAKEN_OVER:
            kind, of_elements = source.kinds[key]
            of_elements = None if of_elements is None else gguf.GGUFValueType(of_elements)
            value = tokenizer.eos_token_id if key == "tokenizer.ggml.eos_token_id" else value
            value = value.tolist() if hasattr(value, "tolist") else value
            writer.add_key_value(key, value, gguf.GGUFValueType(kind), of_elements)
    writer.add_key_value("general.file_type", 0, gguf.GGUFValueType(_UINT32))  # all float32
    # Only training needs the marks of what the assistant says, and only transformers knows them.
    template = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", tokenizer.chat_template)
    writer.add_key_value("tokenizer.chat_template", template, gguf.GGUFValueType(_STRING))
    for tensor in source.tensors:
        array = weights[transformers_name(tensor)].astype("float32")
        # GGUF stores the factor of a norm, transformers its distance from one
        writer.add_tensor(tensor, array + 1 if tensor.endswith("norm.weight") else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
