"""One text in, another out, by an encoder and a decoder: whatever the model was trained for, or a summary, or a
translation.

The current reference has dropped the three; these do what its release 4.57.6 did. There the pipeline's own defaults, 4
beams and up to 256 new tokens, win over the checkpoint's generation config, save that a `max_length` in it takes the
place of the 256; and what the config's `task_specific_params` say of the task, as T5's do, wins over both. What differs
is what the caller says: here it wins over all of that. There `task_specific_params` win over what the pipeline is made
with, and the 256 over a call's `max_length`.
"""

import logging
import warnings
from typing import Any, ClassVar

from tokenizers import Encoding
from torch import Tensor

from minihf.generation.config import GenerationConfig
from minihf.pipelines.generating import NEW_TOKENS, SETTINGS, GeneratingPipeline
from minihf.pipelines.inputs import told

logger = logging.getLogger(__name__)

LEGACY_MAX_LENGTH = 20  # what old files say where nobody chose a length


class Text2TextGenerationPipeline(GeneratingPipeline):
    """`{"generated_text"}`, in a list; of a list of texts, the list of these where each text has one.

    Options:
        return_tensors: `{"generated_token_ids"}` instead, a tensor.
        return_text: nothing new.
        clean_up_tokenization_spaces: as the tokenizer's `decode` (False).
        truncation: of the text, as the tokenizer's.
        stop_sequence: a text whose first token ends what is written.
        generation_config, and all its fields: see `GenerationConfig`; and the other arguments of `generate`.
    """

    head = "ForSeq2SeqLM"
    name: ClassVar[str] = "generated"

    def settle(
        self,
        *,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool = False,
        truncation: bool | str | None = None,
        stop_sequence: str | None = None,
        generation_config: GenerationConfig | None = None,
        **generate: Any,
    ) -> dict[str, Any]:
        if stop_sequence is not None:
            ids = self.tokenizer(stop_sequence, add_special_tokens=False)["input_ids"]
            if len(ids) > 1:
                warnings.warn(
                    f"stop_sequence={stop_sequence!r} has {len(ids)} tokens, and a text ends at the first of them; "
                    "stop_strings ends it at the whole",
                    stacklevel=4,
                )
            generate["eos_token_id"] = ids[0]
        settings = self.generation(generation_config, generate)
        if settings["config"].return_dict_in_generate:
            raise ValueError("return_dict_in_generate: this pipeline gives texts or ids; call model.generate for more")
        return {
            **settings,
            "tensors": bool(return_tensors),
            "clean": clean_up_tokenization_spaces,
            "tokenizer": {} if truncation is None else {"truncation": truncation},
        }

    @property
    def params(self) -> dict[str, Any]:
        """What the model's config says of this task."""
        return (getattr(self.model.config, "task_specific_params", None) or {}).get(self.task) or {}

    @property
    def prefix(self) -> str:
        """Put before each text."""
        own = self.params.get("prefix")
        return (getattr(self.model.config, "prefix", None) if own is None else own) or ""

    def defaults(self, own: dict[str, Any], asked: dict[str, Any], replaced: bool) -> dict[str, Any]:
        if replaced:
            return {}
        chosen = asked.get("max_length") is not None or own.get("max_length") not in (None, LEGACY_MAX_LENGTH)
        task = {name: value for name, value in self.params.items() if name in SETTINGS}
        return {"max_new_tokens": None if chosen else NEW_TOKENS, "num_beams": 4} | task

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """See `Pipeline.__call__`, and the class for the options."""
        answers = super().__call__(inputs, **options)
        many = not isinstance(inputs, str) and isinstance(answers, list)
        return [answer[0] for answer in answers] if many and all(len(x) == 1 for x in answers) else answers

    def encode(self, items: list, options: dict[str, Any]) -> list[list[Encoding]]:
        for item in items:
            if not isinstance(item, str):
                raise TypeError(f"{self.task} reads texts; {told(item)} came")
        rows = self.rows(items, options)
        if rows and (most := self.most(options)):
            self.check_lengths(min(map(len, rows)), max(map(len, rows)), most)
        return [[row] for row in rows]

    def rows(self, items: list[str], options: dict[str, Any]) -> list[Encoding]:
        return self.tokenized([self.prefix + item for item in items], options["tokenizer"])

    def most(self, options: dict[str, Any]) -> int | None:
        """The greatest length, where it is somebody's choice."""
        config = options["config"]
        return None if options["unsaid"] else config.max_new_tokens or config.max_length

    def check_lengths(self, shortest: int, longest: int, most: int) -> None:
        """Warn of lengths that do not fit the task: of the texts, and the greatest of what is written."""

    def answer(self, item: str, rows: list[Encoding], read: list[Tensor], options: dict[str, Any]) -> list[dict]:
        (sequences,) = read
        if options["tensors"]:
            return [{f"{self.name}_token_ids": ids} for ids in sequences]
        texts = self.tokenizer.batch_decode(sequences, True, options["clean"])
        return [{f"{self.name}_text": text} for text in texts]


class SummarizationPipeline(Text2TextGenerationPipeline):
    """`{"summary_text"}`, or `{"summary_token_ids"}`; all else as in `Text2TextGenerationPipeline`."""

    name = "summary"

    def check_lengths(self, shortest: int, longest: int, most: int) -> None:
        if shortest < most:
            logger.warning(
                "a text of %d tokens is to be summarised in up to %d; a summary is shorter than its text: consider "
                "max_length=%d",
                shortest,
                most,
                shortest // 2,
            )


class TranslationPipeline(Text2TextGenerationPipeline):
    """`{"translation_text"}`, or `{"translation_token_ids"}`; all else as in `Text2TextGenerationPipeline`.

    Options:
        src_lang, tgt_lang: the languages, for models that know many, as their tokenizer spells them ("en_XX"). Those of
            the task, "translation_en_to_fr", where neither is passed.
    """

    name = "translation"
    further = (
        *Text2TextGenerationPipeline.further,
        *("return_tensors", "return_text", "clean_up_tokenization_spaces", "truncation", "stop_sequence"),
        "generation_config",
    )

    def __init__(self, *args: Any, task: str = "", **options: Any):
        model = args[0] if args else options["model"]
        known = getattr(getattr(model, "config", None), "task_specific_params", None) or {}
        if task == "translation" and (found := next((key for key in known if key.startswith(task)), None)):
            warnings.warn(
                f'"translation" says no languages; of those that the model knows, {found!r} is taken', stacklevel=3
            )
            task = found
        super().__init__(*args, task=task, **options)

    def settle(self, *, src_lang: str | None = None, tgt_lang: str | None = None, **options: Any) -> dict[str, Any]:
        languages = self.task.split("_")
        if src_lang is None and tgt_lang is None and len(languages) == 4:
            src_lang, tgt_lang = languages[1], languages[3]
        return {**super().settle(**options), "languages": (src_lang, tgt_lang)}

    def rows(self, items: list[str], options: dict[str, Any]) -> list[Encoding]:
        """Of a tokenizer that knows many languages, rows in the one; the other is the first that is written."""
        tokenizer, (source, target) = self.tokenizer, options["languages"]
        if not hasattr(tokenizer, "src_lang"):
            return super().rows(items, options)
        if source is None or target is None:
            raise ValueError("the tokenizer knows many languages: pass src_lang and tgt_lang, as it spells them")
        first = tokenizer.convert_tokens_to_ids(target)
        if first in (None, tokenizer.unk_token_id):
            raise ValueError(f"tgt_lang={target!r} is no language of this tokenizer; one is {tokenizer.src_lang!r}")
        options["generate"]["forced_bos_token_id"] = first
        before, tokenizer.src_lang = tokenizer.src_lang, source
        try:
            return self.tokenized(items, options["tokenizer"])
        finally:
            tokenizer.src_lang = before

    def check_lengths(self, shortest: int, longest: int, most: int) -> None:
        if longest > 0.9 * most:
            logger.warning(
                "a text of %d tokens is to be translated in up to %d: consider a greater max_length", longest, most
            )
