"""`Trainer`: the course's class over the loop of `minihf.training.loop`.

Its arguments, methods, events and logs are those of `transformers` 5.23, and with one seed so are the order of the
examples, the losses and the weights. Methods without an underscore are meant to be overridden. It differs where the
reference errs: a head that does not divide its loss by `num_items_in_batch` gets the mean over a step's batches, and
the loss of an evaluation is the mean over examples; and workers that stay (`dataloader_persistent_workers`) draw other
numbers in each epoch after the first, so that a run goes on from any checkpoint exactly.

The same script under `torchrun --nproc-per-node=N` trains in N processes: each has a copy of the model, or with
`TrainingArguments(fsdp=True)` a part of it. The data are dealt out, and what is measured is gathered.
"""

import inspect
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Sampler

from minihf.checkpoints.files import read_json, write_json
from minihf.data.collators import DataCollatorWithPadding, default_data_collator
from minihf.training import publishing
from minihf.training.arguments import TrainingArguments
from minihf.training.batch_loss import batch_loss, on_device
from minihf.training.callbacks import (
    CallbackHandler,
    DefaultFlowCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from minihf.training.checkpoints import write_model
from minihf.training.distributed import anywhere
from minihf.training.evaluation import evaluation_loop, predict_batch
from minihf.training.facts import COUNT, facts_of
from minihf.training.groups import parameter_groups
from minihf.training.loop import count_labels
from minihf.training.metrics import EvalLoopOutput, PredictionOutput, TrainOutput, speed_metrics
from minihf.training.noise import noisy_embeddings
from minihf.training.optimizers import optimizer_class
from minihf.training.order import Place, keep_columns, length, make_loader, train_sampler
from minihf.training.parallel import full_weights, in_parallel, is_sharded
from minihf.training.progress import PrinterCallback, ProgressCallback, show_table
from minihf.training.reporting import callbacks_for
from minihf.training.restoring import ARGUMENTS, STATE
from minihf.training.resuming import checkpoint_to_resume, save_run
from minihf.training.run import run
from minihf.training.schedules import get_scheduler
from minihf.training.seeds import enable_full_determinism, set_seed
from minihf.training.signals import stop_on
from minihf.training.trainer_checks import check_head, check_kinds, check_parts


class Trainer:
    """Trains a model, evaluates it, predicts with it.

    Args:
        model: one of minihf's with a head, one with an adapter, or any module whose output has a loss first.
        args: the settings; None: the defaults.
        data_collator: makes a batch of examples; None: pads with the tokenizer if there is one, else stacks.
        train_dataset, eval_dataset: of the `datasets` library or torch, streams too; or lists of dicts. To evaluate on
            several, a dict of them.
        processing_class: the tokenizer; it is saved with the model.
        model_init: makes the model, instead of `model`; `train` makes it anew each time.
        compute_loss_func: (outputs, labels, num_items_in_batch=…) -> the loss.
        compute_metrics: an `EvalPrediction` -> a dict of numbers.
        callbacks: `TrainerCallback`s, or classes of them.
        optimizers: an optimizer and a schedule, instead of those that the arguments describe.
        optimizer_cls_and_kwargs: the optimizer's class and arguments; its groups are made as usual.
        preprocess_logits_for_metrics: (logits, labels) -> what is kept of the logits of each batch.
        tokenizer: the former name of `processing_class`.
    """

    loss_is_scaled_for_ga: bool | None = None  # see compute_loss
    hub_model_id: str | None = None  # the repository's whole name, once it is known
    push_in_progress: Any = None  # the future of an upload beside the training

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[[], nn.Module] | None = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable | None = None,
        callbacks: list[TrainerCallback | type[TrainerCallback]] | None = None,
        optimizers: tuple[Optimizer | None, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable | None = None,
        *,
        tokenizer: Any = None,
    ):
        self.args = args = TrainingArguments("tmp_trainer") if args is None else args
        check_kinds(model, args)
        self._set_seed()
        if (model is None) == (model_init is None):
            raise ValueError("a Trainer needs a model or a model_init, which makes one: give one of them")
        if processing_class is not None and tokenizer is not None:
            raise TypeError("tokenizer is the former name of processing_class: give one of them")
        level = args.log_level if args.should_log else args.log_level_replica
        if level != "passive":
            logging.getLogger("minihf").setLevel("DEBUG" if level == "detail" else level.upper())
        if args.tf32 is not None:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
        self.model_init, self.compute_loss_func = model_init, compute_loss_func
        self.compute_metrics, self.preprocess_logits_for_metrics = compute_metrics, preprocess_logits_for_metrics
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.processing_class = tokenizer if processing_class is None else processing_class
        self.optimizer, self.lr_scheduler = optimizers
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self.model = self.prepare(self.call_model_init() if model is None else model)
        pads = hasattr(self.processing_class, "pad")
        default = DataCollatorWithPadding(self.processing_class) if pads else default_data_collator
        self.data_collator = default if data_collator is None else data_collator
        check_parts(self)
        loss_of = inspect.signature(self.compute_loss).parameters
        self.overrides_loss = type(self).compute_loss is not Trainer.compute_loss
        self.loss_names_count = COUNT in loss_of
        self.loss_takes_count = COUNT in loss_of or any(each.kind is each.VAR_KEYWORD for each in loss_of.values())

        self.callback_handler = CallbackHandler(
            [DefaultFlowCallback, *callbacks_for(args.report_to), *(callbacks or [])],
            self.model,
            self.processing_class,
            self.optimizer,
            self.lr_scheduler,
        )
        self.add_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        if args.push_to_hub:
            self.add_callback(publishing.PushToHubCallback(self))
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        self.state, self.control, self.place = self.fresh_state(), TrainerControl(), Place()
        self.is_in_train = self.made_scheduler = False
        self.scaler = torch.amp.GradScaler(args.device.type, enabled=args.fp16)
        self.tell("on_init_end")

    # Making

    def _set_seed(self) -> None:
        enable_full_determinism(self.args.seed) if self.args.full_determinism else set_seed(self.args.seed)

    def call_model_init(self, trial: None = None) -> nn.Module:
        """A new model. Of a search for hyperparameters `model_init` would be given the trial; there is none."""
        takes = inspect.signature(self.model_init).parameters.values()
        required = [x for x in takes if x.default is x.empty and x.kind is x.POSITIONAL_OR_KEYWORD]
        return self.model_init(*[trial for _ in required])

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model, on its device; and what is to be known of it."""
        self.bare = model.get_base_model() if hasattr(model, "peft_config") else model
        check_head(self.bare, bool(self.compute_loss_func) or type(self).compute_loss is not Trainer.compute_loss)
        self.facts = facts_of(self.bare)
        self.label_names = self.facts.label_names if self.args.label_names is None else self.args.label_names
        self.model_wrapped = None
        return model.to(self.args.device)

    def wrap(self) -> None:
        """`model_wrapped` is what is trained: of several processes, the model in DDP, or the sharded model itself."""
        if self.model_wrapped is None:
            self.model_wrapped = in_parallel(self.model, self.args)

    def fresh_state(self) -> TrainerState:
        local, world = self.is_local_process_zero(), self.is_world_process_zero()
        size = self.args.train_batch_size
        return TrainerState(train_batch_size=size, is_local_process_zero=local, is_world_process_zero=world)

    @property
    def tokenizer(self) -> Any:
        """The former name of `processing_class`."""
        return self.processing_class

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self.processing_class = tokenizer

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Of several processes each has its own batches, as many as the others; so it must be with one of your own.

        A run goes on exactly with one of your own, too, unless its workers stay (`persistent_workers`) and draw.
        """
        if self.train_dataset is None:
            raise ValueError("to train, the Trainer needs a train_dataset")
        return self.make_dataloader(self.train_dataset, self.args.train_batch_size, self._get_train_sampler(), True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Of `eval_dataset`, or the one of that name, or the trainer's."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("to evaluate, the Trainer needs an eval_dataset")
        return self.make_dataloader(dataset, self.args.eval_batch_size, None, False)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return self.make_dataloader(test_dataset, self.args.eval_batch_size, None, False)

    def make_dataloader(self, dataset: Any, batch_size: int, sampler: Sampler | None, train: bool) -> DataLoader:
        dataset, collate = self._with_its_columns(dataset)
        return make_loader(dataset, collate, batch_size, self.args, sampler, train=train)

    def _with_its_columns(self, dataset: Any) -> tuple[Any, Callable]:
        """A dataset and its collator, of which one leaves out columns that the model does not take."""
        if not self.args.remove_unused_columns:
            return dataset, self.data_collator
        names = [*dict.fromkeys([*self.facts.parameters, "label", "label_ids", *self.label_names])]
        return keep_columns(dataset, self.data_collator, names)

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        """A table of the `datasets` library without those columns. Of anything else the collator leaves them out."""
        return self._with_its_columns(dataset)[0]

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return train_sampler(dataset, self.args, self.facts.main_input)

    def num_examples(self, dataloader: DataLoader) -> int:
        """How many examples there are; those of a loader without a length are not known, and count as none."""
        return length(getattr(dataloader, "dataset", None)) or (length(dataloader) or 0) * self.args.train_batch_size

    # Optimizer and schedule

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        self.create_optimizer()
        self.create_scheduler(num_training_steps)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None:
            made = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args)
            cls, settings = made
            self.optimizer = cls(
                parameter_groups(self.model if model is None else model, self.args.weight_decay), **settings
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = get_scheduler(
                self.args.lr_scheduler_type,
                self.optimizer if optimizer is None else optimizer,
                self.args.get_warmup_steps(num_training_steps),
                num_training_steps,
                self.args.lr_scheduler_kwargs,
            )
            self.made_scheduler = True
        return self.lr_scheduler

    get_optimizer_cls_and_kwargs = staticmethod(optimizer_class)

    # Training

    def train(
        self,
        resume_from_checkpoint: str | os.PathLike | bool | None = None,
        trial: None = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train as the arguments say.

        Args:
            resume_from_checkpoint: a checkpoint to go on from; True: the last one in `output_dir`.
            trial: must be None; there is no search for hyperparameters.
            ignore_keys_for_eval: see `evaluate`.

        On SIGTERM the step is finished, a checkpoint saved, and the process ends (SystemExit, status 143).
        """
        if trial is not None:
            raise ValueError("trial is not implemented: call train for each setting, with model_init")
        args, folder = self.args, checkpoint_to_resume(resume_from_checkpoint, self.args.output_dir)
        if self.model_init is not None:
            self._set_seed()
            self.model = self.prepare(self.call_model_init())
            self.optimizer = self.lr_scheduler = None
        if args.gradient_checkpointing:
            self.bare.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        if args.torch_compile:
            self.bare.compile(backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode)
        self.is_in_train = True
        try:
            with stop_on(signal.SIGTERM) as stop, noisy_embeddings(self.bare, args.neftune_noise_alpha):
                output = run(self, folder, ignore_keys_for_eval, stop)
        finally:
            self.is_in_train = False
            if args.gradient_checkpointing:
                self.bare.gradient_checkpointing_disable()
        if anywhere(bool(stop)):
            sys.exit(128 + signal.SIGTERM)
        return output

    def _count(self, batches: list[Any]) -> Tensor | None:
        """The labels that count in a step's batches, where its loss is to be divided by their number."""
        if not (self.facts.counts_labels or self.compute_loss_func is not None or self.smooths):
            return None
        number = count_labels(batches, shifted=self.facts.shifts_labels)
        return number if number is None else number.to(self.args.device)

    @property
    def smooths(self) -> bool:
        several = getattr(getattr(self.bare, "config", None), "problem_type", None) == "multi_label_classification"
        return self.args.label_smoothing_factor > 0 and not several

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Add the gradient of a batch to the parameters'; returns its loss, as a part of the step's."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        self.divided = False
        with self.compute_loss_context_manager():
            loss = self.loss_of(model, inputs, num_items_in_batch)
        # A loss divided by the labels of all the step's batches is a part of the step's already; a mean is not yet.
        scaled = self.divided or (self.overrides_loss and self.loss_names_count)
        if not (scaled if self.loss_is_scaled_for_ga is None else self.loss_is_scaled_for_ga):
            loss = loss / self.batches_in_step
        elif self.args.average_tokens_across_devices:
            loss = loss * self.args.world_size  # as gradients are averaged over the processes
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0 and torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.scaler.scale(loss).backward()
        return loss.detach()

    def loss_of(self, model: nn.Module, inputs: dict[str, Any], num_items: Any, **options: Any) -> Any:
        """`compute_loss`, or what overrides it: in former releases it took no `num_items_in_batch`."""
        if self.loss_takes_count:
            options[COUNT] = num_items
        return self.compute_loss(model, inputs, **options)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch, and with `return_outputs` the model's output besides.

        Override it for a loss of your own. One that takes `num_items_in_batch`, the labels in all batches of the step,
        of all processes, must divide by it; any other is taken for a mean over the batch. `loss_is_scaled_for_ga`, an
        attribute of the trainer, says otherwise: True, it is a part of the step's loss already; False, it is a mean.
        """
        loss, outputs, self.divided = batch_loss(
            model,
            self.bare,
            self.facts,
            inputs,
            num_items_in_batch,
            smoothing=self.args.label_smoothing_factor if self.smooths else 0,
            loss_func=self.compute_loss_func,
            use_cache=self.args.use_cache,
        )
        return (loss, outputs) if return_outputs else loss

    def compute_loss_context_manager(self) -> Any:
        """What the forward runs in: autocast, in bf16 or fp16."""
        dtype = self.args.autocast_dtype
        return nullcontext() if dtype is None else torch.autocast(self.args.device.type, dtype)

    def _prepare_inputs(self, inputs: Any) -> dict[str, Any]:
        """A batch on the model's device."""
        return on_device(inputs, self.args.device)

    # Checkpoints

    def save_checkpoint(self) -> None:
        """`output_dir/checkpoint-N`, from which `train` can go on; and older ones go, if there is a limit."""
        save_run(self)

    @property
    def saved_tokenizer(self) -> Any:
        tokenizer = self.processing_class
        return getattr(self.data_collator, "tokenizer", None) if tokenizer is None else tokenizer

    def save_model(self, output_dir: str | os.PathLike | None = None, _internal_call: bool = False) -> None:
        """The model, or its adapter, the tokenizer and the arguments, for `from_pretrained`.

        Of several processes the main one writes; all call it where the model is sharded. With `push_to_hub` in the
        arguments, `Trainer.push_to_hub` follows.
        """
        weights = full_weights(self.model) if is_sharded(self.model) else None
        if self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_model(folder, self.model, weights)
            if self.saved_tokenizer is not None:
                self.saved_tokenizer.save_pretrained(folder)
            write_json(folder / ARGUMENTS, self.args.to_dict())
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def save_state(self) -> None:
        """`trainer_state.json`, with all logs, in `output_dir`."""
        if self.args.should_save:
            self.state.save_to_json(Path(self.args.output_dir, STATE))

    # The hub

    init_hf_repo = publishing.init_hf_repo
    create_model_card = publishing.create_model_card
    push_to_hub = publishing.push_to_hub

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The loss and the metrics, of several datasets under each one's name.

        Args:
            eval_dataset: instead of the trainer's; or a dict of several.
            ignore_keys: fields of the model's output that metrics do not see.
            metric_key_prefix: what the names of metrics begin with.
        """
        own = eval_dataset is None
        eval_dataset = self.eval_dataset if own else eval_dataset
        if isinstance(eval_dataset, dict):
            metrics = {}
            for name, each in eval_dataset.items():
                metrics |= self.evaluate(name if own else each, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        loader, started = self.get_eval_dataloader(eval_dataset), time.time()
        loss_only = True if self.compute_metrics is None else None
        output = self.evaluation_loop(loader, "Evaluation", loss_only, ignore_keys, metric_key_prefix)
        metrics = self.with_speed(output, metric_key_prefix, started)
        self.log(metrics)
        self.tell("on_evaluate", metrics=metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predictions for all examples, as arrays; labels and metrics too, where there are labels.

        What differs in length is filled up with -100.
        """
        loader, started = self.get_test_dataloader(test_dataset), time.time()
        output = self.evaluation_loop(loader, "Prediction", None, ignore_keys, metric_key_prefix)
        metrics = self.with_speed(output, metric_key_prefix, started)
        self.tell("on_predict", metrics=metrics)
        return PredictionOutput(output.predictions, output.label_ids, metrics)

    def with_speed(self, output: EvalLoopOutput, prefix: str, started: float) -> dict[str, float]:
        steps = math.ceil(output.num_samples / (self.args.eval_batch_size * self.args.world_size))
        return output.metrics | speed_metrics(prefix, started, output.num_samples, steps)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Predict all batches and compute the metrics: `minihf.training.evaluation`."""
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        return evaluation_loop(self, dataloader, loss_only, ignore_keys, metric_key_prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Loss, logits and labels of a batch, each None where there are none."""
        return predict_batch(self, model, inputs, prediction_loss_only, ignore_keys)

    # Logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Put something into the history, and show it to callbacks."""
        logs["epoch"] = self.state.epoch
        if self.args.include_num_input_tokens_seen != "no":
            seen = logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
            if start_time is not None:
                logs |= speed_metrics("train", start_time, num_tokens=seen - self.tokens_before)
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.tell("on_log", logs=logs)

    def log_metrics(self, split: str, metrics: dict[str, float]) -> None:
        """Show metrics, a line each."""
        if self.is_world_process_zero():
            show_table(f"{split} metrics", metrics)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write `{split}_results.json`, and with `combined` add them to `all_results.json`."""
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir)
        write_json(folder / f"{split}_results.json", dict(sorted(metrics.items())))
        together = folder / "all_results.json"
        if combined:
            earlier = read_json(together) if together.exists() else {}
            write_json(together, dict(sorted({**earlier, **metrics}.items())))

    def floating_point_ops(self, inputs: Any) -> float:
        """Operations of a batch's forward and backward: 6 for each token and each parameter that is no embedding."""
        ids = inputs.get(self.facts.main_input)
        return 6.0 * ids.numel() * self.facts.dense_parameters if isinstance(ids, Tensor) else 0.0

    # Callbacks

    def tell(self, event: str, **kwargs: Any) -> None:
        self.control = self.callback_handler.call_event(event, self.args, self.state, self.control, **kwargs)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        self.callback_handler.add_callback(callback)

    def pop_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Take out a callback, or the first of a class, and return it."""
        return self.callback_handler.pop_callback(callback)

    def remove_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        self.callback_handler.pop_callback(callback)

    def is_local_process_zero(self) -> bool:
        """This is the main process of its machine."""
        return self.args.local_process_index == 0

    def is_world_process_zero(self) -> bool:
        """This is the main process of all."""
        return self.args.process_index == 0
