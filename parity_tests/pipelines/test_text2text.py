"""Text to text, summaries, translations, beside what release 4.57.6 answered (scripts/make_text2text_fixtures.py)."""

import json
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tokenizers.processors import TemplateProcessing

import minihf
from minihf import GenerationConfig, pipeline
from minihf.cli import main
from minihf.pipelines.tasks import find
from parity_tests.pipelines.agreement import differences
from parity_tests.pipelines.writers import PROMPTS

STORED = json.loads((Path(__file__).parents[1] / "fixtures" / "text2text.json").read_text())


def listed(answer):
    """As a file has it."""
    return json.loads(json.dumps(answer, default=lambda ids: ids.tolist()))


@pytest.mark.parametrize("name", sorted({case["checkpoint"] for case in STORED}))
@pytest.mark.filterwarnings("ignore")  # "translation" alone says no languages, and texts are short
def test_every_stored_answer_is_given(writer, name):
    parts = pipeline("text2text-generation", writer(name), device="cpu")
    parts = {"model": parts.model, "tokenizer": parts.tokenizer, "device": "cpu"}
    wrong = []
    for case in STORED:
        if case["checkpoint"] == name:
            pipe = pipeline(case["task"], **parts, **case["options"])
            inputs = iter(case["inputs"]) if case["generator"] else case["inputs"]
            torch.manual_seed(5)
            answer = pipe(inputs, **case["call"])
            answer = listed(list(answer) if case["generator"] else answer)
            asked = {key: case[key] for key in ("task", "options", "inputs", "call")}
            wrong += [f"{asked}: {text}" for text in differences(answer, case["answer"], types=False)]
    assert wrong == []


@pytest.fixture
def write(writer):
    return pipeline("text2text-generation", writer("bart"), device="cpu", max_new_tokens=7)


def test_a_text_is_answered_as_if_it_were_alone(write):
    for call in ({}, {"num_beams": 1, "eos_token_id": [3, 20, 40, 60, 80, 100]}, {"num_return_sequences": 2}):
        alone = [write(text, **call) for text in PROMPTS]
        alone = [answers[0] for answers in alone] if len(alone[0]) == 1 else alone
        for size in (None, 1, 3, 64):
            assert write(PROMPTS, batch_size=size, **call) == alone
        ids = [[x["generated_token_ids"].tolist() for x in write(t, return_tensors=True, **call)] for t in PROMPTS]
        together = write(PROMPTS, return_tensors=True, **call)
        together = [[x] if isinstance(x, dict) else x for x in together]
        assert [[x["generated_token_ids"].tolist() for x in answers] for answers in together] == ids


def test_inputs_of_every_make(write):
    expected = write(PROMPTS)
    assert write(Dataset.from_dict({"text": PROMPTS})["text"]) == write(tuple(PROMPTS)) == expected
    assert list(write(text for text in PROMPTS)) == [[answer] for answer in expected]
    assert write([]) == list(write(iter([]))) == []


def test_ids_are_tensors_that_can_be_used(write):
    (answer,) = write(PROMPTS[0], return_tensors=True)
    ids = answer["generated_token_ids"]
    assert ids.dtype == torch.long
    assert not ids.is_inference()
    assert write.tokenizer.decode(ids, skip_special_tokens=True) == write(PROMPTS[0])[0]["generated_text"]


def test_what_the_caller_says_wins(writer):
    def lengths(pipe, **call):
        return [len(answer["summary_token_ids"]) for answer in pipe(PROMPTS, return_tensors=True, **call)]

    pipe = pipeline("summarization", writer("t5-tasks"), device="cpu")
    assert max(lengths(pipe, max_length=6)) == 6  # over the 256 of the pipeline
    assert max(lengths(pipe, max_length=20)) == 20  # though files say 20 where nobody chose
    short = pipeline("summarization", writer("t5-tasks"), device="cpu", max_length=5, num_beams=1)
    assert max(lengths(short)) == 5  # over the 12 of task_specific_params
    assert max(lengths(pipe, generation_config=GenerationConfig(max_new_tokens=3, eos_token_id=3))) == 4


@pytest.mark.parametrize(
    "task, call, warned",
    [
        ("summarization", {"max_length": 100}, "to be summarised in up to 100.*max_length="),
        ("translation_en_to_fr", {"max_length": 6}, "to be translated in up to 6"),
        ("summarization", {"max_length": 4}, None),
        ("translation_en_to_fr", {"max_length": 60}, None),
        ("text2text-generation", {"max_length": 6}, None),
    ],
)
def test_warnings_of_lengths(writer, caplog, task, call, warned):
    pipe = pipeline(task, writer("t5"), device="cpu", num_beams=1)
    caplog.clear()
    pipe(PROMPTS[0], **call)
    assert bool(caplog.text) == bool(warned)
    assert re.search(warned or "", caplog.text)


class Polyglot(minihf.PreTrainedTokenizerFast):
    """As mBART's: a code of the language behind each text."""

    def _frame(self, code: str) -> None:
        ends = [(code, self.convert_tokens_to_ids(code)), ("[SEP]", 3)]
        self._engine.post_processor = TemplateProcessing(single=f"$A [SEP] {code}", special_tokens=ends)
        self._code = code

    src_lang = property(lambda self: self._code, _frame)


@pytest.fixture
def polyglot(writer):
    tokenizer = Polyglot.from_pretrained(writer("bart"))
    tokenizer.src_lang = "in"
    model = minihf.AutoModelForSeq2SeqLM.from_pretrained(writer("bart"))
    return {"model": model, "tokenizer": tokenizer, "device": "cpu", "return_tensors": True, "max_new_tokens": 6}


def test_languages_of_a_tokenizer_that_knows_many(polyglot):
    read = []
    polyglot["model"].get_encoder().register_forward_pre_hook(
        lambda _, args, given: read.append((args[0] if args else given["input_ids"])[0, -1].item()), with_kwargs=True
    )
    ids = {word: polyglot["tokenizer"].convert_tokens_to_ids(word) for word in ("paris", "the")}
    expected = ([ids["paris"]], ids["the"])
    for task, call in (("translation", {"src_lang": "paris", "tgt_lang": "the"}), ("translation_paris_to_the", {})):
        read.clear()
        (answer,) = pipeline(task, **polyglot)("who lives there", **call)
        assert (read, answer["translation_token_ids"][1].item()) == expected
        assert polyglot["tokenizer"].src_lang == "in"
    pipe = pipeline("translation", **polyglot)
    with pytest.raises(ValueError, match="pass src_lang and tgt_lang"):
        pipe("who", tgt_lang="the")
    with pytest.raises(ValueError, match="tgt_lang='xx' is no language"):
        pipe("who", src_lang="paris", tgt_lang="xx")


def test_tasks_and_their_checkpoints(writer):
    assert pipeline(model=writer("marian"), device="cpu").task == "text2text-generation"
    names = ("text2text-generation", "summarization", "translation_en_to_fr", "translation_en_to_de")
    t5 = "google-t5/t5-base"
    assert [find(name).checkpoint for name in names] == [t5, "sshleifer/distilbart-cnn-12-6", t5, t5]
    for name in ("translation", "translation_ja_to_fi"):
        with pytest.raises(ValueError, match="pass model="):
            pipeline(name)
    with pytest.raises(KeyError, match="did you mean 'translation'"):
        find("translation_en_fr")
    with pytest.warns(UserWarning, match="'translation_en_to_fr' is taken"):
        assert pipeline("translation", writer("t5-tasks"), device="cpu").task == "translation_en_to_fr"


@pytest.mark.parametrize(
    "inputs, call, error, message",
    [
        (None, {}, TypeError, "None came"),
        (["a", ["b"]], {}, TypeError, "a list came"),
        ("a", {"src_lang": "en"}, TypeError, "has no option 'src_lang'"),
        ("a", {"max_lenght": 3}, TypeError, "did you mean 'max_length'"),
        ("a", {"return_dict_in_generate": True}, ValueError, "call model.generate"),
    ],
)
def test_refusals_say_what_to_do(write, inputs, call, error, message):
    with pytest.raises(error, match=message):
        write(inputs, **call)


def test_from_the_shell(writer, capsys):
    asked = ["--option", "num_beams=1", "--option", "max_new_tokens=4"]
    assert main(["run", "translation_en_to_fr", PROMPTS[0], "--model", str(writer("bart")), *asked]) == 0
    plain = capsys.readouterr().out
    assert main(["run", "translation_en_to_fr", PROMPTS[0], "--model", str(writer("bart")), "--json", *asked]) == 0
    assert [{"translation_text": plain.removesuffix("\n")}] == json.loads(capsys.readouterr().out)
