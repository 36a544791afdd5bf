"""What release 4.57.6 of transformers answers in the three pipelines that the current one has dropped: text to text,
summarization and translation.

The old release runs on the installed torch. Put it in a folder of its own:

    pip install --no-deps --target OLD "transformers==4.57.6" "tokenizers>=0.22,<0.23" "huggingface_hub<1" \\
        requests urllib3 idna charset-normalizer certifi
    python scripts/make_text2text_fixtures.py OLD

It runs in a process of its own, with that folder first on the path, over the checkpoints of
parity_tests/pipelines/writers.py, whose numbers come from a formula; the tests write the same ones.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "parity_tests" / "fixtures" / "text2text.json"
ASK = """
import json, sys
import torch, transformers
assert transformers.__version__ == "4.57.6", transformers.__version__
answers = []
for case in json.load(sys.stdin):
    folder = case["folder"] + "/" + case["checkpoint"]
    pipe = transformers.pipeline(case["task"], folder, device="cpu", **case["options"])
    inputs = (text for text in case["inputs"]) if case["generator"] else case["inputs"]
    torch.manual_seed(5)
    answer = pipe(inputs, **case["call"])
    answers.append(list(answer) if case["generator"] else answer)
json.dump(answers, sys.stdout, default=lambda ids: ids.tolist())
"""


def cases() -> list[dict]:
    from parity_tests.pipelines.writers import PROMPTS

    text, short = PROMPTS[0], {"max_new_tokens": 9}
    few = PROMPTS[:7]
    found = []

    def add(task: str, checkpoint: str, inputs, call=None, generator: bool = False, **options) -> None:
        made = {"task": task, "checkpoint": checkpoint, "options": options, "inputs": inputs}
        found.append({**made, "call": call or {}, "generator": generator})

    for checkpoint in ("t5", "bart", "marian"):
        for task in ("text2text-generation", "summarization", "translation", "translation_en_to_fr"):
            add(task, checkpoint, text, short)
        task = "text2text-generation"
        add(task, checkpoint, PROMPTS, short)
        add(task, checkpoint, PROMPTS, {**short, "num_beams": 1})
        add(task, checkpoint, PROMPTS, {**short, "num_beams": 1, "return_tensors": True})
        add(task, checkpoint, [text], {**short, "return_tensors": True})
        add(task, checkpoint, few, short, generator=True)
        add(task, checkpoint, text, {**short, "num_return_sequences": 3})
        add(task, checkpoint, few, {**short, "num_return_sequences": 2})
        add(task, checkpoint, text, {**short, "do_sample": True, "num_beams": 1, "return_tensors": True})
        add(task, checkpoint, text, {**short, "do_sample": True, "temperature": 0.6, "num_beams": 2})
        add(task, checkpoint, "", short)
        add(task, checkpoint, few, {**short, "clean_up_tokenization_spaces": True})
        add(task, checkpoint, few, {**short, "stop_sequence": "a", "return_tensors": True})
        add(task, checkpoint, few, {**short, "min_length": 7, "length_penalty": -1.0, "early_stopping": True})
        add(task, checkpoint, PROMPTS[0] * 5, {**short, "truncation": True})
        add(task, checkpoint, few, max_length=8, num_beams=2)
        add("summarization", checkpoint, few, **short, no_repeat_ngram_size=2)
    for checkpoint in ("bart", "marian"):  # whose files say how long
        for task in ("text2text-generation", "summarization", "translation_en_to_fr"):
            add(task, checkpoint, few)
            add(task, checkpoint, few, {"max_length": 7})
    add("text2text-generation", "t5", text)
    for task in ("summarization", "translation_en_to_fr", "translation", "text2text-generation"):
        add(task, "t5-tasks", few, short)
        add(task, "t5-tasks", few, {**short, "num_beams": 1, "min_length": 0})
        add(task, "t5-tasks", text, {**short, "return_tensors": True})
    add("summarization", "t5-tasks", text, {"num_beams": 1})
    return found


def main(old: str) -> None:
    from parity_tests.pipelines.writers import WRITERS, write_writer

    with tempfile.TemporaryDirectory() as folder:
        for name in WRITERS:
            write_writer(name, Path(folder, name))
        asked = cases()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", ASK],
            input=json.dumps([{**case, "folder": folder} for case in asked]),
            env={**os.environ, "PYTHONPATH": old, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    answers = json.loads(done.stdout)
    lines = [json.dumps({**case, "answer": answer}) for case, answer in zip(asked, answers, strict=True)]
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{FILE.relative_to(ROOT)}: {len(lines)} answers")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(*sys.argv[1:])
