"""Texts as numbers: what the model without a head makes of each token, or of a text as one vector.

Models for sentences were trained with one way of making one vector of many, and tell it in files that
`sentence-transformers` defined: `modules.json` lists the steps, `1_Pooling/config.json` says which pooling it is, and
`sentence_bert_config.json` how many tokens are read. `pooling="auto"` does as they say, and so gives the vectors that
the authors publish.
"""

import json
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Encoding
from torch import Tensor

from minihf.checkpoints.files import read_json
from minihf.checkpoints.hub import CheckpointError
from minihf.nn.output import Output
from minihf.pipelines.base import TOKENIZER_OPTIONS, Pipeline

POOLINGS = ("cls", "mean", "max")
MODULES, SENTENCES = "modules.json", "sentence_bert_config.json"


class FeatureExtractionPipeline(Pipeline):
    """A text's hidden states as nested lists, (1, T, C); pooled, a vector (C).

    Options:
        pooling: "cls" (the first token's state), "mean" or "max" over the text's tokens; True or "auto": as the
            checkpoint's own files say. None: nothing is pooled.
        normalize: vectors of length 1; None: as the files say with "auto", else not.
        return_tensors: tensors instead of lists.
        truncation, tokenize_kwargs: the tokenizer's options, as in the reference.
    """

    def settle(
        self,
        *,
        pooling: str | bool | None = None,
        normalize: bool | None = None,
        return_tensors: bool | str | None = None,
        truncation: bool | str | None = None,
        tokenize_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        tokenizer = dict(tokenize_kwargs or {})
        if truncation is not None:
            if "truncation" in tokenizer:
                raise ValueError("truncation is given twice: as an argument and in tokenize_kwargs")
            tokenizer["truncation"] = truncation
        if unknown := tokenizer.keys() - set(TOKENIZER_OPTIONS):
            known = ", ".join(TOKENIZER_OPTIONS)
            raise TypeError(f"tokenize_kwargs has {', '.join(sorted(unknown))}; it takes {known}")
        if pooling is True or pooling == "auto":
            pooling, unit, longest = self.own_pooling
            normalize = unit if normalize is None else normalize
            if longest is not None and not tokenizer.keys() & {"truncation", "max_length"}:
                tokenizer |= {"truncation": True, "max_length": longest}
        pooling = pooling or None
        if pooling not in (None, *POOLINGS):
            raise ValueError(f"pooling={pooling!r}: expected one of {', '.join(POOLINGS)}, 'auto' or None")
        if normalize and pooling is None:
            raise ValueError("normalize=True is for vectors of texts: choose a pooling, 'cls', 'mean', 'max' or 'auto'")
        return {
            "pooling": pooling,
            "normalize": normalize,
            "tensors": bool(return_tensors),
            "tokenizer": tokenizer,
            "padding": tokenizer.get("padding"),
        }

    @property
    def own_pooling(self) -> tuple[str, bool, int | None]:
        """What the checkpoint's files say: the pooling, whether vectors get length 1, how many tokens are read.

        Raises:
            ValueError: there are no such files, or they ask for what is not implemented.
        """
        path = self.source.find(MODULES) if self.source else None
        if path is None:
            raise ValueError(
                f"pooling='auto' needs {MODULES} of the checkpoint, and "
                + (f"{self.source} has none" if self.source else "a model that is passed as an object has no files")
                + f"; name the pooling: {', '.join(POOLINGS)}"
            )
        try:
            steps = {step["type"].rsplit(".", 1)[-1]: step["path"] for step in json.loads(path.read_text("utf-8"))}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f'{path}: a list of {{"type": ..., "path": ...}} was expected: {error!r}') from error
        if unknown := steps.keys() - {"Transformer", "Pooling", "Normalize"} or {"Pooling"} - steps.keys():
            raise ValueError(f"{path}: {', '.join(unknown)} is not implemented, or missing; name the pooling yourself")
        config = read_json(self.source.get(f"{steps['Pooling']}/config.json"))
        modes = [name.removeprefix("pooling_mode_") for name, on in config.items() if on is True]
        modes = [mode.removesuffix("_token").removesuffix("_tokens") for mode in modes if mode != "include_prompt"]
        modes = modes or [config.get("pooling_mode")]
        if len(modes) != 1 or modes[0] not in POOLINGS:
            raise CheckpointError(f"the checkpoint pools by {modes}; implemented is one of {', '.join(POOLINGS)}")
        limits = self.source.find(SENTENCES)
        longest = read_json(limits).get("max_seq_length") if limits else None
        return modes[0], "Normalize" in steps, longest

    def encode(self, items: list, options: dict[str, Any]) -> list[list[Encoding]]:
        return [[row] for row in self.tokenized(items, options["tokenizer"])]

    def read(self, output: Output, rows: list[Encoding], options: dict[str, Any]) -> list[Tensor]:
        x = output[0]  # (B, T, C), or the logits of a head
        if options["pooling"] is None:
            return [own[: len(row)] for own, row in zip(x.cpu(), rows, strict=True)]
        real = torch.zeros(x.shape[:2], dtype=torch.bool)
        for line, row in zip(real, rows, strict=True):
            line[: len(row)] = torch.tensor(row.attention_mask, dtype=torch.bool)
        vectors = pooled(x, real.to(x.device), options["pooling"])
        return list((F.normalize(vectors, dim=-1) if options["normalize"] else vectors).cpu())

    def answer(self, item: str, rows: list[Encoding], read: list[Tensor], options: dict[str, Any]) -> Tensor | list:
        x = read[0] if options["pooling"] else read[0][None]  # (C) or (1, T, C)
        return x.clone() if options["tensors"] else x.tolist()


def pooled(x: Tensor, real: Tensor, how: str) -> Tensor:
    """One vector a text, of its real tokens: (B, T, C), bool (B, T) -> (B, C)."""
    if how == "cls":
        return x[torch.arange(len(x), device=x.device), real.int().argmax(1)]
    if how == "max":
        return x.masked_fill(~real[..., None], torch.finfo(x.dtype).min).amax(1)
    real = real[..., None].to(x.dtype)
    return (x * real).sum(1) / real.sum(1)
