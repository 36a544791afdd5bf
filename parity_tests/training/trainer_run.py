"""Runs of `Trainer`, here alone, or by `torchrun --nproc-per-node=2 trainer_run.py FOLDER`, where they come to the
same with half the batch for each process. Then there is more: runs that go on, that are stopped, and one that fails."""

import faulthandler
import json
import os
import random
import signal
import sys
from pathlib import Path

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset

from minihf import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    GPT2Config,
    GPT2LMHeadModel,
    LoraConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_peft_model,
    set_seed,
)
from minihf.training import distributed as d
from minihf.training.parallel import full_weights

BATCH = 4  # of all processes
draw = torch.Generator().manual_seed(3)
IDS = torch.randint(2, 23, (20, 7), generator=draw)
# Labels are left out here and there, so that the processes' batches weigh differently.
LABELS = IDS.masked_fill(torch.rand(IDS.shape, generator=draw) < torch.rand(20, 1, generator=draw), -100)
TEXTS = [{"input_ids": ids, "labels": labels} for ids, labels in zip(IDS, LABELS, strict=True)]
RAGGED = [{"input_ids": ids[: 2 + i % 6], "labels": ids[: 2 + i % 6]} for i, ids in enumerate(IDS)]
CLASSES = [{"input_ids": ids, "labels": int(ids[0]) % 3} for ids in IDS]


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def gpt2(dropout: float = 0.0) -> GPT2LMHeadModel:
    set_seed(5)
    sizes = {"vocab_size": 23, "n_embd": 12, "n_head": 2, "n_layer": 2, "n_positions": 9}
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(**sizes, **rates)).double()


def bert() -> BertForSequenceClassification:
    set_seed(5)
    sizes = {"vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 17, "max_position_embeddings": 9, "num_labels": 3}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = BertForSequenceClassification(BertConfig(**sizes)).double()
    model.idle = torch.nn.Linear(2, 2).double()  # which no loss depends on
    return model


def t5() -> T5ForConditionalGeneration:
    set_seed(5)
    sizes = {"vocab_size": 23, "d_model": 12, "d_kv": 6, "d_ff": 17, "num_heads": 2, "num_layers": 1}
    return T5ForConditionalGeneration(T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0)).double()


def padded(rows):
    ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids.masked_fill(ids == 0, -100)}


def noisy(rows):
    """Draws from all three generators, for each row, and so not as often in each process."""
    batch = padded(rows)
    word = sum(random.randint(2, 8) + int(np.random.randint(2, 6)) for _ in batch["input_ids"][0]) % 21 + 2
    hidden = torch.rand(batch["input_ids"].shape) < 0.3
    return batch | {"input_ids": batch["input_ids"].masked_fill(hidden, word)}


def trainer(folder, model, data=TEXTS, *, cls=Trainer, args=TrainingArguments, parts=None, fsdp=False, **settings):
    """`parts` are the trainer's other arguments, `settings` those of `TrainingArguments`."""
    defaults = {"use_cpu": True, "disable_tqdm": True, "ddp_timeout": 60, "per_device_eval_batch_size": 2}
    defaults |= {"per_device_train_batch_size": BATCH // d.world_size(), "logging_steps": 1, "learning_rate": 0.01}
    defaults |= {"max_steps": 3, "save_strategy": "no", "fsdp": fsdp if d.world_size() > 1 else None}
    return cls(model, args(str(folder), **defaults | settings), train_dataset=data, **parts or {})


def log(made: Trainer) -> list[dict[str, float]]:
    return [
        {name: x for name, x in each.items() if not name.endswith(("runtime", "per_second", "flos"))}
        for each in made.state.log_history
    ]


def came_to(made: Trainer, **more) -> dict:
    made.train()
    return {"log": log(made), "weights": full_weights(made.model), **more}


# Each of these gives the same, alone and in two processes.


def usual(folder: Path, fsdp: bool = False) -> dict:
    """Logs, evaluations by epoch, predictions, files."""
    seen = []

    def metrics(prediction):
        seen.append(torch.tensor(prediction.label_ids))
        return {"sum": prediction.predictions.sum()}

    settings = {"gradient_accumulation_steps": 2, "max_steps": 5, "eval_strategy": "epoch", "weight_decay": 0.1}
    settings |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "max_grad_norm": 0.5}
    settings |= {"include_num_input_tokens_seen": "all", "include_for_metrics": ["loss"]}
    parts = {"eval_dataset": TEXTS[:11], "compute_metrics": metrics}
    made = trainer(folder, gpt2(), parts=parts, fsdp=fsdp, **settings)
    found = came_to(made)
    output = made.predict(TEXTS[:11])
    made.save_model()
    made.save_state()
    made.save_metrics("test", {"test_sum": output.metrics["test_sum"]})
    return found | {
        "predictions": torch.tensor(output.predictions),
        "labels": seen,
        "metrics": output.metrics["test_sum"],
    }


def sharded(folder: Path) -> dict:
    return usual(folder, fsdp=True)


def smoothed(folder: Path) -> dict:
    """The loss is made of logits, which the model makes when they are read."""
    settings = {"label_smoothing_factor": 0.2, "gradient_accumulation_steps": 2, "max_steps": 2}
    return {kind: came_to(trainer(folder / kind, gpt2(), fsdp=kind == "fsdp", **settings)) for kind in ("ddp", "fsdp")}


class Summed(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        logits = model(**inputs).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch
        return (loss, None) if return_outputs else loss


class Former(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        loss = F.cross_entropy(model(input_ids=inputs["input_ids"]).logits, inputs["labels"])
        return (loss, None) if return_outputs else loss


def own_losses(folder: Path) -> dict:
    return {
        "summed": came_to(trainer(folder, gpt2(), cls=Summed, gradient_accumulation_steps=2)),
        "mean": came_to(trainer(folder, bert(), CLASSES, cls=Former, gradient_accumulation_steps=2)),
        "the model's": came_to(trainer(folder, bert(), CLASSES)),
    }


def streams(folder: Path) -> dict:
    """Of torch, over its end; and of `datasets`, in parts that each process reads."""
    parts = {"eval_dataset": Stream(TEXTS[:11])}
    made = trainer(folder, gpt2(), Stream(TEXTS[:16]), parts=parts, max_steps=6, eval_strategy="steps", eval_steps=6)
    found = {"torch": came_to(made)}
    found["torch"]["predictions"] = torch.tensor(made.predict(Stream(TEXTS[:3])).predictions)
    rows = datasets.Dataset.from_list([{name: x.tolist() for name, x in row.items()} for row in TEXTS[:8]])
    rows = rows.to_iterable_dataset(num_shards=2)
    whole = 8 // d.world_size()
    found["datasets"] = came_to(trainer(folder, gpt2(), rows, max_steps=2, per_device_train_batch_size=whole))
    return found


def grouped(folder: Path) -> dict:
    parts = {"data_collator": padded}
    return came_to(trainer(folder, gpt2(), RAGGED, parts=parts, max_steps=8, train_sampling_strategy="group_by_length"))


def adapter(folder: Path) -> dict:
    model = get_peft_model(gpt2(), LoraConfig(target_modules=["c_attn"], r=2, fan_in_fan_out=True)).double()
    return came_to(trainer(folder, model, gradient_checkpointing=True))


def written(folder: Path) -> dict:
    """What a model writes, which is not as long for each process."""
    rows = [{"input_ids": ids[: 3 + i % 4], "labels": ids[: 1 + i % 5]} for i, ids in enumerate(IDS)]

    def collate(rows):
        batch = padded(rows)
        labels = torch.nn.utils.rnn.pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=-100)
        return batch | {"labels": labels}

    found = {}
    for kind in ("ddp", "fsdp"):
        made = trainer(
            folder / kind, t5(), rows, cls=Seq2SeqTrainer, args=Seq2SeqTrainingArguments, fsdp=kind == "fsdp",
            parts={"data_collator": collate, "eval_dataset": rows[:5]}, predict_with_generate=True, max_steps=2,
            generation_max_length=6, eval_strategy="steps", eval_steps=1,
        )  # fmt: skip
        found[kind] = came_to(made)
        found[kind]["predictions"] = torch.tensor(made.predict(rows[:7]).predictions)
    return found


def configured(folder: Path) -> dict:
    """As former releases say it, and with every setting changed that has a choice on the CPU."""
    config = {"fsdp_config": {"fsdp_activation_checkpointing": "true"}} if d.world_size() > 1 else {}
    return came_to(trainer(folder, gpt2(), fsdp="shard_grad_op auto_wrap", **config))


CASES = [usual, sharded, configured, smoothed, own_losses, streams, grouped, adapter, written]


# What only several processes have.


def resumed(folder: Path) -> dict:
    """Whether a run that goes on is the run that was never stopped: in each process, weights and logs, bit for bit."""
    kinds = {"ddp": {}, "fsdp": {"fsdp": True}, "stream": {"data": Stream(RAGGED)}}
    kinds["grouped"] = {"train_sampling_strategy": "group_by_length"}
    found = {}
    for kind, settings in kinds.items():
        settings = {"data": RAGGED, "parts": {"data_collator": noisy}, "max_steps": 7} | settings
        settings |= {"gradient_accumulation_steps": 2, "logging_steps": 2, "save_strategy": "steps", "save_steps": 3}
        whole = trainer(folder / kind, gpt2(dropout=0.2), **settings)
        expected = came_to(whole)
        again = trainer(folder / kind, gpt2(dropout=0.2), **settings)
        set_seed(9)  # of no consequence
        again.train(resume_from_checkpoint=str(folder / kind / "checkpoint-3"))
        weights = full_weights(again.model)
        same = all(torch.equal(x, expected["weights"][name]) for name, x in weights.items())
        found[kind] = d.everyone((same, log(again) == expected["log"], len(expected["log"])))
    return found


class Best(TrainerCallback):
    def __init__(self):
        self.weights = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = {name: x.clone() for name, x in model.state_dict().items()}


def stopped_early(folder: Path) -> list:
    """Each process has a metric of its own: the main one's counts."""
    scores = iter([[0.1, 0.7, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5]][d.rank()])
    best = Best()
    parts = {"eval_dataset": TEXTS[:4], "compute_metrics": lambda prediction: {"f1": next(scores)}}
    parts["callbacks"] = [EarlyStoppingCallback(early_stopping_patience=2), best]
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 20}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "f1", "save_total_limit": 1}
    made = trainer(folder, gpt2(), parts=parts, **settings)
    made.train()
    same = all(torch.equal(x, best.weights[2][name]) for name, x in made.model.state_dict().items())
    state = made.state
    return d.everyone((state.global_step, state.best_global_step, state.best_model_checkpoint, same))


class Terminate(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2 and d.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def terminated(folder: Path) -> list:
    """SIGTERM in one process; and the run that goes on from what all of them saved."""
    settings = {"max_steps": 5, "gradient_accumulation_steps": 2, "parts": {"data_collator": noisy}, "data": RAGGED}
    expected = came_to(trainer(folder / "whole", gpt2(dropout=0.2), **settings))
    made = trainer(folder / "stopped", gpt2(dropout=0.2), **settings)
    made.add_callback(Terminate)
    try:
        made.train()
        code = None
    except SystemExit as left:
        code = left.code
    again = trainer(folder / "stopped", gpt2(dropout=0.2), **settings)
    again.train(resume_from_checkpoint=True)
    weights = full_weights(again.model)
    same = all(torch.equal(x, expected["weights"][name]) for name, x in weights.items())
    return d.everyone((code, made.state.global_step, same))


class Alone(TrainerCallback):
    """Asks for something in one process."""

    def on_step_end(self, args, state, control, **kwargs):
        if d.rank() == 1 and state.global_step == 2:
            control.should_evaluate = control.should_training_stop = True


def asked_alone(folder: Path) -> list:
    parts = {"eval_dataset": TEXTS[:3], "callbacks": [Alone]}
    made = trainer(folder, gpt2(), parts=parts, max_steps=9)
    made.train()
    return d.everyone((made.state.global_step, [x["step"] for x in made.state.log_history if "eval_loss" in x]))


class Uneven(Trainer):
    def get_train_dataloader(self):
        return DataLoader(TEXTS[: 4 + 4 * d.rank()], batch_size=2)


def refused(folder: Path) -> list:
    """What would keep one process waiting for another, or cannot be sharded."""
    model = get_peft_model(gpt2(), LoraConfig(target_modules=["c_attn"], r=2, fan_in_fan_out=True))
    optimizer = torch.optim.SGD(gpt2().parameters(), lr=0.1)
    messages = []
    for work in (
        lambda: trainer(folder, gpt2(), cls=Uneven).train(),
        lambda: trainer(folder, model, fsdp=True).train(),
        lambda: trainer(folder, gpt2(), fsdp=True, parts={"optimizers": (optimizer, None)}),
        lambda: trainer(folder, gpt2(), fsdp="hybrid_shard"),
        lambda: trainer(folder, gpt2()).train(resume_from_checkpoint=True),
    ):
        try:
            work()
            messages.append("")
        except (ValueError, RuntimeError) as error:
            messages.append(str(error))
    return d.everyone(messages)


def told(folder: Path) -> list:
    made = trainer(folder, gpt2(), log_level="info")
    made.log({"spoken": 1.0})  # printed by one of them
    args = made.args
    with args.main_process_first(desc="a file"):
        there = (folder / "made").exists()
        (folder / "made").touch()
    facts = (
        args.world_size,
        args.process_index,
        args.local_process_index,
        args.n_gpu,
        args.should_save,
        args.should_log,
    )
    where = (made.is_world_process_zero(), made.state.is_world_process_zero, made.is_local_process_zero())
    return d.everyone((facts, where, there, str(args.device), args.train_batch_size))


def beside_the_reference(folder: Path) -> list:
    """The logs of both, of data that end within a round."""
    import transformers

    ours = gpt2().float()
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**ours.config.to_dict()))
    theirs.load_state_dict(ours.state_dict())
    settings = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
    settings |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2.5}
    settings |= {"per_device_eval_batch_size": 2, "eval_strategy": "epoch", "learning_rate": 0.01, "warmup_ratio": 0.2}
    settings |= {"include_num_input_tokens_seen": True}
    # Where labels are left out, the reference's loss of an evaluation depends on the number of processes.
    data = {"train_dataset": TEXTS[:19], "eval_dataset": [{"input_ids": ids, "labels": ids} for ids in IDS[:8]]}
    mine = Trainer(ours, TrainingArguments(str(folder), **settings), **data)
    settings["warmup_steps"] = settings.pop("warmup_ratio")
    other = transformers.Trainer(theirs, transformers.TrainingArguments(str(folder), **settings), **data)
    other._loss_shifts_labels = True  # it counts labels that nothing predicts: see test_training_trainer_parity.py
    for each in (mine, other):
        each.train()
    return [log(mine), log(other)]


class Broken(Trainer):
    def training_step(self, *args, **kwargs):
        if d.rank() == 1 and self.state.global_step == 1:
            raise RuntimeError("one process fails")
        return super().training_step(*args, **kwargs)


MORE = [resumed, stopped_early, terminated, asked_alone, refused, told, beside_the_reference]

if __name__ == "__main__":
    faulthandler.dump_traceback_later(240, exit=True)  # were they to wait for each other, it would say where
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    TrainingArguments(use_cpu=True, ddp_timeout=60)  # meets the others
    results = {case.__name__: case(folder / case.__name__) for case in CASES}
    further = {case.__name__: case(folder / case.__name__) for case in MORE}
    if d.is_main():
        (folder / "further.json").write_text(json.dumps(further))
        torch.save(results, folder / "results.pt")
    try:
        trainer(folder / "broken", gpt2(), cls=Broken).train()
    finally:
        if d.is_main():
            (folder / "noticed").touch()
