"""Stage 2, filtering: keep the translated rows that are worth learning from, and say why the others are not.

>>> from phoenix_utils.filtering import FilteringSettings, run
>>> summary = run(FilteringSettings(run_dir="runs/mini"))  # doctest: +SKIP
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["FilteringSettings", "RULES", "stage_inputs"],
        "rules": ["findings"],
        "stage": ["run", "token_counter"],
        "explain": ["explain"],
        "report": [
            "draw_lengths",
            "draw_overlap",
            "draw_score",
            "draw_waterfall",
            "examples_html",
            "length_points",
            "origins_table",
            "reasons_table",
        ],
    },
)
