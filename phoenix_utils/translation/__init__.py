"""Stage 1: translate conversations and preference pairs, keeping code and structure, with every segment audited."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["TranslationSettings"],
        "segments": ["Document", "split"],
        "translate": ["Translator", "check_sources", "run", "stage_inputs", "translate_texts"],
        "store": ["SegmentStore"],
        "report": ["segment_rows", "segment_table", "segment_view", "translation_summary"],
    },
)
