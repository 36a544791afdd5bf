"""Pipelines on a device that is not the CPU: the same answers, fetched a batch at a time."""

import pytest

from minihf import pipeline
from parity_tests.pipelines.agreement import differences
from parity_tests.pipelines.test_pipelines_calls import TASKS
from parity_tests.pipelines.writers import PROMPTS

elsewhere = pytest.importorskip("parity_tests.elsewhere", exc_type=ImportError)


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_on_another_device_gives_the_same_and_is_fetched_at_once(checkpoint, task):
    name, texts, options = TASKS[task]
    expected = pipeline(task, checkpoint(name), device="cpu")(texts, **options)
    with elsewhere.Watch() as watch:
        pipe = pipeline(task, checkpoint(name), device=elsewhere.DEVICE)
        watch.questions.clear()
        assert differences(pipe(texts, batch_size=64, **options), expected) == []
    assert watch.questions.total() < len(texts), watch.questions


@pytest.mark.parametrize(
    "task, name",
    [("text-generation", "gpt2-ends"), ("text2text-generation", "t5"), ("translation_en_to_fr", "marian")],
)
def test_what_is_written_on_another_device_is_the_same(writer, task, name):
    texts = [text for text in PROMPTS if text.strip()]
    expected = pipeline(task, writer(name), device="cpu")(texts, do_sample=False, max_new_tokens=7)
    with elsewhere.Watch():
        pipe = pipeline(task, writer(name), device=elsewhere.DEVICE)
        assert differences(pipe(texts, do_sample=False, max_new_tokens=7), expected) == []
