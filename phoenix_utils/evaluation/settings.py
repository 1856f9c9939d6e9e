"""Settings of the evaluation stage; the defaults are the `mini` profile's values."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from phoenix_utils.profile import StageSettings
from phoenix_utils.servers import checked_address

# The project's own benchmarks.
GERMAN_TASKS = ("phoenix_mc_de", "phoenix_grammar_de")
# The harness's names for a benchmark of reading that exists, translated by people, in 122 languages.
BELEBELE = {
    "cs": "ces_Latn",
    "da": "dan_Latn",
    "es": "spa_Latn",
    "fr": "fra_Latn",
    "it": "ita_Latn",
    "ja": "jpn_Jpan",
    "nl": "nld_Latn",
    "pl": "pol_Latn",
    "pt": "por_Latn",
    "sv": "swe_Latn",
    "sw": "swh_Latn",
}


class EvaluationSettings(StageSettings):
    """What is asked of base, SFT and DPO, how they answer, and how sure the numbers are.

    How the models answer
        `max_new_tokens`, `temperature`, `repetition_penalty` hold for all three models alike.
    What is measured
        `models`, `max_prompts`, `bootstrap_samples`.
    MT-Bench and its judge
        `mt_bench`, `mt_bench_questions`, `judge`, `judge_base_url`, `judge_concurrency`, `judge_prices`,
        `judge_budget`, `judge_pairs`.
    Benchmarks
        `harness_tasks`, `harness_shots`, `harness_limit`.
    """

    models: list[str] = Field(
        ["base", "sft", "dpo"],
        min_length=1,
        description="whom to evaluate: base, sft and dpo of this run, and any hub id or local folder",
    )
    max_new_tokens: int = Field(192, ge=1, description="longest answer in tokens; a longer one is cut and counted")
    temperature: float = Field(0.0, ge=0.0, description="0 takes the likeliest token (greedy), above 0 samples")
    repetition_penalty: float = Field(
        1.1, ge=1.0, description="above 1 makes tokens seen before less likely; the same value for all models"
    )
    max_prompts: int | None = Field(
        24,
        ge=1,
        description="most prompts to answer, taken evenly from conversations and questions; null for all",
    )
    bootstrap_samples: int = Field(2000, ge=100, description="draws behind each interval")
    judge: str | None = Field(None, description="model that scores MT-Bench answers, null for none")
    judge_base_url: str | None = Field(
        None, description="address of the judge's server with its /v1; null loads a hub id here, or asks OpenAI"
    )
    judge_concurrency: int = Field(8, ge=1, description="requests to the judge at once")
    judge_prices: list[Annotated[float, Field(ge=0)]] = Field(
        [0.0, 0.0], min_length=2, max_length=2, description="price of a million tokens read, and of a million written"
    )
    judge_budget: float | None = Field(None, ge=0, description="most that judging may cost, null for no cap")
    judge_pairs: bool = Field(False, description="also let the judge compare models two by two, in both orders")
    mt_bench: str | None = Field(None, description="MT-Bench questions, a hub id or a file; null for the packaged ones")
    mt_bench_questions: int | None = Field(
        0, ge=0, description="how many of them to answer in all their turns; 0 for none, null for all"
    )
    harness_tasks: list[str] = Field(list(GERMAN_TASKS), description="tasks of lm-evaluation-harness")
    harness_shots: int | None = Field(None, ge=0, description="examples before each question; null as the task's card")
    harness_limit: int | None = Field(20, ge=1, description="most rows of each task, null for all")

    _judge_has_an_address = field_validator("judge_base_url")(checked_address)

    def fingerprint_values(self) -> dict[str, Any]:
        """All that decides the result: where the judge stands, what it may cost and how busy it is do not."""
        return {
            key: value
            for key, value in super().fingerprint_values().items()
            if key not in ("judge_base_url", "judge_budget", "judge_concurrency")
        }

    def tasks(self) -> list[str]:
        """The harness tasks without German ones (named `…_de`) where the run is in another language."""
        return [name for name in self.harness_tasks if self.language == "de" or not name.endswith("_de")]

    def not_run(self) -> list[str]:
        """One sentence for each thing that a reader might look for in vain."""
        sentences = []
        if self.mt_bench_questions == 0:
            sentences.append("MT-Bench was not run: mt_bench_questions is 0.")
        elif not self.judge:
            sentences.append("MT-Bench answers were not judged, since no judge is named: read them, or vote.")
        if not self.harness_tasks:
            sentences.append("No benchmarks were run: harness_tasks is empty.")
        if left_out := [name for name in self.harness_tasks if name not in self.tasks()]:
            known = BELEBELE.get(self.language)
            other = f"with a network, add belebele_{known}" if known else "name others, for example of Global-MMLU"
            sentences.append(f"Left out since they are German: {', '.join(left_out)}; {other} to harness_tasks.")
        return sentences
