"""Evaluation: base, SFT and DPO answer the same held-out prompts and are measured side by side.

`run(EvaluationSettings())` does the whole stage; the other names are what the notebook looks at afterwards.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["EvaluationSettings"],
        "stage": ["run"],
        "prompts": ["held_out_prompts", "stage_inputs"],
        "metrics": ["in_target_language", "is_loop"],
        "views": [
            "answers_side_by_side",
            "differences_table",
            "plot_differences",
            "plot_scores",
            "scores_table",
        ],
    },
)
