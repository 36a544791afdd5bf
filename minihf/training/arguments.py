"""What a training run is told: `TrainingArguments`, and `Seq2SeqTrainingArguments` for models that write texts.

Names, order and defaults are those of `transformers` 5.23. Names that former releases had are accepted with the
meaning that they had (`evaluation_strategy`, `no_cuda`, `group_by_length`, …). A name that nobody ever knew is a
TypeError that says the nearest one; a value that is not implemented here is an error and never ignored.
"""

import json
import math
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from minihf.generation.config import GenerationConfig
from minihf.training.argument_checks import (
    ON_METRICS,
    check_best,
    check_choices,
    check_implemented,
    check_numbers,
    check_processes,
    fsdp_settings,
    reporters,
)
from minihf.training.distributed import join, launched, local_rank, main_first, rank, world_size
from minihf.training.former_names import RENAMED, FormerNames
from minihf.training.schedules import SchedulerType


class Choice(StrEnum):
    """A text out of a few; plain strings do as well."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"{value!r} is no {cls.__name__}: choose one of {', '.join(cls)}")


class IntervalStrategy(Choice):
    """When something is done: never, every so many steps, or at the end of each epoch."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"


class SaveStrategy(Choice):
    """When a checkpoint is saved; "best": whenever the metric is better than ever."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"
    BEST = "best"


class HubStrategy(Choice):
    """What is uploaded, and when: see `minihf.training.publishing.PushToHubCallback`."""

    END = "end"
    EVERY_SAVE = "every_save"
    CHECKPOINT = "checkpoint"
    ALL_CHECKPOINTS = "all_checkpoints"


@dataclass
class TrainingArguments(metaclass=FormerNames):
    """The settings of a `Trainer`.

    Steps are steps of the optimizer. Where a number of steps is below 1, it is a part of the whole run.

    Raises:
        TypeError: an argument does not exist.
        ValueError: a value is not implemented, or two do not go together.
    """

    output_dir: str | None = None  # checkpoints and results go here; None: "trainer_output"
    per_device_train_batch_size: int = 8
    num_train_epochs: float = 3.0  # may end within an epoch
    max_steps: int = -1  # if positive, instead of num_train_epochs
    learning_rate: float = 5e-5
    lr_scheduler_type: SchedulerType | str = "linear"
    lr_scheduler_kwargs: dict[str, Any] | str | None = None  # further arguments of that schedule
    warmup_steps: float = 0
    optim: str = "adamw_torch_fused"  # see argument_checks.OPTIMIZERS; adamw is minihf's own
    optim_args: str | None = None  # further arguments of the optimizer, "momentum=0.9,nesterov=True"
    weight_decay: float = 0.0  # not of biases and norms: see `decay_parameters`
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    optim_target_modules: None = None
    gradient_accumulation_steps: int = 1  # batches for one step
    average_tokens_across_devices: bool = True  # each label weighs the same, in whichever process
    max_grad_norm: float | None = 1.0  # gradients are scaled down to this norm; None, 0 or less: they stay
    label_smoothing_factor: float = 0.0
    bf16: bool = False  # autocast
    fp16: bool = False  # autocast, with a loss scale
    bf16_full_eval: bool = False  # evaluate a model that is bfloat16 throughout
    fp16_full_eval: bool = False
    tf32: bool | None = None  # on CUDA; None: as torch is set
    gradient_checkpointing: bool = False  # forget activations and compute them again in the backward
    gradient_checkpointing_kwargs: dict[str, Any] | str | None = None  # of torch.utils.checkpoint
    torch_compile: bool = False
    torch_compile_backend: str | None = None  # None: inductor
    torch_compile_mode: str | None = None
    use_liger_kernel: bool = False
    liger_kernel_config: dict[str, bool] | None = None
    use_cache: bool = False  # let the model return its cache
    neftune_noise_alpha: float | None = None  # noise on the embeddings in training (arXiv 2310.05914)
    torch_empty_cache_steps: int | None = None
    auto_find_batch_size: bool = False
    logging_strategy: IntervalStrategy | str = "steps"
    logging_steps: float = 500
    logging_first_step: bool = False
    log_on_each_node: bool = True
    logging_nan_inf_filter: bool = True  # a loss that is no number counts as the mean of the others
    include_num_input_tokens_seen: str | bool = "no"  # or "all", or "non_padding"
    log_level: str = "passive"  # of the logger "minihf": "debug", "info", …; "passive" leaves it
    log_level_replica: str = "warning"
    disable_tqdm: bool | None = None  # no progress bar: logs are printed a line each
    report_to: str | list[str] | None = "none"  # "tensorboard", "wandb", "trackio", or a list; "all": what is installed
    run_name: str | None = None
    project: str = "huggingface"
    trackio_space_id: str | None = None
    trackio_bucket_id: str | None = None
    trackio_static_space_id: str | bool | None = None
    eval_strategy: IntervalStrategy | str = "no"
    eval_steps: float | None = None  # None: logging_steps
    eval_delay: float = 0  # epochs or steps before the first evaluation
    per_device_eval_batch_size: int = 8
    prediction_loss_only: bool = False
    eval_on_start: bool = False
    eval_do_concat_batches: bool = True  # False: metrics see a list of batches
    eval_use_gather_object: bool = False
    eval_accumulation_steps: int | None = None  # batches before predictions move to the CPU; None: at the end
    include_for_metrics: list[str] = field(default_factory=list)  # "inputs", "loss"
    batch_eval_metrics: bool = False  # compute_metrics sees each batch, and is told the last: compute_result=True
    save_only_model: bool = False  # a run cannot go on from such a checkpoint
    save_strategy: SaveStrategy | str = "steps"
    save_steps: float = 500
    save_on_each_node: bool = False
    save_total_limit: int | None = None  # checkpoints to keep: the last ones, and the best
    enable_jit_checkpoint: bool = False  # SIGTERM saves a checkpoint in any case
    push_to_hub: bool = False  # upload saves to the hub, as hub_strategy says
    hub_token: str | None = field(default=None, repr=False)
    hub_private_repo: bool | None = None  # others cannot see a repository that is made
    hub_model_id: str | None = None  # "name" or "organization/name"; None: as output_dir is called
    hub_strategy: HubStrategy | str = "every_save"
    hub_always_push: bool = False  # also while the last upload is not finished
    hub_revision: str | None = None  # the branch to upload to; None: main
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None  # None: the loss
    greater_is_better: bool | None = None  # None: unless the metric's name ends in "loss"
    ignore_data_skip: bool = False  # a run that goes on begins the epoch's data anew
    restore_callback_states_from_checkpoint: bool = False  # also the settings that callbacks were made with
    full_determinism: bool = False
    seed: int = 42
    data_seed: int | None = None  # of the order of the examples; None: `seed`
    use_cpu: bool = False
    accelerator_config: None = None
    parallelism_config: None = None
    dataloader_drop_last: bool = False
    dataloader_num_workers: int = 0
    dataloader_pin_memory: bool = True
    dataloader_persistent_workers: bool = False  # they begin each epoch with a seed of its own
    dataloader_prefetch_factor: int | None = None
    dataloader_multiprocessing_context: str | None = None
    dataloader_in_order: bool = True
    remove_unused_columns: bool = True  # columns that the model's forward does not take
    label_names: list[str] | None = None  # None: what the model's forward calls them
    train_sampling_strategy: str = "random"  # or "sequential", "group_by_length"
    length_column_name: str = "length"
    ddp_find_unused_parameters: bool | None = None
    ddp_bucket_cap_mb: int | None = None
    ddp_broadcast_buffers: bool | None = None
    ddp_static_graph: bool | None = None
    ddp_backend: str | None = None  # None: NCCL on GPUs, gloo on the CPU
    ddp_timeout: int = 1800  # seconds that one process may be ahead of another
    fsdp: bool | str | list[str] | None = None  # True: each process has a part of the model, and not a copy (FSDP2)
    fsdp_config: dict[str, Any] | str | None = None  # see argument_checks.FSDP; or a JSON file
    deepspeed: dict[str, Any] | str | None = None
    debug: str | list[str] = ""
    skip_memory_metrics: bool = True
    do_train: bool = False  # these four are for scripts to read
    do_eval: bool = False
    do_predict: bool = False
    resume_from_checkpoint: str | None = None
    local_rank: int = -1  # of an old launcher; see local_process_index
    logging_dir: str | None = None  # of TensorBoard; None: $TENSORBOARD_LOGGING_DIR, or a new one in output_dir/runs
    warmup_ratio: float | None = None  # former: of the whole run, where warmup_steps is 0

    def __post_init__(self) -> None:
        check_implemented(self)
        self.output_dir = os.path.expanduser(self.output_dir or "trainer_output")
        self.lr_scheduler_type = SchedulerType(self.lr_scheduler_type)
        self.logging_strategy = IntervalStrategy(self.logging_strategy)
        self.eval_strategy = IntervalStrategy(self.eval_strategy)
        self.save_strategy = SaveStrategy(self.save_strategy)
        self.hub_strategy = HubStrategy(self.hub_strategy)
        for name in ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs"):
            if isinstance(getattr(self, name), str):  # from a command line
                setattr(self, name, json.loads(getattr(self, name)))
        if isinstance(self.include_num_input_tokens_seen, bool):
            self.include_num_input_tokens_seen = "all" if self.include_num_input_tokens_seen else "no"
        if self.torch_compile_mode is not None or self.torch_compile_backend is not None:
            self.torch_compile = True
        self.gradient_checkpointing = bool(self.gradient_checkpointing)
        self.disable_tqdm = bool(self.disable_tqdm)
        self.do_eval = self.do_eval or self.eval_strategy != "no"
        if self.eval_strategy == "steps" and not self.eval_steps:
            self.eval_steps = self.logging_steps
        if self.metric_for_best_model is None and (self.load_best_model_at_end or self.lr_scheduler_type in ON_METRICS):
            self.metric_for_best_model = "loss"
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not self.metric_for_best_model.endswith("loss")
        self.report_to = reporters(self.report_to)
        check_choices(self)
        check_numbers(self)
        check_best(self)
        if launched():
            _ = self.device  # where it meets the other processes
        if self.fsdp:
            self.fsdp_config = fsdp_settings(self.fsdp, self.fsdp_config)
            self.fsdp = True
            self.gradient_checkpointing |= self.fsdp_config["activation_checkpointing"]
        check_processes(self)

    def __getattr__(self, name: str) -> Any:
        """Former names can be read, too."""
        if name in RENAMED:
            return getattr(self, RENAMED[name])
        if name == "group_by_length":
            return self.train_sampling_strategy == name
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    @cached_property
    def device(self) -> torch.device:
        """Where it trains: the first GPU where there is one, and of several processes each has its own."""
        if launched():
            return join(self.ddp_backend, self.ddp_timeout, cpu=self.use_cpu)
        if self.use_cpu or not torch.accelerator.is_available():
            return torch.device("cpu")
        return torch.device(torch.accelerator.current_accelerator().type, 0)

    @property
    def train_batch_size(self) -> int:
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        return self.per_device_eval_batch_size

    @property
    def n_gpu(self) -> int:
        return int(self.device.type != "cpu")

    @property
    def world_size(self) -> int:
        """How many processes there are."""
        return world_size()

    @property
    def process_index(self) -> int:
        return rank()

    @property
    def local_process_index(self) -> int:
        """Of those on this machine."""
        return local_rank()

    @property
    def should_save(self) -> bool:
        """This process writes files."""
        return self.process_index == 0

    @property
    def should_log(self) -> bool:
        """This process speaks to people: `log_level` is for it, and `log_level_replica` for the others."""
        return (self.local_process_index if self.log_on_each_node else self.process_index) == 0

    def main_process_first(self, local: bool = True, desc: str = "work") -> AbstractContextManager:
        """The main process goes through the block before the others: `datasets.map`, which they find in its cache.

        Args:
            local: on each machine its own main process does, as where they share no folder.
            desc: of what is done; for readers.
        """
        return main_first(local=local)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else None

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Of a run of so many steps, those in which the rate rises."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(num_training_steps * (self.warmup_steps or self.warmup_ratio or 0))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them; tokens are left out."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "hub_token"}
        return json.loads(json.dumps(values, default=plain))

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2)


@dataclass
class Seq2SeqTrainingArguments(TrainingArguments):
    """`TrainingArguments`, and how texts are written in evaluation."""

    sortish_sampler: bool = False
    predict_with_generate: bool = False  # metrics see what the model writes, not its logits
    generation_max_length: int | None = None  # None: as the model's generation config says
    generation_num_beams: int | None = None
    generation_config: str | Path | GenerationConfig | None = None  # of the model from now on; or where one is saved

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sortish_sampler:
            raise ValueError("sortish_sampler is not implemented: use train_sampling_strategy='group_by_length'")


def plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)
