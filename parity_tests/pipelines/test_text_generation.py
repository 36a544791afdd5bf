"""Text generation beside the current reference, which reads texts one by one, over a table of awkward prompts."""

import copy

import pytest
import torch
import transformers
from datasets import Dataset

import minihf
from minihf.pipelines.tasks import find
from parity_tests.pipelines.agreement import differences
from parity_tests.pipelines.writers import PROMPTS

pytestmark = pytest.mark.filterwarnings("ignore:a text has more than the 60 tokens")
GREEDY = {"do_sample": False, "max_new_tokens": 9}
TEXT = "Angela Merkel visited"
USER = [{"role": "system", "content": "be"}, {"role": "user", "content": "who lives in Paris?"}]
BEGUN = [*USER, {"role": "assistant", "content": "Emmanuel"}]
TOOLS = [{"type": "function", "function": {"name": "where", "description": "x", "parameters": {}}}]
# options of the pipeline, inputs, options of the call
TABLE = [
    ({}, TEXT, {}),
    ({}, TEXT, {"max_new_tokens": 7}),
    ({}, TEXT, {"max_length": 37}),
    ({}, TEXT, {"max_new_tokens": 5, "num_return_sequences": 3}),
    ({}, TEXT, {"max_new_tokens": 5, "temperature": 1.3, "top_k": 0, "top_p": 0.9}),
    ({"temperature": 2.0, "max_new_tokens": 6}, TEXT, {"top_k": 7}),
    ({}, TEXT, {"max_new_tokens": 6, "num_beams": 3}),
    ({}, PROMPTS, GREEDY),
    (GREEDY, PROMPTS[0], {}),
    (GREEDY, PROMPTS, {"return_full_text": False}),
    (GREEDY, PROMPTS, {"return_tensors": True}),
    ({"return_full_text": False, **GREEDY}, PROMPTS, {"return_tensors": True}),
    (GREEDY, TEXT, {"return_text": True}),
    ({}, PROMPTS[1:10], {"do_sample": False, "max_length": 55}),
    ({}, PROMPTS, {"do_sample": False, "max_new_tokens": 9, "min_length": 40, "return_tensors": True}),
    ({}, PROMPTS, {"do_sample": False, "max_new_tokens": 9, "min_new_tokens": 8}),
    ({}, PROMPTS[:5], {**GREEDY, "num_beams": 3, "num_return_sequences": 2}),
    ({}, PROMPTS, {**GREEDY, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2}),
    ({}, PROMPTS, {**GREEDY, "prefix": "the café ", "add_special_tokens": True}),
    ({}, PROMPTS[3:9], {"do_sample": False, "prefix": "the café ", "max_length": 45}),
    ({"prefix": "so "}, TEXT, GREEDY),
    ({}, PROMPTS, {**GREEDY, "skip_special_tokens": False, "return_full_text": False}),
    ({}, PROMPTS, {**GREEDY, "clean_up_tokenization_spaces": True}),
    ({}, PROMPTS[10:], {**GREEDY, "truncation": True, "tokenizer_encode_kwargs": {"max_length": 6}}),
    ({}, PROMPTS[10:], {**GREEDY, "handle_long_generation": "hole"}),
    ({}, TEXT, {"do_sample": False, "handle_long_generation": "hole", "max_new_tokens": 52}),
    ({}, PROMPTS, {"do_sample": False, "max_new_tokens": 20, "stop_sequence": ["i", "th"], "return_tensors": True}),
    ({}, PROMPTS, {"do_sample": False, "max_new_tokens": 20, "stop_sequence": "a"}),
]
ALONE = [
    ({"do_sample": False}, TEXT, {"max_new_tokens": None, "max_length": 37}),
    ({"prefix": "so "}, PROMPTS, {**GREEDY, "prefix": ""}),
]
CHATS = [
    (GREEDY, USER, {}),
    (GREEDY, BEGUN, {}),
    (GREEDY, tuple(USER), {}),
    (GREEDY, [USER, BEGUN, USER[1:]], {}),
    (GREEDY, [USER, BEGUN], {"continue_final_message": True}),
    (GREEDY, [USER, BEGUN], {"continue_final_message": False, "return_full_text": False}),
    (GREEDY, USER, {"tools": TOOLS, "documents": [{"title": "T", "text": "x"}]}),
    (GREEDY, [USER], {"return_tensors": True, "skip_special_tokens": False}),
    (GREEDY, [BEGUN], {"truncation": True, "tokenizer_encode_kwargs": {"max_length": 9}, "add_special_tokens": True}),
    ({}, USER, {"max_new_tokens": 6}),
]


@pytest.fixture(scope="module")
def libraries(writer):
    """Name of a checkpoint -> each library and what it loaded."""

    def get(name: str) -> list[tuple]:
        loaded = []
        for library in (minihf, transformers):
            pipe = library.pipeline("text-generation", str(writer(name)), device="cpu")
            loaded.append((library, {"model": pipe.model, "tokenizer": pipe.tokenizer, "device": "cpu"}))
        return loaded

    return get


@pytest.mark.parametrize(
    "name, rows", [("gpt2", TABLE + ALONE), ("gpt2-ends", TABLE[1::2] + CHATS), ("llama", TABLE[::3] + CHATS)]
)
@pytest.mark.filterwarnings("ignore")
def test_answers_are_the_reference_s(libraries, name, rows):
    loaded, wrong = libraries(name), []
    for options, inputs, call in rows:
        both = []
        for library, parts in loaded:
            torch.manual_seed(5)
            both.append(library.pipeline("text-generation", **parts, **options)(inputs, **call))
        wrong += [f"{options} {str(inputs)[:60]!r} {call}: {text}" for text in differences(*both)]
    assert wrong == []


def test_what_else_generate_tells_of_each_text(libraries):
    asked = {**GREEDY, "num_beams": 3, "num_return_sequences": 3, "output_scores": True}
    asked |= {"return_dict_in_generate": True}
    both = [library.pipeline("text-generation", **parts)(PROMPTS[:3], **asked) for library, parts in libraries("gpt2")]
    assert differences(*both) == []
    assert "sequences_scores" in both[0][0][0]


@pytest.fixture
def write(writer):
    return minihf.pipeline("text-generation", writer("gpt2-ends"), device="cpu", prefix="", **GREEDY)


def test_a_text_is_continued_as_if_it_were_alone(write):
    for call in ({}, {"num_beams": 2, "return_tensors": True}, {"max_new_tokens": None, "max_length": 90}):
        alone = [write(text, **call) for text in PROMPTS]
        for size in (None, 1, 3, 64):
            assert write(PROMPTS, batch_size=size, **call) == alone
        assert list(write(iter(PROMPTS), batch_size=2, **call)) == alone


def test_texts_are_read_together(write):
    shapes = []
    look = write.model.register_forward_pre_hook
    look(lambda _, args, given: shapes.append(len(given["input_ids"])), with_kwargs=True)
    long = [text for text in PROMPTS if len(text) > 4]  # than the checkpoint's min_length, which counts the prompt
    write(long)
    assert shapes[0] == len(long) > 5
    assert len(shapes) <= GREEDY["max_new_tokens"]


def test_what_is_drawn_one_by_one_is_what_calls_draw(write):
    torch.manual_seed(3)
    calls = [write(text, do_sample=True) for text in PROMPTS]
    torch.manual_seed(3)
    assert write(PROMPTS, do_sample=True, batch_size=1) == calls
    torch.manual_seed(4)
    assert write(PROMPTS, do_sample=True, batch_size=1) != calls


def test_inputs_of_every_make(write):
    expected = write(PROMPTS)
    data = Dataset.from_dict({"text": PROMPTS, "chat": [USER] * len(PROMPTS)})
    assert write(data["text"]) == write(tuple(PROMPTS)) == expected
    assert list(write(text for text in PROMPTS)) == expected
    assert write([]) == list(write(iter([]))) == []
    answer = write(USER)
    assert answer[0]["generated_text"][:2] == USER
    assert write(message for message in USER) == answer
    assert list(write(chat for chat in [USER, BEGUN])) == [answer, write(BEGUN)]
    assert write(data["chat"])[:2] == [answer, answer]


def test_by_default_a_text_grows_as_long_as_there_are_positions(writer):
    pipe = minihf.pipeline("text-generation", writer("gpt2"), device="cpu", do_sample=False, return_tensors=True)
    long, short = "the " * 130, "who"
    tokens = len(pipe.tokenizer(long, verbose=False)["input_ids"])
    assert 320 - 256 < tokens < 320
    (grown,), (other,) = pipe([long, short])
    assert len(grown["generated_token_ids"]) == 320 + 1  # the last is written, and not read
    assert len(other["generated_token_ids"]) == 3 + 256
    assert other == pipe(short)[0]
    with pytest.raises(ValueError, match="positions: shorten the prompt"):
        pipe(long, max_new_tokens=256)


def test_a_generation_config_of_a_call_takes_the_place_of_the_pipeline_s(libraries):
    answers = []
    for library, parts in libraries("gpt2"):
        pipe = library.pipeline("text-generation", **parts, do_sample=False, max_new_tokens=4)
        config = library.GenerationConfig(max_new_tokens=6, repetition_penalty=3.0)
        torch.manual_seed(2)
        answers.append([pipe(TEXT), pipe(TEXT, generation_config=config), pipe(TEXT, return_tensors=True)])
    assert differences(*answers) == []


def test_a_streamer_sees_the_texts_in_their_order(write):
    seen = []

    class Streamer:
        def put(self, ids):
            seen.append(ids.tolist())

        def end(self):
            seen.append("end")

    write(PROMPTS[:3], streamer=Streamer(), max_new_tokens=1)
    prompts = [write.tokenizer(text)["input_ids"] or [0] for text in PROMPTS[:3]]
    assert seen[::3] == [[ids] for ids in prompts]
    assert seen[2::3] == ["end"] * 3


def test_tokens_are_guessed_ahead_for_each_text(write):
    """By a smaller model or from the prompt, `generate` guesses for one text at a time, and the texts stay the same."""
    settings = {"do_sample": False, "max_new_tokens": 6}
    wanted = write(PROMPTS[:3], **settings)
    assert write(PROMPTS[:3], prompt_lookup_num_tokens=2, **settings) == wanted
    assistant, asked = copy.deepcopy(write.model), []
    assistant.register_forward_pre_hook(lambda *_: asked.append(True))
    assert write(PROMPTS[:3], assistant_model=assistant, **settings) == wanted
    assert asked


def test_the_task_and_its_checkpoint(writer):
    assert minihf.pipeline(model=writer("gpt2"), device="cpu").task == "text-generation"
    assert minihf.pipeline(model=writer("llama"), device="cpu").task == "text-generation"
    assert find("text-generation").checkpoint == "openai-community/gpt2"


@pytest.mark.parametrize(
    "inputs, call, error, message",
    [
        (None, {}, TypeError, "a chat as a list of messages, or a list"),
        (["a", None], {}, TypeError, "None came"),
        (USER[0], {}, TypeError, "a dict came"),
        ([USER, "a", 3], {}, TypeError, "an int came"),
        ([[{"role": "user"}]], {}, ValueError, "a 'role' and a 'content'"),
        (TEXT, {"max_new_token": 3}, TypeError, "did you mean 'max_new_tokens'"),
        (TEXT, {"return_full_text": True, "return_tensors": True}, ValueError, "pass one of them"),
        (TEXT, {"handle_long_generation": "cut"}, ValueError, 'None or "hole"'),
        (TEXT, {"handle_long_generation": "hole", "max_new_tokens": 60}, ValueError, "leave no room for a prompt"),
        (TEXT, {"generation_config": {"num_beams": 2}}, TypeError, "takes a GenerationConfig of minihf, not a dict"),
        (TEXT, {"temperature": -1.0, "do_sample": True}, ValueError, "temperature=-1.0"),
        (TEXT, {"num_return_sequences": 2}, ValueError, "without do_sample=True or beams"),
        (TEXT, {"token_healing": True}, ValueError, "token_healing=True is not implemented"),
    ],
)
def test_refusals_say_what_to_do(write, inputs, call, error, message):
    with pytest.raises(error, match=message):
        write(inputs, **call)


def test_a_model_that_does_not_write_is_refused(checkpoint):
    with pytest.raises(ValueError, match="BertForSequenceClassification has no head for 'text-generation'"):
        minihf.pipeline("text-generation", checkpoint("classes"))
