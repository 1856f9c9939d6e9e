"""Stage 4, direct preference optimisation: the SFT model learns which of two answers people prefer.

>>> from phoenix_utils.dpo import DpoSettings, run
>>> metrics = run(DpoSettings(run_dir="runs/mini"))  # doctest: +SKIP
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["DpoSettings", "stage_inputs"],
        "data": ["read_pairs"],
        "loss": ["dpo_loss"],
        "stage": ["run"],
        "views": [
            "draw_accuracy",
            "draw_loss_shape",
            "draw_rewards",
            "draw_signs",
            "health_html",
            "lengths_html",
            "pair_html",
            "watch_html",
        ],
    },
)
