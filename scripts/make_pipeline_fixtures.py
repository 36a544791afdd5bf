"""What release 4.57.6 of transformers answers where the current one has nothing to compare with: question answering,
`grouped_entities`, `return_all_scores`. It is stored in parity_tests/fixtures/pipelines.json.

The old release needs no second torch. Put it in a folder of its own:

    pip install --no-deps --target OLD "transformers==4.57.6" "tokenizers>=0.22,<0.23" "huggingface_hub<1" \\
        requests urllib3 idna charset-normalizer certifi
    python scripts/make_pipeline_fixtures.py OLD

It runs in a process of its own, with that folder first on the path, over the checkpoints of
parity_tests/pipelines/checkpoints.py, whose numbers come from a formula; the tests write the same ones.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "parity_tests" / "fixtures" / "pipelines.json"
ASK = """
import json, sys
import transformers
assert transformers.__version__ == "4.57.6", transformers.__version__
pipelines = {}
answers = []
for case in json.load(sys.stdin):
    key = json.dumps([case["task"], case["checkpoint"], case["options"]])
    if key not in pipelines:
        folder = case["folder"] + "/" + case["checkpoint"]
        pipelines[key] = transformers.pipeline(case["task"], folder, device="cpu", **case["options"])
    answers.append(pipelines[key](*case["inputs"], **case["call"]))
json.dump(answers, sys.stdout, default=float)
"""


def cases() -> list[dict]:
    from parity_tests.pipelines.checkpoints import CHECKPOINTS, LONG, TEXTS

    context = "Angela Merkel lives in Berlin. Emmanuel Macron visited Paris, and the café is there!"
    asked = {"question": "Who lives in Berlin?", "context": context}
    calls = [
        {},
        {"top_k": 3},
        {"top_k": 5, "align_to_words": False},
        {"max_answer_len": 1},
        {"max_answer_len": 3, "top_k": 4},
        {"handle_impossible_answer": True},
        {"handle_impossible_answer": True, "top_k": 3},
        {"padding": "max_length", "top_k": 2},
    ]
    long = [{}, {"doc_stride": 7, "top_k": 3}, {"max_seq_len": 31, "doc_stride": 4, "top_k": 4}, {"doc_stride": 0}]
    found = []

    def add(task: str, checkpoint: str, *inputs, options=None, **call) -> None:
        made = {"task": task, "checkpoint": checkpoint, "options": options or {}}
        found.append({**made, "inputs": list(inputs), "call": call})

    for checkpoint in (name for name in CHECKPOINTS if name.startswith("questions")):
        for call in calls:
            add("question-answering", checkpoint, **asked, **call)
        for call in long:
            add("question-answering", checkpoint, question="Where is Macron?", context=LONG, **call)
        for text in [text for text in TEXTS if text.strip()]:
            add("question-answering", checkpoint, question="what?", context=text, top_k=2)
        add("question-answering", checkpoint, asked)
        add("question-answering", checkpoint, [asked])
        add("question-answering", checkpoint, [asked, {"question": "what?", "context": LONG}], top_k=2)
        add("question-answering", checkpoint, question=["who?", "where is this?"], context=context)
        add("question-answering", checkpoint, question=["who?", "where?"], context=["Paris", LONG])
        add("question-answering", checkpoint, **asked, options={"top_k": 2, "handle_impossible_answer": True})
    for checkpoint in (name for name in CHECKPOINTS if name.startswith("ner")):
        for options in (
            {"grouped_entities": True},
            {"grouped_entities": False},
            {"grouped_entities": True, "ignore_subwords": True},
            {"grouped_entities": True, "ignore_labels": []},
        ):
            add("ner", checkpoint, TEXTS, options=options)
    for checkpoint in ("classes", "one-class", "many-classes", "regression"):
        for value in (True, False):
            add("text-classification", checkpoint, TEXTS, options={"return_all_scores": value})
            add("text-classification", checkpoint, TEXTS[0], options={"return_all_scores": value})
            add("text-classification", checkpoint, TEXTS[0], return_all_scores=value)
    return found


def main(old: str) -> None:
    from parity_tests.pipelines.checkpoints import CHECKPOINTS, write_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        for name in CHECKPOINTS:
            write_checkpoint(name, Path(folder, name))
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
