"""A plain training run that saves after every step. As a script, it is there to be killed:
`python resumable_run.py OUTPUT_DIR` begins a run for each line that it reads, and prints the number of its process."""

import os
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.utils.data import DataLoader

from minihf.models.gpt2 import GPT2Config, GPT2LMHeadModel
from minihf.training.adamw import AdamW
from minihf.training.checkpoints import checkpoints_in, last_checkpoint, load_checkpoint, rotate, save_checkpoint
from minihf.training.groups import parameter_groups
from minihf.training.schedules import get_scheduler

STEPS, EXAMPLES, BATCH = 12, 14, 3  # five batches an epoch, of which the last has two
SIZES = {"vocab_size": 23, "n_embd": 12, "n_head": 2, "n_layer": 2, "n_positions": 9}


def tokens() -> torch.Tensor:
    return torch.randint(23, (EXAMPLES, 7), generator=torch.Generator().manual_seed(3))


def make(seed: int = 5, **sizes: int):
    """Model with dropout, optimizer and schedule, as a run begins."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**SIZES | sizes)).train()
    optimizer = AdamW(parameter_groups(model, 0.1), lr=0.01)
    return model, optimizer, get_scheduler("cosine", optimizer, num_warmup_steps=3, num_training_steps=STEPS)


def run(output: Path, resume: Path | None = None, *, steps: int = STEPS, keep: int | None = None, seed: int = 5):
    """Train up to `steps`; returns what a run is made of, and its losses. Each save is `checkpoint-<step>`."""
    model, optimizer, scheduler = make(seed)
    state = {"step": 0, "epoch": 0, "batches": 0, "losses": []}
    if resume is not None:
        state = load_checkpoint(resume, model=model, optimizer=optimizer, scheduler=scheduler)
    while state["step"] < steps:
        draw = torch.Generator().manual_seed(42 + state["epoch"])  # the order of an epoch is a function of its number
        batches = torch.randperm(EXAMPLES, generator=draw).split(BATCH)
        rest = [indices.tolist() for indices in batches[state["batches"] :]]
        for ids in DataLoader(tokens(), batch_sampler=rest, generator=draw):
            # every source of random numbers has a part in the loss, and dropout in the model
            ids = (ids + random.randrange(3) + int(np.random.randint(3))) % SIZES["vocab_size"]
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            state["step"] += 1
            state["batches"] += 1
            state["losses"].append(loss.item())
            if state["batches"] == len(batches):
                state["epoch"], state["batches"] = state["epoch"] + 1, 0
            place = output / f"checkpoint-{state['step']}"
            save_checkpoint(place, model=model, optimizer=optimizer, scheduler=scheduler, state=state)
            rotate(output, keep)
            if state["step"] == steps:
                break
    return model, optimizer, scheduler, state


def run_for_ever(output: Path) -> None:
    """To the end, and then the last steps again and again, in the place of the checkpoints that are there."""
    run(output, last_checkpoint(output), keep=3)
    while True:
        run(output, checkpoints_in(output)[0], keep=3)


if __name__ == "__main__":
    # Started once and forked for each run, since importing torch takes longer than a run.
    torch.set_num_threads(1)
    with TemporaryDirectory() as elsewhere:
        run(Path(elsewhere), steps=1)  # which imports what the first step of an optimizer does
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            run_for_ever(Path(sys.argv[1]))
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)
