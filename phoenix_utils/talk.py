"""Talk to the models of a run: each keeps its own side of the conversation, and all hear the same questions.

    talk = open_run("runs/mini")            # base, SFT and DPO, as far as the run has them
    talk.ask("Wie heißt der längste Fluss?")  # {"prompt": ..., "base": Completion, "sft": ..., "dpo": ...}

The adapters are switched on one base, so three models need the memory of one. After full fine-tuning each is a model of
its own and stays loaded; name fewer where memory is short.
"""

from __future__ import annotations

import contextlib
import os.path
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from phoenix_utils import chat
from phoenix_utils.artifacts import read_manifest, resolve_run_dir, stage_path
from phoenix_utils.decoding import GenerationParams
from phoenix_utils.errors import PhoenixError, printable
from phoenix_utils.evaluation.contenders import OF_THE_RUN, Contenders
from phoenix_utils.profile import choose
from phoenix_utils.samples import trained_folder

if TYPE_CHECKING:
    from phoenix_utils.engine_transformers import TransformersEngine

COMMANDS = "/reset begins anew, /quit ends"


class Talk:
    """Several models and what was said with each.

    Args:
        contenders: the models.
        names: which of them answer, in this order.
        params: how they answer, all alike.
    """

    def __init__(self, contenders: Contenders, names: Sequence[str], params: GenerationParams):
        self.contenders, self.names, self.params = contenders, tuple(names), params
        self._whole: dict[str, TransformersEngine] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self.messages: dict[str, list[chat.Message]] = {name: [] for name in self.names}

    def ask(self, text: str, show: Callable[[str, str], None] | None = None) -> dict[str, Any]:
        """What every model answers to `text` after its own earlier answers, as {"prompt": ..., name: Completion}.

        `show(name, piece)` is called with every piece of an answer as soon as it is there; the pieces of an answer
        make up its text. Raises PhoenixError where a conversation has become too long for the model; then, and where
        an answer is interrupted, the question counts as not asked.
        """
        answers: dict[str, Any] = {"prompt": text}
        for name in self.names:
            with self._playing(name) as engine:
                pieces = _Pieces(engine.tokenizer, lambda piece, name=name: show(name, piece)) if show else None
                engine.on_token = pieces.add if pieces else None
                asked = [*self.messages[name], {"role": "user", "content": text}]
                [answers[name]] = engine.generate([chat.render(engine.tokenizer, asked)], self.params)
                if pieces:
                    pieces.finish(answers[name].text)
        for name in self.names:
            said = [("user", text), ("assistant", answers[name].text)]
            self.messages[name] += [{"role": role, "content": content} for role, content in said]
        return answers

    @contextlib.contextmanager
    def _playing(self, name: str) -> Iterator[TransformersEngine]:
        if name in self._whole:
            yield self._whole[name]
            return
        with self.contenders.playing(name) as engine:
            if self.contenders.shared is None:
                self._whole[name] = engine
            yield engine


class _Pieces:
    """Text of an answer as its tokens arrive; one that is a part of a character only waits for the rest."""

    def __init__(self, tokenizer: Any, show: Callable[[str], None]):
        from tokenizers.decoders import DecodeStream

        self.stream, self.backend = DecodeStream(skip_special_tokens=True), tokenizer.backend_tokenizer
        self.show, self.shown = show, ""

    def add(self, token: int) -> None:
        if piece := self.stream.step(self.backend, token):
            self.shown += piece
            self.show(piece)

    def finish(self, text: str) -> None:
        """Show what is left of the whole text, such as half a character at the limit."""
        if text.startswith(self.shown) and len(text) > len(self.shown):
            self.show(text[len(self.shown) :])


def open_run(
    run: str, names: Sequence[str] | None = None, *, max_new_tokens: int = 256, temperature: float = 0.0
) -> Talk:
    """The models `names` of the run in the folder `run`, by default base, SFT and DPO as far as they are there.

    Raises PhoenixError where there is no such run, nothing trained in it, or a model that it does not have is named.
    """
    if not os.path.isdir(resolve_run_dir(run)):
        raise PhoenixError(f"{run!r} is no folder; give that of a run, for example runs/mini")
    for name in names or ():
        choose("model", name, OF_THE_RUN)
    manifest = stage_path(run, "sft") / "manifest.json"
    trained = {"sft": trained_folder(run, "sft")}  # its tokenizer has the chat template for all
    if not manifest.is_file():
        raise PhoenixError(f"{manifest} is missing, so nobody knows which model was trained: run the sft stage again")
    if names is None or "dpo" in names:
        try:
            trained["dpo"] = trained_folder(run, "dpo")
        except PhoenixError:
            if names is not None:
                raise
    settings = read_manifest(manifest)["settings"]
    contenders = Contenders(
        settings["model"],
        (settings["source_language"], settings["language"]),
        trained,
        quantize=settings["method"] == "qlora",
        merge=False,
    )
    # As evaluation decodes: the base would say one sentence again and again without the penalty.
    params = GenerationParams(max_new_tokens=max_new_tokens, temperature=temperature, repetition_penalty=1.1)
    return Talk(contenders, names or ["base", *trained], params)


def converse(talk: Talk, lines: Iterable[str], turn: Callable[[str], None], out: TextIO) -> None:
    """Let `turn` answer line after line until /quit or the end; what commands have to say goes to `out`."""
    for line in lines:
        text = line.strip()
        if text == "/quit":
            return
        if text == "/reset":
            talk.reset()
            print("(forgotten)", file=out, flush=True)
        elif text.startswith("/"):
            print(f"({text} is no command: {COMMANDS})", file=out, flush=True)
        elif text:
            turn(text)


def write_turn(talk: Talk, text: str, out: TextIO) -> None:
    """One turn as lines: each model's name, where there are several, and its answer, piece by piece."""
    begun: list[str] = []

    def show(name: str, piece: str) -> None:
        if name not in begun:
            out.write("\n" if begun else "")
            out.write(f"{name}: " if len(talk.names) > 1 else "")
            begun.append(name)
            piece = piece.lstrip()
        out.write(printable(piece))
        out.flush()

    trouble = _ask(talk, text, show)
    out.write(("\n" if begun else "") + (f"({trouble})\n" if trouble else ""))
    out.flush()


def draw_turn(talk: Talk, text: str, console: Any) -> None:
    """One turn in a terminal with the models side by side, each in a column that fills while it answers."""
    from rich.live import Live

    texts = dict.fromkeys(talk.names, "")
    with Live(_columns(texts), console=console, transient=True) as live:

        def show(name: str, piece: str) -> None:
            texts[name] += piece
            live.update(_columns(texts))

        trouble = _ask(talk, text, show)
    console.print(_columns(texts))  # whole, where the moving one was cut off at the terminal's height
    if trouble:
        console.print(f"({trouble})", markup=False)


def _ask(talk: Talk, text: str, show: Callable[[str, str], None]) -> str:
    """Ask, and say in words what went wrong; the conversation can go on in either case."""
    try:
        talk.ask(text, show)
    except PhoenixError as error:
        return f"{error}; /reset begins anew"
    except KeyboardInterrupt:
        return "interrupted: the question counts as not asked"
    return ""


def _columns(texts: dict[str, str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True)
    for name in texts:
        table.add_column(name, ratio=1)
    table.add_row(*(Text(printable(text.strip())) for text in texts.values()))
    return table
