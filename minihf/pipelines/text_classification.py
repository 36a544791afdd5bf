"""Which class does a text belong to, or a pair of texts? Also asked as sentiment-analysis."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import Encoding

from minihf.nn.output import Output
from minihf.pipelines.base import Pipeline
from minihf.pipelines.inputs import told
from minihf.pipelines.scores import softmax, to_numpy

FUNCTIONS = {"sigmoid": lambda x: 1 / (1 + np.exp(-x)), "softmax": softmax, "none": lambda x: x}
UNSET = ""  # as in the reference, where None means all labels


class TextClassificationPipeline(Pipeline):
    """`{"label", "score"}` of a text, or of a pair given as `{"text": ..., "text_pair": ...}`.

    Options:
        top_k: the best so many labels, as a list; None: all. Left out, the best one, and not as a list.
        function_to_apply: "sigmoid", "softmax" or "none", from logits to scores. Left out, what the model was trained
            for: none for a regression, a sigmoid for one label and for labels that do not exclude each other.
        return_all_scores: the former spelling: True is all labels, in the model's order.
        Others are the tokenizer's: `truncation`, `max_length`, `padding`, ...

    A single text gives a list of one answer, for the reference's sake; a pair does not.
    """

    head = "ForSequenceClassification"
    reads = 'a text, or a pair as {"text": ..., "text_pair": ...}'

    def settle(
        self,
        *,
        top_k: int | str | None = UNSET,
        function_to_apply: str | None = None,
        return_all_scores: bool | None = None,
        **tokenizer_options: Any,
    ) -> dict[str, Any]:
        listed = top_k != UNSET
        if not listed:
            top_k = None if return_all_scores else 1
            if return_all_scores is not None:
                warnings.warn(
                    "return_all_scores is the former spelling: top_k=None gives all labels, top_k=1 the best",
                    stacklevel=2,
                )
        elif top_k is not None and (type(top_k) is not int or top_k < 1):
            raise ValueError(f"top_k={top_k!r}: a positive number was expected, or None for all labels")
        name = "none" if function_to_apply is None else str(function_to_apply).lower()
        if name not in FUNCTIONS:
            raise ValueError(f"function_to_apply={function_to_apply!r} is unknown: pass one of {', '.join(FUNCTIONS)}")
        function = self.usual_function() if function_to_apply is None else name
        return {"top_k": top_k, "listed": listed, "function": function, **tokenizer_options}

    def usual_function(self) -> str:
        config = self.model.config
        if config.problem_type == "regression":
            return "none"
        return "sigmoid" if config.problem_type == "multi_label_classification" or config.num_labels == 1 else "softmax"

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """See `Pipeline.__call__`, and the class for the options."""
        result = super().__call__(inputs, **options)
        return [result] if isinstance(inputs, str) and "top_k" not in options else result

    def encode(self, items: list, options: dict[str, Any]) -> list[list[Encoding]]:
        asked = {name: value for name, value in options.items() if name not in ("top_k", "listed", "function")}
        return [[row] for row in self.tokenized([as_pair(item) for item in items], asked)]

    def read(self, output: Output, rows: list[Encoding], options: dict[str, Any]) -> list[np.ndarray]:
        return list(FUNCTIONS[options["function"]](to_numpy(output.logits)))  # (B, labels)

    def answer(self, item: Any, rows: list[Encoding], read: list[np.ndarray], options: dict[str, Any]) -> dict | list:
        names, (scores,) = self.model.config.id2label, read
        if options["top_k"] == 1 and not options["listed"]:
            best = scores.argmax().item()
            return {"label": names[best], "score": scores[best].item()}
        labels = [{"label": names[i], "score": score} for i, score in enumerate(scores.tolist())]
        if options["listed"]:
            labels.sort(key=lambda label: label["score"], reverse=True)
        return labels[: options["top_k"]]


def as_pair(item: Any) -> str | tuple[str, str]:
    """A text as it is, a pair as a tuple."""
    if isinstance(item, list) and len(item) == 1 and isinstance(item[0], list) and len(item[0]) == 2:
        return tuple(item[0])  # a spelling of former releases
    if isinstance(item, Mapping):
        if "text" not in item or item.keys() - {"text", "text_pair"}:
            raise ValueError(f'a pair is {{"text": ..., "text_pair": ...}}; one with the keys {list(item)} came')
        if not isinstance(item["text"], str):
            raise TypeError(f"'text' is {told(item['text'])}; a text was expected; many go in a list of mappings")
        second = item.get("text_pair")
        return (item["text"], second) if second else item["text"]  # an empty one counts as none, as in the reference
    if not isinstance(item, str):
        raise TypeError(
            f'{told(item)} came where a text was expected; a pair of texts is {{"text": ..., "text_pair": ...}}'
        )
    return item
