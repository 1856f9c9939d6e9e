"""Stage 1: translate conversations and preference pairs, keeping code and structure, with every segment audited."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["TranslationSettings"],
        "cost": ["cost_table", "paper_figures"],
        "segments": ["split"],
        "translator": [
            "Translation",
            "Translator",
            "choose_translator",
            "packaged_adapter",
            "packaged_card",
            "packaged_curve",
        ],
        "translate": [
            "check_sources",
            "run",
            "stage_inputs",
            "translate_texts",
        ],
        "adapt_settings": ["AdaptSettings"],
        "adapt_data": ["choose_pairs", "pair_tokens"],
        "adapt": ["adapt_and_measure", "read_samples"],
        "measure": ["scores", "sentence_chrf", "translate_sets"],
        "store": ["SegmentStore"],
        "report": ["segment_rows", "segment_table", "segment_view", "translation_summary"],
    },
)
