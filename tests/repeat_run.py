"""Every stage once on a tiny model: `python tests/repeat_run.py FOLDER MODEL` in a process of its own, or `run_all`."""

import sys
from pathlib import Path

import test_filtering

from phoenix_utils import dpo, evaluation, filtering, sft, translation

SHORT = {"max_length": 2048, "global_batch": 2, "learning_rate": 5e-3, "dtype": "float32"}


def run_all(folder: Path, model: Path) -> None:
    """Translate into `folder`/translated; filter human translations, train and evaluate in `folder`/run.

    A random model translates nothing that a filter would keep.
    """
    shared = {"model": str(model), "run_dir": str(folder / "run")}
    translation.run(
        translation.TranslationSettings(
            **{**shared, "run_dir": str(folder / "translated"), "max_new_tokens": 8, "max_rows": 3, "held_out_rows": 0}
        )
    )
    bad = test_filtering.spoil(test_filtering.long_chat(test_filtering.CHAT)[0], "copied, whole")
    chat = test_filtering.CHAT[:6] + [{**bad, "prompt_id": "bad", "license": "mit"}]
    limits = test_filtering.write_run(folder / "run", chat, test_filtering.PREFERENCES[:4], model=str(model))
    filtering.run(limits)
    sft.run(sft.SftSettings(**shared, **SHORT, lora_r=4, lora_dropout=0.1, num_train_epochs=1.0))
    dpo.run(dpo.DpoSettings(**shared, **SHORT, watch_prompts=0))
    evaluation.run(
        evaluation.EvaluationSettings(
            **shared, max_new_tokens=8, max_prompts=2, bootstrap_samples=200, harness_tasks=[]
        )
    )


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), Path(sys.argv[2]))
