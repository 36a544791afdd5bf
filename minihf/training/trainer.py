"""`Trainer`: the course's class over the loop of `minihf.training.loop`.

Its arguments, methods, events and logs are those of `transformers` 5.23, and with one seed so are the order of the
examples, the losses and the weights. Methods without an underscore are meant to be overridden. It differs where the
reference errs: a head that does not divide its loss by `num_items_in_batch` gets the mean over a step's batches, and
the loss of an evaluation is the mean over examples. A run goes on from any checkpoint exactly.
"""

import inspect
import logging
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Sampler

from minihf.checkpoints.files import read_json, save_weights, write_json
from minihf.data.collators import DataCollatorWithPadding, default_data_collator
from minihf.models.base import Model
from minihf.nn.output import Output
from minihf.training import publishing
from minihf.training.arguments import TrainingArguments
from minihf.training.callbacks import (
    STATE_NAME,
    CallbackHandler,
    DefaultFlowCallback,
    ExportableState,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    prefixed,
)
from minihf.training.checkpoints import checkpoints_in, last_checkpoint, load_checkpoint, rotate, save_checkpoint
from minihf.training.evaluation import evaluation_loop, find_labels, predict_batch
from minihf.training.greedy import GreedyLR
from minihf.training.groups import parameter_groups
from minihf.training.loop import Step, count_labels, train_steps
from minihf.training.metrics import EvalLoopOutput, PredictionOutput, TrainOutput, nested, smoothed_loss, speed_metrics
from minihf.training.noise import noisy_embeddings
from minihf.training.optimizers import optimizer_class
from minihf.training.order import Place, keep_columns, length, make_loader, set_epoch, train_sampler
from minihf.training.progress import PrinterCallback, ProgressCallback, show_table
from minihf.training.reporting import callbacks_for
from minihf.training.schedules import get_scheduler
from minihf.training.seeds import enable_full_determinism, random_state, set_random_state, set_seed
from minihf.training.signals import stop_on
from minihf.training.sums import Losses, tokens_in

logger = logging.getLogger(__name__)

COUNT = "num_items_in_batch"
FOLLOW_METRICS = (torch.optim.lr_scheduler.ReduceLROnPlateau, GreedyLR)


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
        self.seed()
        if (model is None) == (model_init is None):
            raise ValueError("a Trainer needs a model or a model_init, which makes one: give one of them")
        if processing_class is not None and tokenizer is not None:
            raise TypeError("tokenizer is the former name of processing_class: give one of them")
        if args.log_level != "passive":
            logging.getLogger("minihf").setLevel("DEBUG" if args.log_level == "detail" else args.log_level.upper())
        if args.tf32 is not None:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
        self.model_init, self.compute_loss_func = model_init, compute_loss_func
        self.compute_metrics, self.preprocess_logits_for_metrics = compute_metrics, preprocess_logits_for_metrics
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.processing_class = tokenizer if processing_class is None else processing_class
        self.optimizer, self.lr_scheduler = optimizers
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self.model = self.prepare(model_init() if model is None else model)
        pads = hasattr(self.processing_class, "pad")
        default = DataCollatorWithPadding(self.processing_class) if pads else default_data_collator
        self.data_collator = default if data_collator is None else data_collator
        self.check()
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
        self.state, self.control, self.place = TrainerState(), TrainerControl(), Place()
        self.is_in_train = self.made_scheduler = False
        self.scaler = torch.amp.GradScaler(args.device.type, enabled=args.fp16)
        self.tell("on_init_end")

    # Making

    def seed(self) -> None:
        enable_full_determinism(self.args.seed) if self.args.full_determinism else set_seed(self.args.seed)

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model, on its device; and what its forward takes."""
        self.bare = model.get_base_model() if hasattr(model, "peft_config") else model
        own_loss = self.compute_loss_func or type(self).compute_loss is not Trainer.compute_loss
        if isinstance(self.bare, Model) and not find_labels(self.bare) and not own_loss:
            raise ValueError(
                f"{type(self.bare).__name__} has no head, and gives no loss: use a model for your task, such as "
                "AutoModelForSequenceClassification"
            )
        self.parameters = inspect.signature(self.bare.forward).parameters
        # The loss of such a head is a sum over labels, divided by what it is told: right over several batches.
        self.counts_labels = COUNT in self.parameters
        self.shifts_labels = getattr(self.bare, "can_generate", False) and not self.writes_apart
        self.main_input = getattr(self.bare, "main_input_name", "input_ids")
        self.label_names = find_labels(self.bare) if self.args.label_names is None else self.args.label_names
        tables = {id(module.weight) for module in self.bare.modules() if isinstance(module, nn.Embedding)}
        self.dense_parameters = sum(p.numel() for p in self.bare.parameters() if id(p) not in tables)
        return model.to(self.args.device)

    @property
    def writes_apart(self) -> bool:
        """Its labels are what a decoder of its own writes."""
        return getattr(getattr(self.bare, "config", None), "is_encoder_decoder", False)

    def check(self) -> None:
        args = self.args
        if args.eval_strategy != "no" and self.eval_dataset is None:
            raise ValueError(f"eval_strategy is {args.eval_strategy.value!r}, which needs an eval_dataset")
        if args.save_strategy == "best" and args.metric_for_best_model is None:
            raise ValueError("save_strategy='best' needs metric_for_best_model")
        if self.optimizer is not None and self.optimizer_cls_and_kwargs is not None:
            raise ValueError("optimizers and optimizer_cls_and_kwargs are both given: give one of them")
        if self.model_init is not None and (self.optimizer is not None or self.lr_scheduler is not None):
            raise ValueError("model_init makes a model that these optimizers do not know: override create_optimizer")
        if self.train_dataset is not None and length(self.train_dataset) is None and args.max_steps <= 0:
            raise ValueError("the train_dataset does not tell its length, so max_steps must be set")
        if not callable(self.data_collator):
            raise TypeError(f"data_collator is a {type(self.data_collator).__name__}, expected a function of examples")
        told = self.compute_metrics is None or "compute_result" in inspect.signature(self.compute_metrics).parameters
        if args.batch_eval_metrics and not told:
            raise ValueError("with batch_eval_metrics compute_metrics takes compute_result, True at the last batch")

    @property
    def tokenizer(self) -> Any:
        return self.processing_class

    # Data

    def get_train_dataloader(self) -> DataLoader:
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
        collate = self.data_collator
        if self.args.remove_unused_columns:
            names = [*dict.fromkeys([*self.parameters, "label", "label_ids", *self.label_names])]
            dataset, collate = keep_columns(dataset, collate, names)
        return make_loader(dataset, collate, batch_size, self.args, sampler, train=train)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return train_sampler(dataset, self.args, self.main_input)

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
        folder = self.resolve(resume_from_checkpoint)
        args = self.args
        if self.model_init is not None:
            self.seed()
            self.model = self.prepare(self.model_init())
            self.optimizer = self.lr_scheduler = None
        if args.gradient_checkpointing:
            self.bare.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        if args.torch_compile:
            self.bare.compile(backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode)
        self.is_in_train = True
        try:
            with stop_on(signal.SIGTERM) as stop, noisy_embeddings(self.bare, args.neftune_noise_alpha):
                output = self.run(folder, ignore_keys_for_eval, stop)
        finally:
            self.is_in_train = False
            if args.gradient_checkpointing:
                self.bare.gradient_checkpointing_disable()
        if stop:
            sys.exit(128 + stop.signal)
        return output

    def resolve(self, resume: str | os.PathLike | bool | None) -> Path | None:
        if not resume:
            return None
        if resume is not True:
            return Path(resume)
        found = last_checkpoint(self.args.output_dir)
        if found is None:
            raise ValueError(f"there is no checkpoint in {self.args.output_dir!r} to resume from")
        return found

    def run(self, folder: Path | None, ignore_keys: list[str] | None, stop: Any) -> TrainOutput:
        args, loader = self.args, self.get_train_dataloader()
        accumulate = args.gradient_accumulation_steps
        batches = length(loader)
        if batches == 0:
            raise ValueError("the train_dataset gives no batch: it is empty, or smaller than a batch (drop_last)")
        steps = None if batches is None else math.ceil(batches / accumulate)  # of an epoch
        max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps)
        epochs = sys.maxsize if steps is None else math.ceil(max_steps / steps)
        batches = max_steps * accumulate if batches is None else batches

        self.state, self.place = TrainerState(train_batch_size=args.train_batch_size), Place()
        self.state.compute_steps(args, max_steps)
        if self.made_scheduler:
            self.lr_scheduler, self.made_scheduler = None, False
        self.create_optimizer_and_scheduler(max_steps)
        present = self.restore(folder, steps or max_steps)
        self.state.max_steps, self.state.num_train_epochs = max_steps, epochs
        handler = self.callback_handler
        handler.model, handler.optimizer, handler.lr_scheduler = self.model, self.optimizer, self.lr_scheduler
        handler.train_dataloader = loader
        logger.info("training: %d steps of %d examples", max_steps, args.train_batch_size * accumulate)

        first_step, self.started, self.saved_at = self.state.global_step, time.time(), None
        self.tokens_before = self.state.num_input_tokens_seen
        self.losses = self.restored_losses(first_step)
        self.model.zero_grad()
        self.tell("on_train_begin")
        if args.eval_on_start and folder is None:
            self.evaluate(ignore_keys=ignore_keys)
        if present is not None and (self.place.given == 0 or first_step >= max_steps):
            set_random_state(present)
            present = None if self.place.given == 0 else present
        # A run may go on from its last step: then what follows an epoch is left to do.
        while self.place.epoch < epochs and (self.state.global_step < max_steps or present is not None):
            self.tell("on_epoch_begin")
            set_epoch(loader, self.place.epoch)
            step = None
            for step in self.epoch_steps(loader, present) if self.state.global_step < max_steps else ():
                self.after_step(step, batches, ignore_keys)
                if stop or self.control.should_epoch_stop or self.control.should_training_stop:
                    break
            if stop:
                break
            if step is None and present is None:
                logger.warning("the data ended after %d steps of %d", self.state.global_step, max_steps)
                self.control.should_training_stop = True
            present = None
            self.place.epoch, self.place.given = self.place.epoch + 1, 0
            self.tell("on_epoch_end")
            self.log_evaluate_save(step, ignore_keys)
            if self.control.should_training_stop or stop:
                break
        if stop and self.saved_at != self.state.global_step:
            self.save_checkpoint()
            self.tell("on_save")
        return self.finish(first_step, stopped=bool(stop))

    def epoch_steps(self, loader: Any, present: tuple | None) -> Iterator[Step]:
        return train_steps(
            self.model,
            self.place.batches(loader, present),
            self.optimizer,
            None if isinstance(self.lr_scheduler, FOLLOW_METRICS) else self.lr_scheduler,
            gradient_accumulation_steps=self.args.gradient_accumulation_steps,
            max_grad_norm=self.args.max_grad_norm,
            backward=self.backward,
            count=self.count,
            scaler=self.scaler,
            tell=self.tell,
        )

    def count(self, batches: list[Any]) -> Tensor | None:
        """The labels that count in a step's batches, where its loss is to be divided by their number."""
        if not (self.counts_labels or self.compute_loss_func is not None or self.smooths):
            return None
        number = count_labels(batches, shifted=self.shifts_labels)
        return number if number is None else number.to(self.args.device)

    @property
    def smooths(self) -> bool:
        several = getattr(getattr(self.bare, "config", None), "problem_type", None) == "multi_label_classification"
        return self.args.label_smoothing_factor > 0 and not several

    def backward(self, model: nn.Module, batch: Any, num_items: Tensor | None, batches: int) -> Tensor:
        self.batches_in_step = batches
        loss = self.training_step(model, batch, num_items)
        before = self.losses.unlogged / (1 + self.state.global_step - self.losses.logged_at)
        return torch.where(loss.isfinite(), loss, before) if self.args.logging_nan_inf_filter else loss

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
        must divide by it; any other is taken for a mean over the batch. `loss_is_scaled_for_ga`, an attribute of the
        trainer, says otherwise: True, it is a part of the step's loss already; False, it is a mean.
        """
        inputs, labels = dict(inputs), None
        if self.smooths or self.compute_loss_func is not None:
            labels = inputs.pop("labels", None)
        if labels is not None and self.writes_apart and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = self.bare.prepare_decoder_input_ids_from_labels(labels=labels)
        if labels is None and self.counts_labels and num_items_in_batch is not None:
            inputs[COUNT] = num_items_in_batch
        if "use_cache" in self.parameters:
            inputs.setdefault("use_cache", self.args.use_cache)
        outputs = model(**inputs)
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        elif labels is not None:
            logits = outputs["logits"] if isinstance(outputs, Mapping | Output) else outputs[0]
            loss = smoothed_loss(
                logits,
                labels,
                self.args.label_smoothing_factor,
                shifted=self.shifts_labels,
                num_items_in_batch=num_items_in_batch,
            )
        elif isinstance(outputs, Mapping | Output):
            if "loss" not in outputs:
                raise ValueError(
                    f"the model gave no loss, only {', '.join(outputs)}; its inputs were {', '.join(inputs)}. Are the "
                    "labels there, under the name that its forward has for them?"
                )
            loss = outputs["loss"]
        else:
            loss = outputs[0]
        self.divided = num_items_in_batch is not None and (
            self.counts_labels or self.compute_loss_func is not None or labels is not None
        )
        return (loss, outputs) if return_outputs else loss

    def compute_loss_context_manager(self) -> Any:
        """What the forward runs in: autocast, in bf16 or fp16."""
        dtype = self.args.autocast_dtype
        return nullcontext() if dtype is None else torch.autocast(self.args.device.type, dtype)

    def _prepare_inputs(self, inputs: Any) -> dict[str, Any]:
        """A batch on the model's device."""
        if not isinstance(inputs, Mapping) or not inputs:
            raise ValueError(
                f"a batch is a dict of tensors; the collator made {type(inputs).__name__} of the examples"
                + (" (an empty one: do the columns bear the names that the model's forward has?)" if not inputs else "")
            )
        return nested(lambda x: x.to(self.args.device) if isinstance(x, Tensor) else x, dict(inputs))

    # After each step

    def after_step(self, step: Step, batches: int, ignore_keys: list[str] | None) -> None:
        args = self.args
        self.losses.unlogged += step.loss
        for batch in step.batches:
            self.state.total_flos += self.floating_point_ops(batch)
            self.state.num_input_tokens_seen += tokens_in(
                batch.get(self.main_input), batch, args.include_num_input_tokens_seen, self.processing_class
            )
        self.state.global_step += 1
        self.state.epoch = self.place.epoch + self.place.given / batches
        self.tell("on_step_end")
        self.log_evaluate_save(step, ignore_keys)

    def log_evaluate_save(self, step: Step | None, ignore_keys: list[str] | None) -> None:
        """Whichever of these the switches ask for."""
        if self.control.should_log and self.state.global_step > self.losses.logged_at:
            logs = {"loss": self.losses.take(self.state.global_step)}
            if step is not None:
                logs |= {"grad_norm": step.grad_norm.item(), "learning_rate": float(step.learning_rate)}
            self.log(logs, self.started)
        if self.control.should_evaluate:
            metrics = self.evaluate(ignore_keys=ignore_keys)
            if isinstance(self.lr_scheduler, FOLLOW_METRICS):
                self.lr_scheduler.step(self.followed(metrics))
            better = self.note_best(metrics)
            if self.args.save_strategy == "best":
                self.control.should_save = better
        if self.control.should_save:
            self.save_checkpoint()
            self.tell("on_save")

    def followed(self, metrics: dict[str, float]) -> float:
        name = prefixed(self.args.metric_for_best_model)
        if name not in metrics:
            raise KeyError(f"metric_for_best_model is {name!r}, and the evaluation gave {', '.join(metrics)}")
        return metrics[name]

    def note_best(self, metrics: dict[str, float]) -> bool:
        """Whether this evaluation is better than all before it."""
        if self.args.metric_for_best_model is None:
            return False
        value, best = self.followed(metrics), self.state.best_metric
        better = best is None or (value > best if self.args.greater_is_better else value < best)
        if better and not math.isnan(value):
            self.state.best_metric = value
            if self.args.save_strategy != "no":
                self.state.best_global_step = self.state.global_step
        return better and not math.isnan(value)

    def finish(self, first_step: int, *, stopped: bool) -> TrainOutput:
        steps = self.state.global_step - first_step
        loss = (self.losses.total + self.losses.unlogged.item()) / max(self.state.global_step - self.losses.since, 1)
        samples = steps * self.args.train_batch_size * self.args.gradient_accumulation_steps
        metrics = speed_metrics("train", self.started, samples, steps)
        metrics |= {"total_flos": self.state.total_flos, "train_loss": loss}
        self.log(metrics)
        best = self.state.best_model_checkpoint
        if best is not None and not stopped:
            if self.args.load_best_model_at_end:
                load_checkpoint(Path(best), model=self.model, rng=False)
            if self.args.save_total_limit == 1:
                for other in checkpoints_in(self.args.output_dir):
                    if other != Path(best):
                        shutil.rmtree(other)
        self.tell("on_train_end")
        return TrainOutput(self.state.global_step, loss, metrics)

    # Checkpoints

    def save_checkpoint(self) -> None:
        """`output_dir/checkpoint-N`, from which `train` can go on; and older ones go, if there is a limit."""
        args, folder = self.args, Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        best = Path(args.output_dir, f"checkpoint-{self.state.best_global_step}")
        if self.state.best_global_step and (best == folder or best.is_dir()):
            self.state.best_model_checkpoint = str(best)
        self.state.stateful_callbacks = {"DataOrder": {"args": {}, "attributes": self.place.as_dict()}}
        for each in [*self.callback_handler.callbacks, self.control]:
            if isinstance(each, ExportableState):
                self.state.stateful_callbacks[type(each).__name__] = each.state()
        sums = {**vars(self.losses), "unlogged": self.losses.unlogged.item()}
        self.state.stateful_callbacks["Losses"] = {"args": {}, "attributes": sums}
        whole = not args.save_only_model
        save_checkpoint(
            folder,
            model=self.model,
            tokenizer=self.saved_tokenizer,
            optimizer=self.optimizer if whole else None,
            scheduler=self.lr_scheduler if whole else None,
            scaler=self.scaler if whole and args.fp16 else None,
            state=asdict(self.state),
            arguments=args.to_dict(),
            rng=whole,
        )
        self.saved_at = self.state.global_step
        rotate(args.output_dir, args.save_total_limit, keep=[self.state.best_model_checkpoint])

    def restore(self, folder: Path | None, steps: int) -> tuple | None:
        """Put everything back to where a checkpoint was saved. Returns the random state to go on with.

        steps: of an epoch.
        """
        if folder is None:
            return None
        exact = (folder / "optimizer.pt").exists() or not (folder / STATE_NAME).exists()
        values = load_checkpoint(
            folder,
            model=self.model,
            optimizer=self.optimizer if exact else None,
            scheduler=self.lr_scheduler if exact else None,
            scaler=self.scaler if exact and self.args.fp16 else None,
            rng=exact,
        )
        if not exact:
            raise ValueError(f"{folder} was saved with save_only_model: it holds a model, and no run that can go on")
        now = self.state
        self.state = TrainerState.from_dict(values)
        for name in ("logging_steps", "eval_steps", "save_steps"):
            setattr(self.state, name, getattr(now, name))
        kept = self.state.stateful_callbacks
        for each in self.callback_handler.callbacks:
            if isinstance(each, ExportableState) and type(each).__name__ in kept:
                vars(each).update(kept[type(each).__name__]["attributes"])
                if self.args.restore_callback_states_from_checkpoint:
                    vars(each).update(kept[type(each).__name__]["args"])
        best = self.state.best_model_checkpoint
        if best is not None and not Path(best).is_dir():
            logger.warning("the best checkpoint, %s, is not there any more", best)
            self.state.best_model_checkpoint = None
        present = random_state()
        if "DataOrder" in kept and not self.args.ignore_data_skip:
            self.place = Place.from_dict(kept["DataOrder"]["attributes"])
            return present
        self.place.epoch, done = divmod(self.state.global_step, steps)
        if not self.args.ignore_data_skip:  # of the reference, whose checkpoints do not say more
            self.place.given = done * self.args.gradient_accumulation_steps
        return present

    def restored_losses(self, step: int) -> Losses:
        kept = self.state.stateful_callbacks.get("Losses", {}).get("attributes")
        kept = kept or {"unlogged": 0.0, "logged_at": step, "since": step}
        return Losses(**{**kept, "unlogged": torch.tensor(kept["unlogged"], device=self.args.device)})

    @property
    def saved_tokenizer(self) -> Any:
        tokenizer = self.processing_class
        return getattr(self.data_collator, "tokenizer", None) if tokenizer is None else tokenizer

    def save_model(self, output_dir: str | os.PathLike | None = None, _internal_call: bool = False) -> None:
        """The model, or its adapter, the tokenizer and the arguments, for `from_pretrained`.

        With `push_to_hub` in the arguments, `Trainer.push_to_hub` follows.
        """
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if hasattr(self.model, "save_pretrained"):
            self.model.save_pretrained(folder)
        else:
            save_weights(folder, self.model.state_dict())
        if self.saved_tokenizer is not None:
            self.saved_tokenizer.save_pretrained(folder)
        write_json(folder / "training_args.json", self.args.to_dict())
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def save_state(self) -> None:
        """`trainer_state.json`, with all logs, in `output_dir`."""
        self.state.save_to_json(Path(self.args.output_dir, STATE_NAME))

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
        steps = math.ceil(output.num_samples / self.args.eval_batch_size)
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
        show_table(f"{split} metrics", metrics)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write `{split}_results.json`, and with `combined` add them to `all_results.json`."""
        folder = Path(self.args.output_dir)
        write_json(folder / f"{split}_results.json", dict(sorted(metrics.items())))
        together = folder / "all_results.json"
        if combined:
            earlier = read_json(together) if together.exists() else {}
            write_json(together, dict(sorted({**earlier, **metrics}.items())))

    def floating_point_ops(self, inputs: Any) -> float:
        """Operations of a batch's forward and backward: 6 for each token and each parameter that is no embedding."""
        ids = inputs.get(self.main_input)
        return 6.0 * ids.numel() * self.dense_parameters if isinstance(ids, Tensor) else 0.0

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
        return True

    def is_world_process_zero(self) -> bool:
        return True
