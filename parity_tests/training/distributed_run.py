"""One small training run, alone or by `torchrun --nproc-per-node=2 distributed_run.py FOLDER`, which does more."""

import sys
import time
from pathlib import Path

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from minihf.models.gpt2 import GPT2Config, GPT2LMHeadModel
from minihf.training import dealing, parallel
from minihf.training import distributed as d
from minihf.training.adamw import AdamW
from minihf.training.checkpoints import load_checkpoint, save_checkpoint
from minihf.training.groups import parameter_groups
from minihf.training.restoring import process_random_state
from minihf.training.schedules import get_scheduler

EXAMPLES, GLOBAL_BATCH, LENGTH, STEPS = 16, 4, 7, 4
SIZES = {"vocab_size": 23, "n_embd": 12, "n_head": 2, "n_layer": 3, "n_positions": 9}
SIZES |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # which would draw other numbers for other batches


def examples() -> list[dict[str, torch.Tensor]]:
    """With labels left out here and there, so that the processes' batches weigh differently."""
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(23, (EXAMPLES, LENGTH), generator=draw)
    labels = ids.masked_fill(torch.rand(ids.shape, generator=draw) < torch.rand(EXAMPLES, 1, generator=draw), -100)
    return [{"input_ids": a, "labels": b} for a, b in zip(ids, labels, strict=True)]


def fresh(seed: int = 7) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(**SIZES)).double().train()


def loader() -> DataLoader:
    """The single run's batches, dealt out."""
    batches = BatchSampler(SequentialSampler(range(EXAMPLES)), GLOBAL_BATCH // d.world_size(), drop_last=False)
    return DataLoader(examples(), batch_sampler=dealing.RankBatches(batches, d.rank(), d.world_size()))


def train(wrap, *, halves: int = 1, resume: Path | None = None, save: Path | None = None) -> dict:
    """Some steps of `wrap(model)`; returns the losses, the norms of the gradients and the whole weights.

    halves: 2 accumulates gradients over parts of each batch.
    """
    model = wrap(fresh(7 if resume is None else 8))
    inner = parallel.unwrapped(model)
    optimizer = AdamW(parameter_groups(inner, 0.1), lr=0.02)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=1, num_training_steps=STEPS)
    state = {"step": 0}
    if resume is not None:
        rank = d.rank() if d.world_size() > 1 else None
        state = load_checkpoint(resume, model=inner, optimizer=optimizer, scheduler=scheduler, rank=rank)
    losses, norms = [], []
    for batch in [*loader()][state["step"] :]:
        items = d.summed((batch["labels"][:, 1:] != -100).sum())
        loss = torch.zeros((), dtype=torch.float64)
        for part in range(halves):
            rows = {name: x.chunk(halves)[part] for name, x in batch.items()}
            with parallel.without_exchange(model, last=part == halves - 1):
                one = model(**rows, num_items_in_batch=items).loss
                (one * d.world_size()).backward()  # gradients are averaged over the processes
            loss += one.detach()
        norms.append(parallel.clip_grad_norm(model, 0.5).item())
        losses.append(d.summed(loss).item())
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        state["step"] += 1
        if save is not None and state["step"] == STEPS // 2:
            weights, moments = parallel.full_weights(inner), parallel.full_state(optimizer.state_dict())
            states = d.random_states(process_random_state())
            d.by_main(
                lambda w=weights, m=moments, r=states: save_checkpoint(
                    save, model=inner, weights=w, optimizer=m, scheduler=scheduler, state=state, rng=r
                )
            )
    weights = parallel.full_weights(inner)
    return {"losses": losses, "norms": norms, "weights": {name: x.clone() for name, x in weights.items()}}


def accelerated() -> dict:
    """The same steps, by a script for accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = fresh()
    optimizer = AdamW(parameter_groups(model, 0.1), lr=0.02)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=1, num_training_steps=STEPS)
    batches = DataLoader(examples(), batch_size=GLOBAL_BATCH // accelerator.num_processes)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    norms = []
    for batch in batches:
        items = accelerator.reduce((batch["labels"][:, 1:] != -100).sum())
        loss = model(**batch, num_items_in_batch=items).loss
        accelerator.backward(loss * accelerator.num_processes)
        norms.append(accelerator.clip_grad_norm_(model.parameters(), 0.5).item())
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return {"norms": norms, "weights": accelerator.get_state_dict(model), "model": accelerator.unwrap_model(model)}


class Stream(IterableDataset):
    def __iter__(self):
        yield from range(9)


def fail() -> None:
    raise OSError("no space")


def measured() -> dict:
    """What is gathered: rows of each process, of different lengths and numbers; parts of streams; a failure."""
    from datasets import Dataset

    rank = d.rank()
    rows = torch.arange(2 * (3 + rank) * (2 - rank)).reshape(-1, 3 + rank)
    found = {"gathered": d.gather({"logits": (rows, rows > 1), "loss": torch.tensor(float(rank))})}
    found["streamed"] = [[*dealing.sharded(Stream(), 2, ordered=ordered)] for ordered in (False, True)]
    found["streamed"] = d.everyone(found["streamed"])
    found["in_step"] = d.everyone([*dealing.in_step(iter(range(3 + 2 * rank)))])
    hub = Dataset.from_dict({"x": list(range(8))}).to_iterable_dataset(num_shards=2)
    found["from_datasets"] = d.gather(torch.tensor([row["x"] for row in dealing.sharded(hub, 1)]))
    found["anywhere"] = d.anywhere(rank == 1), d.anywhere(False)
    found["by_main"] = d.by_main(lambda: {"written by": rank})
    try:
        d.by_main(fail)
    except (OSError, RuntimeError) as error:
        failure = f"{type(error).__name__}: {error}"
    found["failures"] = [""] * d.world_size()
    torch.distributed.all_gather_object(found["failures"], failure)
    batches = BatchSampler(SequentialSampler(range(11)), 2, drop_last=False)
    dealt = [*dealing.RankBatches(batches, rank, d.world_size())]
    found["dealt"] = d.gather(torch.tensor(dealt)).tolist()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    d.join(timeout=60, cpu=True)
    results = {
        "ddp": train(parallel.replicate),
        "ddp accumulated": train(parallel.replicate, halves=2),
        "fsdp": train(parallel.shard, save=folder / "checkpoint-2"),
        "fsdp accumulated": train(parallel.shard, halves=2),
        "fsdp resumed": train(parallel.shard, resume=folder / "checkpoint-2"),
        "measured": measured(),
    }
    results["accelerate"] = {name: x for name, x in accelerated().items() if name != "model"}
    if d.is_main():
        torch.save(results, folder / "results.pt")
    torch.distributed.barrier()
    if d.rank() == 1:
        raise RuntimeError("one process fails")
    try:
        time.sleep(1)
        d.summed(torch.zeros(1))  # the other never comes
    finally:
        (folder / "noticed").touch()
