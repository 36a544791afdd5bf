"""Each task beside the current reference, over a table of awkward texts: same keys, order, types and numbers."""

import pytest
import transformers

import minihf
from parity_tests.pipelines.agreement import differences
from parity_tests.pipelines.checkpoints import LONG, TEXTS

MASKED = ["Paris is [MASK].", "[MASK]", "where [MASK] the [MASK], [MASK]?", "a [MASK] b [PAD] [SEP] [MASK]", "你[MASK]"]
PAIRS = [{"text": "who lives", "text_pair": "in Paris?"}, {"text": "alone"}, {"text": "a", "text_pair": ""}]
NER = [{}, *({"aggregation_strategy": how} for how in ("none", "simple", "first", "average", "max"))]
UNLIKE_BERT = ("classes-bart", "classes-gpt2", "classes-llama")
# task, checkpoints, and (options of the pipeline, inputs, options of the call)
TABLE = [
    (
        "text-classification",
        ("classes", "classes-distilbert", "classes-roberta", "one-class", "many-classes", "regression", *UNLIKE_BERT),
        [
            *(({}, TEXTS, call) for call in ({}, {"top_k": None}, {"top_k": 1}, {"top_k": 2})),
            *(({}, TEXTS[0], call) for call in ({}, {"top_k": None}, {"top_k": 1})),
            *(({}, TEXTS, {"function_to_apply": how, "top_k": None}) for how in ("sigmoid", "softmax", "none")),
            *((options, TEXTS[:2], {}) for options in ({"top_k": 1}, {"top_k": None}, {"function_to_apply": "none"})),
            ({"top_k": None}, TEXTS[0], {}),
            ({"function_to_apply": "sigmoid"}, TEXTS[0], {"function_to_apply": "softmax", "top_k": 2}),
            ({}, [*TEXTS, LONG], {"truncation": True, "max_length": 40}),
            ({}, TEXTS[0], {"padding": "max_length", "truncation": True, "max_length": 46}),
            ({}, TEXTS[:3], {"add_special_tokens": True}),
            ({}, PAIRS, {}),
            ({}, PAIRS[0], {}),
            ({}, PAIRS[0], {"top_k": None}),
            ({}, [[["who lives", "in Paris?"]]], {}),
        ],
    ),
    (
        "token-classification",
        ("ner", "ner-distilbert", "ner-roberta"),
        [
            *((options, [*TEXTS, LONG], {}) for options in NER),
            *((options, TEXTS[0], {"ignore_labels": []}) for options in NER),
            ({}, TEXTS, {"ignore_labels": ["O", "B-PER", "PER"], "aggregation_strategy": "simple"}),
            *(({"aggregation_strategy": how}, LONG, {"stride": 5}) for how in ("simple", "first", "average", "max")),
            ({}, [LONG, TEXTS[0]], {"stride": 0, "ignore_labels": []}),
            ({"stride": 9, "aggregation_strategy": "simple"}, [TEXTS[0], LONG, ""], {}),
            ({}, TEXTS[0].split(), {"is_split_into_words": True}),
            ({}, [LONG.split(), ["a", "Paris"]], {"is_split_into_words": True, "aggregation_strategy": "first"}),
            ({}, [["a", "Paris"]], {"is_split_into_words": True, "delimiter": "", "aggregation_strategy": "simple"}),
            ({}, LONG.split(), {"is_split_into_words": True, "aggregation_strategy": "max", "stride": 6}),
            ({}, "a b", {"offset_mapping": [(0, 0), (1, 2), (2, 3), (0, 0)], "ignore_labels": []}),
        ],
    ),
    (
        "fill-mask",
        ("masks", "masks-distilbert", "masks-roberta"),
        [
            ({}, MASKED, {}),
            ({}, MASKED[:1], {}),
            *(({}, text, {}) for text in MASKED),
            ({"top_k": 3}, MASKED, {}),
            ({"top_k": 3}, MASKED[2], {"top_k": 1}),
            ({}, MASKED, {"targets": ["a", "th", "q", "xylophone"], "top_k": 2}),
            ({}, MASKED[0], {"targets": "paris"}),
            ({}, MASKED[0] + LONG, {"tokenizer_kwargs": {"truncation": True, "max_length": 30}}),
        ],
    ),
    (
        "feature-extraction",
        ("states", "states-roberta", "masks"),
        [
            ({}, TEXTS, {}),
            ({}, TEXTS[0], {}),
            ({}, TEXTS[0], {"return_tensors": True}),
            ({"return_tensors": True}, TEXTS, {}),
            ({}, [LONG, "a"], {"truncation": True}),
            ({}, "a b", {"tokenize_kwargs": {"padding": "max_length", "max_length": 9, "truncation": True}}),
        ],
    ),
    (
        "zero-shot-classification",
        ("classes", "classes-distilbert", "classes-roberta", *UNLIKE_BERT),
        [
            ({}, TEXTS[0], {"candidate_labels": "sports, politics ,, the sea"}),
            ({}, [text for text in TEXTS if text], {"candidate_labels": ["sports", "politics", "Paris"]}),
            ({}, [TEXTS[0]], {"candidate_labels": ["b", "a"], "multi_label": True}),
            ({}, TEXTS[0], {"candidate_labels": "one"}),
            ({}, [LONG, "a"], {"candidate_labels": ["a", "b"], "hypothesis_template": "who? {}!"}),
            ({"candidate_labels": ["x", "y"], "multi_label": True}, TEXTS[2], {}),
        ],
    ),
]


@pytest.mark.parametrize("task, name", [(task, name) for task, names, _ in TABLE for name in names])
@pytest.mark.filterwarnings("ignore")  # both sides warn of targets that are no tokens, of words and of labels
def test_answers_are_the_reference_s(checkpoint, task, name):
    (rows,) = (rows for other, _, rows in TABLE if other == task)
    loaded = []  # once each, by name; the pipelines of other options are made from what was loaded
    for library in (minihf, transformers):
        pipe = library.pipeline(task, str(checkpoint(name)), device="cpu")
        loaded.append((library, {"model": pipe.model, "tokenizer": pipe.tokenizer, "device": "cpu"}))
    wrong = []
    for options, inputs, call in rows:
        if name == "classes-gpt2" and "padding" in call:
            continue  # it has no pad token
        if name.endswith("roberta"):
            inputs = with_mask(inputs, "<mask>")
        elif name in UNLIKE_BERT and isinstance(inputs, list):
            inputs = [text for text in inputs if text]  # of an empty one, some have nothing to read
        ours, theirs = (library.pipeline(task, **parts, **options)(inputs, **call) for library, parts in loaded)
        wrong += [f"{options} {inputs!r} {call}: {text}" for text in differences(ours, theirs)]
    assert wrong == []


def with_mask(inputs, mask: str):
    if isinstance(inputs, list):
        return [with_mask(text, mask) for text in inputs]
    return inputs.replace("[MASK]", mask) if isinstance(inputs, str) else inputs
