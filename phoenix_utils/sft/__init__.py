"""Stage 3, supervised fine-tuning: the base model learns to hold a conversation and to stop.

>>> from phoenix_utils.sft import SftSettings, run
>>> metrics = run(SftSettings(run_dir="runs/mini"))  # doctest: +SKIP
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["SftSettings", "stage_inputs"],
        "data": ["read_conversations", "token_counts"],
        "stage": ["run"],
        "views": [
            "draw_lengths",
            "draw_loss",
            "draw_memory",
            "draw_schedules",
            "live_loss",
            "metrics_rows",
            "tokens_html",
        ],
    },
)
