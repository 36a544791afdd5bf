"""`minihf run`: a task from the shell, a line of input a text, and what a person wants to read of the answer."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from minihf.pipelines.tasks import ALIASES, pipeline


def run_command(args: Namespace) -> int:
    """Answer each text as it comes, from the arguments or from standard input.

    Raises:
        ValueError, TypeError, KeyError, OSError: what is wrong with the task, the checkpoint, or a text.
    """
    if not args.texts and sys.stdin.isatty():
        raise ValueError("no text was given: write it behind the task, or pipe lines to standard input")
    task = ALIASES.get(args.task, args.task)
    options = dict(option(given) for given in args.option)
    context = args.context
    if task == "question-answering" and context is None:
        if len(args.texts) != 2:
            raise ValueError("question-answering needs QUESTION and CONTEXT, or questions and --context TEXT")
        context = args.texts.pop()
    if args.context is not None and task != "question-answering":
        raise ValueError(f"--context is for question-answering, not for {args.task}")
    if args.labels is not None:
        options["candidate_labels"] = args.labels
    pipe = pipeline(args.task, args.model, device=args.device, **options)
    texts = args.texts or (line.rstrip("\r\n") for line in sys.stdin)
    items = texts if context is None else ({"question": text, "context": context} for text in texts)
    many = len(args.texts) != 1
    for text, answer in read_along(items, pipe):
        if args.json:
            print(json.dumps(answer, ensure_ascii=False, default=float), flush=True)
            continue
        if many:
            print(text["question"] if isinstance(text, dict) else text)
        for line in lines(answer):
            print(f"  {line}" if many else line, flush=True)
    return 0


def option(given: str) -> tuple[str, Any]:
    """`top_k=3`: a number, true, null or a list as JSON has them; all else is a text."""
    name, equals, value = given.partition("=")
    if not equals:
        raise ValueError(f"--option {given}: NAME=VALUE was expected, such as top_k=3")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def read_along(items: Any, pipe: Any) -> Iterator[tuple[Any, Any]]:
    """Each text with its answer."""
    kept: list[Any] = []

    def watched() -> Iterator[Any]:
        for item in items:
            kept.append(item)
            yield item

    for answer in pipe(watched()):
        yield kept.pop(0), answer


def lines(answer: Any) -> Iterator[str]:
    """An answer in words: what it is, how sure, and where."""
    if isinstance(answer, dict) and "labels" in answer:  # zero-shot
        for label, score in zip(answer["labels"], answer["scores"], strict=True):
            yield f"{score:.4f}  {label}"
    elif isinstance(answer, dict) and "score" not in answer:  # what was written
        yield from str(next(iter(answer.values()))).splitlines()
    elif isinstance(answer, dict):
        keys = ("label", "answer", "entity_group", "entity", "sequence")
        what = next(str(answer[key]) for key in keys if key in answer)
        word = f"  {answer['word']}" if "word" in answer else ""
        place = f"  ({answer['start']} to {answer['end']})" if "start" in answer else ""
        yield f"{answer['score']:.4f}  {what}{word}{place}"
    elif is_numbers(answer):
        yield " ".join(f"{number:.6f}" for number in answer)
    elif answer:
        for part in answer:
            yield from lines(part)
    else:
        yield "(nothing)"


def is_numbers(answer: Any) -> bool:
    return isinstance(answer, list) and bool(answer) and isinstance(answer[0], float)
