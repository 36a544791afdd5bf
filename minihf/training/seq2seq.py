"""`Seq2SeqTrainer`: a trainer whose metrics see what the model writes."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minihf.checkpoints.hub import Source
from minihf.generation.config import GenerationConfig
from minihf.training.metrics import PredictionOutput
from minihf.training.parallel import is_sharded, put_together
from minihf.training.trainer import Trainer

LENGTH = 20  # of what is written, where nothing says it


class Seq2SeqTrainer(Trainer):
    """`Trainer`, for translation and summaries: with `predict_with_generate`, predictions are generated ids.

    They and the labels are filled up with the pad token to the generation config's `max_length` (20 where it says
    nothing), and beyond it, where batches differ, with -100.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        given = getattr(self.args, "generation_config", None)
        if given is not None:
            self.bare.generation_config = self.load_generation_config(given)
        self.writing: dict[str, Any] = {}

    @staticmethod
    def load_generation_config(given: str | Path | GenerationConfig) -> GenerationConfig:
        """The config itself, or one that was saved: a file, a folder or a hub name."""
        if isinstance(given, GenerationConfig):
            return given
        if Path(given).is_file():
            return GenerationConfig.from_file(Path(given))
        return GenerationConfig.from_file(Source(str(given)).get("generation_config.json"))

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: Any,
    ) -> dict[str, float]:
        """As `Trainer.evaluate`; further arguments are those of `generate`, such as `max_length` and `num_beams`."""
        self.writing = self.settled(gen_kwargs)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: Any,
    ) -> PredictionOutput:
        """As `Trainer.predict`; further arguments are those of `generate`."""
        self.writing = self.settled(gen_kwargs)
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def settled(self, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of `generate`: those of the call, else those of the trainer's arguments."""
        given = {name: value for name, value in given.items() if value is not None}
        config, limits = self.bare.generation_config, {"max_length", "max_new_tokens"}
        if not limits & given.keys() and self.args.generation_max_length is not None:
            given["max_length"] = self.args.generation_max_length
        if not limits & given.keys() and config.max_length is None and config.max_new_tokens is None:
            given["max_length"] = LENGTH  # the reference's first batch may be a token longer; all others are not
        if "num_beams" not in given and self.args.generation_num_beams is not None:
            given["num_beams"] = self.args.generation_num_beams
        return given

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Any, Any, Any]:
        if not self.args.predict_with_generate or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        labels, made = inputs.get("labels"), inputs.get("decoder_input_ids")
        prompt = {name: value for name, value in inputs.items() if name != "labels"}
        if labels is not None and made is not None and made.shape == labels.shape:  # of the labels, not to be told
            for name in ("decoder_input_ids", "decoder_attention_mask"):
                prompt.pop(name, None)
        with self.compute_loss_context_manager():
            with self.whole_model():
                written = self.model.generate(**prompt, **(gen_kwargs or self.writing))
            loss = None
            if labels is not None:
                with torch.no_grad():
                    loss = self.loss_of(model, inputs, None).detach().mean()
        if self.args.prediction_loss_only:
            return loss, None, None
        return loss, self.filled(written), None if labels is None else self.filled(labels)

    def whole_model(self) -> AbstractContextManager:
        """The model to write with: where it is sharded, each process has all of it for as long."""
        if not is_sharded(self.model):
            return nullcontext()
        return put_together(self.model, self.args.fsdp_config["reshard_after_forward"])

    def filled(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, max_length) or longer, with the pad token."""
        config = self.bare.generation_config
        length = config.max_length or LENGTH
        if ids.shape[1] >= length and config.max_new_tokens is not None:
            length = config.max_new_tokens + 1
        if ids.shape[1] >= length:
            return ids
        return nn.functional.pad(ids, (0, length - ids.shape[1]), value=self.pad_token_id)

    @property
    def pad_token_id(self) -> int:
        tokenizer, config = self.processing_class, self.bare.config
        known = [getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None)]
        known.append(getattr(config, "pad_token_id", None))
        found = next((each for each in known if each is not None), None)
        if found is None:
            raise ValueError("to pad what is written, set pad_token_id in the model's config")
        return found
