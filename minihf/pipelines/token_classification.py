"""What is each token, and which tokens make one name? Also asked as ner.

A model that marks names says of a token that it begins one, "B-PER", goes on with one, "I-PER", or belongs to none,
"O". How tokens become names is `aggregation_strategy`:

    none     each token for itself
    simple   neighbours of one kind are one name, unless a later one says that it begins
    first    as simple, over whole words: a word is what its first token is
    average  ... what its tokens are on average
    max      ... what its surest token is
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from tokenizers import Encoding

from minihf.nn.output import Output
from minihf.pipelines.base import Pipeline
from minihf.pipelines.inputs import told
from minihf.pipelines.scores import softmax, to_numpy

STRATEGIES = ("none", "simple", "first", "average", "max")
BY_WORD = ("first", "average", "max")
SPELLINGS = {"aggregation_strategy", "grouped_entities", "ignore_subwords"}  # of one and the same option


class TokenClassificationPipeline(Pipeline):
    """`{"entity", "score", "index", "word", "start", "end"}` of each token that is something; or of each name
    `{"entity_group", "score", "word", "start", "end"}`. `start` and `end` are characters of the text.

    Options:
        aggregation_strategy: "none" (the default), "simple", "first", "average" or "max".
        grouped_entities, ignore_subwords: the former spelling: with the first "simple", with both "first".
        ignore_labels: what is left out (["O"]).
        stride: read a text that is too long in parts that share so many tokens. Without it the text is cut.
        is_split_into_words: a text is a list of words, joined by `delimiter` (" ") for `start` and `end`.
        offset_mapping: (start, end) of each token, in place of the tokenizer's, where one text is read.
    """

    head = "ForTokenClassification"

    def settle(
        self,
        *,
        aggregation_strategy: str | None = None,
        grouped_entities: bool | None = None,
        ignore_subwords: bool | None = None,
        ignore_labels: list[str] | None = None,
        stride: int | None = None,
        is_split_into_words: bool = False,
        delimiter: str | None = None,
        offset_mapping: list | None = None,
    ) -> dict[str, Any]:
        if grouped_entities is not None or ignore_subwords is not None:
            aggregation_strategy = ("first" if ignore_subwords else "simple") if grouped_entities else "none"
            now = f"aggregation_strategy={aggregation_strategy!r}"
            warnings.warn(f"grouped_entities and ignore_subwords are the former spelling of {now}", stacklevel=2)
        strategy = "none" if aggregation_strategy is None else str(aggregation_strategy).lower()
        if strategy not in STRATEGIES:
            raise ValueError(f"aggregation_strategy={aggregation_strategy!r}: pass one of {', '.join(STRATEGIES)}")
        if stride is not None and aggregation_strategy is not None and strategy == "none":
            raise ValueError("stride= joins what parts of a text have in common, so it needs a strategy, not 'none'")
        if stride is not None and (self.longest is None or type(stride) is not int or not 0 <= stride < self.longest):
            raise ValueError(
                f"stride={stride!r}: expected less than the {self.longest} tokens that are read at once"
                if self.longest
                else f"stride={stride}, but the model reads texts of any length: set tokenizer.model_max_length"
            )
        if delimiter is not None and not isinstance(delimiter, str):
            raise TypeError(f"delimiter={delimiter!r}: a text was expected, which joins words")
        if offset_mapping and isinstance(offset_mapping[0], list):
            (offset_mapping,) = offset_mapping
        return {
            "strategy": strategy,
            "ignored": ["O"] if ignore_labels is None else ignore_labels,
            "stride": stride,
            "words": is_split_into_words,
            "delimiter": " " if delimiter is None else delimiter,
            "offsets": offset_mapping,
        }

    def merged(self, options: dict[str, Any]) -> dict[str, Any]:
        """A call's strategy takes the place of the pipeline's, however each is spelt."""
        replaced = SPELLINGS if options.keys() & SPELLINGS else set()
        return {name: value for name, value in self.options.items() if name not in replaced} | options

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """See `Pipeline.__call__`, and the class for the options. A single list of words is a batch of one."""
        words = (self.options | options).get("is_split_into_words")
        if words and isinstance(inputs, list | tuple) and not all(isinstance(item, list | tuple) for item in inputs):
            inputs = [inputs]
        return super().__call__(inputs, **options)

    def encode(self, items: list, options: dict[str, Any]) -> list[list[Encoding]]:
        for item in items:
            if isinstance(item, str) == options["words"]:
                wanted = "a list of words, as is_split_into_words=True says" if options["words"] else "a text"
                raise TypeError(f"{told(item)} came where {wanted} was expected")
        if options["offsets"] is not None and len(items) > 1:
            raise ValueError(f"offset_mapping is of one text, and there are {len(items)}: pass them one by one")
        cut = {"truncation": True, "stride": options["stride"] or 0} if self.longest else {}
        rows = self.tokenized(items, cut | {"is_split_into_words": options["words"]})
        if options["offsets"] is not None and rows:
            real = [i for i, special in enumerate(rows[0].special_tokens_mask) if not special]
            if real and len(options["offsets"]) <= real[-1]:
                raise ValueError(
                    f"offset_mapping has {len(options['offsets'])} entries, and the text has a token at {real[-1]}: "
                    "one for each was expected, special ones included"
                )
        return [[row, *row.overflowing] if options["stride"] is not None else [row] for row in rows]

    def read(self, output: Output, rows: list[Encoding], options: dict[str, Any]) -> list[np.ndarray]:
        return list(softmax(to_numpy(output.logits)))  # (B, T, labels)

    def answer(self, item: Any, rows: list[Encoding], read: list[np.ndarray], options: dict[str, Any]) -> list[dict]:
        found, words = [], None
        if options["words"]:
            starts = np.cumsum([0, *(len(word) + len(options["delimiter"]) for word in item)]).tolist()
            item, words = options["delimiter"].join(item), starts
        for row, scores in zip(rows, read, strict=True):
            offsets = row.offsets if options["offsets"] is None else options["offsets"]
            tokens = self.tokens(item, row, scores, offsets, words, options["strategy"])
            if options["strategy"] in BY_WORD:
                tokens = [self.as_word(word, options["strategy"]) for word in whole_words(tokens)]
            else:
                tokens = [self.labelled(token) for token in tokens]
            if options["strategy"] != "none":
                tokens = [self.as_name(name) for name in names(tokens)]
            key = "entity" if options["strategy"] == "none" else "entity_group"
            found += [token for token in tokens if token[key] not in options["ignored"]]
        return without_overlaps(found) if len(rows) > 1 else found

    def tokens(
        self, text: str, row: Encoding, scores: np.ndarray, offsets: list, words: list[int] | None, strategy: str
    ) -> list[dict]:
        """Of each token that is not special: what it is, where, and whether it goes on with the word before it."""
        prefix = getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        if strategy in BY_WORD and not prefix:
            warnings.warn("the tokenizer marks no parts of words: a word is taken to begin after a space", stacklevel=2)
        unknown, tokens = self.tokenizer.unk_token_id, []
        rows = zip(row.ids, row.tokens, offsets, row.special_tokens_mask, row.word_ids, scores, strict=False)
        for index, (token_id, word, (start, end), special, number, own) in enumerate(rows):
            if special:
                continue
            if words is not None and number is not None:
                start, end = start + words[number], end + words[number]
            start, end = int(start), int(end)
            part = len(word) != end - start if prefix else start > 0 and " " not in text[start - 1 : start + 1]
            if token_id == unknown:
                word, part = text[start:end], False
            tokens.append({"word": word, "scores": own, "start": start, "end": end, "index": index, "is_subword": part})
        return tokens

    def labelled(self, token: dict) -> dict:
        best = token["scores"].argmax().item()
        return {
            "entity": self.model.config.id2label[best],
            "score": token["scores"][best],
            **{name: token[name] for name in ("index", "word", "start", "end")},
        }

    def as_word(self, tokens: list[dict], strategy: str) -> dict:
        if strategy == "average":
            scores = np.nanmean([token["scores"] for token in tokens], axis=0)
        elif strategy == "max":
            scores = max(tokens, key=lambda token: token["scores"].max())["scores"]
        else:
            scores = tokens[0]["scores"]
        best = scores.argmax().item()
        return {
            "entity": self.model.config.id2label[best],
            "score": scores[best],
            "word": self.tokenizer.convert_tokens_to_string([token["word"] for token in tokens]),
            "start": tokens[0]["start"],
            "end": tokens[-1]["end"],
        }

    def as_name(self, tokens: list[dict]) -> dict:
        return {
            "entity_group": tokens[0]["entity"].split("-", 1)[-1],
            "score": np.nanmean([token["score"] for token in tokens]),
            "word": self.tokenizer.convert_tokens_to_string([token["word"] for token in tokens]),
            "start": tokens[0]["start"],
            "end": tokens[-1]["end"],
        }


def whole_words(tokens: list[dict]) -> Iterator[list[dict]]:
    word: list[dict] = []
    for token in tokens:
        if word and not token["is_subword"]:
            yield word
            word = []
        word.append(token)
    if word:
        yield word


def names(tokens: list[dict]) -> Iterator[list[dict]]:
    """Neighbours of one kind, until one begins anew. A label without B- or I- goes on with its like."""
    name: list[dict] = []
    for token in tokens:
        begins = token["entity"].startswith("B-")
        if name and (begins or kind(token["entity"]) != kind(name[-1]["entity"])):
            yield name
            name = []
        name.append(token)
    if name:
        yield name


def kind(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def without_overlaps(names: list[dict]) -> list[dict]:
    """Of names in two parts of a text that overlap the longer one, of equally long ones the surer."""
    kept: list[dict] = []
    for name in sorted(names, key=lambda name: name["start"]):
        last = kept[-1] if kept else None
        if last is None or not last["start"] <= name["start"] < last["end"]:
            kept.append(name)
        elif (name["end"] - name["start"], name["score"]) > (last["end"] - last["start"], last["score"]):
            kept[-1] = name
    return kept
