"""What the pipelines that write have in common: rows of ids go through `generate`, and each comes back as it would have
alone.

The reference reads texts one by one. Here several are written together, so the padding that this takes must not be seen
in what is written: lengths that count the prompt are kept to rows of one length, and what a row is filled up with is
taken off again.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from minihf.generation.checks import NEUTRAL
from minihf.generation.config import GenerationConfig, settle
from minihf.generation.stopping import stop_for
from minihf.models.outputs import Output
from minihf.pipelines.base import Pipeline

# Of one batch, what is read and what may be written: the cache of GPT-2's 4096 tokens has 300 MB.
TOKENS = {"cpu": 4096}
TOKENS_ELSEWHERE = 16384
NEW_TOKENS = 256  # where neither the caller nor the checkpoint says how long
SETTINGS = tuple(field.name for field in fields(GenerationConfig)) + tuple(NEUTRAL)
# These see texts, and are to see them one by one, in order. (An assistant guesses for one at a time.)
WATCHERS = (
    "streamer", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "negative_prompt_ids",
    "negative_prompt_attention_mask", "assistant_model",
)  # fmt: skip


class GeneratingPipeline(Pipeline):
    """A call may say all that `generate` takes: `max_new_tokens`, `num_beams`, ... A `generation_config` of a call
    takes the place of what the pipeline was made with."""

    further = SETTINGS + WATCHERS
    exclusive: ClassVar[frozenset[str]] = frozenset({"return_text", "return_tensors"})
    """Of these options, those of a call replace all of the pipeline's."""

    def merged(self, options: dict[str, Any]) -> dict[str, Any]:
        replaced: set[str] = set()
        if options.get("generation_config") is not None:
            replaced |= {*SETTINGS}
        if options.keys() & self.exclusive:
            replaced |= self.exclusive
        return {name: value for name, value in self.options.items() if name not in replaced} | options

    @abstractmethod
    def defaults(self, own: dict[str, Any], asked: dict[str, Any], replaced: bool) -> dict[str, Any]:
        """What the pipeline adds to what the checkpoint says and to what the caller asks for; the caller's
        `generation_config` may have replaced it all."""

    def generation(self, given: GenerationConfig | None, options: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `generate` as an option of the pipeline's own, "generate"; what they come to, "config"; and
        "unsaid", whether the greatest length is nobody's wish."""
        if given is not None and not isinstance(given, GenerationConfig):
            raise TypeError(f"generation_config takes a GenerationConfig of minihf, not a {type(given).__name__}")
        own = self.model.generation_config.said()
        asked = (given.said() if given else {}) | options
        asked = {name: value for name, value in asked.items() if name in SETTINGS}
        added = self.defaults(own, asked, given is not None)
        settings = added | asked
        if (own | asked).get("pad_token_id") is None and self.tokenizer.pad_token_id is not None:
            settings["pad_token_id"] = self.tokenizer.pad_token_id
        config = settle(self.model.generation_config, None, settings)
        unsaid = added.get("max_new_tokens") is not None and asked.get("max_new_tokens") is None
        watchers = {name: options[name] for name in WATCHERS if options.get(name) is not None}
        alone = bool(watchers or config.return_dict_in_generate or config.prompt_lookup_num_tokens)
        return {"generate": settings | watchers, "config": config, "unsaid": unsaid, "alone": alone}

    def begun(self, row: Any) -> int:
        """How many tokens are there before the first that is written."""
        return 1 if self.model.config.is_encoder_decoder else len(row)

    @property
    def pad_id(self) -> int:
        """Padding is masked, so that any id will do."""
        return super().pad_id or 0

    def tokens_at_once(self) -> int:
        return TOKENS.get(self.device.type, TOKENS_ELSEWHERE)

    def cost(self, row: Any, options: dict[str, Any]) -> int:
        config = options["config"]
        steps = config.max_new_tokens
        if steps is None:
            steps = max(0, (config.max_length or NEW_TOKENS) - self.begun(row))
        return (len(row) + steps) * max(config.num_beams or 1, config.num_return_sequences or 1)

    def kinds(self, rows: list, options: dict[str, Any]) -> list[int]:
        """Where the prompt's length matters to how much is written, prompts of one length go together."""
        config, limit = options["config"], self.model.position_limit

        def counts(length: int) -> bool:
            full = options["unsaid"] and limit is not None and length + NEW_TOKENS - 1 > limit
            return full or config.max_new_tokens is None or length < (config.min_length or 0)

        lengths = [self.begun(row) for row in rows]
        return [length if counts(length) else 0 for length in lengths]

    def batches(self, rows: list, size: int | None, options: dict[str, Any]) -> Iterator[list[int]]:
        if size == 1 or options["alone"]:  # what is drawn is then what a call each would draw
            return ([i] for i in range(len(rows)))
        return super().batches(rows, size, options)

    def forward(self, rows: list, options: dict[str, Any]) -> list:
        left = not self.model.config.is_encoder_decoder
        batch = self.collate(rows, left=left)
        batch.pop("token_type_ids", None)
        settings, limit = options["generate"], self.model.position_limit
        begun = max(map(self.begun, rows))
        if options["unsaid"] and limit is not None:  # as much as the model has positions for
            settings = settings | {"max_new_tokens": max(1, min(NEW_TOKENS, limit - begun + 1))}
        output = self.model.generate(**batch, **settings, tokenizer=self.tokenizer)
        return self.read(output, rows, options)

    def read(self, output: Tensor | Output, rows: list, options: dict[str, Any]) -> list:
        """Of each text what was written, (copies, T), on the CPU."""
        sequences, left = output.cpu(), not self.model.config.is_encoder_decoder
        longest = max(map(self.begun, rows))
        lengths = self.lengths(sequences, longest, options) if len(rows) > 1 else [sequences.size(1)] * len(sequences)
        copies = len(sequences) // len(rows)
        each = zip(sequences.split(copies), rows, strict=True)  # (B * copies, T) -> B of (copies, T)
        ends = [max(lengths[i : i + copies]) for i in range(0, len(lengths), copies)]
        return [
            ids[:, longest - len(row) if left else 0 : end].clone() for (ids, row), end in zip(each, ends, strict=True)
        ]

    def lengths(self, ids: Tensor, begun: int, options: dict[str, Any]) -> list[int]:
        """Where each row came to its end, before what fills it up: the rules that ended it are asked again."""
        config, T = options["config"], ids.size(1)
        config = GenerationConfig(eos_token_id=config.end_tokens or None, stop_strings=config.stop_strings)
        stop = stop_for(config, device="cpu", tokenizer=self.tokenizer)
        if stop is None:
            return [T] * len(ids)
        done = [stop(ids[:, : t + 1]) for t in range(begun, T)]
        ended = torch.stack([*done, torch.ones(len(ids), dtype=torch.bool)], dim=1)  # (B * copies, new + 1)
        return (begun + 1 + ended.int().argmax(1)).clamp(max=T).tolist()
