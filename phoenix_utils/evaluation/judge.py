"""A judge model: asks it for scores or preferences, keeps every reply, and never turns a missing verdict into a number.

A reply that cannot be read is asked for once more, then counted: it stays in the table with its words and without a
score, so that a mean can say on how many of how many answers it rests, and how far the missing ones could move it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phoenix_utils import servers
from phoenix_utils.decoding import GenerationParams
from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation import judge_prompts, verdicts
from phoenix_utils.evaluation.kept import Kept
from phoenix_utils.evaluation.verdicts import Verdict

# Who answers where a judge is named without an address.
DEFAULT_SERVICE = "https://api.openai.com/v1"
ATTEMPTS = 2
# German text takes about three characters a token; used to estimate a cost before it is known, and where a server
# does not tell what it counted.
CHARACTERS_PER_TOKEN = 3.0


@dataclass(frozen=True)
class Request:
    """One thing to judge: `about` comes back in its row, `prompt` is what is asked, `kind` "score" or "preference"."""

    about: dict[str, Any]
    prompt: str
    kind: str = "score"


@dataclass
class Costs:
    """What has been spent, and what may be: prices are for a million tokens, `cap` None is without limit.

    `estimated` of the replies told no tokens, which were worked out from their characters.
    """

    price_in: float = 0.0
    price_out: float = 0.0
    cap: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    estimated: int = 0

    @property
    def spent(self) -> float:
        """Cost of all tokens counted so far."""
        return (self.tokens_in * self.price_in + self.tokens_out * self.price_out) / 1e6

    def add(self, reply: dict) -> None:
        """Count the tokens of a reply; one that an earlier version kept without them counts as free."""
        self.tokens_in += reply.get("tokens_in", 0)
        self.tokens_out += reply.get("tokens_out", 0)
        self.estimated += reply.get("estimated", False)

    def affordable(self, prompts: Sequence[str], answer_tokens: int) -> int:
        """How many of `prompts`, from the first on, the cap certainly allows."""
        if self.cap is None:
            return len(prompts)
        left = self.cap - self.spent
        for place, prompt in enumerate(prompts):
            left -= (len(prompt) / CHARACTERS_PER_TOKEN * self.price_in + answer_tokens * self.price_out) / 1e6
            if left < 0:
                return place
        return len(prompts)

    def told(self) -> str:
        """One sentence for the page and the notebook."""
        cap = "no cap" if self.cap is None else f"cap {self.cap:.2f}"
        guess = f", {self.estimated:,} replies estimated from their characters" if self.estimated else ""
        return f"{self.tokens_in:,} tokens read and {self.tokens_out:,} written{guess}, cost {self.spent:.2f} ({cap})"


@dataclass
class Judge:
    """A judge over any engine.

    `engine` answers a chat (`ServerEngine.chat`) or completes prompts (any Engine); `kept` holds replies that were
    given before, whose tokens `costs` begins with; `language` is that of the prompts. Without `by_chat` a model that
    has no chat template continues the prompt as plain text, and `window` (None: unknown) is how many tokens it reads; a
    longer prompt counts as refused.
    """

    name: str
    engine: Any
    kept: Kept
    language: str = "de"
    by_chat: bool = False
    costs: Costs = field(default_factory=Costs)
    params: GenerationParams = GenerationParams(max_new_tokens=400)
    window: int | None = None
    batch: int = 64

    def __post_init__(self):
        for reply in self.kept.rows.values():  # the cap is that of all calls together
            self.costs.add(reply)

    def judge(self, requests: Sequence[Request], on_replies: Callable[[int], None] | None = None) -> list[dict]:
        """One row a request: its `about`, and `score` (None where none was given), `form`, `why` ("" or the reason
        for a missing score), `reply`, `attempts`, `judge`, `version`, `prompt_hash`.

        Raises PhoenixError where the judge cannot be reached or the cap is reached; all replies until then are kept,
        and the same call goes on behind them.
        """
        asked = [[request.prompt] for request in requests]
        replies: list[list[dict]] = [[] for _ in requests]
        found = [Verdict(None) for _ in requests]
        open_places = list(range(len(requests)))
        for attempt in range(ATTEMPTS):
            if attempt:
                for place in open_places:
                    asked[place].append(judge_prompts.again(requests[place].prompt, self.language))
            prompts = [asked[place][attempt] for place in open_places]
            for place, reply in zip(open_places, self._ask(prompts, attempt, on_replies), strict=True):
                replies[place].append(reply)
                found[place] = _read(requests[place].kind, reply["text"])
            # The same request would be turned down again.
            open_places = [p for p in open_places if found[p].score is None and not replies[p][-1].get("refused")]
        return [self._row(*each) for each in zip(requests, found, replies, strict=True)]

    def _ask(self, prompts: list[str], attempt: int, on_replies: Callable[[int], None] | None) -> list[dict]:
        params = replace(self.params, seed=self.params.seed + attempt)
        settings = [params.max_new_tokens, params.temperature, params.seed]
        keys = [Kept.key(judge=self.name, chat=self.by_chat, prompt=prompt, settings=settings) for prompt in prompts]
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if self.kept.get(key) is None}
        if on_replies and len(missing) < len(set(keys)):
            on_replies(len(set(keys)) - len(missing))
        wanted = list(missing)
        for start in range(0, len(wanted), self.batch):
            part = wanted[start : start + self.batch]
            texts = [missing[key] for key in part]
            allowed = self.costs.affordable(texts, params.max_new_tokens)
            self._answer(part[:allowed], texts[:allowed], params, on_replies)
            if allowed < len(part):
                raise PhoenixError(
                    f"judging stopped at its spending cap of {self.costs.cap:.2f} ({self.costs.told()}); "
                    f"{len(wanted) - start - allowed} requests are left: raise evaluation.judge_budget, and the same "
                    "command goes on behind the replies that were paid for"
                )
        return [self.kept.get(key) for key in keys]

    def _answer(self, keys: list[str], texts: list[str], params: GenerationParams, on_replies) -> None:
        def store(places: list[int], replies: list[dict]) -> None:
            replies = [_counted(texts[place], reply) for place, reply in zip(places, replies, strict=True)]
            self.kept.add({keys[place]: reply for place, reply in zip(places, replies, strict=True)})
            for reply in replies:
                self.costs.add(reply)
            if on_replies:
                on_replies(len(places))

        if not texts:
            return
        if self.by_chat:
            self.engine.chat(texts, params, store)
            return
        tokenizer = self.engine.tokenizer
        has_chat = bool(getattr(tokenizer, "chat_template", None))
        prompts = [self.engine.chat_prompt(t) if has_chat else judge_prompts.plain(t, self.language) for t in texts]

        def tokens(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False)["input_ids"])

        room = (self.window or sys.maxsize) - params.max_new_tokens - 1
        fits = [place for place, prompt in enumerate(prompts) if tokens(prompt) <= room]
        refused = {"text": "", "tokens_in": 0, "tokens_out": 0, "served": self.name}
        for place in sorted({*range(len(prompts))} - {*fits}):
            store([place], [{**refused, "refused": f"longer than the {self.window:,} tokens that the judge reads"}])

        def complete(numbers: list[int], completions: list) -> None:
            places = [fits[number] for number in numbers]
            pairs = zip(places, completions, strict=True)
            told = [{"text": c.text, "tokens_in": tokens(prompts[p]), "tokens_out": tokens(c.text)} for p, c in pairs]
            store(places, [{**each, "served": self.name} for each in told])

        self.engine.generate([prompts[place] for place in fits], params, complete)

    def _row(self, request: Request, verdict: Verdict, replies: list[dict]) -> dict:
        last = replies[-1]
        why = ""
        if verdict.score is None:
            why = "refused by the server" if last.get("refused") else "no verdict" if last["text"].strip() else "empty"
        return {
            **request.about,
            "kind": request.kind,
            "score": verdict.score,
            "form": verdict.form,
            "why": why,
            "reply": last.get("refused") or last["text"],
            "attempts": len(replies),
            "judge": self.name,
            "version": last["served"],
            "prompt_hash": judge_prompts.prompt_hash(self.language),
        }


def _counted(prompt: str, reply: dict) -> dict:
    """The reply with its tokens worked out from the characters where the server told none, so that a cap holds."""
    if reply.get("refused"):
        return reply
    guessed = {"tokens_in": len(prompt), "tokens_out": len(reply["text"])}
    guessed = {name: math.ceil(size / CHARACTERS_PER_TOKEN) for name, size in guessed.items() if reply[name] <= 0}
    return {**reply, **guessed, "estimated": True} if any(guessed.values()) else reply


def _read(kind: str, reply: str) -> Verdict:
    return verdicts.score(reply) if kind == "score" else verdicts.preference(reply)


def _window(engine: Any) -> int | None:
    """How many tokens a judge's model reads, where its engine knows."""
    if hasattr(engine, "context_length"):
        return engine.context_length()
    return getattr(engine.model.config, "max_position_embeddings", None)


def _is_local(name: str) -> bool:
    return name.startswith("embedded:") or "/" in name or Path(name).is_dir()


def check_judge(name: str, base_url: str | None) -> None:
    """Raise PhoenixError where a judge would be asked without the key that the service wants, or with no valid one."""
    if base_url is None and not _is_local(name) and not servers.key():
        raise PhoenixError(
            f"the judge {name!r} is asked at {DEFAULT_SERVICE}, which needs a key in the environment variable "
            "OPENAI_API_KEY; or give evaluation.judge_base_url, or judge null for no judge"
        )


def open_judge(
    name: str,
    base_url: str | None,
    kept: Kept,
    *,
    languages: tuple[str, str],
    costs: Costs | None = None,
    concurrency: int = 8,
    seed: int = 0,
    max_new_tokens: int = 400,
) -> Judge:
    """The judge that settings name.

    At `base_url`, or for a name that is neither a hub id nor a folder at OpenAI's own service, a server is asked for
    chats; an embedded model, which has no chat template, for completions. Without an address a hub id, folder or
    embedded model is loaded here. Raises PhoenixError where it cannot be reached or loaded.
    """
    from phoenix_utils.engines import open_engine

    check_judge(name, base_url)
    language = judge_prompts.judge_language(languages[1])
    shared = {
        "language": language,
        "costs": costs or Costs(),
        "params": GenerationParams(max_new_tokens=max_new_tokens, seed=seed),
    }
    if name.startswith("embedded:") or (_is_local(name) and base_url is None):
        kind = "server" if base_url else "transformers"
        engine = open_engine(kind, name, languages=languages, base_url=base_url, concurrency=concurrency)
        return Judge(name, engine, kept, window=_window(engine), **shared)
    from phoenix_utils.engine_server import ServerEngine

    engine = ServerEngine(base_url or DEFAULT_SERVICE, name, None, concurrency=concurrency, timeout=120.0)
    return Judge(name, engine, kept, by_chat=True, **shared)
