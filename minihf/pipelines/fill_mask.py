"""Which token belongs in the place of the mask?"""

import warnings
from typing import Any

from tokenizers import Encoding

from minihf.nn.output import Output
from minihf.pipelines.base import Pipeline
from minihf.pipelines.inputs import told

LOGITS = 2**25  # of one batch: 128 MB in float32


class FillMaskPipeline(Pipeline):
    """`{"score", "token", "token_str", "sequence"}` of the likeliest tokens; of several masks, a list for each.

    Options:
        top_k: how many tokens (5).
        targets: only these tokens are compared; their scores stay those among the whole vocabulary. Of a text that is
            no token, its first token is taken, with a warning.
        tokenizer_kwargs: the tokenizer's options, such as `{"truncation": True}`.

    A list of one text gives that text's answer, not a list of one, for the reference's sake.
    """

    head = "ForMaskedLM"
    reads = "a text with a mask"

    def settle(
        self,
        *,
        top_k: int | None = None,
        targets: str | list[str] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        if self.tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask_token, so there is nothing to fill")
        top_k = 5 if top_k is None else top_k
        ids = None if targets is None else self.target_ids([targets] if isinstance(targets, str) else targets)
        most = self.model.config.vocab_size if ids is None else len(ids)
        if type(top_k) is not int or top_k < 1 or (ids is None and top_k > most):
            raise ValueError(f"top_k={top_k!r}: expected 1 to {most}, the size of the vocabulary")
        if unknown := (tokenizer_kwargs or {}).keys() - {"truncation", "max_length", "add_special_tokens", "padding"}:
            raise TypeError(
                f"tokenizer_kwargs has {', '.join(map(repr, sorted(unknown)))}; expected truncation, max_length, "
                "add_special_tokens or padding"
            )
        return {"top_k": min(top_k, most), "targets": ids, "tokenizer": tokenizer_kwargs or {}}

    def target_ids(self, targets: list[str]) -> list[int]:
        vocabulary, ids = self.tokenizer.get_vocab(), []
        for target in targets:
            if not isinstance(target, str):
                raise TypeError(f"targets are texts; {told(target)} came")
            first = [vocabulary[target]] if target in vocabulary else []
            if not first:
                first = self.tokenizer(target, add_special_tokens=False)["input_ids"][:1]
                token = repr(self.tokenizer.convert_ids_to_tokens(first[0])) if first else "nothing: it is left out"
                warnings.warn(f"the target {target!r} is no token; taken for it is {token}", stacklevel=2)
            ids += first
        if not ids:
            raise ValueError("targets= names no token; pass at least one, or leave it out")
        return [*dict.fromkeys(ids)]

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """See `Pipeline.__call__`, and the class for the options."""
        result = super().__call__(inputs, **options)
        return result[0] if isinstance(inputs, list) and len(inputs) == 1 else result

    def encode(self, items: list, options: dict[str, Any]) -> list[list[Encoding]]:
        rows = self.tokenized(items, options["tokenizer"])
        for item, row in zip(items, rows, strict=True):
            if self.tokenizer.mask_token_id not in row.ids:
                lost = ", after it was cut to what the model can read" if row.overflowing else ""
                raise ValueError(f"no mask_token ({self.tokenizer.mask_token}) in the text {item[:60]!r}{lost}")
        return [[row] for row in rows]

    def tokens_at_once(self) -> int:
        """Each token has a logit for each of the vocabulary."""
        return max(1, min(super().tokens_at_once(), LOGITS // self.model.config.vocab_size))

    def read(self, output: Output, rows: list[Encoding], options: dict[str, Any]) -> list[list[tuple]]:
        """Of each mask, the best scores and their tokens."""
        logits = output[0]  # (B, T, V); a model of several heads calls them otherwise
        texts, places = zip(*((i, place) for i, row in enumerate(rows) for place in self.masks(row)), strict=True)
        probabilities = logits[texts, places].float().softmax(-1)  # (masks of all texts, V)
        if options["targets"] is not None:
            probabilities = probabilities[:, options["targets"]]
        best = probabilities.topk(options["top_k"])
        found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [[next(found) for _ in self.masks(row)] for row in rows]

    def masks(self, row: Encoding) -> list[int]:
        return [i for i, token in enumerate(row.ids) if token == self.tokenizer.mask_token_id]

    def answer(self, item: str, rows: list[Encoding], read: list[list[tuple]], options: dict[str, Any]) -> list:
        (row,), (found,), targets = rows, read, options["targets"]
        lists = []
        for place, (scores, tokens) in zip(self.masks(row), found, strict=True):
            tokens = tokens if targets is None else [targets[i] for i in tokens]
            lists.append([self.proposal(row, place, *x, one=len(found) == 1) for x in zip(scores, tokens, strict=True)])
        return lists[0] if len(lists) == 1 else lists

    def proposal(self, row: Encoding, place: int, score: float, token: int, one: bool) -> dict[str, Any]:
        """The text with the token; the other masks are left to see, where there are any."""
        ids = [*row.ids[:place], token, *row.ids[place + 1 :]]
        sequence = self.tokenizer.decode([i for i in ids if i != self.tokenizer.pad_token_id], skip_special_tokens=one)
        return {"score": score, "token": token, "token_str": self.tokenizer.decode([token]), "sequence": sequence}
