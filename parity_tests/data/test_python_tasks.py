"""What the offline tasks hold: right labels for a small file whose answers are written here by hand, and real files."""

from keyword import kwlist

import pytest

from minihf.data.corpus import read_corpus
from minihf.data.name_roles import ROLES
from minihf.data.python_tasks import (
    code_questions,
    docstring_pairs,
    first_sentence,
    first_sentences,
    functions,
    name_roles,
    signatures,
    split_task,
)

SOURCE = '''
import os.path
from io import StringIO

LIMIT = 3

class Stack:
    def push(self, item: int, *, front=False) -> None:
        """Put an item on top, e.g. a number.  Nothing is
        returned.

        Raises OverflowError.
        """
        # as many as LIMIT
        if len(self.items) == LIMIT:
            raise OverflowError(item)
        self.items.append(item)

    async def each(self):
        """Go through all."""
        for item in self.items:
            yield item

def load(path, mode="r"):
    import json.decoder as d
    global LIMIT
    LIMIT = 4
    def inner(a):
        return Stack(a)
    try:
        with open(path, mode=mode) as file:
            return inner(os.path.join(StringIO(file)))
    except (OSError, ValueError) as error:
        d.JSONDecoder
'''


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return read_corpus(400_000)


def test_functions_are_read_as_they_are_written():
    push, each, load = functions(SOURCE)
    assert (push.name, push.signature) == ("push", "(self, item, *, front=False)")
    assert push.docstring == "Put an item on top, e.g. a number. Nothing is returned. Raises OverflowError."
    assert push.summary == "Put an item on top, e.g. a number."
    assert push.code == (
        "def push(self, item, *, front=False) -> None:\n    if len(self.items) == LIMIT:\n"
        "        raise OverflowError(item)\n    self.items.append(item)"
    )
    assert each.code.startswith("async def each(self):\n    for item in self.items:")
    assert (load.docstring, load.summary) == ("", "")
    assert "def inner" in load.code  # part of its function, not one of its own


def test_a_docstring_alone_leaves_a_function_that_can_be_read():
    (only,) = functions('def f(x):\n    """Nothing yet"""')
    assert only.code == "def f(x):\n    pass"


def test_what_cannot_be_read_has_no_functions():
    assert list(functions("print 'Python 2'")) == []


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One. Two! Three?", "One."),
        ("One\n\nTwo.", "One"),
        ("See e.g. this, i.e. that. Next", "See e.g. this, i.e. that."),
        ("Talk to Dr. Who. next", "Talk to Dr."),
        ("a\n  b", "a b"),
        ("", ""),
    ],
)
def test_the_first_sentence(docstring, expected):
    assert first_sentence(docstring) == expected


def test_each_function_has_its_own_summary_and_anothers():
    rows = docstring_pairs([SOURCE], seed=1)
    codes = {function.summary: function.code for function in functions(SOURCE) if function.summary}
    assert sum(row["label"] for row in rows) == 2
    for row in rows:
        assert (codes[row["sentence1"]] == row["sentence2"]) == row["label"]
        assert row["sentence1"] not in row["sentence2"]
    assert {row["label"] for row in docstring_pairs([SOURCE, SOURCE.replace("an item", "one item")])} == {0, 1}


def tagged(source: str, **options) -> list[str]:
    rows = name_roles([source], **options)
    return [" ".join(f"{t}/{tag}" for t, tag in zip(*row.values(), strict=True) if tag != "O") for row in rows]


def test_the_role_of_each_name():
    push, each, load = tagged(SOURCE)
    assert push == (
        "push/B-FUNCTION self/B-ARGUMENT item/B-ARGUMENT front/B-ARGUMENT len/B-FUNCTION self/B-ARGUMENT "
        "items/B-ATTRIBUTE LIMIT/B-GLOBAL OverflowError/B-CLASS item/B-ARGUMENT self/B-ARGUMENT items/B-ATTRIBUTE "
        "append/B-METHOD item/B-ARGUMENT"
    )
    assert each == "each/B-FUNCTION self/B-ARGUMENT item/B-VARIABLE self/B-ARGUMENT items/B-ATTRIBUTE item/B-VARIABLE"
    assert load == (
        "load/B-FUNCTION path/B-ARGUMENT mode/B-ARGUMENT json/B-MODULE ./I-MODULE decoder/I-MODULE d/B-MODULE "
        "LIMIT/B-GLOBAL inner/B-FUNCTION a/B-ARGUMENT Stack/B-CLASS a/B-ARGUMENT open/B-FUNCTION path/B-ARGUMENT "
        "mode/B-KEYWORD mode/B-ARGUMENT file/B-VARIABLE inner/B-FUNCTION os/B-MODULE path/B-ATTRIBUTE join/B-METHOD "
        "StringIO/B-GLOBAL file/B-VARIABLE OSError/B-CLASS ValueError/B-CLASS error/B-VARIABLE d/B-MODULE "
        "JSONDecoder/B-ATTRIBUTE"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f():\n    from .a.b import c, d as e", "f/B-FUNCTION ./B-MODULE a/I-MODULE ./I-MODULE b/I-MODULE "
         "c/B-GLOBAL d/B-GLOBAL e/B-GLOBAL"),
        ("@cached\nasync def f(*a, **k):\n    class C(Exception): x = 1", "cached/B-GLOBAL f/B-FUNCTION a/B-ARGUMENT "
         "k/B-ARGUMENT C/B-CLASS Exception/B-CLASS x/B-VARIABLE"),
    ],
)  # fmt: skip
def test_names_that_follow_a_keyword(source, expected):
    assert tagged(source) == [expected]


def test_functions_without_sure_places_and_long_ones_have_no_tags():
    assert tagged("def f(a):\n    return f'{a}'") == []
    assert tagged("def f(a):\n    return 'é', a") == []
    assert tagged(SOURCE, max_tokens=23) == tagged(SOURCE)[1:2]


def test_questions_have_one_answer_and_say_where_it_stands():
    rows = code_questions([SOURCE])
    asked = {row["question"]: row["answers"]["text"][0] for row in rows}
    assert asked == {
        "What does push raise?": "OverflowError(item)",
        "What is front by default?": "False",
        "What does each loop over?": "self.items",
        "What is mode by default?": "'r'",
    }  # load has two returns: which is meant, nobody knows
    assert len({row["id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("source", ["def f(a, b=1, /, c=2, *, d, e=3): pass"])
def test_defaults_are_those_of_their_parameters(source):
    asked = {row["question"].split()[2]: row["answers"]["text"] for row in code_questions([source])}
    assert asked == {"b": ["1"], "c": ["2"], "e": ["3"]}


def test_signatures_and_summaries():
    assert signatures([SOURCE]) == [
        {
            "docstring": "push: Put an item on top, e.g. a number. Nothing is returned. Raises OverflowError.",
            "signature": "(self, item, *, front=False)",
        },
    ]  # of `each` there is nothing to say
    (summary,) = first_sentences([SOURCE])  # nothing follows that of `each`
    assert summary == {
        "document": "Put an item on top, e.g. a number. Nothing is returned. Raises OverflowError.",
        "summary": "Put an item on top, e.g. a number.",
    }
    assert signatures([SOURCE], max_characters=10) == []
    assert first_sentences([SOURCE], max_characters=20) == first_sentences([SOURCE], max_summary=20) == []


@pytest.mark.parametrize("maker", [docstring_pairs, name_roles, code_questions, signatures, first_sentences])
def test_this_pythons_own_files(texts, maker):
    rows = maker(texts)
    assert len(rows) > 80
    assert rows == maker(texts)
    assert len({tuple(row) for row in rows}) == 1
    for row in rows:
        if "answers" in row:
            (text,), (start,) = row["answers"].values()
            assert row["context"][start : start + len(text)] == text
            assert text
        if "ner_tags" in row:
            assert len(row["tokens"]) == len(row["ner_tags"])
            assert {tag[2:] for tag in row["ner_tags"]} <= {"", *ROLES}


def test_names_are_found_and_nothing_else(texts):
    tags = [pair for row in name_roles(texts) for pair in zip(row["tokens"], row["ner_tags"], strict=True)]
    names = [tag for word, tag in tags if word.isidentifier() and word not in kwlist]
    assert {tag for word, tag in tags if word in kwlist or not word.isidentifier()} <= {"O", "I-MODULE", "B-MODULE"}
    assert names.count("O") < 0.01 * len(names)  # those of `global` and `nonlocal`


def test_the_held_out_files_have_nothing_that_was_learnt(texts):
    copied = [*texts[:9], texts[0] + "\ndef quite_new(a):\n    '''Not seen before.'''\n"]
    train, test = split_task(signatures, copied, unique=("docstring", "signature"))
    assert train == signatures(copied[:9])
    assert test == [{"docstring": "quite_new: Not seen before.", "signature": "(a)"}]
    with pytest.raises(ValueError, match="leaves one side without any"):
        split_task(signatures, texts[:5], unique=("signature",))
