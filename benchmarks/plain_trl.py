"""What a competent user runs without this package: TRL's documented LoRA script on the model as it was published.

    python benchmarks/plain_trl.py --model FOLDER --rows FILE.jsonl --out FOLDER [--global-batch 8]

The values are those of TRL's own `scripts/sft.py` (two rows at once, accumulation, TRL's defaults for everything else),
with an adapter on all linear layers, loss on the assistant's turns, and the rate and schedule of the run it is compared
with. The last line is JSON: rows, seconds, CPU seconds and peak memory in GB of the training.
"""

import argparse
import json
import resource
import time

from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer


def main() -> None:
    """Train once and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of the untrimmed model, its tokenizer with a template")
    parser.add_argument("--rows", required=True, help="JSON lines with `messages`")
    parser.add_argument("--out", required=True, help="folder for the adapter")
    parser.add_argument("--global-batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, TRL's default; else float32")
    arguments = parser.parse_args()
    trainer = SFTTrainer(
        model=arguments.model,
        args=SFTConfig(
            output_dir=arguments.out,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=arguments.global_batch // 2,
            num_train_epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            assistant_only_loss=True,
            bf16=arguments.bf16,
            model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            seed=42,
            use_cpu=True,
        ),
        train_dataset=load_dataset("json", data_files=arguments.rows, split="train").select_columns("messages"),
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"),
    )
    rows = len(trainer.train_dataset)
    started, worked = time.monotonic(), time.process_time()
    trainer.train()
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - worked
    trainer.save_model(arguments.out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows *= arguments.epochs
    print(json.dumps({"rows": rows, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gb": round(peak, 2)}))


if __name__ == "__main__":
    main()
