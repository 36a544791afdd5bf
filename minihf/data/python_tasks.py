"""Tasks to learn that are always there: real labels, made from the functions of Python's own standard library.

    docstring_pairs      does this docstring belong to this function?     two sentences and a label, as MRPC
    name_roles           which role has each name in this code?           words and tags, as CoNLL-2003
    code_questions       what does this function return, or raise?        a span of the context, as SQuAD
    signatures           docstring to signature                           two texts, as a translation
    first_sentences      a docstring to its first sentence                a document and its summary

Each maker is a pure function: the texts of source files in, rows out, in the order of the files. What is right is asked
of Python's own parser (`ast`), not guessed; where a sentence ends, of `first_sentence`. Functions are written out anew
by `ast.unparse`, which leaves comments out and gives all code one style; it differs a little from one version of Python
to the next.

`split_task` holds out whole files.
"""

import ast
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from minihf.data.corpus import split
from minihf.data.name_roles import defined, roles, words

Row = dict[str, Any]
AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


def split_task(
    maker: Callable[[list[str]], list[Row]], texts: list[str], *, unique: tuple[str, ...], every: int = 10
) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows of every `every`-th file, held out.

    Some files repeat parts of others: of the held-out rows those are left out whose `unique` columns, together, are
    also among the rows to train on.

    Raises:
        ValueError: there are too few texts for both sides.
    """
    train, test = (maker(side) for side in split(texts, every))
    seen = {tuple(map(str, (row[name] for name in unique))) for row in train}
    return train, [row for row in test if tuple(map(str, (row[name] for name in unique))) not in seen]


# Functions


@dataclass(frozen=True)
class Function:
    """A function without its docstring and the annotations of its parameters, and the docstring, each text of it on one
    line; empty where there is none."""

    name: str
    signature: str
    code: str
    docstring: str
    summary: str  # the docstring's first sentence
    known: dict[str, str]  # what its file defines: name -> role


def functions(text: str) -> Iterator[Function]:
    """The functions and methods of a source file, in their order; those inside another are part of that one.

    A file that this Python cannot read has none.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    known = defined(tree.body)
    for node in outermost(tree):
        docstring = ast.get_docstring(node) or ""
        if docstring:
            node.body = node.body[1:] or [ast.Pass()]
        for part in ast.walk(node.args):
            if isinstance(part, ast.arg):
                part.annotation = None
        signature = f"({ast.unparse(node.args)})"
        yield Function(node.name, signature, ast.unparse(node), one_line(docstring), first_sentence(docstring), known)


def outermost(node: ast.AST) -> Iterator[AnyFunction]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, AnyFunction):
            yield child
        else:
            yield from outermost(child)


def first_sentence(docstring: str) -> str:
    """Up to the first ".", "!" or "?" before a capital, or to the end of the first paragraph."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", one_line(docstring.partition("\n\n")[0]), maxsplit=1)[0]


def one_line(text: str) -> str:
    return " ".join(text.split())


# Does this docstring belong to this function?


def docstring_pairs(texts: list[str], *, max_characters: int = 400, seed: int = 0) -> list[Row]:
    """Two rows for each documented function: with its own summary, label 1, and with another function's, label 0.

    Args:
        max_characters: functions whose code is longer are left out.
        seed: of who gets whose.

    Returns:
        Rows of `sentence1` (the summary), `sentence2` (the code) and `label`.
    """
    found = [f for text in texts for f in functions(text) if f.summary and len(f.code) <= max_characters]
    others = found[:]
    random.Random(seed).shuffle(others)
    rows = []
    for own, other in zip(found, others, strict=True):
        rows.append({"sentence1": own.summary, "sentence2": own.code, "label": 1})
        if other.summary != own.summary:
            rows.append({"sentence1": other.summary, "sentence2": own.code, "label": 0})
    return rows


# Which role has each name in this code?


def name_roles(texts: list[str], *, max_tokens: int = 100) -> list[Row]:
    """A row for each function: its `tokens`, and their `ner_tags`.

    A tag is "O", or "B-" or "I-" and one of the ROLES of `minihf.data.name_roles`. Only the names of modules are of
    several tokens.

    Args:
        max_tokens: functions with more are left out; so are those with f-strings, which not every Python cuts alike.
    """
    rows = []
    for text in texts:
        for function in functions(text):
            tree = ast.parse(function.code)
            strange = not function.code.isascii() or any(isinstance(node, ast.JoinedStr) for node in ast.walk(tree))
            tokens = [] if strange else words(function.code)
            if 0 < len(tokens) <= max_tokens:
                tags = {}
                for line, start, end, role in roles(tree, function.known):
                    inside = [place for _, place in tokens if place[0] == line and start <= place[1] < end]
                    tags |= {place: f"{'B' if place[1] == start else 'I'}-{role}" for place in inside}
                tags = [tags.get(place, "O") for _, place in tokens]
                rows.append({"tokens": [word for word, _ in tokens], "ner_tags": tags})
    return rows


# What does this function return, raise, go through, take for granted?


def code_questions(texts: list[str], *, max_characters: int = 600) -> list[Row]:
    """Questions about functions, whose answers are spans of their code.

    Asked is only what has one answer: the value of the single `return`, the error of the single `raise`, what the
    single `for` goes through, and the default of a parameter.

    Args:
        max_characters: functions whose code is longer are left out.

    Returns:
        Rows of `id`, `context` (the code), `question`, and `answers`: `text` and `answer_start`, a list of one each.
    """
    rows = []
    for text in texts:
        for function in functions(text):
            code = function.code
            if len(code) > max_characters or not code.isascii():
                continue
            lines = code.splitlines(keepends=True)
            for question, node in asked(ast.parse(code).body[0]):
                start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
                answer = {"text": [ast.get_source_segment(code, node)], "answer_start": [start]}
                rows.append({"id": str(len(rows)), "context": code, "question": question, "answers": answer})
    return rows


def asked(function: AnyFunction) -> Iterator[tuple[str, ast.expr]]:
    """(question, the expression that answers it)."""
    nodes = list(ast.walk(function))
    values = [node.value for node in nodes if isinstance(node, ast.Return) and node.value]
    raised = [node for node in nodes if isinstance(node, ast.Raise) and node.exc]
    raised = [node.exc for node in sorted(raised, key=lambda node: node.lineno)]
    iterated = [node.iter for node in nodes if isinstance(node, ast.For | ast.AsyncFor)]
    for question, found in (
        (f"What does {function.name} return?", values),
        (f"What does {function.name} raise?", raised),
        (f"What does {function.name} loop over?", iterated),
    ):
        if len(found) == 1:
            yield question, found[0]
    arguments = function.args.posonlyargs + function.args.args
    defaults = function.args.defaults
    named = zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)
    for argument, default in (*named, *zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)):
        if default is not None:
            yield f"What is {argument.arg} by default?", default


# Docstring to signature, and to its first sentence


def signatures(texts: list[str], *, max_characters: int = 80) -> list[Row]:
    """A row for each documented function that has a parameter other than `self` or `cls`: `docstring`, with the
    function's name before it, and `signature`.

        {"docstring": "seek: Change stream position.", "signature": "(self, offset, whence=0)"}

    Args:
        max_characters: functions with a longer signature are left out.
    """
    found = (function for text in texts for function in functions(text) if function.docstring)
    return [
        {"docstring": f"{function.name}: {function.docstring}", "signature": function.signature}
        for function in found
        if len(function.signature) <= max_characters
        and re.fullmatch(r"\((self|cls|/|, )*\)", function.signature) is None
    ]


def first_sentences(texts: list[str], *, max_characters: int = 400, max_summary: int = 120) -> list[Row]:
    """A row for each function whose docstring goes on after its `first_sentence`: `document` is the docstring, on one
    line, and `summary` that sentence.

    Args:
        max_characters: functions with a longer docstring are left out.
        max_summary: and those whose first sentence has more characters than this.
    """
    found = (function for text in texts for function in functions(text) if function.docstring != function.summary)
    return [
        {"document": function.docstring, "summary": function.summary}
        for function in found
        if len(function.docstring) <= max_characters and len(function.summary) <= max_summary
    ]
