"""What `Trainer` refuses: parts that are missing, or do not go together."""

import inspect
from typing import TYPE_CHECKING

from torch import nn

from minihf.models.base import Model, refuse_adapters
from minihf.training.arguments import TrainingArguments
from minihf.training.facts import find_labels
from minihf.training.order import length

if TYPE_CHECKING:
    from minihf.training.trainer import Trainer


def check_kinds(model: object, args: object) -> None:
    if not isinstance(args, TrainingArguments):
        raise TypeError(f"args is a {type(args).__name__}, expected TrainingArguments")
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}, expected a torch.nn.Module, such as AutoModel….from_pretrained gives; "
            "model_init makes one"
        )


def check_head(model: object, own_loss: bool) -> None:
    if isinstance(model, Model) and not find_labels(model) and not own_loss:
        raise ValueError(
            f"{type(model).__name__} has no head, and gives no loss: use a model for your task, such as "
            "AutoModelForSequenceClassification"
        )


def check_parts(trainer: "Trainer") -> None:
    args = trainer.args
    if args.save_strategy != "no" and isinstance(trainer.model, Model):
        refuse_adapters(name for name, _ in trainer.model.named_parameters())  # now, and not when it comes to save
    if args.eval_strategy != "no" and trainer.eval_dataset is None:
        raise ValueError(f"eval_strategy is {args.eval_strategy.value!r}, which needs an eval_dataset")
    if args.save_strategy == "best" and args.metric_for_best_model is None:
        raise ValueError("save_strategy='best' needs metric_for_best_model")
    if trainer.optimizer is not None and trainer.optimizer_cls_and_kwargs is not None:
        raise ValueError("optimizers and optimizer_cls_and_kwargs are both given: give one of them")
    if trainer.model_init is not None and (trainer.optimizer is not None or trainer.lr_scheduler is not None):
        raise ValueError("model_init makes a model that these optimizers do not know: override create_optimizer")
    if args.fsdp and trainer.optimizer is not None:
        raise ValueError("fsdp shards the model, and the optimizer is made afterwards: give optimizer_cls_and_kwargs")
    if trainer.optimizer is not None:
        own = {id(p) for p in trainer.model.parameters()}
        if not any(id(p) in own for group in trainer.optimizer.param_groups for p in group["params"]):
            raise ValueError("the optimizer has none of the model's parameters: make it of model.parameters()")
    if trainer.train_dataset is not None and length(trainer.train_dataset) is None and args.max_steps <= 0:
        raise ValueError("the train_dataset does not tell its length, so max_steps must be set")
    if not callable(trainer.data_collator):
        raise TypeError(f"data_collator is a {type(trainer.data_collator).__name__}, expected a function of examples")
    metrics = trainer.compute_metrics
    told = metrics is None or "compute_result" in inspect.signature(metrics).parameters
    if args.batch_eval_metrics and not told:
        raise ValueError("with batch_eval_metrics compute_metrics takes compute_result, True at the last batch")
