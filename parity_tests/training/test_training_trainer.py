"""What `Trainer` does beside the curve: data of every kind, one's own losses, metrics, callbacks, files, trackers."""

import json
import math
import sys
import types
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minihf import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DataCollatorWithFlattening,
    EarlyStoppingCallback,
    GPT2Config,
    GPT2LMHeadModel,
    LoraConfig,
    PeftModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_linear_schedule_with_warmup,
    get_peft_model,
    train_steps,
)
from minihf.training.batch_loss import smoothed_loss
from minihf.training.callbacks import EVENTS

SIZES = {"vocab_size": 61, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
SIZES |= {"max_position_embeddings": 20, "num_labels": 3}
draw = np.random.RandomState(0)
ROWS = [
    {"input_ids": draw.randint(2, 61, 7).tolist(), "label": int(draw.randint(3)), "text": "words"} for _ in range(18)
]
TEXTS = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in ROWS]


def bert(**changes):
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**{**SIZES, **changes}))


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=12, n_layer=2, n_head=2, n_positions=60))


def trainer(folder, model=None, data=ROWS, *, cls=Trainer, parts=None, **settings):
    """`parts` are the trainer's other arguments, `settings` those of `TrainingArguments`."""
    defaults = {"use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 4, "max_steps": 5}
    defaults |= {"logging_steps": 1, "learning_rate": 3e-3, "save_strategy": "no"}
    args = TrainingArguments(str(folder), **{**defaults, **settings})
    made = cls(bert() if model is None else model, args, train_dataset=data, **(parts or {}))
    made.remove_callback(PrinterCallback)
    return made


def losses(made) -> list[float]:
    made.train()
    return [each["loss"] for each in made.state.log_history if "loss" in each]


# Data


def test_data_of_every_kind_trains_alike(tmp_path):
    table = datasets.Dataset.from_list(ROWS)
    settings = {"train_sampling_strategy": "sequential"}
    expected = losses(trainer(tmp_path, **settings))
    assert losses(trainer(tmp_path, data=table, **settings)) == expected
    assert losses(trainer(tmp_path, data=table.to_iterable_dataset())) == expected
    pairs = torch.utils.data.TensorDataset(*(torch.tensor([row[x] for row in ROWS]) for x in ("input_ids", "label")))
    stack = {"data_collator": lambda rows: {"input_ids": rows_of(rows, 0), "labels": rows_of(rows, 1)}}
    assert losses(trainer(tmp_path, data=pairs, parts=stack, **settings)) == expected
    assert losses(trainer(tmp_path)) != expected  # shuffled


def rows_of(pairs, i):
    return torch.stack([pair[i] for pair in pairs])


def test_columns_that_the_model_does_not_take_are_left_out(tmp_path):
    strange = [{"text": "words", "label": 1}]
    for data in (strange, datasets.Dataset.from_list([{"text": "words"}])):
        with pytest.raises(ValueError, match=r"none of the dataset's columns|gave no loss|input_ids"):
            trainer(tmp_path, data=data).train()
    seen = []
    keep = {"data_collator": lambda rows: (seen.append([*rows[0]]), as_batch(rows))[1]}
    trainer(tmp_path, parts=keep, remove_unused_columns=False, max_steps=1).train()
    trainer(tmp_path, parts=keep, max_steps=1).train()
    assert [seen[0], seen[-1]] == [["input_ids", "label", "text"], ["input_ids", "label"]]


def test_the_columns_that_the_model_takes(tmp_path):
    """The course's chapter 8 asks for them when it looks at a batch."""
    made, table = trainer(tmp_path), datasets.Dataset.from_list(ROWS)
    assert made._remove_unused_columns(table, description="training").column_names == ["input_ids", "label"]
    assert made._remove_unused_columns(ROWS) is ROWS
    made.args.remove_unused_columns = False
    assert made._remove_unused_columns(table) is table


def as_batch(rows):
    ids, labels = (torch.tensor([row[name] for row in rows]) for name in ("input_ids", "label"))
    return {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: (BertModel(BertConfig(**SIZES)), {}), "AutoModelForSequenceClassification"),
        (lambda: (bert(), {"eval_strategy": "epoch"}), "needs an eval_dataset"),
        (lambda: (bert(), {"save_strategy": "best"}), "metric_for_best_model"),
    ],
)
def test_what_cannot_be_trained(make, message, tmp_path):
    model, settings = make()
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, model, **settings)


def test_what_is_of_another_kind(tmp_path):
    with pytest.raises(TypeError, match=r"model is a str, expected a torch\.nn\.Module, such as AutoModel"):
        trainer(tmp_path, "bert-base-cased")
    with pytest.raises(TypeError, match="args is a BertForSequenceClassification, expected TrainingArguments"):
        Trainer(TrainingArguments(str(tmp_path)), bert())
    with pytest.raises(TypeError, match=r"model is a function, expected .* model_init makes one"):
        trainer(tmp_path, bert)


def test_packed_texts_are_those_texts(tmp_path):
    """Without a cache and a mask, GPT-2 keeps texts of one row apart."""
    parts = {"data_collator": DataCollatorWithFlattening(), "eval_dataset": TEXTS[:8]}
    packed = trainer(tmp_path, gpt2(), TEXTS, parts=parts).evaluate()["eval_loss"]
    apart = trainer(tmp_path, gpt2(), TEXTS, parts={"eval_dataset": TEXTS[:8]}).evaluate()["eval_loss"]
    assert packed == pytest.approx(apart, abs=1e-5)


# Losses


class Former(Trainer):
    """As it was overridden before there was `num_items_in_batch`."""

    def compute_loss(self, model, inputs, return_outputs=False):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


class Doubled(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        return (2 * loss, outputs) if return_outputs else 2 * loss


class Summed(Trainer):
    """One that takes the number of labels, and divides by it."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs.logits, labels, reduction="sum") / (self.counted or len(labels))
        return (loss, outputs) if return_outputs else loss

    counted = 8


def own_loss(outputs, labels, num_items_in_batch=None):
    return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


def test_losses_of_one_s_own(tmp_path):
    settings = {"gradient_accumulation_steps": 2, "data": ROWS[:16], "max_steps": 2}
    parts = {"eval_dataset": ROWS[:4]}
    expected = losses(trainer(tmp_path, **settings))
    assert losses(trainer(tmp_path, cls=Former, **settings)) == pytest.approx(expected, abs=1e-6)
    assert losses(trainer(tmp_path, cls=Summed, **settings)) == pytest.approx(expected, abs=1e-6)
    assert losses(trainer(tmp_path, parts={"compute_loss_func": own_loss}, **settings)) == pytest.approx(
        expected, abs=1e-6
    )
    once = trainer(tmp_path, **settings, parts=parts).evaluate()["eval_loss"]
    assert trainer(tmp_path, cls=Doubled, **settings, parts=parts).evaluate()["eval_loss"] == pytest.approx(2 * once)
    assert losses(trainer(tmp_path, cls=Doubled, **settings))[0] == pytest.approx(2 * expected[0], abs=1e-6)
    means = trainer(tmp_path, cls=Summed, **settings)
    means.counted, means.loss_is_scaled_for_ga = None, False
    assert losses(means) == pytest.approx(expected, abs=1e-6)


class KeepsNotes(Trainer):
    """Names that people are likely to give to what they add."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.losses, self.count, self.seed, self.step, self.scale = [], 0, 1, 0, 1.0
        self.tokenizer = "a tokenizer"

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        self.losses.append(loss.item())
        self.count += 1
        return (loss, outputs) if return_outputs else loss


def test_a_trainer_has_room_for_notes_of_one_s_own(tmp_path):
    made = trainer(tmp_path, cls=KeepsNotes)
    assert losses(made) == pytest.approx(made.losses)
    assert made.count == 5
    assert made.processing_class == made.tokenizer == "a tokenizer"


def test_accumulation_is_a_larger_batch(tmp_path):
    """Of texts of different length: each label weighs the same, wherever it stands."""
    texts = [
        {"input_ids": row["input_ids"][: 2 + i % 5], "labels": row["input_ids"][: 2 + i % 5]}
        for i, row in enumerate(ROWS)
    ]

    def padded(rows):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(x["input_ids"]) for x in rows], batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids.masked_fill(ids == 0, -100)}

    def run(**settings):
        model = gpt2()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        made = trainer(tmp_path, model.double(), texts, parts={"data_collator": padded}, **settings)
        return losses(made), [each["grad_norm"] for each in made.state.log_history if "loss" in each]

    whole = run(per_device_train_batch_size=6, max_steps=3)
    parts = run(per_device_train_batch_size=2, gradient_accumulation_steps=3, max_steps=3)
    assert np.allclose(whole, parts, rtol=1e-6)


def test_label_smoothing(tmp_path):
    model = bert().eval()
    made = trainer(tmp_path, model, label_smoothing_factor=0.3, parts={"eval_dataset": ROWS[:5]})
    batch = as_batch(ROWS[:5])
    with torch.no_grad():
        expected = F.cross_entropy(model(batch["input_ids"]).logits, batch["labels"], label_smoothing=0.3)
    assert made.evaluate()["eval_loss"] == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 4), (1, 5)])
def test_smoothing_refuses_labels_that_do_not_lie_on_the_logits(shape):
    with pytest.raises(ValueError, match=r"labels have shape .*, expected one for each of the logits \(2, 5\)"):
        smoothed_loss(torch.randn(2, 5, 7), torch.zeros(shape, dtype=torch.long), 0.1)


def test_a_loss_that_is_no_number_does_not_spoil_the_log(tmp_path):
    class Broken(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            loss = super().compute_loss(model, inputs, **kwargs)
            return loss * float("nan") if self.state.global_step == 2 else loss

    kept = losses(trainer(tmp_path, cls=Broken, logging_steps=5))
    assert all(map(math.isfinite, kept))
    assert not all(map(math.isfinite, losses(trainer(tmp_path, cls=Broken, logging_nan_inf_filter=False))))


# Precision, memory, speed


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True},
        {"fp16": True},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 2},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_same_run_another_way(settings, tmp_path):
    tolerance = 2e-2 if {"bf16", "fp16"} & settings.keys() else 1e-6
    plain = losses(trainer(tmp_path, max_steps=settings.get("max_steps", 5)))
    made = trainer(tmp_path, **settings)
    assert losses(made) == pytest.approx(plain, abs=tolerance)
    assert not made.model.is_gradient_checkpointing  # any more


def test_noise_on_the_embeddings_is_gone_after_training(tmp_path):
    made = trainer(tmp_path, neftune_noise_alpha=5.0)
    assert losses(made) != losses(trainer(tmp_path))
    assert not made.model.get_input_embeddings()._forward_hooks


def test_the_model_is_made_anew(tmp_path):
    made = Trainer(
        model_init=bert,
        args=TrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, max_steps=3, logging_steps=1),
        train_dataset=ROWS,
    )
    assert losses(made) == losses(made)
    with pytest.raises(ValueError, match="one of them"):
        Trainer()


def test_a_model_may_be_made_for_a_trial(tmp_path):
    def model_init(trial):
        return bert(hidden_dropout_prob=0.0 if trial is None else 0.5)

    args = TrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, max_steps=1, save_strategy="no")
    made = Trainer(args=args, model_init=model_init, train_dataset=ROWS)
    made.train()
    assert made.model.config.hidden_dropout_prob == 0


def test_an_optimizer_of_one_s_own(tmp_path):
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    made = trainer(
        tmp_path, model, parts={"optimizers": (optimizer, get_linear_schedule_with_warmup(optimizer, 0, 10))}
    )
    made.train()
    rates = [each["learning_rate"] for each in made.state.log_history if "loss" in each]
    assert rates == pytest.approx([0.5, 0.45, 0.4, 0.35, 0.3])


# Evaluation


def test_metrics_see_what_they_ask_for(tmp_path):
    seen = []

    def metrics(prediction):
        seen.append(prediction)
        return {"hits": np.float32(2), "tensor": torch.tensor(3), "eval_a_named": 1}

    parts = {"compute_metrics": metrics, "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)}
    parts["eval_dataset"] = {"a": ROWS[:5], "b": ROWS[5:16]}
    made = trainer(tmp_path, include_for_metrics=["inputs", "loss"], eval_accumulation_steps=1, parts=parts)
    result = made.evaluate()
    assert {"eval_a_loss", "eval_b_loss", "eval_a_hits", "eval_a_named", "epoch"} <= result.keys()
    assert (result["eval_a_hits"], result["eval_b_tensor"]) == (2.0, 3)
    assert json.dumps(result)
    predictions, labels, inputs, each = seen[1]
    assert predictions.shape == labels.shape == each.shape == (11,)
    assert inputs.tolist() == [row["input_ids"] for row in ROWS[5:16]]
    assert labels.tolist() == [row["label"] for row in ROWS[5:16]]
    assert each.mean() == pytest.approx(result["eval_b_loss"])
    exact = F.cross_entropy(*(x for x in (made.model(**as_batch(ROWS[5:16])).logits, torch.tensor(labels))))
    assert result["eval_b_loss"] == pytest.approx(exact.item(), abs=1e-6)  # over examples, 8 and 3 to a batch


@pytest.mark.parametrize("each", [False, True])
def test_metrics_are_a_dict(each, tmp_path):
    parts = {"compute_metrics": lambda prediction, compute_result=True: 0.5}
    with pytest.raises(TypeError, match="compute_metrics gave a float, expected a dict of numbers"):
        trainer(tmp_path, parts=parts, batch_eval_metrics=each).evaluate(ROWS[:4])


def test_metrics_of_each_batch(tmp_path):
    calls = []

    def metrics(prediction, compute_result):
        calls.append((len(prediction.label_ids), compute_result))
        return {"batches": len(calls)} if compute_result else {}

    parts = {"compute_metrics": metrics, "eval_dataset": ROWS}
    assert trainer(tmp_path, batch_eval_metrics=True, parts=parts).evaluate()["eval_batches"] == 3
    assert calls == [(8, False), (8, False), (2, True)]


def test_predictions_without_labels_and_of_different_length(tmp_path):
    made = trainer(tmp_path)
    output = made.predict([{"input_ids": row["input_ids"]} for row in ROWS[:3]])
    assert output.predictions.shape == (3, 3)
    assert output.label_ids is None
    assert "test_loss" not in output.metrics
    rows = [{"input_ids": row["input_ids"][: 2 + i]} for i, row in enumerate(ROWS[:3])]
    made = trainer(tmp_path, gpt2(), TEXTS, per_device_eval_batch_size=1)
    output = made.predict(rows)
    assert output.predictions.shape == (3, 4, 61)
    assert (output.predictions[0, 2:] == -100).all()
    assert not (output.predictions[2] == -100).any()


def test_the_best_model_comes_back(tmp_path):
    scores = iter([0.1, 0.7, 0.3, 0.2, 0.1, 0.1])
    parts = {"eval_dataset": ROWS[:4], "compute_metrics": lambda prediction: {"f1": next(scores)}}
    parts["callbacks"] = [EarlyStoppingCallback(early_stopping_patience=3)]
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 20}
    made = trainer(tmp_path, parts=parts, load_best_model_at_end=True, metric_for_best_model="f1", **settings)
    weights = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            weights[state.global_step] = {name: x.clone() for name, x in model.state_dict().items()}

    made.add_callback(Keep)
    made.train()
    assert (made.state.global_step, made.state.best_global_step, made.state.best_metric) == (5, 2, 0.7)
    assert made.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    assert all(torch.equal(x, weights[2][name]) for name, x in made.model.state_dict().items())


def test_only_the_best_is_kept(tmp_path):
    scores = iter([0.1, 0.7, 0.3, 0.9, 0.2])
    parts = {"eval_dataset": ROWS[:4], "compute_metrics": lambda prediction: {"f1": next(scores)}}
    settings = {"save_strategy": "best", "metric_for_best_model": "f1", "save_total_limit": 1}
    trainer(tmp_path, parts=parts, eval_strategy="steps", eval_steps=1, **settings).train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_the_best_is_kept_whichever_way_its_folder_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = iter([0.7, 0.3, 0.1])
    parts = {"eval_dataset": ROWS[:4], "compute_metrics": lambda prediction: {"f1": next(scores)}}
    settings = {"parts": parts, "metric_for_best_model": "f1", "save_strategy": "steps", "save_steps": 1}
    settings |= {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    trainer("out", **settings, save_total_limit=2).train()
    trainer(tmp_path / "out", **settings, save_total_limit=1).train(resume_from_checkpoint=True)
    assert [path.name for path in Path("out").iterdir()] == ["checkpoint-1"]


# Files


def test_what_is_saved(tmp_path):
    made = trainer(tmp_path, eval_strategy="epoch", parts={"eval_dataset": ROWS[:4]})
    metrics = made.train().metrics
    made.save_model()
    made.save_state()
    made.save_metrics("train", metrics)
    made.save_metrics("eval", {"eval_loss": 1.5})
    assert BertForSequenceClassification.from_pretrained(tmp_path).num_parameters() == made.model.num_parameters()
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert [each["step"] for each in state["log_history"]] == [1, 2, 3, 4, 5, 5, 5]
    both = json.loads((tmp_path / "all_results.json").read_text())
    assert both["eval_loss"] == 1.5
    assert both["train_loss"] == metrics["train_loss"]
    assert json.loads((tmp_path / "training_args.json").read_text())["max_steps"] == 5


def test_an_adapter_is_trained_and_saved_as_one(tmp_path):
    model = get_peft_model(gpt2(), LoraConfig(target_modules=["c_attn"], r=2, fan_in_fan_out=True))
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    made = trainer(tmp_path, model, [{**row, "junk": [1]} for row in TEXTS], gradient_checkpointing=True)
    made.train()
    made.save_model()
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "training_args.json"
    }  # fmt: skip
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    ids = torch.tensor([ROWS[0]["input_ids"]])
    loaded = PeftModel.from_pretrained(gpt2(), tmp_path).eval()
    torch.testing.assert_close(loaded(ids).logits, model.eval()(ids).logits)


def test_any_module_trains(tmp_path):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(7, 3)

        def forward(self, input_ids, labels=None):
            logits = self.line(input_ids.float() / 61)
            return (F.cross_entropy(logits, labels), logits) if labels is not None else (logits,)

    made = trainer(tmp_path, Plain(), save_strategy="steps", save_steps=2, parts={"eval_dataset": ROWS[:4]})
    made.train()
    expected = made.evaluate()["eval_loss"]
    again = trainer(tmp_path, Plain(), parts={"eval_dataset": ROWS[:4]}, max_steps=5)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.evaluate()["eval_loss"] == expected
    assert made.predict(ROWS[:2]).predictions.shape == (2, 3)


# Events and trackers


def test_every_event_in_its_place(tmp_path):
    told = []

    class Ear(TrainerCallback):
        pass

    for event in EVENTS:
        setattr(Ear, event, lambda self, args, state, control, event=event, **kwargs: told.append(event[3:]))
    parts = {"callbacks": [Ear], "eval_dataset": ROWS[:3]}
    settings = {"gradient_accumulation_steps": 2, "max_steps": 1, "eval_strategy": "steps", "save_strategy": "steps"}
    made = trainer(tmp_path, parts=parts, **settings)
    made.train()
    made.predict(ROWS[:1])
    step = ["step_begin", "substep_end", "pre_optimizer_step", "optimizer_step", "step_end"]
    after = ["log", "prediction_step", "log", "evaluate", "save", "epoch_end", "log", "train_end"]
    assert told == ["init_end", "train_begin", "epoch_begin", *step, *after, "prediction_step", "predict"]
    assert isinstance(made.pop_callback(Ear), Ear)
    assert made.pop_callback(Ear) is None
    with pytest.raises(TypeError, match="TrainerCallback"):
        made.add_callback(object())


def test_a_callback_stops_the_run_and_asks_for_more(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3
            control.should_save = state.global_step == 2
            return control

    made = trainer(tmp_path, parts={"callbacks": [Stop()]}, max_steps=50)
    assert made.train().global_step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize("disable", [True, False])
def test_a_person_sees_the_logs(disable, tmp_path, capfd):
    args = TrainingArguments(str(tmp_path), use_cpu=True, max_steps=2, logging_steps=1, disable_tqdm=disable)
    made = Trainer(bert(), args, train_dataset=ROWS, eval_dataset=ROWS[:3])
    made.train()
    made.log_metrics("train", {"train_loss": 1.23456, "train_runtime": 61.0, "epoch": 1})
    out, bar = capfd.readouterr()
    assert out.count("'loss':") == 2
    assert "total_flos" not in out
    assert "***** train metrics *****\n  epoch         =       1\n  train_loss    =  1.2346" in out
    assert ("2/2" in bar) != disable


def test_tensorboard(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer(tmp_path, report_to=["tensorboard"], parts={"eval_dataset": ROWS[:3]}, eval_strategy="epoch").train()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [each.step for each in events.Scalars("train/loss")] == [1, 2, 3, 4, 5]
    assert {"train/learning_rate", "train/grad_norm", "eval/loss"} <= set(events.Tags()["scalars"])
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    trainer(tmp_path, report_to="tensorboard").train()
    assert [*(tmp_path / "runs").glob("*/events*")]


class Tracker(types.ModuleType):
    """What wandb and trackio look like from here."""

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = types.SimpleNamespace(name=name)
        self.run, self.begun, self.logged, self.watched, self.config = None, [], [], [], {}

    def init(self, **settings):
        self.begun.append(settings)
        self.run = types.SimpleNamespace(summary={})

    def log(self, values):
        self.logged.append(values)

    def watch(self, model, **settings):
        self.watched.append(settings)

    def define_metric(self, *names, **settings):
        pass

    def finish(self):
        pass


class Settings(dict):
    def update(self, values, allow_val_change=False):
        super().update(values)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_and_their_environment(name, tmp_path, monkeypatch):
    tracker = Tracker(name)
    tracker.config = Settings()
    monkeypatch.setitem(sys.modules, name, tracker)
    monkeypatch.setenv(f"{name.upper()}_PROJECT", "course")
    monkeypatch.setenv("WANDB_WATCH", "all")
    parts = {"eval_dataset": ROWS[:3]}
    trainer(tmp_path, report_to=name, run_name="first", parts=parts, eval_strategy="epoch").train()
    assert (tracker.begun[0]["project"], tracker.begun[0]["name"]) == ("course", "first")
    assert tracker.config["hidden_size"] == 12
    assert tracker.config["learning_rate"] == 3e-3
    steps = [each["train/global_step"] for each in tracker.logged]
    assert steps == [1, 2, 3, 4, 5, 5, 5]
    assert {"train/loss", "train/grad_norm", "train/epoch"} <= tracker.logged[0].keys()
    assert "eval/loss" in tracker.logged[5]
    if name == "wandb":
        assert tracker.watched == [{"log": "all", "log_freq": 100}]
        assert tracker.run.summary["train_loss"] > 0
        monkeypatch.setenv("WANDB_LOG_MODEL", "checkpoint")
        with pytest.raises(ValueError, match="WANDB_LOG_MODEL"):
            trainer(tmp_path, report_to=name)
        monkeypatch.setenv("WANDB_DISABLED", "true")
        trainer(tmp_path, report_to=name, max_steps=1).train()
        assert len(tracker.begun) == 1


# The loop alone


def test_the_loop_without_a_trainer():
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    twin = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    batches = [as_batch(ROWS[i : i + 4]) for i in range(0, 12, 4)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = [*train_steps(model, batches, optimizer, gradient_accumulation_steps=2, max_grad_norm=0)]
    assert [len(step.batches) for step in steps] == [2, 1]
    by_hand = torch.optim.SGD(twin.parameters(), lr=0.1)
    for some, step in zip((batches[:2], batches[2:]), steps, strict=True):
        loss = sum(twin(**batch).loss for batch in some) / len(some)
        loss.backward()
        assert step.loss.item() == pytest.approx(loss.item(), abs=1e-6)
        by_hand.step()
        by_hand.zero_grad()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_an_optimizer_of_another_model_would_train_nothing(tmp_path):
    other = torch.optim.SGD(bert().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the optimizer has none of the model's parameters"):
        trainer(tmp_path, bert(), parts={"optimizers": (other, None)})


@pytest.mark.parametrize("off", [None, -1])
def test_without_a_norm_gradients_stay_as_they_are(off, tmp_path):
    assert losses(trainer(tmp_path, max_grad_norm=off)) == losses(trainer(tmp_path, max_grad_norm=0))


def test_paths_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Path(TrainingArguments("~/run").output_dir) == tmp_path / "run"
