"""What `bench.py` measures: a table of cases, each a list of rows, each row one piece of work. And the worker: run as a
program, this file does one row's work for one side, whenever it is asked.

A row is written once and runs on both sides: `library` is "minihf" or "transformers", and both have the same names.
A new case is a function that prepares the work, and its rows in `cases`.
"""

import gc
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Job:
    """What a worker has prepared."""

    run: Callable[[], Any]
    """The work that is timed."""
    show: Callable[[Any], Any] = lambda result: result
    """From what `run` returns to a tensor that must be equal on both sides; None where there is nothing to compare."""
    before: Callable[[], Any] | None = None
    """A part of the work whose time is taken off: the reading of the prompt, where a token's time is asked for."""
    in_child: bool = False
    """The work happens in a process of its own, whose memory is the one to report."""


@dataclass(frozen=True)
class Row:
    name: str
    prepare: Callable[[str, Path], Job]
    """(library, folder of the checkpoint) -> what to time."""
    checkpoint: Callable[[], Any] | None = None
    """Makes the model, of minihf, that both sides load from the folder."""
    units: int = 1
    """How many of `unit` one run does; times are given for one."""
    unit: str = "run"
    goal: float | None = None
    """The ratio of times to reach."""
    memory_goal: float | None = None
    """How much memory minihf's first run may add, as a multiple of the checkpoint's file."""


def cases(quick: bool = False) -> dict[str, list[Row]]:
    """Case -> its rows. `quick` makes every size tiny: a trial of the benchmark itself, whose figures mean nothing."""
    mini = partial(bert, 2, 32, 2, 64) if quick else partial(bert, 6, 384, 12, 1536)
    base = partial(bert, 2, 64, 2, 128) if quick else partial(bert, 12, 768, 12, 3072)
    narrow, wide = ((2, 32, 2), (2, 64, 2)) if quick else ((4, 128, 4), (6, 384, 6))
    vocabularies = (96, 160) if quick else (2048, 50257)  # a toy's, and GPT-2's own
    small = partial(gpt2, 2, 32, 2, 96) if quick else partial(gpt2, 12, 768, 12, 50257)
    group = (2, 32, 4, 2) if quick else (8, 512, 8, 4)  # layers, width, heads, key-value heads
    texts = 2 if quick else 16
    sentences = 8 if quick else 256
    classifier_ = partial(classifier, 2, 32, 2, 64) if quick else partial(classifier, 6, 384, 12, 1536)
    full = [128] * texts
    ragged = [round(128 * 0.8825**i) for i in range(texts)]  # many short texts and a few long ones, as texts are
    return {
        "import": [
            Row("the package", partial(fresh_python, code="import {library}")),
            Row("BertModel", partial(fresh_python, code="from {library} import BertModel")),
            Row("the command's --help", partial(fresh_python, code="from {command} import main; main()")),
        ],
        "load": [
            Row("GPT-2 small", load, small, goal=0.5),
            Row("GPT-2 small, and a forward of 8 tokens", partial(load, forward=True), small, memory_goal=1.15),
            Row("GPT-2 small, from a fresh interpreter", partial(fresh_python, code=LOAD), small),
        ],
        "encode": [
            Row(f"{name}: {kind}", partial(encode, lengths=lengths), model, units=len(lengths), unit="text", goal=goal)
            for name, model, goals in (
                ("MiniLM-sized", mini, (1.0, 0.4, 0.8)),
                ("BERT-base-sized", base, (1.0, 0.5, None)),
            )
            for (kind, lengths), goal in zip(
                (
                    (f"{texts} x 128 tokens", full),
                    (f"{texts} ragged texts, {sum(ragged) / (128 * texts):.0%} of 128", ragged),
                    ("one sentence, 12 tokens", [12]),
                ),
                goals,
                strict=True,
            )
        ],
        "generate": [
            Row(
                f"{shape[0]} layers, {shape[1]} wide, vocabulary {vocabulary}",
                partial(greedy, new_tokens=8 if quick else 64),
                partial(gpt2, *shape, vocabulary),
                units=8 if quick else 64,
                unit="token",
                goal=goal if vocabulary == vocabularies[0] else None,
            )
            for vocabulary in vocabularies
            for shape, goal in ((narrow, 0.4), (wide, 0.65))
        ]
        + [
            Row(
                f"Llama, {group[0]} layers, {group[1]} wide, {texts} text{'s' if texts > 1 else ''}",
                partial(greedy, new_tokens=8 if quick else 64, texts=texts),
                partial(llama, *group),
                units=8 if quick else 64,
                unit="token",
                goal=0.6,
            )
            for texts in (1, 8)
        ]
        + [
            Row(
                f"Llama, a token after {prompt}",
                partial(greedy, new_tokens=5 if quick else 17, prompt=prompt, prompt_counts=False),
                partial(llama, *group),
                units=4 if quick else 16,
                unit="token",
            )
            for prompt in ((8, 16) if quick else (64, 512, 2048))
        ],
        "pipelines": [
            Row(
                f"{task}, {sentences} sentences, {how}",
                partial(answer, task=task, sentences=sentences, best_size=best_size),
                classifier_,
                units=sentences,
                unit="text",
                goal=goal,
            )
            for task in ("text-classification", "feature-extraction")
            for how, best_size, goal in (("as it comes", False, 0.4), ("the best batch size", True, 0.6))
        ]
        + [Row("one sentence, from the shell", shell, classifier_, goal=0.6)],
    }


# Checkpoints. Weights are drawn wider than for training, so that texts do not end in one repeated token.


def bert(layers: int, width: int, heads: int, inner: int) -> Any:
    from minihf import BertConfig, BertModel

    return BertModel(
        BertConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=inner,
            initializer_range=0.1,
        )
    )


def gpt2(layers: int, width: int, heads: int, vocabulary: int) -> Any:
    from minihf import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=layers,
            n_embd=width,
            n_head=heads,
            vocab_size=vocabulary,
            initializer_range=0.1,
        )
    )


def llama(layers: int, width: int, heads: int, kv_heads: int) -> Any:
    from minihf import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            intermediate_size=width * 43 // 16,  # as in the 7B model
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=2048,
            max_position_embeddings=4096,
            initializer_range=0.1,
        )
    )


def classifier(layers: int, width: int, heads: int, inner: int) -> Any:
    """A model with its tokenizer, which is made from the texts that it will read."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import WordPiece

    from minihf import BertConfig, BertForSequenceClassification, BertTokenizer, pipeline

    engine = Tokenizer(WordPiece(unk_token="[UNK]"))
    engine.normalizer, engine.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=8000, special_tokens=special, show_progress=False)
    engine.train_from_iterator(english(), trainer)
    engine.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = BertConfig(
        vocab_size=engine.get_vocab_size(),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=inner,
        initializer_range=0.1,
    )
    tokenizer = BertTokenizer(engine, model_max_length=512)
    return pipeline("text-classification", BertForSequenceClassification(config), tokenizer=tokenizer, device="cpu")


def english() -> list[str]:
    """Sentences of Python's own manual, 3 to 60 words long, in an order of chance."""
    from pydoc_data.topics import topics

    parts = (part.split() for text in topics.values() for part in re.split(r"(?<=[.!?])\s+|\n\n+", text))
    found = sorted({" ".join(words) for words in parts if 3 <= len(words) <= 60 and words[0][0].isupper()})
    random.Random(0).shuffle(found)
    return found


# Work

LOAD = "import sys; from {library} import GPT2LMHeadModel; GPT2LMHeadModel.from_pretrained(sys.argv[2])"
COMMANDS = {"minihf": "minihf.cli", "transformers": "transformers.cli.transformers"}


def fresh_python(library: str, folder: Path, code: str) -> Job:
    """The start of the interpreter is part of it, on both sides."""
    code = code.format(library=library, command=COMMANDS[library])
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    run = partial(subprocess.run, [sys.executable, "-c", code, "--help", str(folder)], check=True, **silent)
    return Job(run, lambda done: None, in_child=True)


def load(library: str, folder: Path, forward: bool = False) -> Job:
    """From the file to a ready model; with `forward` every weight is used, since a mapped file is read only then."""
    import torch

    lib = import_module(library)
    ids = torch.arange(8)[None]

    @torch.no_grad()
    def use(model):
        return model(input_ids=ids).logits

    # The kernels' own memory, on their first use, is not the loader's.
    use(lib.GPT2LMHeadModel(lib.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=8)).eval())

    def run():
        model = lib.GPT2LMHeadModel.from_pretrained(folder)
        return (model, use(model)) if forward else model

    return Job(run, lambda result: result[1] if forward else use(result))


def encode(library: str, folder: Path, lengths: list[int]) -> Job:
    """`last_hidden_state` of a padded batch; what stands at the padding is nobody's business."""
    import torch

    faster = {"attn_implementation": "packed"} if library == "minihf" else {}
    model = import_module(library).AutoModel.from_pretrained(folder, **faster).eval()
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()  # (B, T)
    ids = torch.randint(1000, model.config.vocab_size, mask.shape, generator=torch.Generator().manual_seed(1)) * mask

    @torch.inference_mode()
    def run():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state

    return Job(run, lambda hidden: hidden[mask.bool()])


def greedy(
    library: str, folder: Path, new_tokens: int, texts: int = 1, prompt: int = 16, prompt_counts: bool = True
) -> Job:
    """No end token, so that both write as much. Without `prompt_counts` the first new token is not timed."""
    import torch

    model = import_module(library).AutoModelForCausalLM.from_pretrained(folder).eval()
    for config in (model.config, model.generation_config):
        if config is not None:
            config.eos_token_id = None
    ids = torch.randint(model.config.vocab_size, (texts, prompt), generator=torch.Generator().manual_seed(1))
    write = partial(model.generate, ids, attention_mask=torch.ones_like(ids), do_sample=False)
    first = None if prompt_counts else partial(write, max_new_tokens=1)
    return Job(partial(write, max_new_tokens=new_tokens), before=first)


def answer(library: str, folder: Path, task: str, sentences: int, best_size: bool) -> Job:
    """A list of sentences through a pipeline; the reference's best batch size is found by trying."""
    import torch

    pipe = import_module(library).pipeline(task, str(folder), device="cpu")
    texts, size = english()[:sentences], None
    if best_size and library == "transformers":
        sizes = (1, 2, 4, 8, 16, 32, 64)
        pipe(texts[:8])
        size = min(sizes, key=lambda size: seconds_of(partial(pipe, texts, batch_size=size)))

    def show(answers: list) -> Any:
        if task == "text-classification":
            return torch.tensor([found["score"] for found in answers])
        return torch.tensor([states[0][0] for states in answers])  # of each text's first token

    return Job(partial(pipe, texts, batch_size=size), show)


ANSWER = {
    "minihf": "import sys; from minihf.cli import main; "
    "main(['run', 'sentiment-analysis', 'I love this.', '--device', 'cpu', '--model', sys.argv[2]])",
    "transformers": "import sys; from transformers import pipeline; "
    "print(pipeline('sentiment-analysis', sys.argv[2], device='cpu')('I love this.'))",
}


def shell(library: str, folder: Path) -> Job:
    return fresh_python(library, folder, ANSWER[library])


# The worker


def serve(task: str, case: str, row: str, quick: bool, folder: str) -> None:
    """Do what `task` says: "make" the checkpoint of a row, or prepare its work for the library of that name.

    Then each message, a JSON object a line, asks for something, until no more come: the first for a first run, whose
    result is saved, later ones for a number of runs. Each is answered by a line, and so is being ready.
    """
    (row,) = (candidate for candidate in cases(quick)[case] if candidate.name == row)
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)  # what a library prints is no message

        def tell(**message: Any) -> None:
            print(json.dumps(message), file=channel, flush=True)

        if task == "make":
            import torch

            torch.manual_seed(0)
            row.checkpoint().save_pretrained(folder)
            return tell()
        job = row.prepare(task, Path(folder))
        tell()
        request = json.loads(sys.stdin.readline())
        before = memory(job)
        reset_peak()
        result = job.run()
        after = memory(job)
        shown = job.show(result)
        del result
        if shown is not None:
            with open(request["save"], "wb") as file:
                np.save(file, shown.numpy())
        added, private = (difference(after[x], before[y]) for x, y in (("peak", "resident"), ("private", "private")))
        tell(added=added, private=private)
        for request in map(json.loads, sys.stdin):
            seconds = timed(job, request["runs"])
            tell(seconds=seconds, peak=max(before["peak"], memory(job)["peak"]))


def timed(job: Job, runs: int) -> float:
    """Seconds of one run, on average. What a run returns is let go before the next, and not at its expense."""
    gc.collect()
    time.sleep(0.05)  # until the threads of whoever worked last have gone to sleep
    spent = 0.0
    for _ in range(runs):
        spent += seconds_of(job.run) - (0.0 if job.before is None else seconds_of(job.before))
    return spent / runs


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    result = work()
    spent = time.perf_counter() - start
    del result
    return spent


def memory(job: Job) -> dict[str, int | None]:
    """Of whoever does the work, in bytes: the most that was resident, what is now, and the part that is no file's."""
    if job.in_child or not sys.platform.startswith("linux"):
        who = resource.RUSAGE_CHILDREN if job.in_child else resource.RUSAGE_SELF
        most = resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"peak": most, "resident": 0 if job.in_child else None, "private": None}
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"peak": "VmHWM", "resident": "VmRSS", "private": "RssAnon"}
    return {what: int(lines[name].split()[0]) * 1024 for what, name in names.items()}


def reset_peak() -> None:
    """Let the peak be counted from now on: importing may have taken more than was left when it was over."""
    with suppress(OSError):  # where the system does not offer it, what is reported is at most too much
        Path("/proc/self/clear_refs").write_text("5")


def difference(after: int | None, before: int | None) -> int | None:
    return None if None in (after, before) else after - before


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))
