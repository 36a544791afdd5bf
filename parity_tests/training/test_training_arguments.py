"""The names and defaults of the arguments are the reference's; former ones mean what they meant; none is ignored."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
import transformers

from minihf import Seq2SeqTrainingArguments, TrainingArguments
from minihf.training.optimizers import optimizer_class

OURS = {"logging_dir", "warmup_ratio"}  # of former releases


@pytest.mark.parametrize("ours", [TrainingArguments, Seq2SeqTrainingArguments])
def test_names_order_and_defaults_are_the_reference_s(ours):
    reference = {each.name: each for each in dataclasses.fields(getattr(transformers, ours.__name__))}
    renamed = {"activation_checkpointing", "activation_checkpointing_kwargs"}
    own = [each.name for each in dataclasses.fields(ours) if each.name not in OURS]
    assert own == [name for name in reference if name not in renamed]
    # With its logger silenced, by whoever ran before in this process, the reference shows no progress bar.
    mine, theirs = (which(use_cpu=True, disable_tqdm=False) for which in (ours, getattr(transformers, ours.__name__)))
    different = {name for name in own if getattr(mine, name) != getattr(theirs, name)}
    assert different <= {"accelerator_config", "debug", "hub_strategy", "optim", "dataloader_pin_memory"}
    assert mine.optim == theirs.optim.value
    assert mine.get_warmup_steps(100) == theirs.get_warmup_steps(100) == 0


def test_former_names():
    args = TrainingArguments(
        "out",
        evaluation_strategy="epoch",
        per_gpu_train_batch_size=3,
        per_gpu_eval_batch_size=5,
        no_cuda=True,
        group_by_length=True,
        warmup_ratio=0.25,
        include_inputs_for_metrics=True,
        save_safetensors=True,
        overwrite_output_dir=True,
        logging_dir="logs",
        half_precision_backend="auto",
        use_legacy_prediction_loop=False,
        fsdp_min_num_params=0,
        fsdp_transformer_layer_cls_to_wrap=None,
        activation_checkpointing=True,
    )
    assert (args.output_dir, args.eval_strategy, args.do_eval) == ("out", "epoch", True)
    assert (args.train_batch_size, args.eval_batch_size) == (3, 5)
    assert args.device == torch.device("cpu")
    assert args.train_sampling_strategy == "group_by_length"
    assert args.include_for_metrics == ["inputs"]
    assert args.gradient_checkpointing
    assert [args.get_warmup_steps(n) for n in (10, 100)] == [3, 25]  # rounded up
    assert TrainingArguments(warmup_ratio=0.25, warmup_steps=7).get_warmup_steps(100) == 7
    assert TrainingArguments(warmup_steps=0.1).get_warmup_steps(25) == 3
    # and they can be read
    assert (args.evaluation_strategy, args.per_gpu_train_batch_size, args.no_cuda) == ("epoch", 3, True)
    assert args.group_by_length
    assert not hasattr(args, "evaluation_strategies")


def test_subclasses_and_copies_keep_it_all():
    @dataclasses.dataclass
    class Mine(TrainingArguments):
        flavour: str = "plain"

    args = Mine(evaluation_strategy="steps", flavour="sour", logging_steps=7)
    assert (args.flavour, args.eval_strategy, args.eval_steps) == ("sour", "steps", 7)
    assert dataclasses.replace(args, seed=5).flavour == "sour"
    assert args.to_dict()["eval_strategy"] == "steps"
    assert "secret" not in TrainingArguments(hub_token="secret").to_json_string()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"evalution_strategy": "no"}, TypeError, "did you mean 'evaluation_strategy'"),
        ({"learning_rates": 1}, TypeError, "did you mean 'learning_rate'"),
        ({"evaluation_strategy": "no", "eval_strategy": "steps"}, TypeError, "former name of eval_strategy"),
        ({"eval_strategy": "step"}, ValueError, "choose one of no, steps, epoch"),
        ({"lr_scheduler_type": "lineer"}, ValueError, "did you mean 'linear'"),
        ({"optim": "adafactor"}, ValueError, "adamw_torch"),
        ({"train_sampling_strategy": "batch_rebalance"}, ValueError, "group_by_length"),
        ({"use_liger_kernel": True}, ValueError, "in chunks"),
        ({"auto_find_batch_size": True}, ValueError, "per_device_train_batch_size"),
        ({"save_safetensors": False}, ValueError, "save_safetensors=False is not implemented"),
        ({"adafactor": True}, ValueError, "not implemented"),
        ({"report_to": "mlflow"}, ValueError, "tensorboard, wandb, trackio"),
        ({"report_to": ["wandb"]}, ImportError, "pip install wandb"),
        ({"fp16": True, "bf16": True}, ValueError, "choose one"),
        ({"logging_steps": 0}, ValueError, "logging_steps is 0"),
        ({"eval_strategy": "steps", "eval_steps": 2.5}, ValueError, "eval_steps is 2.5"),
        ({"load_best_model_at_end": True}, ValueError, "expected the same"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 20, "save_steps": 30},
            ValueError,
            "a multiple of eval_steps",
        ),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, ValueError, "set eval_strategy"),
        ({"dataloader_prefetch_factor": 2}, ValueError, "dataloader_num_workers"),
        ({"per_device_train_batch_size": 0}, ValueError, "1 or more"),
        ({"label_smoothing_factor": 1.5}, ValueError, "expected 0 to 1"),
        ({"include_for_metrics": ["input"]}, ValueError, "'inputs', 'loss'"),
        ({"learning_rate": "5e-5"}, TypeError, "learning_rate is '5e-5', expected a number"),
        ({"num_train_epochs": -1}, ValueError, "num_train_epochs is -1, expected 0 or more"),
        ({"eval_accumulation_steps": 0}, ValueError, "eval_accumulation_steps is 0, expected None, or 1 or more"),
        ({"label_names": "labels"}, TypeError, "label_names is 'labels', expected a list of names"),
    ],
)
def test_what_is_wrong_is_said(given, error, message):
    with pytest.raises(error, match=message):
        TrainingArguments("out", **given)


@pytest.mark.parametrize("optim_args", ["amsgrad", "betas=(0.8,0.9)", "eps=small", "eps=1=2"])
def test_further_settings_of_the_optimizer_that_cannot_be_read(optim_args):
    with pytest.raises(ValueError, match=r"optim_args is .*expected 'name=value,name=value'.*adam_beta1"):
        optimizer_class(TrainingArguments("out", optim_args=optim_args))
    assert optimizer_class(TrainingArguments("out", optim_args="eps=1e-3, amsgrad=True"))[1]["amsgrad"] is True


def test_the_best_checkpoint_needs_one_for_each_evaluation():
    both = {"load_best_model_at_end": True, "save_strategy": "steps", "eval_strategy": "steps"}
    args = TrainingArguments(**both, eval_steps=0.1, save_steps=0.3)
    assert (args.metric_for_best_model, args.greater_is_better) == ("loss", False)
    assert TrainingArguments(**both, eval_steps=5, save_steps=10, metric_for_best_model="f1").greater_is_better
    with pytest.raises(ValueError, match="multiple"):
        TrainingArguments(**both, eval_steps=0.2, save_steps=0.3)


def test_a_number_of_processes_without_a_place_among_them(monkeypatch):
    """Some clusters set it for everything that they start."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert TrainingArguments(use_cpu=True).world_size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="RANK"):
        TrainingArguments(use_cpu=True)


def test_the_names_are_public_and_cost_nothing():
    code = "import minihf, sys; minihf.Trainer; print(sorted({'accelerate', 'datasets', 'transformers', 'peft'} & "
    code += "set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
