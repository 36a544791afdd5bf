"""Chats: a list of messages becomes the one text that a model was trained to read, by the template that came with it.

The formats differ (`[INST]` of Llama 2 and Mistral, `<|start_header_id|>` of Llama 3, `<|im_start|>` of ChatML), and
the template, a Jinja program kept with the tokenizer, knows which. It writes the special tokens itself, so that none is
added when its text is encoded.
"""

import re
import reprlib
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tokenizers import Encoding

from minihf.tokenization.encoding import BatchEncoding

if TYPE_CHECKING:
    from minihf.tokenization.sandbox import Span
    from minihf.tokenization.tokenizer import Tokenizer

Message = Mapping[str, Any]
FORM = '[{"role": "user", "content": "Hello"}]'
REASONING = ("reasoning_content", "thinking", "reasoning")  # names for one thing; templates read the first or second
MARK = "CONTINUED_BY_THE_MODEL"  # and a space, which tells whether a template strips what messages end with
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


def apply_chat_template(
    tokenizer: "Tokenizer",
    /,
    conversation: Iterable[Message] | list[list[Message]],
    tools: list[dict[str, Any]] | None = None,
    documents: list[dict[str, str]] | None = None,
    chat_template: str | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool | str = False,
    tokenize: bool = True,
    sanitize_control_tokens: bool = False,
    padding: bool | str = False,
    truncation: bool | str = False,
    max_length: int | None = None,
    return_tensors: str | None = None,
    return_dict: bool = True,
    return_assistant_tokens_mask: bool = False,
    tokenizer_kwargs: dict[str, Any] | None = None,
    **variables: Any,
) -> BatchEncoding | list[int] | list[list[int]] | str | list[str]:
    """Write a conversation, or a batch of them, as the model was trained to read it.

    Args:
        conversation: messages such as `{"role": "user", "content": "Hello"}`; a list of lists of them is a batch.
        tools: JSON schemas of functions that the model may call, for templates that speak of tools.
        documents: `{"title": ..., "text": ...}`, for templates that speak of documents.
        chat_template: a template to use instead of the tokenizer's own, or the name of one that it has.
        add_generation_prompt: end with the beginning of an answer, so that the model gives one.
        continue_final_message: end within the last message, so that the model goes on with it; a str is the key of the
            message to go on with, where that is not "content".
        tokenize: False returns the text.
        sanitize_control_tokens: True is refused: that is not implemented.
        padding, truncation, max_length, return_tensors: as in a call of the tokenizer.
        return_dict: False returns the `input_ids` alone.
        return_assistant_tokens_mask: `assistant_masks`, 1 for the tokens of what the template has between
            `{% generation %}` and `{% endgeneration %}`.
        tokenizer_kwargs: further options of a call of the tokenizer.
        variables: what else the template is to know, such as `enable_thinking=True`; they come before special tokens.

    Returns:
        `input_ids` and `attention_mask`: lists (T), or (B, T) for a batch and for tensors; or what was asked instead.

    Raises:
        TypeError: what is no conversation. ValueError: an empty one, options that contradict, a template that fails or
            that there is not.
    """
    from minihf.tokenization.sandbox import plain, reads, render

    if sanitize_control_tokens:
        raise ValueError(
            "sanitize_control_tokens=True is not implemented: special tokens that a message spells out become special "
            "tokens. Remove them from texts of strangers before, tokenizer.all_special_tokens lists them"
        )
    if return_assistant_tokens_mask and not (tokenize and return_dict):
        raise ValueError("return_assistant_tokens_mask=True needs tokenize=True and return_dict=True")
    if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
        other = "add_generation_prompt" if add_generation_prompt else "return_assistant_tokens_mask"
        raise ValueError(f"continue_final_message and {other} exclude each other; pass one of them")
    template = get_chat_template(tokenizer, chat_template, tools)
    chats, batched = _chats(conversation, template)
    shared = {
        "tools": _objects(tools, "tools"),
        "documents": _objects(documents, "documents"),
        "add_generation_prompt": add_generation_prompt,
    }
    if taken := variables.keys() & {"messages", *shared}:
        raise TypeError(f"{', '.join(sorted(taken))}: the template's own variables cannot be passed as others")
    if variables and (unread := variables.keys() - tokenizer.special_tokens_map.keys() - reads(template)):
        warnings.warn(f"the chat template does not read {', '.join(sorted(unread))}; is it misspelt?", stacklevel=2)
    if return_assistant_tokens_mask and not GENERATION.search(template):
        warnings.warn(
            "assistant_masks are all 0: the chat template has no {% generation %} and {% endgeneration %} around what "
            "the assistant says; put them there",
            stacklevel=2,
        )
    key = continue_final_message if isinstance(continue_final_message, str) else "content"
    texts, spans = [], []
    for chat in chats:
        messages = [_with_reasoning(plain(message)) for message in chat]
        final = _open_ended(messages[-1], key, template) if continue_final_message else None
        text, spoken = render(template, tokenizer.special_tokens_map | variables | shared | {"messages": messages})
        texts.append(text if final is None else _cut(text, final))
        spans.append(spoken)
    if not tokenize:
        return texts if batched else texts[0]

    settings = {
        "add_special_tokens": False,
        "padding": padding,
        "truncation": truncation,
        "max_length": max_length,
        "return_tensors": return_tensors,
    }
    if taken := settings.keys() & (tokenizer_kwargs or {}).keys():
        raise TypeError(
            f"tokenizer_kwargs has {', '.join(sorted(taken))}, which the template (special tokens) or an argument of "
            "apply_chat_template (the others) says"
        )
    encoding = tokenizer(texts if batched else texts[0], **settings, **tokenizer_kwargs or {})
    if return_assistant_tokens_mask:
        # with return_overflowing_tokens a text may have several rows
        samples = encoding.get("overflow_to_sample_mapping", range(len(texts)))
        masks = [_mask(row, spans[i]) for row, i in zip(encoding.encodings, samples, strict=True)]
        listed = batched or return_tensors or "overflow_to_sample_mapping" in encoding
        encoding["assistant_masks"] = masks if listed else masks[0]
        encoding.convert_to_tensors(return_tensors)
    return encoding if return_dict else encoding["input_ids"]


def get_chat_template(tokenizer: "Tokenizer", chat_template: str | None = None, tools: Any = None) -> str:
    """The template that a chat would be written with.

    Args:
        chat_template: the name of one of the tokenizer's templates, or a template, which is returned as it is.
        tools: if there are any, "tool_use" comes before "default", where the tokenizer has several templates.

    Raises:
        ValueError: there is none, or none of this name.
    """
    own = named_templates(tokenizer.chat_template)
    named = own if isinstance(own, dict) else {} if own is None else {"default": own}
    if chat_template is None:
        wanted = ("tool_use", "default") if tools is not None and isinstance(own, dict) else ("default",)
        chat_template = next((named[name] for name in wanted if name in named), None)
    elif isinstance(own, dict):
        chat_template = named.get(chat_template, chat_template)
    if chat_template is None and not named:
        raise ValueError(
            "this tokenizer has no chat template: its model was not trained on chats, or it keeps the template "
            "elsewhere. Set tokenizer.chat_template to the Jinja template of its format, or pass chat_template="
        )
    names = ", ".join(map(repr, sorted(named)))
    if chat_template is None:
        raise ValueError(f"none of the tokenizer's chat templates is the default; pass chat_template= one of {names}")
    if not isinstance(chat_template, str) or "{" not in chat_template:
        raise ValueError(
            f"chat_template={chat_template!r} is neither a Jinja template, in which something stands in braces, nor "
            f"the name of one that this tokenizer has: {names or 'it has none'}"
        )
    return chat_template


def named_templates(value: Any) -> str | dict[str, str] | None:
    """What a file or a person gives as chat template: a str, several by name, or a list of such as files have it.

    Raises:
        ValueError: anything else.
    """
    named = value
    if isinstance(value, list | tuple) and all(isinstance(entry, Mapping) for entry in value):
        named = {entry.get("name"): entry.get("template") for entry in value}
    if isinstance(named, Mapping) and all(isinstance(part, str) for pair in named.items() for part in pair):
        return dict(named) or None
    if value is None or isinstance(value, str):
        return value
    raise ValueError(
        f"chat_template is {reprlib.repr(value)}; a str was expected, or a dict from names to templates, or a list of "
        '{"name": ..., "template": ...}'
    )


def _chats(conversation: Any, template: str) -> tuple[list[list[Message]], bool]:
    """The conversations, without what is None in their messages, and whether a batch was passed."""
    listed = _listed(conversation, "conversation")
    batched = isinstance(listed[0], list | tuple)
    chats = [_listed(chat, f"conversation[{i}]") for i, chat in enumerate(listed)] if batched else [listed]
    for i, chat in enumerate(chats):
        for j, message in enumerate(chat):
            _check(message, f"conversation[{i}][{j}]" if batched else f"conversation[{j}]", template)
    return [[{k: v for k, v in message.items() if v is not None} for message in chat] for chat in chats], batched


def _listed(value: Any, where: str) -> list:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{where} is {_told(value)}; a list of messages was expected, such as {FORM}")
    value = list(value)
    if not value:
        raise ValueError(f"{where} is empty; pass at least one message, such as {FORM}")
    return value


def _check(message: Any, where: str, template: str) -> None:
    if not isinstance(message, Mapping):
        raise TypeError(f"{where} is {_told(message)}; a message was expected, such as those in {FORM}")
    said = {key for key, value in message.items() if value is not None}
    # what an assistant calls or thinks may stand in the place of content, if the template reads it
    others = [key for key in said - {"role", "content"} if str(key) in template]
    if isinstance(message.get("role"), str) and "tool_calls" in said and not ("content" in said or others):
        raise ValueError(f"{where} has no 'content', and the template does not read 'tool_calls': nothing is said")
    if not isinstance(message.get("role"), str) or not ("content" in said or others):
        raise ValueError(f"{where} is {_told(message)}; a message has a 'role' and a 'content', as in {FORM}")


def _objects(value: Any, name: str) -> Any:
    """`tools` or `documents`: a list of JSON objects, or None."""
    if value is None:
        return None
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is {_told(value)}; a list of dicts was expected")
    value = list(value)
    for i, item in enumerate(value):
        if callable(item) and name == "tools":
            called = getattr(item, "__name__", "f")
            raise TypeError(
                f"tools[{i}] is the function {called}; its JSON schema was expected: "
                f'{{"type": "function", "function": {{"name": {called!r}, "description": ..., "parameters": ...}}}}'
            )
        if not isinstance(item, Mapping):
            raise TypeError(f"{name}[{i}] is {_told(item)}; a dict was expected")
    return value


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its reasoning, if it has one, under the names that templates read it by."""
    thought = next((message[name] for name in REASONING if name in message), None)
    return message if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


def _open_ended(message: dict[str, Any], key: str, template: str) -> str:
    """Mark the end of what is to be continued, in place; returns it unmarked."""
    final = message.get(key)
    keys = [name for name in REASONING if message.get(name) == final] if key in REASONING else [key]
    if not any(name in template for name in keys):
        raise ValueError(f"continue_final_message={key!r}, and the chat template does not read a message's {key!r}")
    if isinstance(final, list | tuple):
        part = next((part for part in reversed(final) if isinstance(part, dict) and "text" in part), {})
        final = part.get("text")
        if isinstance(final, str):
            part["text"] = f"{final}{MARK} "
    elif isinstance(final, str):
        for name in keys:
            message[name] = f"{final}{MARK} "
    if not isinstance(final, str):
        raise ValueError(f"there is no text to continue in the last message: its {key!r} is {_told(message.get(key))}")
    return final


def _cut(text: str, final: str) -> str:
    """The rendered text up to the end of the last message."""
    at = text.rfind(MARK)
    if at < 0 or final.strip() not in text:
        raise ValueError(
            f"the last message cannot be continued: the chat template does not write {reprlib.repr(final)} as it stands"
        )
    kept = text[:at] if text.startswith(f"{MARK} ", at) else text[:at].rstrip()
    return re.sub(f"{MARK} ?", "", kept)  # a template may write it more than once


def _mask(row: Encoding, spans: "list[Span]") -> list[int]:
    """1 for the tokens that have a character in one of the spans.

    A space that byte-level BPE trims off a token's place leaves an empty place, after the space.
    """
    return [int(any(end > start and min(begin, end - 1) < stop for start, stop in spans)) for begin, end in row.offsets]


def _told(value: Any) -> str:
    return "None" if value is None else f"the {type(value).__name__} {reprlib.repr(value)}"
