"""Evaluation: base, SFT and DPO, or any model, answer the same held-out prompts and are measured side by side.

`run(EvaluationSettings())` does the whole stage; the other names are what the notebook looks at afterwards.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["EvaluationSettings"],
        "stage": ["run", "take_over"],
        "vote": ["ballot"],
        "prompts": ["held_out_prompts", "held_out_rows", "problems", "stage_inputs"],
        "views": [
            "answers_side_by_side",
            "differences_table",
            "harness_table",
            "judge_and_votes",
            "judged_table",
            "paper_table",
            "task_cards",
            "plot_differences",
            "plot_scores",
            "scores_table",
            "share_text",
        ],
    },
)
