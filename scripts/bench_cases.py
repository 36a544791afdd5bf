"""What `bench.py` measures: a table of cases, each a list of rows, each row one piece of work. And the worker: run as a
program, this file does one row's work for one side, whenever it is asked.

A row is written once and runs on both sides: `library` is "minihf" or "transformers", and both have the same names.
A new case is a function that prepares the work, and its rows in `cases`.
"""

import gc
import json
import os
import resource
import sys
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import bench_gpu
import bench_losses
import bench_train
import numpy as np
from bench_generate import gpt2, writing
from bench_pipelines import answering
from bench_row import Job, Row, fresh_python, seconds_of


def cases(quick: bool = False) -> dict[str, list[Row]]:
    """Case -> its rows. `quick` makes every size tiny: a trial of the benchmark itself, whose figures mean nothing."""
    mini = partial(bert, 2, 32, 2, 64) if quick else partial(bert, 6, 384, 12, 1536)
    base = partial(bert, 2, 64, 2, 128) if quick else partial(bert, 12, 768, 12, 3072)
    small = partial(gpt2, 2, 32, 2, 96) if quick else partial(gpt2, 12, 768, 12, 50257)
    texts = 2 if quick else 16
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
        "generate": writing(quick),
        "pipelines": answering(quick),
        "train": bench_losses.rows(quick) + bench_train.rows(quick),
        "gpu": bench_gpu.rows(quick),
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


# Work

LOAD = "import sys; from {library} import GPT2LMHeadModel; GPT2LMHeadModel.from_pretrained(sys.argv[2])"


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
        tell(added=added, private=private, floor=job.floor and job.floor())
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
