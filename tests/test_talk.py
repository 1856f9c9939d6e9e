"""Talking to a run's models: the answers of the weights on disk, each with its own history, as text streams in."""

import io
import os
import shutil
import subprocess
import sys

import pytest
import tiny_run
import torch
from rich.console import Console

from phoenix_utils import chat, models, talk
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.errors import PhoenixError

QUESTIONS = ["Wie heißt der Fluss?", "Und wohin fließt er?"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run.make_run(tmp_path_factory.mktemp("talk"))


@pytest.fixture(scope="module")
def talking(run):
    return talk.open_run(str(run), max_new_tokens=12)


@pytest.fixture(autouse=True)
def fresh(talking):
    talking.reset()


def alone(run, name: str) -> TransformersEngine:
    """One model of the run, loaded by itself."""
    base = str(run.parent.parent / "tiny-base")
    model = models.load_model(base, tiny_run.LANGUAGES)
    if name != "base":
        folder = run / {"sft": "03_sft", "dpo": "04_dpo"}[name] / "adapter"
        model = models.load_adapter(model, folder)
    tokenizer = chat.saved_tokenizer(run / "03_sft" / "adapter", base, tiny_run.LANGUAGES)
    chat.set_stop_token(model, tokenizer)
    return TransformersEngine(model.eval(), tokenizer)


def test_each_model_answers_after_its_own_history(run, talking):
    answers = [talking.ask(question) for question in QUESTIONS]
    assert list(answers[0]) == ["prompt", "base", "sft", "dpo"]
    assert len({answers[0][name].text for name in talking.names}) == 3
    for name in talking.names:
        engine, messages = alone(run, name), []
        for question, answer in zip(QUESTIONS, answers, strict=True):
            messages.append({"role": "user", "content": question})
            [wanted] = engine.generate([chat.render(engine.tokenizer, messages)], talking.params)
            assert answer[name].text == wanted.text
            messages.append({"role": "assistant", "content": wanted.text})


def test_reset_forgets(talking):
    first = talking.ask(QUESTIONS[0])
    later = talking.ask(QUESTIONS[0])
    talking.reset()
    assert talking.ask(QUESTIONS[0]) == first != later


def test_switching_leaves_no_trace_in_the_weights(talking):
    shared = talking.contenders.shared
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    for question in QUESTIONS:
        talking.ask(question)
    assert all(torch.equal(value, before[name]) for name, value in shared.state_dict().items())


def test_the_pieces_of_an_answer_are_its_text(talking):
    """Random weights write half characters too, which no piece may show before they are whole."""
    pieces = {name: [] for name in talking.names}
    for question in QUESTIONS:
        answers = talking.ask(question, lambda name, piece: pieces[name].append(piece))
        for name in talking.names:
            assert "".join(pieces[name]) == answers[name].text and (
                len(pieces[name]) > 2 or len(answers[name].text) < 3
            )
            pieces[name].clear()


def test_a_conversation_that_is_too_long_is_told_and_goes_on(talking):
    out = io.StringIO()
    lines = [QUESTIONS[0], "Wort " * 3000, QUESTIONS[1]]
    talk.converse(talking, lines, lambda text: talk.write_turn(talking, text, out), out)
    assert out.getvalue().count("tokens and the model reads 2,048; shorten or drop it; /reset begins anew)") == 1
    said = [message["content"] for message in talking.messages["dpo"] if message["role"] == "user"]
    assert said == QUESTIONS


def test_an_interrupted_question_counts_as_not_asked(talking):
    def interrupt(name, piece):
        if name == "sft":
            raise KeyboardInterrupt

    assert talk._ask(talking, QUESTIONS[0], interrupt).startswith("interrupted")
    assert talking.messages == {"base": [], "sft": [], "dpo": []}
    assert talking.ask(QUESTIONS[0])["dpo"].text


def test_fully_trained_models_are_loaded_once(run, talking, tmp_path, monkeypatch):
    wanted = talking.ask(QUESTIONS[0])
    full = shutil.copytree(run, tmp_path / "full")
    tiny_run.make_full(full)
    loads, load = [], models.load_model
    monkeypatch.setattr(models, "load_model", lambda *args, **options: loads.append(args) or load(*args, **options))
    other = talk.open_run(str(full), max_new_tokens=12)
    answers = [other.ask(question) for question in QUESTIONS]
    assert len(loads) == 3
    assert {name: answers[0][name].text for name in other.names} == {n: wanted[n].text for n in talking.names}


def test_in_a_terminal_the_answers_stand_side_by_side(talking):
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    talk.draw_turn(talking, QUESTIONS[0], console)
    whole = console.file.getvalue().rpartition("┏")[2]
    [head] = [line for line in whole.splitlines() if "base" in line]
    assert head.index("base") < head.index("sft") < head.index("dpo")


def test_from_a_pipe_each_line_is_a_turn(run, talking):
    wanted = talk.open_run(str(run), ["dpo"], max_new_tokens=12)
    first, second = (wanted.ask(question)["dpo"].text.strip() for question in QUESTIONS)
    command = [sys.executable, "-m", "phoenix_utils.cli", "chat", str(run), "--models", "dpo", "--max-new-tokens", "12"]
    lines = [QUESTIONS[0], "", QUESTIONS[1], "/rset", "/reset", QUESTIONS[0], "/quit", "never read"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = f"(/rset is no command: {talk.COMMANDS})\n(forgotten)"
    assert done.stdout.strip() == "\n".join([first, second, told, first]).strip()


def test_bytes_that_are_no_text_are_a_turn_too(run):
    command = [sys.executable, "-m", "phoenix_utils.cli", "chat", str(run), "--models", "dpo", "--max-new-tokens", "2"]
    done = subprocess.run(command, input=b"a\xff\n", capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "names, sentence", [(["sff"], r"unknown model 'sff' \(did you mean 'sft'\?\)"), (["gpt"], "known: base, sft, dpo")]
)
def test_an_unknown_model_is_one_sentence(run, names, sentence):
    with pytest.raises(PhoenixError, match=sentence):
        talk.open_run(str(run), names)


def test_what_the_run_does_not_have_is_one_sentence_and_is_left_out_by_default(run, tmp_path):
    short = tmp_path / "runs" / "short"
    shutil.copytree(run / "03_sft", short / "03_sft")
    assert talk.open_run(str(short)).names == ("base", "sft")
    with pytest.raises(PhoenixError, match="04_dpo holds no trained weights: run the dpo stage first"):
        talk.open_run(str(short), ["sft", "dpo"])
    with pytest.raises(PhoenixError, match="is no folder; give that of a run"):
        talk.open_run(str(tmp_path / "nothing"))
    with pytest.raises(PhoenixError, match="03_sft holds no trained weights: run the sft stage first"):
        talk.open_run(str(tmp_path))
