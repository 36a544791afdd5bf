"""A run that goes on from a checkpoint is the run that was never stopped: weights, log and draws, bit for bit."""

import multiprocessing
import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from torch.utils.data.datapipes.iter import IterableWrapper

from minihf import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    EarlyStoppingCallback,
    LoraConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_peft_model,
)
from minihf.checkpoints.files import CheckpointError
from minihf.training.order import make_loader, set_epoch

SIZES = {"vocab_size": 61, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
SIZES |= {"max_position_embeddings": 20}
draw = np.random.RandomState(0)
DATA = [{"input_ids": draw.randint(2, 61, n).tolist()} for n in draw.randint(4, 12, 29)]


def masked(rows):
    """Draws from all three generators."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    hidden = torch.rand(ids.shape) < 0.3
    hidden[0, 0] = True
    word = random.randint(2, 30) + np.random.randint(2, 30)
    return {
        "input_ids": ids.masked_fill(hidden, word),
        "attention_mask": (ids != 0).long(),
        "labels": ids.masked_fill(~hidden, -100),
    }


class Stream(IterableDataset):
    def __iter__(self):
        return iter(DATA)


class Noisy(Dataset):
    """Examples that are other ones each time they are read, and in each epoch."""

    epoch = 0

    def __len__(self):
        return len(DATA)

    def __getitem__(self, index):
        ids = DATA[index]["input_ids"]
        return {"input_ids": [*ids, random.randint(2, 60), np.random.randint(2, 60), 2 + self.epoch][-len(ids) :]}

    def set_epoch(self, epoch):
        self.epoch = epoch


class NoisyBatches(Noisy):
    def __getitems__(self, indices):
        return [self[index] for index in reversed(indices)]


class NoisyStream(IterableDataset):
    """A stream that draws as it is read, also after its last example; each worker has its part."""

    def __iter__(self):
        worker = get_worker_info()
        for row in DATA[worker.id :: worker.num_workers]:
            if random.random() < 0.9:
                yield {"input_ids": [*row["input_ids"], int(torch.randint(2, 60, ()))]}


class Shuffled(Trainer):
    """Somebody's own loader, whose order comes of the global random state."""

    how, seeded = {}, False

    def get_train_dataloader(self):
        how = {**self.how, "generator": torch.Generator().manual_seed(5)} if self.seeded else self.how
        return DataLoader(DATA, batch_size=3, shuffle=True, collate_fn=padded if self.how else masked, **how)


class ShuffledByWorkers(Shuffled):
    how = {"num_workers": 1, "persistent_workers": True}


class ShuffledByGenerator(Shuffled):
    seeded = True


class ShuffledByGeneratorAndWorkers(ShuffledByWorkers):
    seeded = True


class Eager:
    """Batches whose order is drawn as soon as they are asked for."""

    def __len__(self):
        return 10

    def __iter__(self):
        return iter(torch.randperm(len(DATA)).split(3))


class InEagerBatches(Trainer):
    def get_train_dataloader(self):
        return DataLoader(DATA, batch_sampler=Eager(), collate_fn=masked)


class EpochStop(TrainerCallback):
    """Breaks epochs off."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_epoch_stop |= state.global_step % 4 == 3


class SlowNoisy(Noisy):
    """Workers are still at it when the epoch is broken off."""

    def __getitem__(self, index):
        time.sleep(0.02)
        return super().__getitem__(index)


def trainer(folder, *, cls=Trainer, data=DATA, collate=masked, model=None, callbacks=(), **settings):
    torch.manual_seed(3)
    defaults = {"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 3, "num_train_epochs": 2.3}
    defaults |= {
        "logging_steps": 2,
        "save_steps": 1,
        "learning_rate": 3e-3,
        "warmup_steps": 3,
        "eval_strategy": "epoch",
    }
    args = TrainingArguments(str(folder), **{**defaults, **settings})
    model = BertForMaskedLM(BertConfig(**SIZES)) if model is None else model()
    made = cls(model, args, collate, data, DATA[:7], callbacks=[*callbacks])
    made.remove_callback(PrinterCallback)
    return made


def log(run):
    return [
        {name: x for name, x in each.items() if not name.endswith(("runtime", "per_second"))}
        for each in run.state.log_history
    ]


def adapted():
    return get_peft_model(BertForMaskedLM(BertConfig(**SIZES)), LoraConfig(target_modules=["query"], r=2))


def with_a_seed():
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(5, 61))]
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", mask_token="[MASK]")
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4, seed=5)


STAY = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "every": 11, "eval_strategy": "no"}
CASES = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 2, "num_train_epochs": 3},
    "grouped": {
        "group_by_length": True,
        "gradient_accumulation_steps": 2,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
    },
    "workers": {"dataloader_num_workers": 1, "num_train_epochs": 1.5, "every": 6},
    "workers that stay": {**STAY, "data": Noisy()},
    "workers that stay, by epoch": {**STAY, "data": Noisy(), "save_strategy": "epoch", "every": 1},
    "workers that stay, grouped": {**STAY, "group_by_length": True, "data": Noisy()},
    "workers that stay, a stream": {**STAY, "data": NoisyStream(), "max_steps": 19, "every": 7},
    "workers that stay, a seed": {**STAY, "collate": with_a_seed},
    "workers that stay, spawned": {
        **STAY,
        "data": NoisyBatches(),
        "dataloader_multiprocessing_context": "spawn",
        "dataloader_num_workers": 1,
        "max_steps": 12,
        "every": 12,
    },
    "workers that stay, own loader": {"cls": ShuffledByWorkers, "every": 11},
    "epochs broken off": {"callbacks": [EpochStop], "num_train_epochs": 4, "every": 1},
    "workers that stay, epochs broken off": {**STAY, "callbacks": [EpochStop], "data": SlowNoisy(), "every": 4},
    "own generator": {"cls": ShuffledByGenerator},
    "own generator, by epoch": {"cls": ShuffledByGenerator, "save_strategy": "epoch", "every": 1},
    "own generator, workers that stay": {"cls": ShuffledByGeneratorAndWorkers, "every": 11},
    "own batches": {"cls": InEagerBatches},
    "by epoch": {"save_strategy": "epoch", "every": 1},
    "stream": {"data": Stream(), "max_steps": 14},
    "own loader": {"cls": Shuffled},
    "on a plateau": {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "eval_strategy": "steps",
        "eval_steps": 3,
        "max_steps": 9,
    },
    "adapter": {"model": adapted, "num_train_epochs": 1.2},
    "collator with a seed": {"collate": with_a_seed},
    "stream, collator with a seed": {"collate": with_a_seed, "data": Stream(), "max_steps": 14},
    "stopped early": {
        "early": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "metric_for_best_model": "loss",
        "learning_rate": 0.0,
        "every": 3,
    },
    "stopped early, by epoch": {
        "early": 1,
        "metric_for_best_model": "loss",
        "learning_rate": 0.0,
        "save_strategy": "epoch",
        "num_train_epochs": 4,
        "every": 1,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_exactly(case, tmp_path):
    settings = dict(CASES[case])
    every, early = settings.pop("every", 8), settings.pop("early", None)
    others = settings.pop("callbacks", [])
    collate = settings.pop("collate", lambda: padded if early else masked)

    def started(folder):
        callbacks = [EarlyStoppingCallback(early)] if early else others
        return trainer(folder, collate=collate(), callbacks=callbacks, **settings)

    whole = started(tmp_path / "whole")
    whole.train()
    folders = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    expected = whole.model.state_dict()
    for folder in {*folders[1::every], folders[-1]}:
        resumed = started(tmp_path / "resumed")
        random.seed(9), np.random.seed(9), torch.manual_seed(9)  # of no consequence
        output = resumed.train(resume_from_checkpoint=str(folder))
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value, expected[name]), (folder.name, name)
        assert log(resumed) == log(whole), folder.name
        assert output.global_step == whole.state.global_step


def test_the_last_checkpoint_and_the_counts_of_callbacks(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "metric_for_best_model": "loss"}
    settings |= {"learning_rate": 0.0, "save_total_limit": 2, "collate": padded}  # it never gets better
    first = trainer(tmp_path, max_steps=3, callbacks=[EarlyStoppingCallback(5)], **settings)
    first.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-3"]  # the best, the last
    second = trainer(tmp_path, max_steps=30, callbacks=[EarlyStoppingCallback(5)], **settings)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 6  # 1 was the best of all, and five more were not
    with pytest.raises(ValueError, match="no checkpoint"):
        trainer(tmp_path / "empty").train(resume_from_checkpoint=True)


class Draws(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return [random.random(), np.random.rand(), float(torch.rand(()))]


def test_workers_that_stay_never_draw_the_same_twice(tmp_path):
    drawn = {}
    for stay in (True, False):
        args = TrainingArguments(
            str(tmp_path), use_cpu=True, dataloader_num_workers=2, dataloader_persistent_workers=stay
        )
        loader = make_loader(Draws(), list, 1, args, None, train=True)
        torch.manual_seed(0)
        drawn[stay] = []
        for epoch in range(3 if stay else 1):
            set_epoch(loader, epoch)
            drawn[stay] += [number for batch in loader for row in batch for number in row]
    assert drawn[True][:12] == drawn[False]  # the first epoch's are the reference's
    assert len({*drawn[True]}) == 36


def test_workers_share_a_data_pipe(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, dataloader_num_workers=2, dataloader_persistent_workers=True)
    loader = make_loader(IterableWrapper(range(7)).shuffle().sharding_filter(), list, 1, args, None, train=True)
    for epoch in range(2):
        set_epoch(loader, epoch)
        assert sorted(row for batch in loader for row in batch) == [*range(7)]


def test_a_checkpoint_without_its_optimizer_is_no_run(tmp_path):
    trainer(tmp_path, max_steps=1, save_only_model=True).train()
    assert not (tmp_path / "checkpoint-1" / "optimizer.pt").exists()
    with pytest.raises(ValueError, match="save_only_model"):
        trainer(tmp_path).train(resume_from_checkpoint=True)
    trainer(tmp_path, max_steps=2, save_steps=2).train()
    (tmp_path / "checkpoint-2" / "optimizer.pt").unlink()  # lost, and not left out
    with pytest.raises(CheckpointError, match=r"optimizer\.pt is missing"):
        trainer(tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_the_reference_goes_on(tmp_path):
    torch.manual_seed(3)
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, hidden_dropout_prob=0))
    settings = {"use_cpu": True, "disable_tqdm": True, "max_steps": 6, "per_device_train_batch_size": 3}
    settings |= {"save_steps": 3, "logging_steps": 1, "learning_rate": 3e-3}
    args = transformers.TrainingArguments(str(tmp_path / "theirs"), **settings)
    reference = transformers.Trainer(theirs, args, padded, DATA)
    reference.train()
    model = BertForMaskedLM(BertConfig(**SIZES, hidden_dropout_prob=0))
    ours = Trainer(model, TrainingArguments(str(tmp_path / "ours"), **settings), padded, DATA)
    ours.train(resume_from_checkpoint=str(tmp_path / "theirs" / "checkpoint-3"))
    for mine, other in zip(log(ours)[:-1], log(reference)[:-1], strict=True):
        assert mine == pytest.approx(other, abs=1e-5)


def padded(rows):
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids.masked_fill(ids == 0, -100)}


class Terminate(TrainerCallback):
    """SIGTERM within a step."""

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)


class TerminateAll(TrainerCallback):
    """SIGTERM to all processes, as a cluster sends it, while workers have batches to read."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            children = [child.pid for child in multiprocessing.active_children()]
            assert len(children) == args.dataloader_num_workers
            subprocess.run(["kill", "-TERM", *map(str, [*children, os.getpid()])], check=True)
            time.sleep(0.3)


@pytest.mark.parametrize("stay", [False, True])
def test_sigterm_that_workers_get_too(stay, tmp_path):
    settings = {"dataloader_num_workers": 2, "dataloader_persistent_workers": stay, "save_strategy": "no"}
    settings |= {"data": SlowNoisy(), "num_train_epochs": 1.2, "eval_strategy": "no"}
    whole = trainer(tmp_path / "whole", **settings)
    whole.train()
    with pytest.raises(SystemExit) as left:
        trainer(tmp_path / "stopped", callbacks=[TerminateAll], **settings).train()
    assert left.value.code == 128 + signal.SIGTERM
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["checkpoint-2"]
    resumed = trainer(tmp_path / "stopped", **settings)
    resumed.train(resume_from_checkpoint=True)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_sigterm_finishes_the_step_saves_and_leaves(tmp_path):
    settings = {"gradient_accumulation_steps": 2, "save_strategy": "no"}
    whole = trainer(tmp_path / "whole", **settings)
    whole.train()
    stopped = trainer(tmp_path / "stopped", callbacks=[Terminate], **settings)
    with pytest.raises(SystemExit) as left:
        stopped.train()
    assert left.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["checkpoint-5"]
    resumed = trainer(tmp_path / "stopped", **settings)
    resumed.train(resume_from_checkpoint=True)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
