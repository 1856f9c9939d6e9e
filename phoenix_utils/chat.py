"""From messages to tokens: the chat template, what the model reads, and which tokens it is trained on.

The template is Zephyr's: a line that names the speaker, the text, the end-of-sequence token.

    <|user|>
    Wie heißt du?</s>
    <|assistant|>
    Ich heiße Phönix.</s>

Only what the assistant writes carries loss, its end-of-sequence token included: a model that was never
trained to end its turn never ends it. `{% generation %}` marks that part in the template itself, so every
library that reads the saved tokenizer finds the same tokens.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_utils import models
from phoenix_utils.errors import PhoenixError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = dict[str, str]

# The newline stands before a turn rather than after its end, so that nothing follows the last stop token and
# a prompt is, token by token, the beginning of the conversation it grows into.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('unknown role ' + message['role']) -}}
{%- endif -%}
{{- ('' if loop.first else '\\n') + '<|' + message['role'] + '|>\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] | trim + eos_token -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] | trim + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\n<|assistant|>\\n' -}}{%- endif -%}
"""


# ChatML differs in how a turn begins, and in the token that ends it.
CHATML_TEMPLATE = (
    CHAT_TEMPLATE.replace("'<|' + message['role'] + '|>\\n'", "'<|im_start|>' + message['role'] + '\\n'")
).replace("<|assistant|>", "<|im_start|>assistant")
CHATML_STOP = "<|im_end|>"


def template_for(tokenizer: PreTrainedTokenizerBase, template: str = CHAT_TEMPLATE) -> str:
    """The chat template for this tokenizer, with a beginning-of-sequence token if it starts texts with one.

    The token is part of the template because chat text is tokenised without automatic special tokens; that
    way it stands there exactly once.
    """
    return ("{{- bos_token -}}\n" if adds_bos(tokenizer) else "") + template


def apply_template(tokenizer: PreTrainedTokenizerBase, name: str = "zephyr") -> PreTrainedTokenizerBase:
    """Make a chat template part of `tokenizer`, which is returned: "zephyr", "chatml", or "own", the one it brings.

    Its end-of-sequence token is then the one that ends an answer. Raises PhoenixError if there is no such token, if
    it also pads (padding is masked out of the loss, so the stop token would never be learned), and where the
    tokenizer's own template does not tell what the assistant writes.
    """
    _check_tokens(tokenizer)
    if name == "own":
        return _with_own_template(tokenizer)
    if name == "chatml":
        if CHATML_STOP not in tokenizer.get_vocab():
            raise PhoenixError(
                f"the tokenizer of {tokenizer.name_or_path} has no token {CHATML_STOP}, with which answers in ChatML "
                "end; set chat_template to zephyr"
            )
        tokenizer.eos_token = CHATML_STOP
    tokenizer.chat_template = template_for(tokenizer, CHATML_TEMPLATE if name == "chatml" else CHAT_TEMPLATE)
    return tokenizer


def _with_own_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with its own template, the assistant's part marked: by itself, or by TRL for those it knows."""
    from trl.chat_template_utils import get_training_chat_template

    name, own = tokenizer.name_or_path, tokenizer.chat_template
    if not isinstance(own, str):
        raise PhoenixError(f"the tokenizer of {name} brings no chat template; set chat_template to zephyr")
    if "endgeneration" not in own:
        try:
            tokenizer.chat_template = get_training_chat_template(tokenizer)
        except ValueError:
            raise PhoenixError(
                f"the chat template of {name} does not mark what the assistant writes; set chat_template to zephyr"
            ) from None
    ids, mask = loss_mask(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    stop = [token for token, bit in zip(ids, mask, strict=True) if bit][-1:]
    ending = tokenizer.convert_ids_to_tokens(stop[0]) if stop else None
    if ending is None or not tokenizer.added_tokens_decoder.get(stop[0], None) or stop[0] == tokenizer.pad_token_id:
        raise PhoenixError(
            f"answers in the chat template of {name} do not end in a stop token; set chat_template to zephyr"
        )
    tokenizer.eos_token = ending
    return tokenizer


def _check_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    name = tokenizer.name_or_path
    if tokenizer.eos_token is None:
        raise PhoenixError(
            f"the tokenizer of {name} has no end-of-sequence token, so no answer could ever end; choose another model"
        )
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise PhoenixError(
            f"the tokenizer of {name} has no padding token of its own; load it with "
            "phoenix_utils.models.load_tokenizer, which finds one"
        )


def saved_tokenizer(folder: Path, base: str, languages: tuple[str, ...]) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside trained weights, as long as its ids are those of the model that will be loaded.

    An adapter is put on a base that is loaded anew. If that base's vocabulary was trimmed differently since (by
    another version of this package), the saved ids would name other tokens: then the base's own tokenizer takes over,
    with the saved chat template.
    """
    saved = models.load_tokenizer(str(folder), languages)
    if folder.name == "model":
        return saved
    own = models.load_tokenizer(base, languages)
    if own.get_vocab() == saved.get_vocab():
        return saved
    own = apply_template(own)
    own.chat_template, own.eos_token = saved.chat_template, saved.eos_token
    return own


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether this tokenizer starts every text with its beginning-of-sequence token."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def escape_special(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """`text` with a space inside everything that the tokenizer would read as one of its special tokens.

    `<s>` is the beginning of a sequence to a Llama tokenizer and struck-through text to a web page. A message
    that speaks of it must neither end a turn nor start one. Ordinary text comes back unchanged.
    """
    return _special_pattern(tokenizer).sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", text)


_PATTERNS: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, re.Pattern] = weakref.WeakKeyDictionary()


def _special_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    if tokenizer not in _PATTERNS:
        named = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        specials = sorted((t for t in named | set(tokenizer.all_special_tokens) if len(t) > 1), key=len, reverse=True)
        _PATTERNS[tokenizer] = re.compile("|".join(map(re.escape, specials)) or "(?!)")
    return _PATTERNS[tokenizer]


def escape_messages(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[Message]:
    """The messages with `escape_special` applied to every text, and nothing but role and content kept."""
    return [{"role": m["role"], "content": escape_special(tokenizer, m["content"])} for m in messages]


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
    """The text that the model reads: `messages` in the template, ready for the assistant's turn if wanted."""
    _check(messages)
    return tokenizer.apply_chat_template(
        escape_messages(tokenizer, messages),
        chat_template=_template(tokenizer),
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
    )


def loss_mask(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Token ids of a whole conversation, and for each of them 1 if it is trained on, else 0.

    Raises PhoenixError for a conversation that teaches nothing: no assistant turn, or an empty one.
    """
    _check(messages)
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    if not answers or not all(answer.strip() for answer in answers):
        what = "an empty assistant turn" if answers else "no assistant turn"
        raise PhoenixError(
            f"a conversation has {what}, so there is nothing to learn from it; drop the row: {_begin(messages)}"
        )
    encoded = tokenizer.apply_chat_template(
        escape_messages(tokenizer, messages),
        chat_template=_template(tokenizer),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = list(encoded["input_ids"]), [int(bit) for bit in encoded["assistant_masks"]]
    return ids, mask


def keep_own_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Let `render` use the template that a finished chat model came with, where it has one; whether it has."""
    tokenizer.keeps_template = isinstance(tokenizer.chat_template, str)
    return tokenizer.keeps_template


def set_stop_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make generation end at the template's end of a turn, whatever the base model used to end at."""
    config = model.generation_config
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    if tokenizer.bos_token_id is not None:
        config.bos_token_id = tokenizer.bos_token_id
    config._from_model_config = False  # or transformers may rebuild it from the base model's configuration


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's own template if it marks the assistant's part (ours does) or is to be kept, else ours."""
    own = tokenizer.chat_template
    marked = isinstance(own, str) and ("endgeneration" in own or getattr(tokenizer, "keeps_template", False))
    return own if marked else template_for(tokenizer)


def _check(messages: Sequence[Message]) -> None:
    for message in messages:
        if message["role"] not in ("system", "user", "assistant"):
            raise PhoenixError(f"a message has the role {message['role']!r}; the roles are system, user and assistant")
    if not messages:
        raise PhoenixError("a conversation has no messages; drop the row")


def _begin(messages: Sequence[Message]) -> str:
    text = messages[0]["content"]
    return repr(text if len(text) <= 60 else text[:57] + "...")
