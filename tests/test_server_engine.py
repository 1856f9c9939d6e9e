"""The server engine against a real HTTP server on this machine: answers, failures, and what is said of them."""

import email.utils
import socket
import threading
import time

import httpx
import pytest
import tiny_models
import torch
from http_server import Server

from phoenix_utils import decoding, engine_server
from phoenix_utils.decoding import GenerationParams
from phoenix_utils.engine_server import ServerEngine
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.engines import open_engine
from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation.settings import EvaluationSettings
from phoenix_utils.profile import build_settings
from phoenix_utils.translation.settings import TranslationSettings
from phoenix_utils.translation.translator import Translator

PROMPTS = [f"Translate sentence number {number} now:" for number in range(12)]
PARAMS = GenerationParams(max_new_tokens=16)


def choice(text="Hallo.", logprobs=(-0.5, -1.5), **fields) -> dict:
    """A choice as vLLM's server sends it."""
    told = {"tokens": ["a"] * len(logprobs), "token_logprobs": list(logprobs)}
    return {"index": 0, "text": text, "logprobs": told, "finish_reason": "stop", "stop_reason": None, **fields}


def reply(*args, **fields) -> dict:
    return {"object": "text_completion", "choices": [choice(*args, **fields)]}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_models.gemma_like()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(engine_server, "FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def engine(tokenizer):
    def make(server: Server, **options) -> ServerEngine:
        return ServerEngine(server.url, "tiny", tokenizer, **{"retries": 2, "timeout": 20.0, **options})

    return make


def place(body: dict, tokenizer) -> int:
    """Which of PROMPTS a request is about."""
    return PROMPTS.index(tokenizer.decode(body["prompt"], skip_special_tokens=True))


def test_requests_run_at_once_and_results_keep_their_order(serve, engine, tokenizer):
    meeting = threading.Barrier(4)  # nobody gets an answer before four have asked

    def answer(body, number):
        meeting.wait(timeout=20)
        time.sleep(0.05 * (number % 4))
        return reply(f"Satz {place(body, tokenizer)}")

    reported, threads = {}, set()

    def on_batch(indices, completions):
        threads.add(threading.get_ident())
        assert indices == sorted(indices)
        reported.update(zip(indices, completions, strict=True))

    done = engine(serve(answer), concurrency=4).generate(PROMPTS, PARAMS, on_batch)
    assert [completion.text for completion in done] == [f"Satz {number}" for number in range(12)]
    assert [reported[index] for index in range(12)] == done
    assert threads == {threading.get_ident()}


def test_no_more_requests_at_once_than_allowed(serve, engine):
    now, most, lock = 0, 0, threading.Lock()

    def answer(body, number):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return reply()

    engine(serve(answer), concurrency=3).generate(PROMPTS, PARAMS)
    assert most == 3


class Tiny:
    """A tiny model behind the interface of vLLM's server."""

    def __init__(self, tokenizer):
        self.tokenizer, self.model = tokenizer, tiny_models.tiny_llama(len(tokenizer)).eval()

    def logprobs(self, ids: list[int]):
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)

    def __call__(self, body: dict, number: int) -> dict:
        ids, made, values, text = body["prompt"], [], [], ""
        if "prompt_logprobs" in body:
            table = self.logprobs(ids)
            told = [None] + [{str(ids[at]): {"logprob": table[at - 1, ids[at]].item()}} for at in range(1, len(ids))]
            return reply() | {"choices": [choice() | {"prompt_logprobs": told}]}
        end = {"finish_reason": "length"}
        while len(made) < body["max_tokens"] and end["finish_reason"] == "length":
            row = self.logprobs(ids + made)[-1]
            made.append(int(row.argmax()))
            values.append(row.max().item())
            text = self.tokenizer.decode(made, skip_special_tokens=True)
            if made[-1] == self.tokenizer.eos_token_id:
                end = {"finish_reason": "stop"}
            for stop in body.get("stop", ()):
                if stop in text:
                    text, end = text[: text.find(stop)], {"finish_reason": "stop", "stop_reason": stop}
                    break
        return reply(text, values, **end)


def test_completions_are_those_of_the_transformers_engine(serve, engine, tokenizer):
    tiny = Tiny(tokenizer)
    ours, theirs = engine(serve(tiny)), TransformersEngine(tiny.model, tokenizer)
    whole = theirs.generate(PROMPTS, PARAMS)
    stops = tuple(sorted({c for completion in whole for c in completion.text[3:] if c.isascii() and c.isalpha()}))[:3]
    for params in (PARAMS, GenerationParams(max_new_tokens=16, max_new_ratio=0.2, stop=stops)):
        done, wanted = ours.generate(PROMPTS, params), theirs.generate(PROMPTS, params)
        assert [(c.text, c.finish_reason) for c in done] == [(c.text, c.finish_reason) for c in wanted]
        assert [c.mean_logprob for c in done] == pytest.approx([c.mean_logprob for c in wanted], abs=1e-4)
    assert {c.finish_reason for c in done} == {"stop", "length"}


def test_scores_are_those_of_the_transformers_engine(serve, engine, tokenizer):
    tiny = Tiny(tokenizer)
    targets = [f" Satz {number}." for number in range(11)] + [""]
    server = serve(tiny)
    wanted = TransformersEngine(tiny.model, tokenizer).score(PROMPTS, targets)
    assert engine(server).score(PROMPTS, targets) == pytest.approx(wanted, abs=1e-4)
    assert all(body["max_tokens"] == 1 and body["prompt_logprobs"] == 0 for body in server.bodies)
    assert engine(server).score([], []) == engine(server).generate([], PARAMS) == []


def test_a_server_that_cannot_score_is_told_apart(serve, engine):
    with pytest.raises(PhoenixError, match="gives no log-probabilities of a prompt .* vLLM"):
        engine(serve(lambda body, number: reply())).score(["Hi"], ["Hallo"])


def test_prompts_begin_with_one_bos_as_ids_and_with_none_as_text(serve, engine, tokenizer):
    prompts = ["<bos>Hi", "Hi"]
    server = serve(lambda body, number: reply())
    engine(server).generate(prompts, PARAMS)
    ids = tokenizer("Hi")["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1 and [body["prompt"] for body in server.bodies] == [ids, ids]

    # A server that takes neither ids nor fields that OpenAI's interface does not have.
    def old(body, number):
        known = isinstance(body["prompt"], str) and not {"top_k", "repetition_penalty", "return_token_ids"} & set(body)
        return reply() if known else (422, {}, '{"detail": "prompt: str type expected"}')

    server = serve(old)
    done = engine(server, concurrency=1).generate(["Hi", "<bos>Hi", "Hi"], PARAMS)
    assert [completion.text for completion in done] == ["Hallo."] * 3
    assert [body["prompt"] for body in server.bodies] == [ids, "Hi", "Hi", "Hi"], "refused once, plain from then on"


def test_what_is_asked_for(serve, engine):
    server = serve(lambda body, number: reply())
    params = GenerationParams(
        max_new_tokens=64, max_new_ratio=1.5, temperature=0.7, top_p=0.9, top_k=5, repetition_penalty=1.1,
        stop=("\n",), seed=3,
    )  # fmt: skip
    made = engine(server, concurrency=1)
    made.generate(["Hello there.", "Hello there."], params)
    length = len(made.tokenizer("Hello there.")["input_ids"])
    common = {"model": "tiny", "temperature": 0.7, "top_p": 0.9, "top_k": 5, "repetition_penalty": 1.1, "stop": ["\n"]}
    for number, body in enumerate(server.bodies):
        assert common.items() <= body.items()
        assert body["seed"] == 3 + number, "the same prompt twice gives two samples"
        assert body["max_tokens"] == decoding.Sequence([0] * length).limit(params, 0)
    with pytest.raises(PhoenixError, match="num_beams is 4, but the server engine has no beam search"):
        made.generate(["Hi"], GenerationParams(num_beams=4))


def test_means_reasons_and_stops(serve, engine):
    answers = [
        reply("Hallo Welt", (-1.0, -2.0, -6.0)),
        reply("Hallo", (-1.0, -2.0), finish_reason="length"),
        reply("Hal", (-1.0, -2.0), finish_reason="abort"),
        reply("", (-0.25,)),
        reply("Hallo", (-1.0, -3.0), stop_reason="\n"),
        # llama.cpp's server writes log-probabilities as OpenAI's chats do, and names no stop text.
        {"choices": [{"text": "Hallo\nWelt", "finish_reason": "stop", "logprobs": {"content": [{"logprob": -4.0}]}}]},
    ]
    server = serve(lambda body, number: answers[number])
    done = engine(server, concurrency=1).generate(PROMPTS[:6], GenerationParams(max_new_tokens=16, stop=("\n",)))
    assert [(c.text, c.finish_reason, c.mean_logprob) for c in done] == [
        ("Hallo Welt", "stop", -3.0),
        ("Hallo", "length", -1.5),
        ("Hal", "length", -1.5),
        ("", "stop", -0.25),
        ("Hallo", "stop", -2.0),
        ("Hallo", "stop", -4.0),
    ]


def test_a_newline_before_the_answer_does_not_end_it(serve, engine, tokenizer):
    def answer(body, number):
        if number == 0:
            return reply("", (-1.0,), stop_reason="\n")
        return reply(" Hallo.", (-2.0, -3.0), stop_reason="\n")

    server = serve(answer)
    params = GenerationParams(max_new_tokens=16, stop=("\n",))
    (done,) = engine(server).generate(["Hello:"], params)
    assert (done.text, done.finish_reason, done.mean_logprob) == ("Hallo.", "stop", -2.0)
    newline = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert server.bodies[1]["prompt"] == server.bodies[0]["prompt"] + newline
    assert server.bodies[1]["max_tokens"] == 15

    # vLLM tells which tokens it wrote: these two, for instance, where the text alone would make it one.
    told = serve(lambda body, number: {"choices": [answer(body, number)["choices"][0] | {"token_ids": [7, 8]}]})
    assert engine(told).generate(["Hello:"], params)[0].text == "Hallo."
    assert told.bodies[1]["prompt"] == told.bodies[0]["prompt"] + [7, 8]

    endless = serve(lambda body, number: reply("", (-1.0,), stop_reason="\n"))
    (done,) = engine(endless).generate(["Hello:"], params)
    assert (done.text, done.finish_reason) == ("", "length") and len(endless.seen) == 16


@pytest.mark.parametrize("wait", ["1", "date"])
def test_a_busy_server_is_asked_again_when_it_says(serve, engine, wait):
    def answer(body, number):
        header = email.utils.formatdate(time.time() + 2, usegmt=True) if wait == "date" else wait
        return (429, {"Retry-After": header}, "busy") if number == 0 else reply()

    server = serve(answer)
    assert engine(server).generate(["Hi"], PARAMS)[0].text == "Hallo."
    assert server.seen[1][0] - server.seen[0][0] > 0.9


def test_all_requests_wait_while_the_server_asks_for_a_pause(serve, engine):
    server = serve(lambda body, number: (429, {"Retry-After": "1"}, "busy") if number == 0 else reply())
    engine(server, concurrency=1).generate(PROMPTS, PARAMS)
    moments = [moment for moment, _, _ in server.seen]
    assert len(moments) == 13 and moments[1] - moments[0] > 0.9


def test_a_wait_beyond_all_patience_is_not_waited_for(serve, engine):
    server = serve(lambda body, number: (429, {"Retry-After": "3600"}, "quota"))
    with pytest.raises(PhoenixError, match="asks to come back in 3600 seconds; .* the same command resumes"):
        engine(server).generate(["Hi"], PARAMS)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 408])
def test_a_passing_failure_passes(serve, engine, status):
    server = serve(lambda body, number: (status, {}, "oops") if number < 2 else reply())
    assert engine(server).generate(["Hi"], PARAMS)[0].text == "Hallo."
    assert len(server.seen) == 3


def test_waits_grow(serve, engine, monkeypatch):
    monkeypatch.setattr(engine_server, "FIRST_WAIT", 0.2)
    server = serve(lambda body, number: (500, {}, "oops") if number < 3 else reply())
    engine(server, retries=3).generate(["Hi"], PARAMS)
    moments = [moment for moment, _, _ in server.seen]
    for wait, before, after in zip((0.2, 0.4, 0.8), moments[:-1], moments[1:], strict=True):
        assert wait / 2 <= after - before


def test_a_request_without_an_answer_is_made_again(serve, engine):
    def answer(body, number):
        if number == 0:
            time.sleep(1.0)
        return None if number == 1 else reply()

    server = serve(answer)
    assert engine(server, timeout=0.4).generate(["Hi"], PARAMS)[0].text == "Hallo."
    assert len(server.seen) == 3


def test_a_server_that_never_answers_in_time(serve, engine):
    server = serve(lambda body, number: time.sleep(0.6) or reply())
    with pytest.raises(PhoenixError, match=r"failed 2 times \(it did not answer in time\); .*same command resumes"):
        engine(server, timeout=0.1, retries=1).generate(["Hi"], PARAMS)


def test_nobody_there(tokenizer):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(PhoenixError, match=rf"the server at {url} failed 3 times \(.*refused.*\)"):
            ServerEngine(url, "tiny", tokenizer, retries=2).generate(["Hi"], PARAMS)


@pytest.mark.parametrize(
    "answer, words",
    [
        ({"choices": []}, "sent 0 choices for 1 prompt"),
        ({"choices": [choice(), choice()]}, "sent 2 choices for 1 prompt"),
        ({"choices": None}, "sent no choices for 1 prompt"),
        ({"error": "out of cheese"}, "sent no JSON with choices but .*out of cheese"),
        ((200, {}, "<html>proxy</html>"), "sent no JSON with choices but '<html>proxy</html>'"),
        ((200, {}, '{"choices": [{"te'), "sent no JSON with choices"),
        ({"choices": [{"index": 0}]}, "sent an answer that cannot be read"),
        ({"choices": [{"text": 7}]}, "sent an answer that cannot be read"),
        (reply("Hallo", (None,)), "sent an answer that cannot be read"),
        ({"choices": [{"text": "Hallo", "logprobs": None}]}, "sends no log-probabilities"),
    ],
)
def test_garbage_is_one_sentence_after_what_was_finished(serve, engine, tokenizer, answer, words):
    server = serve(lambda body, number: answer if number == 3 else reply())
    reported = []
    with pytest.raises(PhoenixError, match=words) as error:
        engine(server, concurrency=1).generate(PROMPTS, PARAMS, lambda indices, _: reported.extend(indices))
    asked = [place(body, tokenizer) for _, _, body in server.seen]
    # The next request may have left before the garbage was read.
    assert reported[:3] == [0, 1, 2] and 3 not in reported and asked.count(3) == 1, "garbage is not asked for again"
    assert server.url in str(error.value) and "\n" not in str(error.value)


def test_a_server_that_dies_half_way_loses_nothing_that_was_finished(serve, engine, tokenizer):
    answered, lock = set(), threading.Lock()

    def answer(body, number):
        if number >= 7:
            return None
        time.sleep(0.05)
        with lock:
            answered.add(place(body, tokenizer))
        return reply()

    server, reported = serve(answer), []
    with pytest.raises(PhoenixError) as error:
        engine(server, concurrency=4).generate(PROMPTS, PARAMS, lambda indices, _: reported.extend(indices))
    assert set(reported) == answered and len(reported) == 7
    assert f"the server at {server.url} failed 3 times" in str(error.value)
    assert "what was finished is kept, and the same command resumes" in str(error.value)
    assert len(server.seen) <= 7 + 4 * 3, "nothing new is started after the end"


def test_an_interruption_ends_the_rest_at_once(serve, engine):
    server = serve(lambda body, number: time.sleep(1.0 if number else 0) or reply())
    made = engine(server, concurrency=2)

    def interrupt(indices, _):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        made.generate(PROMPTS, PARAMS, interrupt)
    assert time.monotonic() - started < 3.0 and len(server.seen) < 6, "all of them take six seconds"
    assert len(made.generate(PROMPTS[:3], PARAMS)) == 3, "the engine is whole afterwards"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_but_not_shown(serve, engine, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-secret-123\n")
    server = serve(lambda body, number: (status, {}, "Incorrect API key provided: sk-secret-123"))
    with pytest.raises(PhoenixError, match=rf"\({status}\): the key in .* OPENAI_API_KEY") as error:
        engine(server).generate(["Hi"], PARAMS)
    assert len(server.seen) == 1 and server.seen[0][1]["Authorization"] == "Bearer sk-secret-123"
    assert "secret" not in str(error.value) and error.value.__cause__ is None

    # Not a part of it either, where the excerpt of an answer ends within it.
    server = serve(lambda body, number: (500, {}, "." * 152 + "sk-secret-123"))
    with pytest.raises(PhoenixError, match=r"\.\*\*\*'") as error:
        engine(server).generate(["Hi"], PARAMS)
    assert "sk-" not in str(error.value)


@pytest.mark.parametrize("key", ["vllm-secret-key-1\nsecond", "sk-geheim-für-1"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(serve, engine, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server = serve(lambda body, number: reply())
    with pytest.raises(PhoenixError, match="OPENAI_API_KEY holds spaces, line breaks or letters") as error:
        engine(server)
    assert server.seen == [] and key[:6] not in str(error.value)


@pytest.mark.parametrize("host", ["a:b", "☃☃.com", "xn--", "a..b", "a" * 300, "a:99999", ":80"])
def test_an_address_where_no_server_can_be_is_refused_before_it_is_asked(host):
    with pytest.raises(PhoenixError, match="needs the server's address"):
        ServerEngine(f"http://{host}/v1", "tiny", None)
    with pytest.raises(PhoenixError, match="should be an address"):
        build_settings(TranslationSettings, {"base_url": f"http://{host}/v1"})


@pytest.mark.parametrize("proxy", ["socks5://host:1", "foo://host", "http://a:b", "http://a..b"])
def test_a_proxy_that_cannot_be_used_is_one_sentence(tokenizer, monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(PhoenixError, match="through the proxy that the environment names: set ALL_PROXY"):
        ServerEngine("http://elsewhere.invalid/v1", "tiny", tokenizer).generate(["Hi"], PARAMS)


@pytest.mark.parametrize("told, read", [(4096, 4096), ("4096", None), ([1], None), (True, None), (-3, None)])
def test_only_a_number_of_tokens_is_a_window(tokenizer, told, read):
    engine = ServerEngine("http://localhost:8000/v1", "tiny", tokenizer)
    models = {"data": [{"id": "tiny", "max_model_len": told}]}
    engine._client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=models)))
    assert engine.context_length() == read


def test_a_missing_key_is_asked_for(serve, engine):
    server = serve(lambda body, number: (401, {}, "who are you"))
    with pytest.raises(PhoenixError, match="put a key into the environment variable OPENAI_API_KEY"):
        engine(server).generate(["Hi"], PARAMS)
    assert "Authorization" not in server.seen[0][1]


@pytest.mark.parametrize(
    "status, words, requests",
    [
        (404, r"has no model 'tiny' or no /completions \(404 'nein'\): .*--served-model-name tiny", 1),
        (413, r"refuses a request \(413 'nein'\); .* resumes once that is mended", 1),
        # In full, then once in plain words.
        (400, r"refuses a request \(400 'nein'\)", 2),
        (422, r"refuses a request \(422 'nein'\)", 2),
        (302, r"refuses a request \(302 'nein'\)", 1),
    ],
)
def test_a_mistake_is_not_repeated(serve, engine, status, words, requests):
    server = serve(lambda body, number: (status, {}, "nein"))
    with pytest.raises(PhoenixError, match=words):
        engine(server).generate(["Hi"], PARAMS)
    assert len(server.seen) == requests


def test_the_rate_is_kept(serve, engine):
    server = serve(lambda body, number: reply())
    engine(server, requests_per_minute=600).generate(PROMPTS[:6], PARAMS)
    moments = sorted(moment for moment, _, _ in server.seen)
    assert moments[-1] - moments[0] > 0.45


def test_settings_of_a_server(serve, tmp_path, monkeypatch):
    with pytest.raises(PhoenixError, match="translation.base_url is None.*engine server needs the server's address"):
        build_settings(TranslationSettings, {"engine": "server"}, "translation.")
    for wrong, words in (("localhost:8000", "should be an address"), ("http://me:word@host/v1", "holds .* a password")):
        with pytest.raises(PhoenixError, match=words):
            build_settings(TranslationSettings, {"base_url": wrong})
        with pytest.raises(PhoenixError, match=words):
            build_settings(EvaluationSettings, {"judge_base_url": wrong})
    with pytest.raises(PhoenixError, match="needs the server's address"):
        open_engine("server", str(tiny_models.save_tiny(tmp_path)), languages=("en", "de"))
    server = serve(lambda body, number: reply())
    settings = TranslationSettings(engine="server", base_url=server.url, concurrency=2, model=str(tmp_path))
    assert settings.fingerprint_values() == settings.model_copy(update={"concurrency": 9}).fingerprint_values()
    translator = Translator(settings)
    assert [done.text for done in translator.translate_segments(["Good morning."])] == ["Hallo."]
    assert server.bodies[0]["model"] == str(tmp_path) and translator.engine.concurrency == 2


def test_an_adapter_is_asked_for_by_its_name(serve, tmp_path):
    model = str(tiny_models.save_tiny(tmp_path / "model"))
    server = serve(lambda body, number: reply())
    folder = tmp_path / "my-adapter"
    opened = open_engine("server", model, languages=("en", "de"), adapter=folder, base_url=f"{server.url}/")
    opened.generate(["Hi"], PARAMS)
    assert server.bodies[0]["model"] == "my-adapter"
