"""Text from a model that a server has loaded: any that answers OpenAI's `/v1/completions`, vLLM's best of all.

`/v1/chat/completions`, where a server renders the chat itself, serves for judges, whose tokenizer is not at hand.
"""

from __future__ import annotations

import email.utils
import math
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import httpx

from phoenix_utils import decoding, servers, strict_json
from phoenix_utils.decoding import Completion, GenerationParams, OnBatch
from phoenix_utils.engine_inputs import ChatPrompts, adds_bos, common_prefix, encode_prompts, refuse_beams
from phoenix_utils.errors import RESUMES, PhoenixError

Result = TypeVar("Result")
# Waits between attempts double from the first to the longest (seconds); a server that asks for more is not waited for.
FIRST_WAIT, LONGEST_WAIT = 0.5, 120.0
# How servers say that they do not know a field or the form of a prompt.
_NOT_UNDERSTOOD = (400, 422)
_PROXY = (
    "cannot be asked through the proxy that the environment names: set ALL_PROXY, HTTP_PROXY and HTTPS_PROXY to "
    "addresses that begin with http://, or unset them; NO_PROXY is for hosts without one"
)


class Pace:
    """When the next request may start: so many a minute, and none while the server asks for a pause."""

    def __init__(self, per_minute: float | None):
        self.interval = 60 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def turn(self) -> float:
        """Take the next turn; returns the seconds until it."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self.interval
            return start - now

    def pause(self, seconds: float) -> None:
        """Let nothing start for so many seconds."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class ServerEngine(ChatPrompts):
    """Text from the model that the server at `base_url` serves under the name `model`.

    `base_url` ends with `/v1`; a key comes from the environment variable OPENAI_API_KEY and from nowhere else.
    `tokenizer` is the model's own, from which the lengths of prompts, and usually the prompts themselves, are taken.
    `concurrency` requests are on their way at once, at most `requests_per_minute` are started. A request that gets no
    answer in `timeout` seconds, cannot connect or is told to come back (429, 5xx) is made again up to `retries` times,
    after the wait that the server names, or twice as long as the time before. Whatever else goes wrong is a
    PhoenixError, raised after everything that was finished has been reported.
    """

    def __init__(
        self,
        base_url: str | None,
        model: str,
        tokenizer: Any,
        concurrency: int = 32,
        timeout: float = 600.0,
        retries: int = 6,
        requests_per_minute: float | None = None,
    ):
        if not servers.is_address(base_url or ""):
            raise PhoenixError(
                f"base_url is {base_url!r}, but the server engine needs the server's address with its /v1 and without "
                f"a password, {servers.EXAMPLE}"
            )
        self.url, self.model, self.tokenizer = base_url.rstrip("/"), model, tokenizer
        self.concurrency, self.retries, self.pace = concurrency, retries, Pace(requests_per_minute)
        self._key = servers.key()
        # Token ids leave nothing to a server's idea of special tokens, and every other field is written out because
        # vLLM takes what a request leaves open from the model's generation config. A server that does not understand
        # them is asked in the plain words of OpenAI's own interface.
        self._plain = False
        try:
            self._client = httpx.Client(
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                timeout=httpx.Timeout(timeout, connect=min(10.0, timeout)),
                limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            )
        except (ImportError, ValueError, httpx.InvalidURL):  # only the environment's words for proxies are left
            raise self._error(_PROXY) from None

    def generate(
        self, prompts: Sequence[str], params: GenerationParams, on_batch: OnBatch | None = None
    ) -> list[Completion]:
        """Complete each prompt (see Engine); `on_batch` is called from the calling thread as requests finish."""
        refuse_beams(params, "server")
        rows = encode_prompts(self.tokenizer, prompts)
        shared = len(common_prefix(rows))

        def complete(index: int, halt: threading.Event) -> Completion:
            limit = decoding.Sequence(rows[index]).limit(params, shared)
            return self._complete(prompts[index], rows[index], params, params.seed + index, limit, halt)

        return self._each(len(rows), complete, on_batch)

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[float]:
        """Mean log-probability per token (nats) of each target after its prompt.

        Raises PhoenixError where the server has no `prompt_logprobs`, as vLLM's has.
        """
        heads = encode_prompts(self.tokenizer, prompts)
        tails = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in targets]

        def score_one(index: int, halt: threading.Event) -> float:
            head, tail = heads[index], tails[index]
            # One token has to be generated, since servers generate at least one.
            body = {"prompt": head + tail, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
            choice = self._ask(body, halt)
            try:
                found = choice["prompt_logprobs"][len(head) :]
                values = [float(each[str(token)]["logprob"]) for each, token in zip(found, tail, strict=True)]
            except (KeyError, TypeError, ValueError, OverflowError):
                raise self._error(
                    "gives no log-probabilities of a prompt (prompt_logprobs), which scores are made of: serve the "
                    "model with vLLM, or set the engine to transformers"
                ) from None
            return sum(values) / max(1, len(values))

        return self._each(len(heads), score_one)

    def context_length(self) -> int | None:
        """How many tokens the served model reads, where the server tells (vLLM's does)."""
        try:
            served = strict_json.loads(self._client.get(f"{self.url}/models").text)["data"]
            told = next((m["max_model_len"] for m in served if m["id"] == self.model and "max_model_len" in m), None)
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return None
        return _positive(told)

    def _each(
        self,
        number: int,
        job: Callable[[int, threading.Event], Result],
        report: Callable[[list[int], list[Result]], None] | None = None,
    ) -> list[Result]:
        """Results of `job(index, halt)` in the order of indices, each reported here as soon as it is there.

        After a failure nothing new is started; what is on its way is still waited for and reported.
        """
        results: dict[int, Result] = {}
        error: BaseException | None = None
        halt = threading.Event()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="server-engine")
        try:
            waiting: dict[Future, int] = {pool.submit(job, index, halt): index for index in range(number)}
            while waiting:
                done = wait(waiting, return_when=FIRST_COMPLETED).done
                ended = {waiting.pop(future): future for future in done}
                failed = [future for future in ended.values() if future.exception()]
                if failed and not error:
                    error = failed[0].exception()
                    halt.set()
                    waiting = {future: index for future, index in waiting.items() if not future.cancel()}
                good = {index: ended[index].result() for index in sorted(ended) if ended[index] not in failed}
                results.update(good)
                if report and good:
                    report(list(good), list(good.values()))
        finally:
            # Only an interruption leaves anything to wait for, and it should not wait.
            halt.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if error:
            raise error
        return [results[index] for index in range(number)]

    def _complete(
        self, prompt: str, row: list[int], params: GenerationParams, seed: int, limit: int, halt: threading.Event
    ) -> Completion:
        """One completion, by a further request where the server stopped at a newline before the answer."""
        text, reason = "", "length"
        logprobs: list[float] = []
        while len(logprobs) < limit:
            choice = self._choice(prompt + text, row, params, seed, limit - len(logprobs), halt)
            said, found = self._read(choice)
            text += said
            logprobs += found
            stop = _stopped_by(choice, params.stop)
            if stop is None or not found or any(each in (text + stop).lstrip("\n ") for each in params.stop):
                reason = "stop" if choice.get("finish_reason") == "stop" else "length"
                break
            text += stop
            # vLLM tells the very tokens, which may be one for two newlines.
            told = choice.get("token_ids")
            is_told = isinstance(told, list) and told and all(isinstance(token, int) for token in told)
            row = row + (told if is_told else self.tokenizer(said + stop, add_special_tokens=False)["input_ids"])
        return Completion(_cut(text, params.stop), reason, sum(logprobs) / max(1, len(logprobs)))

    def _choice(
        self, text: str, row: list[int], params: GenerationParams, seed: int, room: int, halt: threading.Event
    ) -> dict:
        """The server's choice for one prompt, asked in full or, where it does not understand that, in plain words."""
        plain: dict[str, Any] = {
            # A server puts the beginning-of-sequence token before a text itself, as the tokenizer does.
            "prompt": text.removeprefix(self.tokenizer.bos_token) if adds_bos(self.tokenizer) else text,
            "max_tokens": room,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": seed,
            "logprobs": 1,  # 0 asks for the same, but some servers take it for a no
        }
        if params.stop:
            plain["stop"] = list(params.stop)
        more = {"top_k": params.top_k, "repetition_penalty": params.repetition_penalty, "return_token_ids": True}
        full = {**plain, **more, "prompt": row}
        if params.top_k:
            plain["top_k"] = params.top_k
        if params.repetition_penalty != 1.0:
            plain["repetition_penalty"] = params.repetition_penalty
        if self._plain:
            return self._ask(plain, halt)
        try:
            return self._ask(full, halt)
        except _NotUnderstood:
            choice = self._ask(plain, halt)
            self._plain = True
            return choice

    def _read(self, choice: dict) -> tuple[str, list[float]]:
        """Text and log-probabilities of a choice; llama.cpp's server writes the latter as OpenAI's chats do."""
        try:
            text, logprobs = choice["text"], choice.get("logprobs") or {}
            values = logprobs.get("token_logprobs")
            if values is None:
                values = [token["logprob"] for token in logprobs.get("content") or []]
            found = [float(value) for value in values]
            if not isinstance(text, str) or not all(map(math.isfinite, found)):
                raise TypeError
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise self._error(f"sent an answer that cannot be read, {self._excerpt(str(choice))}; {RESUMES}") from None
        if text and not found:
            raise self._error(
                "sends no log-probabilities (logprobs), which the audit of a translation records: use a server that "
                "does, such as vLLM's"
            )
        return text, found

    def chat(
        self,
        texts: Sequence[str],
        params: GenerationParams,
        on_batch: Callable[[list[int], list[dict]], None] | None = None,
    ) -> list[dict]:
        """Answers of `/chat/completions` to each text as a user's only turn; needs no tokenizer.

        An answer is {"text", "served" (the model that the server says it is), "tokens_in", "tokens_out"}; where the
        server turns a request down for what stands in it (too long, against its policy), "refused" says how.
        """

        def answer(index: int, halt: threading.Event) -> dict:
            messages = [{"role": "user", "content": texts[index]}]
            sampling = {"max_tokens": params.max_new_tokens, "temperature": params.temperature, "seed": params.seed}
            try:
                choice = self._ask({"messages": messages, **sampling}, halt, "chat/completions")
            except _NotUnderstood as error:
                return {"text": "", "served": self.model, "tokens_in": 0, "tokens_out": 0, "refused": str(error)}
            message, usage = choice.get("message"), choice["usage"]
            text = message.get("content") if isinstance(message, dict) else 0
            if text is not None and not isinstance(text, str):  # null is how a server says nothing
                raise self._error(f"sent an answer that cannot be read, {self._excerpt(str(choice))}; {RESUMES}")
            told = {"tokens_in": _count(usage, "prompt_tokens"), "tokens_out": _count(usage, "completion_tokens")}
            return {"text": text or "", "served": choice["served"], **told}

        return self._each(len(texts), answer, on_batch)

    def _ask(self, body: dict[str, Any], halt: threading.Event, path: str = "completions") -> dict:
        """The one choice that the server sends for `body`, after as many attempts as it takes and is allowed."""
        what, asked = "", None
        for attempt in range(self.retries + 1):
            if attempt and not asked:
                self._sleep(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0), halt)
            self._sleep(self.pace.turn(), halt)
            asked = None
            try:
                response = self._client.post(f"{self.url}/{path}", json={"model": self.model, **body})
            except httpx.TimeoutException:
                what = "it did not answer in time"
            except (UnicodeError, httpx.InvalidURL):
                raise self._error(_PROXY) from None
            except httpx.RequestError as error:
                what = str(error) or type(error).__name__
            else:
                if response.is_success:
                    return self._only_choice(response)
                if response.status_code < 500 and response.status_code not in (408, 429):
                    raise self._refusal(response)
                what, asked = f"{response.status_code} {self._excerpt(response.text)}", _retry_after(response)
                if asked is not None and asked > LONGEST_WAIT:
                    raise self._error(f"asks to come back in {asked:.0f} seconds; {RESUMES}")
                # What one request is told holds for all.
                self.pace.pause(asked or 0.0)
        raise self._error(f"failed {self.retries + 1} times ({what.strip()}); {RESUMES}")

    def _sleep(self, seconds: float, halt: threading.Event) -> None:
        if halt.wait(seconds) if seconds > 0 else halt.is_set():
            raise self._error("is not asked any more, since another request failed")

    def _only_choice(self, response: httpx.Response) -> dict:
        try:
            sent = strict_json.loads(response.text)
            choices = sent["choices"]
        except (ValueError, KeyError, TypeError):
            raise self._error(f"sent no JSON with choices but {self._excerpt(response.text)}; {RESUMES}") from None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            number = len(choices) if isinstance(choices, list) else "no"
            raise self._error(f"sent {number} choices for 1 prompt; {RESUMES}")
        usage = sent.get("usage")
        return {
            **choices[0],
            "usage": usage if isinstance(usage, dict) else {},
            "served": " ".join(str(sent[key]) for key in ("model", "system_fingerprint") if sent.get(key))
            or self.model,
        }

    def _refusal(self, response: httpx.Response) -> PhoenixError:
        """The sentence for an answer that the same request would get again."""
        status = response.status_code
        if status in (401, 403):  # without the server's own words, which may repeat the key
            name = "the environment variable OPENAI_API_KEY"
            advice = f"the key in {name} is not valid there" if self._key else f"put a key into {name}"
            return self._error(f"refuses access ({status}): {advice}")
        if status == 404:
            return self._error(
                f"has no model {self.model!r} or no /completions (404 {self._excerpt(response.text)}): check the /v1 "
                f"in base_url, and serve the model under this name (vLLM: --served-model-name {self.model}, or for an "
                f"adapter --lora-modules {self.model}=FOLDER)"
            )
        kind = _NotUnderstood if status in _NOT_UNDERSTOOD else PhoenixError
        return self._error(
            f"refuses a request ({status} {self._excerpt(response.text)}); {RESUMES} once that is mended", kind
        )

    def _error(self, what: str, kind: type[PhoenixError] = PhoenixError) -> PhoenixError:
        return kind(self._without_key(f"the server at {self.url} {what}"))

    def _excerpt(self, text: str) -> str:
        """The beginning of what a server sent, in one line."""
        line = " ".join(self._without_key(text).split())  # before the cut, which could leave a part of a key
        return repr(line[:160] + ("…" if len(line) > 160 else ""))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class _NotUnderstood(PhoenixError):
    """The server does not know a field of the request, or the form of its prompt."""


def _count(usage: dict, name: str) -> int:
    """A number of tokens that a server tells, 0 where it tells none."""
    return _positive(usage.get(name)) or 0


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None  # True is an int too


def _stopped_by(choice: dict, stops: tuple[str, ...]) -> str | None:
    """The stop text that ended a choice; vLLM says which, of others the first is assumed."""
    if choice.get("finish_reason") != "stop" or not stops:
        return None
    if "stop_reason" not in choice:
        return stops[0]
    return choice["stop_reason"] if isinstance(choice["stop_reason"], str) else None


def _cut(text: str, stops: tuple[str, ...]) -> str:
    """A completion's text as `decoding.Sequence.completion` gives it: from its first letter to the first stop."""
    if not stops:
        return text
    text = text.lstrip("\n ")
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds until the server wants to be asked again: a number or a date in its header Retry-After."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
