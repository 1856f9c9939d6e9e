"""The vllm engine against raw `LLM.generate`: the same loaded model, prompts, adapter and limit, in turns.

    .venv-vllm/bin/python benchmarks/vllm_raw.py [--json FILE]

`make test-vllm` makes the environment. vLLM's cache of prompts is emptied before each turn, and a first turn of both
is not counted.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from translation import speed_segments  # benchmarks/translation.py, beside this file

from phoenix_utils.translation.settings import TranslationSettings
from phoenix_utils.translation.translator import Translator

ROUNDS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()

    segments = speed_segments(130)
    translator = Translator(TranslationSettings(engine="vllm"))
    engine, params = translator.engine, translator.params
    prompts = [translator.prompt(text) for text in segments]

    from vllm import SamplingParams  # the engine has set what vLLM reads when it is imported

    sampling = SamplingParams(temperature=0.0, max_tokens=params.max_new_tokens, stop=list(params.stop))

    def ours() -> list[str]:
        return [completion.text.strip() for completion in engine.generate(prompts, params)]

    def raw() -> list[str]:
        done = engine.llm.generate(prompts, sampling, lora_request=engine.lora, use_tqdm=False)
        return [output.outputs[0].text.strip() for output in done]

    characters = sum(map(len, segments))
    rates = {ours: [], raw: []}
    answers = {}
    for turn in range(ROUNDS + 1):
        for way, found in rates.items():
            engine.llm.reset_prefix_cache()
            started = time.monotonic()
            answers[way] = way()
            if turn:
                found.append(characters / (time.monotonic() - started))
    mine, theirs = (statistics.median(rates[way]) for way in (ours, raw))
    same = sum(a == b for a, b in zip(answers[ours], answers[raw], strict=True))
    print(f"vllm: {len(prompts)} prompts, adapter, median of {ROUNDS} turns: engine {mine:.0f} characters/s, "
          f"raw LLM.generate {theirs:.0f}: {mine / theirs:.3f}x; {same} of {len(prompts)} the same")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps({"vllm_vs_raw": mine / theirs}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
