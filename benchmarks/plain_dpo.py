"""What a competent user runs without this package: TRL's documented DPO script on the model as it was published.

    python benchmarks/plain_dpo.py --model FOLDER --adapter FOLDER --rows FILE.jsonl --out FOLDER [--max-steps 8]

The values are those of TRL's own `scripts/dpo.py` with LoRA: no explicit reference model, two pairs at once and
accumulation, gradient checkpointing on, no precomputation; everything else is TRL's default, but for the rate, schedule
and beta of the run it is compared with. `--adapter` is the SFT adapter, handed over as a PeftModel. The last line is
JSON: pairs, seconds, CPU seconds and peak memory in GB of the training.
"""

import argparse
import json
import resource
import time

import torch
from datasets import load_dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def main() -> None:
    """Train once and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of the untrimmed model, its tokenizer with a template")
    parser.add_argument("--adapter", required=True, help="folder of the SFT adapter")
    parser.add_argument("--rows", required=True, help="JSON lines with prompt, chosen and rejected as messages")
    parser.add_argument("--out", required=True, help="folder for the adapter")
    parser.add_argument("--global-batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, TRL's default; else float32")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="sdpa")
    trainer = DPOTrainer(
        model=PeftModel.from_pretrained(model, arguments.adapter, is_trainable=True),
        args=DPOConfig(
            output_dir=arguments.out,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=arguments.global_batch // 2,
            max_steps=arguments.max_steps,
            num_train_epochs=1,
            learning_rate=arguments.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            beta=arguments.beta,
            gradient_checkpointing=True,
            bf16=arguments.bf16,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            seed=42,
            use_cpu=True,
        ),
        train_dataset=load_dataset("json", data_files=arguments.rows, split="train"),
        processing_class=AutoTokenizer.from_pretrained(arguments.model),
    )
    started, worked = time.monotonic(), time.process_time()
    trainer.train()
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - worked
    trainer.save_model(arguments.out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    steps = trainer.state.global_step
    pairs = min(len(trainer.train_dataset), steps * arguments.global_batch)
    print(json.dumps({"pairs": pairs, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gb": round(peak, 2)}))


if __name__ == "__main__":
    main()
