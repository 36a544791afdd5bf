"""Which of these labels, named only now, fits the text? Asked of a model that tells whether one sentence follows from
another: "This example is sports." is a label's sentence."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from tokenizers import Encoding

from minihf.nn.output import Output
from minihf.pipelines.base import Pipeline
from minihf.pipelines.inputs import told
from minihf.pipelines.scores import softmax, to_numpy


class ZeroShotClassificationPipeline(Pipeline):
    """`{"sequence", "labels", "scores"}`, the labels from the likeliest on.

    Options:
        candidate_labels: a list, or one text with commas. Also the second argument of a call.
        hypothesis_template: the sentence of a label, with {} in its place ("This example is {}.").
        multi_label: several labels may be true: each score is then of its own, and they do not add up to 1.

    A text that is too long is cut, its label's sentence never. The model's entailment is the label whose name starts
    with "entail", else the last, with a warning.
    """

    head = "ForSequenceClassification"

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.entailment_id == -1:
            warnings.warn(
                f"none of the model's labels, {', '.join(self.model.config.label2id)}, starts with 'entail', so the "
                "last is taken for entailment; is it a model for natural language inference?",
                stacklevel=3,
            )

    @property
    def entailment_id(self) -> int:
        ids = (i for label, i in self.model.config.label2id.items() if str(label).lower().startswith("entail"))
        return next(ids, -1)

    def settle(
        self,
        *,
        candidate_labels: str | list[str] | None = None,
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
    ) -> dict[str, Any]:
        labels = candidate_labels
        if isinstance(labels, str):
            labels = [label.strip() for label in labels.split(",") if label.strip()]
        elif labels is not None:
            labels = list(labels) if isinstance(labels, Iterable) else [labels]
        if labels is not None and (not labels or not all(isinstance(label, str) for label in labels)):
            raise ValueError(f"candidate_labels={candidate_labels!r}: expected at least one label, each a text")
        try:
            filled = hypothesis_template.format("a label")
        except (AttributeError, LookupError, ValueError) as error:
            raise ValueError(
                f"hypothesis_template={hypothesis_template!r}: a text with one {{}} was expected, where a label goes"
            ) from error
        if filled == hypothesis_template:
            raise ValueError(f"hypothesis_template={hypothesis_template!r} has no {{}}, where a label would go")
        return {"labels": labels, "template": hypothesis_template, "multi_label": multi_label}

    def __call__(self, sequences: Any, candidate_labels: str | list[str] | None = None, **options: Any) -> Any:
        """See `Pipeline.__call__`, and the class for the options."""
        if candidate_labels is not None:
            options["candidate_labels"] = candidate_labels
        return super().__call__(sequences, **options)

    def encode(self, items: list, options: dict[str, Any]) -> list[list[Encoding]]:
        if options["labels"] is None:
            raise ValueError("candidate_labels= is missing: the labels to choose from, such as ['sports', 'politics']")
        sentences = [options["template"].format(label) for label in options["labels"]]
        for item in items:
            if not isinstance(item, str):
                raise TypeError(f"{self.task} reads texts; {told(item)} came")
        pairs = [(item, sentence) for item in items for sentence in sentences]
        rows = iter(self.tokenized(pairs, {"truncation": "only_first"} if self.longest else {}))
        return [[next(rows) for _ in sentences] for _ in items]

    def read(self, output: Output, rows: list[Encoding], options: dict[str, Any]) -> list[np.ndarray]:
        return list(to_numpy(output.logits))  # (B, classes)

    def answer(self, item: str, rows: list[Encoding], read: list[np.ndarray], options: dict[str, Any]) -> dict:
        logits, yes = np.stack(read), self.entailment_id  # (labels, classes)
        if options["multi_label"] or len(read) == 1:
            no = -1 if yes == 0 else 0
            scores = softmax(logits[:, [no, yes]])[:, 1]
        else:
            scores = softmax(logits[:, yes])
        order = scores.argsort()[::-1]
        return {
            "sequence": item,
            "labels": [options["labels"][i] for i in order],
            "scores": scores[order].tolist(),
        }
