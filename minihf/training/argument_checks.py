"""What `TrainingArguments` refuse: values that are not implemented, that are out of range, or do not go together."""

import math
import os
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minihf.checkpoints.files import read_json
from minihf.training.distributed import together
from minihf.training.schedules import SchedulerType

if TYPE_CHECKING:
    from minihf.training.arguments import TrainingArguments

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "sgd", "adagrad", "rmsprop")
SAMPLING = ("random", "sequential", "group_by_length")
REPORTERS = ("tensorboard", "wandb", "trackio")
ON_METRICS = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)  # schedules that follow an evaluation

# Fields that must keep their default, and what to do instead.
UNIMPLEMENTED = {
    "optim_target_modules": "minihf.get_peft_model trains few parameters",
    "use_liger_kernel": "language-model losses are computed in chunks as it is",
    "liger_kernel_config": "language-model losses are computed in chunks as it is",
    "auto_find_batch_size": "choose a smaller per_device_train_batch_size, and more gradient_accumulation_steps",
    "accelerator_config": "minihf does not use accelerate",
    "parallelism_config": "models are copied (DDP) or sharded (fsdp=True)",
    "deepspeed": "fsdp=True shards a model over processes",
    "debug": "torch.autograd.set_detect_anomaly(True) finds where a NaN comes from",
    "skip_memory_metrics": "torch.cuda.max_memory_allocated() tells the peak",
}

# Keys of `fsdp_config` -> the values that are implemented, the default first.
FSDP = {
    "version": (2,),
    "reshard_after_forward": (True, False),  # let a layer's parameters go after its forward
    "cpu_offload": (False, True),  # keep parameters, gradients and moments in the CPU's memory
    "activation_checkpointing": (False, True),  # gradient_checkpointing
    "state_dict_type": ("FULL_STATE_DICT",),
    "auto_wrap_policy": ("TRANSFORMER_BASED_WRAP",),
    "transformer_layer_cls_to_wrap": (None,),
    "min_num_params": (0,),
    "cpu_ram_efficient_loading": (False,),
    "sync_module_states": (True,),
    "use_orig_params": (True,),
    "xla": (False,),
    "xla_fsdp_v2": (False,),
    "xla_fsdp_grad_ckpt": (False,),
}
# What former releases put into `fsdp` itself.
FSDP_WORDS = {
    "full_shard": {"reshard_after_forward": True},
    "shard_grad_op": {"reshard_after_forward": False},
    "offload": {"cpu_offload": True},
    "auto_wrap": {},
}


def check_implemented(args: "TrainingArguments") -> None:
    for each in fields(args):
        value = getattr(args, each.name)
        if each.name in UNIMPLEMENTED and value != each.default and value not in (None, [], {}):
            raise ValueError(f"{each.name}={value!r} is not implemented: {UNIMPLEMENTED[each.name]}")


def check_choices(args: "TrainingArguments") -> None:
    choices = {"optim": OPTIMIZERS, "train_sampling_strategy": SAMPLING}
    choices["include_num_input_tokens_seen"] = ("no", "all", "non_padding")
    levels = ("passive", "detail", "debug", "info", "warning", "error", "critical")
    choices |= {"log_level": levels, "log_level_replica": levels}
    for name, known in choices.items():
        if getattr(args, name) not in known:
            raise ValueError(f"{name}={getattr(args, name)!r} is not implemented: choose one of {', '.join(known)}")
    if isinstance(args.label_names, str):
        raise TypeError(f"label_names is {args.label_names!r}, expected a list of names")
    if unknown := set(args.include_for_metrics) - {"inputs", "loss"}:
        raise ValueError(f"include_for_metrics has {', '.join(unknown)}, expected some of 'inputs', 'loss'")


def check_numbers(args: "TrainingArguments") -> None:
    for each in fields(args):
        value = getattr(args, each.name)
        if type(each.default) in (int, float) and isinstance(value, str):  # YAML reads 5e-5 as a text
            raise TypeError(f"{each.name} is {value!r}, expected a number")
    if args.num_train_epochs < 0 and args.max_steps <= 0:
        raise ValueError(f"num_train_epochs is {args.num_train_epochs}, expected 0 or more")
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if not getattr(args, name) >= 1:
            raise ValueError(f"{name} is {getattr(args, name)}, expected 1 or more")
    for kind in ("logging", "eval", "save"):
        name = f"{kind}_steps"
        steps = getattr(args, name)
        if getattr(args, f"{kind}_strategy") != "steps":
            continue
        if not steps > 0 or (steps > 1 and steps != int(steps)):
            raise ValueError(f"{name} is {steps}, expected a whole number of steps, or a part of the run below 1")
        setattr(args, name, int(steps) if steps >= 1 else steps)
    for name in ("torch_empty_cache_steps", "eval_accumulation_steps"):
        if getattr(args, name) is not None and not getattr(args, name) >= 1:
            raise ValueError(f"{name} is {getattr(args, name)}, expected None, or 1 or more")
    if not args.warmup_steps >= 0 or not 0 <= (args.warmup_ratio or 0) <= 1:
        raise ValueError(
            f"warmup_steps is {args.warmup_steps}, expected 0 or more; warmup_ratio is {args.warmup_ratio}, "
            "expected 0 to 1"
        )
    if not 0 <= args.label_smoothing_factor <= 1:
        raise ValueError(f"label_smoothing_factor is {args.label_smoothing_factor}, expected 0 to 1")
    if (args.fp16 and args.bf16) or (args.fp16_full_eval and args.bf16_full_eval):
        raise ValueError("fp16 and bf16 are both set: choose one")
    if args.dataloader_num_workers == 0 and args.dataloader_prefetch_factor is not None:
        raise ValueError("dataloader_prefetch_factor is for workers: set dataloader_num_workers, too")


def check_best(args: "TrainingArguments") -> None:
    if args.lr_scheduler_type in ON_METRICS and args.eval_strategy == "no":
        raise ValueError(f"the schedule {args.lr_scheduler_type.value!r} follows a metric: set eval_strategy")
    if not args.load_best_model_at_end or args.save_strategy == "best":
        return
    if args.eval_strategy != args.save_strategy:
        raise ValueError(
            "load_best_model_at_end needs a checkpoint for each evaluation: eval_strategy is "
            f"{args.eval_strategy.value!r} and save_strategy {args.save_strategy.value!r}, expected the same"
        )
    rest = args.save_steps % args.eval_steps if args.eval_strategy == "steps" else 0
    if not math.isclose(rest, 0, abs_tol=1e-9) and not math.isclose(rest, args.eval_steps):
        raise ValueError(
            f"load_best_model_at_end needs save_steps, {args.save_steps}, to be a multiple of eval_steps, "
            f"{args.eval_steps}"
        )


def check_processes(args: "TrainingArguments") -> None:
    if args.local_rank not in (-1, 0, args.local_process_index):
        raise ValueError(
            f"local_rank is {args.local_rank}, and this is process {args.local_process_index}: start the script with "
            "torchrun, which tells it by the environment"
        )
    if args.save_on_each_node and args.world_size > int(os.environ.get("LOCAL_WORLD_SIZE", 1)):
        raise ValueError("save_on_each_node is not implemented: one process saves, in a folder that all machines read")
    if args.fsdp and not together():
        raise ValueError(
            "fsdp shards a model over several processes: start the script with torchrun --nproc-per-node=2 script.py"
        )
    if args.fsdp_config and not args.fsdp:
        raise ValueError("fsdp_config is for fsdp: set fsdp=True, too")


def fsdp_settings(fsdp: bool | str | list[str], config: dict[str, Any] | str | None) -> dict[str, Any]:
    """All settings of `fsdp_config`, which may be a JSON file and have keys that begin with fsdp_."""
    config = read_json(Path(config)) if isinstance(config, str) else config or {}
    config = {name.removeprefix("fsdp_"): value for name, value in config.items()}
    for word in [] if isinstance(fsdp, bool) else fsdp.split() if isinstance(fsdp, str) else fsdp:
        if word not in FSDP_WORDS:
            raise ValueError(f"fsdp={word!r} is not implemented: choose True, or some of {', '.join(FSDP_WORDS)}")
        config = FSDP_WORDS[word] | config
    for name, value in config.items():
        if name not in FSDP:
            raise ValueError(f"fsdp_config has {name!r}, which is not implemented: it may have {', '.join(FSDP)}")
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = config[name] = value.lower() == "true"
        if value not in FSDP[name]:
            known = " or ".join(map(repr, FSDP[name]))
            raise ValueError(f"fsdp_config[{name!r}]={value!r} is not implemented: choose {known}")
    return {name: values[0] for name, values in FSDP.items()} | config


def reporters(named: str | list[str] | None) -> list[str]:
    """The names of the trackers that logs go to. ImportError where one is not installed."""
    named = [named] if isinstance(named, str) else named or []
    installed = [name for name in REPORTERS if find_spec(name) is not None]
    if named == ["all"]:
        return installed
    chosen = [name for name in named if name != "none"]
    for name in chosen:
        if name not in REPORTERS:
            raise ValueError(f"report_to={name!r} is not implemented: choose some of {', '.join(REPORTERS)}, or 'none'")
        if name not in installed:
            raise ImportError(f"report_to={name!r} needs the package of that name: pip install {name}")
    return chosen
