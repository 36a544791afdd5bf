"""Go on with a text, or answer in a chat.

Prompts of different lengths are padded on the left, so that each is followed by what is written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from tokenizers import Encoding
from torch import Tensor

from minihf.generation.config import GenerationConfig
from minihf.models.outputs import Output
from minihf.pipelines.generating import NEW_TOKENS, GeneratingPipeline
from minihf.pipelines.inputs import told

DEFAULTS = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "temperature": 0.7}


@dataclass
class Prompt:
    """What the model reads; `given` of its tokens are the caller's, the others only there to begin with."""

    ids: list[int]
    attention_mask: list[int]
    given: int

    def __len__(self) -> int:
        return len(self.ids)


class TextGenerationPipeline(GeneratingPipeline):
    """`{"generated_text"}` of each continuation, in a list, also where there is one: the text and what follows it; of a
    chat, its messages and the answer.

    What neither the caller nor the checkpoint's generation config says is drawn at temperature 0.7, up to 256 tokens,
    or as many as the model still has positions for. A chat that ends with the assistant's message is taken up in it.

    Options:
        return_full_text: False leaves out the prompt.
        return_tensors: `{"generated_token_ids"}` instead, prompt included.
        return_text: contradicts the two above, and says nothing new.
        clean_up_tokenization_spaces: as the tokenizer's `decode`; None as it is set there.
        skip_special_tokens: of what is written (True).
        prefix: put before each text, and not shown; `max_length` and `min_length` do not count it.
        stop_sequence: a text, or several; what is written ends with the first that appears in it.
        handle_long_generation: "hole" takes off the beginning of a prompt after which there is no room.
        continue_final_message: of a chat, whether its last message is taken up.
        tools, documents: for the chat template.
        tokenizer_encode_kwargs: further options for the tokenizer, of a chat for its template.
        add_special_tokens, padding, truncation, max_length: of the tokenizer; `max_length` of `generate` too.
        generation_config, and all its fields: see `GenerationConfig`; and the other arguments of `generate`.
    """

    head = "ForCausalLM"
    reads = "a text, or a chat as a list of messages"
    exclusive = GeneratingPipeline.exclusive | {"return_full_text"}

    def settle(
        self,
        *,
        return_full_text: bool | None = None,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        skip_special_tokens: bool | None = None,
        prefix: str | None = None,
        stop_sequence: str | list[str] | None = None,
        handle_long_generation: str | None = None,
        continue_final_message: bool | None = None,
        tools: list[dict] | None = None,
        documents: list[dict] | None = None,
        tokenizer_encode_kwargs: Mapping[str, Any] | None = None,
        add_special_tokens: bool | None = None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        generation_config: GenerationConfig | None = None,
        **generate: Any,
    ) -> dict[str, Any]:
        returns = {"return_full_text": return_full_text, "return_tensors": return_tensors, "return_text": return_text}
        if sum(value is not None for value in returns.values()) > 1:
            raise ValueError(f"{' and '.join(k for k, v in returns.items() if v is not None)}: pass one of them")
        if handle_long_generation not in (None, "hole"):
            raise ValueError(f'handle_long_generation={handle_long_generation!r}: None or "hole" was expected')
        prefix = getattr(self.model.config, "prefix", None) if prefix is None else prefix
        if max_length is not None:
            generate["max_length"] = max_length
        if stop_sequence is not None:
            generate["stop_strings"] = [stop_sequence] if isinstance(stop_sequence, str) else list(stop_sequence)
        if prefix:
            generate = self.beside(prefix, bool(add_special_tokens), generation_config, generate)
        tokenizer = {"truncation": truncation, "padding": padding, "max_length": max_length}
        tokenizer = {name: value for name, value in tokenizer.items() if value is not None}
        return {
            **self.generation(generation_config, generate),
            "prefix": prefix or "",
            "tensors": bool(return_tensors),
            "full": return_full_text in (None, True),
            "skip": skip_special_tokens is not False,
            "clean": clean_up_tokenization_spaces,
            "hole": handle_long_generation == "hole",
            "continue": continue_final_message,
            "chat": {"tools": tools, "documents": documents},
            "special": {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens},
            "tokenizer": tokenizer | dict(tokenizer_encode_kwargs or {}),
        }

    def beside(self, prefix: str, special: bool, given: GenerationConfig | None, settings: dict) -> dict[str, Any]:
        """The settings, in which lengths in all make room for the prefix."""
        tokens = len(self.tokenizer(prefix, add_special_tokens=special)["input_ids"])
        said = self.model.generation_config.said() | (given.said() if given else {}) | settings
        pairs = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))
        longer = {total: said[total] + tokens for total, new in pairs if said.get(total) and said.get(new) is None}
        return settings | longer

    def defaults(self, own: dict[str, Any], asked: dict[str, Any], replaced: bool) -> dict[str, Any]:
        said = own | asked
        added = {name: value for name, value in DEFAULTS.items() if name not in said}
        if "max_length" in said:
            added.pop("max_new_tokens", None)
        if not (said | added)["do_sample"]:
            added.pop("temperature", None)
        return added

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """See `Pipeline.__call__`, and the class for the options."""
        if isinstance(inputs, Iterator):
            first = list(islice(inputs, 1))
            inputs = chain(first, inputs)
            if first and is_message(first[0]):
                inputs = list(inputs)
        return super().__call__(inputs, **options)

    def is_one(self, inputs: Any) -> bool:
        return is_chat(inputs)

    def encode(self, items: list, options: dict[str, Any]) -> list[list[Prompt]]:
        for item in items:
            if not isinstance(item, str) and not is_chat(item):
                raise TypeError(f"{self.task} reads {self.reads} or a list or generator of them; {told(item)} came")
        texts = [options["prefix"] + item for item in items if isinstance(item, str)]
        settings = dict(options["tokenizer"])
        if settings.get("padding") in (True, "longest"):  # of one text that is no padding
            settings["padding"] = False
            settings.setdefault("truncation", False)
        encodings = []
        if texts:
            settings = {"padding_side": "left", "verbose": not options["hole"]} | options["special"] | settings
            encodings = self.tokenizer(texts, **settings).encodings
        read = iter(encodings)
        return [[self.prompt(next(read) if isinstance(x, str) else self.chat(x, options), options)] for x in items]

    def chat(self, messages: list[Mapping], options: dict[str, Any]) -> Encoding:
        going_on = self.goes_on(messages, options)
        settings = {"add_generation_prompt": not going_on, "continue_final_message": going_on, **options["chat"]}
        side = {"tokenizer_kwargs": {"padding_side": "left"}}
        encoding = self.tokenizer.apply_chat_template(messages, **settings | side | options["tokenizer"])
        return encoding.encodings[0]

    def goes_on(self, messages: list[Mapping], options: dict[str, Any]) -> bool:
        """Few models know two messages of the assistant in a row, so a last one of its own is a beginning."""
        asked = options["continue"]
        return messages[-1]["role"] == "assistant" if asked is None else asked

    def prompt(self, row: Encoding, options: dict[str, Any]) -> Prompt:
        ids, mask, config = row.ids, row.attention_mask, options["config"]
        if options["hole"] and self.longest is not None:
            steps = config.max_new_tokens
            steps = config.max_length - len(ids) if steps is None else steps
            if steps < 0:
                raise ValueError(f"the prompt has {len(ids)} tokens, more than max_length={config.max_length}")
            if len(ids) + steps > self.longest:
                kept = self.longest - steps
                if kept <= 0:
                    raise ValueError(
                        f"{steps} new tokens leave no room for a prompt in the {self.longest} that the model takes: "
                        "lower max_new_tokens"
                    )
                ids, mask = ids[-kept:], mask[-kept:]
        if ids:
            return Prompt(ids, mask, len(ids))
        if config.bos_token_id is None:
            raise ValueError("the text has no token, and the model no bos_token_id to begin with: pass a text")
        return Prompt([config.bos_token_id], [1], 0)

    def read(self, output: Tensor | Output, rows: list[Prompt], options: dict[str, Any]) -> list:
        """Of each text what was written (copies, T), and, of a text alone, what else `generate` tells of it."""
        if isinstance(output, Tensor):
            return [(ids, {}) for ids in super().read(output, rows, options)]
        ids = output.sequences.cpu()
        others = {}
        for name, value in output.items():
            if isinstance(value, tuple) and isinstance(value[0], Tensor) and len(value[0]) == len(ids):
                value = torch.stack(value, dim=1)  # of each step (copies, V) -> (copies, steps, V)
            if name != "sequences" and isinstance(value, Tensor) and len(value) == len(ids):
                others[name] = value.tolist()
        return [(ids, others)]

    def answer(self, item: Any, rows: list[Prompt], read: list, options: dict[str, Any]) -> list[dict[str, Any]]:
        (row,), ((sequences, others),) = rows, read
        if options["tensors"]:
            return [{"generated_token_ids": ids} for ids in sequences.tolist()]
        texts = [
            self.tokenizer.decode(ids[row.given :], options["skip"], options["clean"]) for ids in sequences.tolist()
        ]
        return [
            {"generated_text": self.together(item, text, options)} | {name: of[i] for name, of in others.items()}
            for i, text in enumerate(texts)
        ]

    def together(self, item: Any, text: str, options: dict[str, Any]) -> str | list[Mapping]:
        if not options["full"]:
            return text
        if isinstance(item, str):
            return item + text
        *before, last = item
        if self.goes_on(item, options):
            return [*before, {"role": last["role"], "content": last["content"] + text}]
        return [*item, {"role": "assistant", "content": text}]


def is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value


def is_chat(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and is_message(value[0])
