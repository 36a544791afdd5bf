"""Where in a text does the answer to a question stand?

The current reference has dropped this task; the truth is its release 4.57.6. A text that is too long is read in parts
that share `doc_stride` tokens, with the question before each. The model says of each token how likely it begins the
answer and how likely it ends it; a span's score is the product.
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tokenizers import Encoding

from minihf.nn.output import Output
from minihf.pipelines.base import Pipeline
from minihf.pipelines.inputs import told
from minihf.pipelines.scores import to_numpy

PART, SHARED = 384, 128  # tokens that are read at once, and those that two parts share, where nobody says otherwise
HIDDEN = -10000.0  # the logit of what cannot be in the answer


class QuestionAnsweringPipeline(Pipeline):
    """`{"score", "start", "end", "answer"}`; `start` and `end` are characters of the context.

    It is called with `question=` and `context=`, each a text or a list; or with `{"question": ..., "context": ...}`, of
    texts or of lists, or a list or a generator of pairs of texts. A list of one gives that one's answer, for the
    reference's sake.

    Options:
        top_k: how many answers (1); several come as a list. `topk` is the former spelling.
        doc_stride: tokens that two parts of a long context share (128, or half of `max_seq_len`).
        max_answer_len: tokens of an answer (15).
        max_seq_len: tokens of a part with its question (384, or what the model reads).
        max_question_len: tokens that are left of a question; None: all.
        handle_impossible_answer: "" is an answer as well, that there is none.
        align_to_words: an answer begins and ends where words do (True).
        padding: as in the reference; it changes no answer.
    """

    head = "ForQuestionAnswering"
    reads = '{"question": ..., "context": ...}'

    def settle(
        self,
        *,
        top_k: int | None = None,
        topk: int | None = None,
        doc_stride: int | None = None,
        max_answer_len: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        padding: bool | str | None = None,
    ) -> dict[str, Any]:
        if topk is not None and top_k is None:
            warnings.warn("topk is the former spelling of top_k", stacklevel=2)
            top_k = topk
        top_k, max_answer_len = 1 if top_k is None else top_k, 15 if max_answer_len is None else max_answer_len
        longest = min(self.longest or PART, PART)
        max_seq_len = longest if max_seq_len is None else max_seq_len
        doc_stride = min(max_seq_len // 2, SHARED) if doc_stride is None else doc_stride
        for name, value in (("top_k", top_k), ("max_answer_len", max_answer_len), ("max_seq_len", max_seq_len)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={value!r}: a positive number was expected")
        if max_question_len is not None and (type(max_question_len) is not int or max_question_len < 1):
            raise ValueError(f"max_question_len={max_question_len!r}: a positive number was expected, or None")
        if type(doc_stride) is not int or doc_stride < 0:
            raise ValueError(f"doc_stride={doc_stride!r}: a number of tokens was expected")
        if doc_stride > max_seq_len:
            raise ValueError(f"doc_stride={doc_stride} is more than max_seq_len={max_seq_len}, of which it is a part")
        return {
            "top_k": top_k,
            "doc_stride": doc_stride,
            "max_answer_len": max_answer_len,
            "max_seq_len": max_seq_len,
            "max_question_len": max_question_len,
            "impossible": bool(handle_impossible_answer),
            "align": align_to_words is not False,
        }

    def __call__(self, *inputs: Any, question: Any = None, context: Any = None, **options: Any) -> Any:
        """See the class, and `Pipeline.__call__` for `batch_size` and `progress`."""
        if inputs and (question is not None or context is not None):
            raise TypeError("pass question= and context=, or an input that holds both, not one of each")
        if len(inputs) == 2 and all(isinstance(text, str) for text in inputs):
            question, context = inputs
        elif inputs:
            given = inputs[0] if len(inputs) == 1 else list(inputs)
            if isinstance(given, list) and len(given) == 1:
                (given,) = given
            if not (isinstance(given, Mapping) and isinstance(given.get("question"), list)):
                return super().__call__(given, **options)
            question, context = given["question"], given.get("context")
        if question is None or context is None:
            raise ValueError("question= and context= are both needed: None came, or nothing")
        questions = [question] if isinstance(question, str) else list(question)
        contexts = [context] * len(questions) if isinstance(context, str) else list(context)
        if len(questions) != len(contexts):
            raise ValueError(f"{len(questions)} questions and {len(contexts)} contexts; as many were expected")
        pairs = [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]
        return super().__call__(pairs[0] if len(pairs) == 1 else pairs, **options)

    def is_one(self, inputs: Any) -> bool:
        return hasattr(inputs, "question_text")

    def encode(self, items: list, options: dict[str, Any]) -> list[list[Encoding]]:
        pairs = self.fitted([texts_of(item) for item in items], options)
        cut = {
            "truncation": "only_second" if self.question_first else "only_first",
            "max_length": options["max_seq_len"],
            "stride": options["doc_stride"],
        }
        rows = self.tokenized(pairs if self.question_first else [pair[::-1] for pair in pairs], cut)
        return [[row, *row.overflowing] for row in rows]

    @property
    def question_first(self) -> bool:
        return self.tokenizer.padding_side == "right"

    def fitted(self, pairs: list[tuple[str, str]], options: dict[str, Any]) -> list[tuple[str, str]]:
        """The pairs with questions cut to `max_question_len`.

        Raises:
            ValueError: a question that leaves a long context less room than two parts are to share.
        """
        if not pairs:
            return []
        limit, special = options["max_question_len"], self.tokenizer.num_special_tokens_to_add(pair=True)
        whole = {"truncation": True, "max_length": 10**9}  # said, so that nobody is warned of what is cut later
        rows = self.tokenizer([question for question, _ in pairs], add_special_tokens=False, **whole).encodings
        for i, ((question, context), row) in enumerate(zip(pairs, rows, strict=True)):
            tokens = len(row)
            if limit is not None and tokens > limit:
                pairs[i], tokens = (question[: row.offsets[limit - 1][1]], context), limit
            room = options["max_seq_len"] - special - tokens
            if room <= options["doc_stride"] and len(self.tokenizer.tokenize(context)) > room:
                raise ValueError(
                    f"the question {question[:60]!r} has {tokens} tokens and leaves {room} of max_seq_len="
                    f"{options['max_seq_len']} to the context, whose parts are to share doc_stride="
                    f"{options['doc_stride']}: pass a smaller doc_stride, or max_question_len"
                )
        return pairs

    def read(self, output: Output, rows: list[Encoding], options: dict[str, Any]) -> list[np.ndarray]:
        logits = np.stack([to_numpy(output.start_logits), to_numpy(output.end_logits)], axis=1)  # (B, 2, T)
        return [own[:, : len(row)] for own, row in zip(logits, rows, strict=True)]

    def answer(
        self, item: Any, rows: list[Encoding], read: list[np.ndarray], options: dict[str, Any]
    ) -> dict | list[dict]:
        context, top_k = texts_of(item)[1], options["top_k"]
        none, answers = 1_000_000.0, {}
        for row, logits in zip(rows, read, strict=True):
            start, end = self.probabilities(row, logits)
            none = min(none, (start[0] * end[0]).item())
            start[0] = end[0] = 0.0
            # Some answers will be found to be the same words, so more are looked at than are asked for.
            for s, e, score in best_spans(
                start, end, self.allowed(row), 2 * top_k + 10 if options["align"] else top_k, options["max_answer_len"]
            ):
                first, last = self.characters(row, s, e, options["align"])
                text = context[first:last]
                if (same := answers.get(text.lower())) is not None:
                    same["score"] += score
                else:
                    answers[text.lower()] = {"score": score, "start": first, "end": last, "answer": text}
        found = list(answers.values())
        if options["impossible"]:
            found.append({"score": none, "start": 0, "end": 0, "answer": ""})
        found = sorted(found, key=lambda answer: answer["score"], reverse=True)[:top_k]
        return found[0] if len(found) == 1 else found

    def allowed(self, row: Encoding) -> np.ndarray:
        """The tokens that can be in an answer, bool (T): those of the context, and the first special one."""
        own = 1 if self.question_first else 0
        cls = self.tokenizer.cls_token_id
        places = zip(row.sequence_ids, row.ids, strict=True)
        return np.array([text == own or (cls is not None and i == cls) for text, i in places])

    def probabilities(self, row: Encoding, logits: np.ndarray) -> np.ndarray:
        """Of each token, that it begins and that it ends the answer: (2, T)."""
        logits = np.where(self.allowed(row), logits, HIDDEN)
        e = np.exp(logits - logits.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def characters(self, row: Encoding, start: int, end: int, align: bool) -> tuple[int, int]:
        own = 1 if self.question_first else 0
        if align:
            words = row.token_to_word(start), row.token_to_word(end)
            spans = [None if word is None else row.word_to_chars(word, own) for word in words]
            if None not in spans:  # some tokenizers know no words
                return spans[0][0], spans[1][1]
        return row.offsets[start][0], row.offsets[end][1]


def texts_of(item: Any) -> tuple[str, str]:
    """Question and context of an input."""
    if hasattr(item, "question_text"):  # the reference's SquadExample
        item = {"question": item.question_text, "context": item.context_text}
    if not isinstance(item, Mapping):
        raise TypeError(f'{told(item)} came where {{"question": ..., "context": ...}} was expected')
    for name in ("question", "context"):
        if not isinstance(item.get(name), str):
            raise ValueError(f"{name!r} is {told(item.get(name))}, not a text, in an input with the keys {list(item)}")
        if not item[name]:
            raise ValueError(f"{name!r} cannot be empty")
    return item["question"], item["context"]


def best_spans(
    start: np.ndarray, end: np.ndarray, allowed: np.ndarray, number: int, longest: int
) -> Iterable[tuple[int, int, float]]:
    """(first token, last token, score) of the likeliest spans, the best first."""
    scores = np.tril(np.triu(np.outer(start, end)), longest - 1)  # (T, T), 0 where it ends before it begins
    flat = scores.ravel()
    number = min(number, len(flat))
    best = np.argpartition(-flat, number - 1)[:number] if number > 1 else [flat.argmax()]
    for place in sorted(best, key=lambda i: (-flat[i], i)):
        s, e = divmod(int(place), len(end))
        if s <= e < s + longest and allowed[s] and allowed[e]:
            yield s, e, flat[place].item()
