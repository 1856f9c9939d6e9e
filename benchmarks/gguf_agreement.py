"""The GGUF file of a release against its safetensors: the same greedy tokens on 20 prompts?

    python benchmarks/gguf_agreement.py --run FOLDER [--json FILE]

FOLDER is a finished run of `mini`; nothing is written there. The model is released with its full vocabulary and a GGUF
file into a temporary folder. transformers loads both, the GGUF file through its own reader, which shares no code with
the export, and each continues the same held-out questions.
"""

import argparse
import json
import tempfile
from pathlib import Path

PROMPTS, NEW_TOKENS = 20, 32


def measure(run: Path) -> dict[str, float]:
    """`gguf_token_agreement`, the share of greedy tokens that are the same, and what it was measured on."""
    from phoenix_utils import gate, release, training

    with tempfile.TemporaryDirectory() as folder, training.quiet():
        wish = release.Wish(vocabulary="full", gguf=True)
        made = release.make_release(gate.find_source(str(run)), Path(folder) / "release", wish) / "model"
        [file] = made.glob("*.gguf")
        said = continuations(made), continuations(made, file.name)
        size = file.stat().st_size
    pairs = [(a, b) for rows in zip(*said, strict=True) for a, b in zip(*rows, strict=True)]
    return {
        "gguf_token_agreement": sum(a == b for a, b in pairs) / len(pairs),
        "gguf_prompts": len(said[0]),
        "gguf_tokens_compared": len(pairs),
        "gguf_megabytes": size / 1e6,
    }


def continuations(folder: Path, gguf_file: str | None = None) -> list[list[int]]:
    """Greedy token ids behind each prompt, padded to one length; the model in `folder`, or in the GGUF file there."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from phoenix_utils import chat
    from phoenix_utils.evaluation import held_out_prompts

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.float32).eval()
    texts = [chat.render(tokenizer, prompt.messages) for prompt in held_out_prompts("de", PROMPTS)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        found = model.generate(
            **batch,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    return found[:, batch["input_ids"].shape[1] :].tolist()


def main() -> None:
    """Measure, print, and keep the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/mini"), help="a finished run of mini")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = measure(arguments.run)
    for name, value in figures.items():
        print(f"{name}: {value:g}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
