"""Settings of the evaluation stage; the defaults are the `mini` profile's values."""

from pydantic import Field

from phoenix_utils.profile import StageSettings


class EvaluationSettings(StageSettings):
    """What is asked of base, SFT and DPO, how they answer, and how sure the numbers are.

    How the models answer
        `max_new_tokens`, `temperature`, `repetition_penalty` hold for all three models alike.
    What is measured
        `max_prompts`, `bootstrap_samples`.
    Named for later
        `judge`, `judge_base_url`, `mt_bench` and `harness_tasks` are part of a profile from the start, so
        that a run says which judge and tasks it means. This version does not run them; report and notebook
        say so.
    """

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
    judge: str | None = Field(
        None,
        description="model that judges MT-Bench answers, behind an OpenAI-compatible server; not run yet",
    )
    judge_base_url: str | None = Field(None, description="address of the judge's server; not run yet")
    mt_bench: str | None = Field(None, description="source of MT-Bench questions, a hub id or a file; not run yet")
    harness_tasks: list[str] = Field([], description="lm-evaluation-harness tasks to measure; not run yet")

    def not_run(self) -> list[str]:
        """One sentence for each thing that the settings name and that this version does not run yet."""
        named = []
        if self.mt_bench or self.judge:
            judge = f"judged by {self.judge}" if self.judge else "without a judge"
            source = self.mt_bench or "the packaged questions"
            named.append(f"MT-Bench ({source}, {judge}) is named in the settings and not run by this version.")
        if self.harness_tasks:
            tasks = ", ".join(self.harness_tasks)
            named.append(f"The harness tasks {tasks} are named in the settings and not run by this version.")
        return named
