"""Settings of the translation stage; the defaults are the `mini` profile's."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from phoenix_utils.profile import StageSettings
from phoenix_utils.ray_workers import RayAddress
from phoenix_utils.servers import EXAMPLE, checked_address

_NOT_THE_RESULT = (
    "base_url",
    "concurrency",
    "price_per_hour",
    "ray_engine",
    "ray_address",
    "ray_workers",
    "ray_cpus",
)


class TranslationSettings(StageSettings):
    """What is translated, by which model, and how. Here `model` is the translator."""

    chat: str = Field(
        "package:conversations",
        min_length=1,
        description="conversations for SFT: hub id, hub id:split, folder, file, or package:conversations",
    )
    preferences: str = Field(
        "package:preferences",
        min_length=1,
        description="preference pairs for DPO: hub id, hub id:split, folder, file, or package:preferences",
    )
    max_rows: int | None = Field(60, ge=1, description="at most so many rows of each input, None for all of them")
    held_out_rows: int | None = Field(
        24,
        ge=0,
        description="evaluation rows of each kind to translate where nobody wrote them in the language, null for all",
    )
    engine: Literal["transformers", "vllm", "server", "ray"] = Field(
        "transformers",
        description="transformers, vllm (GPU), server (one that has the model loaded), or ray (several processes)",
    )
    base_url: str | None = Field(
        None,
        validate_default=True,
        description="address of the server for engine server, with its /v1; its key is OPENAI_API_KEY's value",
    )
    concurrency: int = Field(32, ge=1, le=1024, description="requests on their way to the server at once")
    ray_engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="what each worker of engine ray holds: transformers, or vllm where it has a GPU"
    )
    ray_address: RayAddress | None = Field(
        None, description="cluster that engine ray joins, host:port or ray://host:port; None starts one on this machine"
    )
    ray_workers: int = Field(2, ge=1, le=1024, description="workers of engine ray, each with a copy of the translator")
    ray_cpus: float = Field(1.0, gt=0, description="CPU cores that one worker of engine ray reserves and computes with")
    adapter: str = Field(
        "auto",
        min_length=1,
        description="folder of a translator's adapter, none, or auto for the packaged one where it fits",
    )
    prompt: Literal["auto", "few_shot", "alma", "x_alma", "tower", "eurollm", "chat"] = Field(
        "auto",
        description="few_shot for a base model, alma for ALMA and adapters, x_alma, tower, eurollm, or chat for others",
    )
    max_segment_chars: int = Field(
        200,
        ge=40,
        description="a longer line is translated sentence by sentence, packed up to so many characters",
    )
    max_new_tokens: int = Field(128, ge=8, description="most tokens one translated segment may have")
    num_beams: int = Field(
        1, ge=1, le=16, description="1 is greedy; more search for the likeliest translation (transformers engine only)"
    )
    batch_tokens: int = Field(32768, ge=256, description="tokens in one batch of the transformers engine")
    load_in_4bit: bool = Field(False, description="load the translator in NF4 (bitsandbytes), for small GPUs")
    num_gpus: int = Field(1, ge=1, description="GPUs that one vllm engine spreads the translator over")
    price_per_hour: float | None = Field(
        None, ge=0, description="EUR that an hour of this machine costs, for the cost so far; None shows none"
    )

    @field_validator("num_beams")
    @classmethod
    def _beams_need_transformers(cls, num_beams: int, info: ValidationInfo) -> int:
        engine = info.data.get("engine")
        held = info.data.get("ray_engine") if engine == "ray" else engine
        if num_beams > 1 and held in ("vllm", "server"):
            raise ValueError(f"engine {held} has no beam search here: leave it at 1, or use transformers")
        return num_beams

    @field_validator("base_url")
    @classmethod
    def _server_has_an_address(cls, base_url: str | None, info: ValidationInfo) -> str | None:
        if base_url is None and info.data.get("engine") == "server":
            raise ValueError(f"engine server needs the server's address, {EXAMPLE}")
        return checked_address(base_url)

    @property
    def model_engine(self) -> str:
        """The engine that holds the model, on this machine or on Ray's."""
        return self.ray_engine if self.engine == "ray" else self.engine

    @property
    def on_ray(self) -> str:
        """What translates with engine ray, for the manifest; "" with any other."""
        return f"{self.ray_engine} on {self.ray_workers} Ray workers" if self.engine == "ray" else ""

    @property
    def copies(self) -> int:
        """Translators that one machine may hold at once: all of Ray's workers, unless a cluster was named for them."""
        return self.ray_workers if self.engine == "ray" and not self.ray_address else 1

    @property
    def gpus(self) -> int:
        """GPUs that translate, those of all workers together."""
        return self.num_gpus * (self.ray_workers if self.engine == "ray" else 1)

    @property
    def translates_held_out(self) -> bool:
        """Whether the run translates what the evaluation asks, since nobody has written it in the language."""
        from phoenix_utils import corpora  # reading settings should not load pyarrow

        return self.held_out_rows != 0 and not corpora.has_held_out(self.language)

    def fingerprint_values(self) -> dict[str, Any]:
        """The values that decide the result; where it is computed, how busily and at what price do not.

        So a run may begin on one machine and go on under Ray, or the other way round. Nor does `held_out_rows` where
        the package has the evaluation and nothing of it is translated.
        """
        from phoenix_utils import corpora  # reading settings should not load pyarrow

        values = {name: value for name, value in super().fingerprint_values().items() if name not in _NOT_THE_RESULT}
        if corpora.has_held_out(self.language):
            del values["held_out_rows"]
        return {**values, "engine": self.model_engine}
