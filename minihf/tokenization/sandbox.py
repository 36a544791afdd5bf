"""Chat templates are programs that come with a checkpoint: they run here, where they can make text and nothing else.

The language is Jinja's, with the reference's settings and additions. Jinja's sandbox refuses whatever leads to Python's
inside and whatever changes a value; and a template is given copies made of plain types only, whose methods are known.
Importing this imports Jinja, so it is imported where a template is about to be rendered.
"""

import dataclasses
import json
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from textwrap import shorten
from typing import Any

import numpy as np
from jinja2 import Template, TemplateError, meta, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Span = tuple[int, int]  # characters `text[start:end]`
PROGRESS = "what was rendered so far"  # a variable that no template can name, for the spaces


def render(source: str, variables: Mapping[str, Any]) -> tuple[str, list[Span]]:
    """A template's text for these variables, and what of it stood between `{% generation %}` and `{% endgeneration %}`.

    Raises:
        ValueError: a template that is not well formed, fails, refuses the conversation or tries what is not allowed.
    """
    template = _compiled(source)
    pieces: list[str] = []
    spans: list[Span] = []
    try:
        for piece in template.generate({**plain(variables), PROGRESS: (pieces, spans)}):
            pieces.append(piece)
    except Exception as error:  # a template can fail in as many ways as a program
        raise ValueError(f"the chat template{_line(error, source)}: {error}") from error
    return "".join(pieces), spans


def reads(source: str) -> set[str]:
    """The variables that a template looks up."""
    template = _compiled(source)
    return meta.find_undeclared_variables(template.environment.parse(source))


def plain(value: Any) -> Any:
    """A copy made of dicts, lists, tuples, str, int, float, bool and None; of what is none of these only its name.

    Other objects have methods, some of which write files, and the sandbox does not know them.
    """
    match value:
        case None | bool():
            return value
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case np.generic():  # before float, which NumPy's doubles also are
            return plain(value.item())
        case float():
            return float.__float__(value)
        case Mapping():
            return {plain(key): plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case tuple():
            return tuple(plain(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):  # pydantic
        return plain(value.model_dump())
    return f"<{type(value).__name__}>"


@lru_cache(maxsize=32)
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": PlainDict(),
        "namespace": PlainNamespace,
    }
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ValueError(f"the chat template{_line(error, source)}: {error}") from error


class Generation(Extension):
    """`{% generation %}` and `{% endgeneration %}` around what the model itself is to say."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_noted"), [], [], body, lineno=line)

    @pass_context
    def _noted(self, context: Context, caller: Callable[[], str]) -> str:
        text = caller()
        pieces, spans = context[PROGRESS]
        start = sum(map(len, pieces))
        spans.append((start, start + len(text)))
        return text


class PlainDict:
    """`dict` without the type's attributes."""

    fromkeys = staticmethod(dict.fromkeys)

    def __call__(self, *args: Any, **kwargs: Any) -> dict:
        return dict(*args, **kwargs)


class PlainNamespace(Namespace):
    """`namespace` without names that begin with an underscore, which are Python's own."""

    def __init__(self, /, *args: Any, **kwargs: Any):
        super().__init__()
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace may not hold {name!r}: names that begin with an underscore are Python's")
        super().__setitem__(name, value)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON for a model to read: unlike Jinja's own, which is for web pages, it escapes no angle brackets."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _line(error: BaseException, source: str) -> str:
    """Where in the template an error arose, its innermost line."""
    frames = traceback.walk_tb(error.__traceback__)
    numbers = [number for frame, number in frames if frame.f_code.co_filename == "<template>"]
    number = getattr(error, "lineno", None) or (numbers[-1] if numbers else None)
    lines = source.splitlines()
    if number is None or number > len(lines):
        return ""
    return f", line {number}, {shorten(lines[number - 1], 100, placeholder=' …')!r}"
