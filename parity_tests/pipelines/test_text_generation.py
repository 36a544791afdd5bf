"""Text generation beside the current reference, which reads texts one by one, over a table of awkward prompts."""

import pytest
import torch
import transformers

import minihf
from parity_tests.pipelines.agreement import differences
from parity_tests.pipelines.writers import PROMPTS

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


@pytest.mark.parametrize("name, more", [("gpt2", ALONE), ("gpt2-ends", CHATS), ("llama", CHATS)])
@pytest.mark.filterwarnings("ignore")
def test_answers_are_the_reference_s(libraries, name, more):
    loaded, wrong = libraries(name), []
    for options, inputs, call in TABLE + more:
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
