"""The harness: our numbers are those of its own command line, and local tasks need no network."""

import json
import subprocess
import sys

import pytest
import tiny_models
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from phoenix_utils import chat
from phoenix_utils.decoding import GenerationParams
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation import benchmarks

LOCAL = ["phoenix_mc_de", "phoenix_grammar_de"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_models.save_tiny(tmp_path_factory.mktemp("tiny"))
    tokenizer = chat.apply_template(AutoTokenizer.from_pretrained(folder))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(model):
    return TransformersEngine(AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model))


def test_each_likelihood_is_that_of_the_harness_own_model(model, engine):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from phoenix_utils.evaluation.harness_model import EngineLM

    question = "Frage: Wie heißt der längste Fluss, der ganz in Deutschland fließt?\nAntwort:"
    pairs = [
        *((question, f" {name}") for name in ("Weser", "Elbe", "Main", "die Weser bei Bremen")),
        *(("", f"Das {word} gut.") for word in ("ist", "sind")),
        ("Kurz ", "und gut"),
        ("Wort " * 3000, "zu lang"),
    ]
    requests = [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)]
    theirs = HFLM(AutoModelForCausalLM.from_pretrained(model), tokenizer=engine.tokenizer, batch_size=4)
    wanted, found = theirs.loglikelihood(requests), EngineLM(engine).loglikelihood(requests)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=2e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    says = engine.generate([question], GenerationParams(max_new_tokens=1))[0].text
    assert EngineLM(engine).loglikelihood([Instance("loglikelihood", {}, (question, says), 0)])[0][1] is True
    rolling = [Instance("loglikelihood_rolling", {}, ("Ein Satz ohne Anfang. " * 20,), 0)]
    assert EngineLM(engine).loglikelihood_rolling(rolling) == pytest.approx(
        theirs.loglikelihood_rolling(rolling), rel=1e-4
    )


def test_numbers_are_those_of_the_harness_command_line(model, engine, tmp_path):
    rows = benchmarks.measure(engine, LOCAL, tmp_path / "tasks", name="tiny", limit=12, templates=(True,))
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32"),
        *("--include_path", str(tmp_path / "tasks"), "--tasks", ",".join(LOCAL), "--num_fewshot", "0"),
        *("--limit", "12", "--apply_chat_template", "--device", "cpu", "--batch_size", "16"),
        *("--output_path", str(tmp_path / "out")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    [stored] = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(stored.read_text())["results"]
    assert {row["task"]: row["value"] for row in rows} == {name: theirs[name]["acc,none"] for name in LOCAL}
    assert all(row["n"] == 12 and row["shots"] == 0 and row["low"] <= row["value"] <= row["high"] for row in rows)
    assert [row["rows"] for row in rows] == [60, 400]


def test_unknown_tasks_are_one_sentence():
    with pytest.raises(PhoenixError, match="'arc_xx', which lm-evaluation-harness does not know"):
        benchmarks.check_tasks(["arc_de", "arc_xx"])


def test_task_files_are_whole_yaml_and_every_card_is_filled_in(tmp_path):
    for path in benchmarks.write_tasks(tmp_path).iterdir():
        task = yaml.safe_load(path.read_text())
        assert task["task"] == path.stem and task["output_type"] == "multiple_choice"
    for card in benchmarks.CARDS.values():
        assert card.tests and card.origin and card.size and card.flaws and 0 < card.chance < 1


def test_models_are_compared_on_the_same_rows():
    rows = [
        {"model": m, "task": "t", "chat_template": False, "hits": hits}
        for m, hits in (("a", [0.0, 0.0, 1.0, 0.0]), ("b", [1.0, 1.0, 1.0, 0.0]))
    ]
    [found] = benchmarks.compare(rows, [("a", "b")])
    assert (found["value"], found["n"], found["p"], found["pair"]) == (0.5, 4, 0.5, "b-a")
