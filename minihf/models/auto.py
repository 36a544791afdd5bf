"""The Auto classes: they read a config's `model_type`, and hand over to the architecture's own class."""

from pathlib import Path
from typing import Any, ClassVar

from minihf.checkpoints.files import CheckpointError, read_json
from minihf.checkpoints.hub import Source
from minihf.models.architectures import ARCHITECTURES, class_for
from minihf.models.base import Model
from minihf.models.config import FILE_NAME, Config


class AutoConfig:
    """The config class that a checkpoint's `config.json` asks for."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Config:
        """Read the config of a folder or a hub name; the options are `Config.from_pretrained`'s."""
        source, changes = Source.split(name_or_path, options)
        path = source.get(FILE_NAME)
        return config_class_at(path).from_file(path, **changes)

    @classmethod
    def for_model(cls, model_type: str, **fields: Any) -> Config:
        """A config with the architecture's defaults, changed by `fields`."""
        return class_for(model_type, "Config")(**fields)


class _Auto:
    """Load or make the model of a task, whatever its architecture."""

    task: ClassVar[str]

    def __init__(self):
        raise TypeError(f"use {type(self).__name__}.from_pretrained(name) or {type(self).__name__}.from_config(config)")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> Model:
        """Load a checkpoint from a folder or a hub name; the options are `load_pretrained`'s."""
        config = options.get("config")
        if not isinstance(config, Config):  # None, or something that the loader will refuse
            source, _ = Source.split(name_or_path, options)
            model_type = config_class_at(source.get(FILE_NAME)).model_type
        else:
            model_type = config.model_type
        return class_for(model_type, cls.task).from_pretrained(name_or_path, **options)

    @classmethod
    def from_config(cls, config: Config, **options: Any) -> Model:
        """A model with first values, to train from scratch; the options are `Model.from_config`'s."""
        return class_for(config.model_type, cls.task).from_config(config, **options)


def config_class_at(path: Path) -> type[Config]:
    """The class for the `config.json` at a path."""
    model_type = read_json(path).get("model_type")
    if model_type is None:
        raise CheckpointError(
            f'{path} names no "model_type"; add one of {", ".join(ARCHITECTURES)}, or use the model\'s own class'
        )
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"{path}: model_type {model_type!r} is not one that minihf has: {', '.join(ARCHITECTURES)}"
        )
    return class_for(model_type, "Config")


class AutoModel(_Auto):
    task = "Model"


class AutoModelForTextEncoding(_Auto):
    """The encoder: of T5 without the decoder."""

    task = "ForTextEncoding"


class AutoModelForPreTraining(_Auto):
    task = "ForPreTraining"


class AutoModelForMaskedLM(_Auto):
    task = "ForMaskedLM"


class AutoModelForCausalLM(_Auto):
    task = "ForCausalLM"


class AutoModelForSeq2SeqLM(_Auto):
    task = "ForSeq2SeqLM"


class AutoModelForNextSentencePrediction(_Auto):
    task = "ForNextSentencePrediction"


class AutoModelForSequenceClassification(_Auto):
    task = "ForSequenceClassification"


class AutoModelForMultipleChoice(_Auto):
    task = "ForMultipleChoice"


class AutoModelForTokenClassification(_Auto):
    task = "ForTokenClassification"


class AutoModelForQuestionAnswering(_Auto):
    task = "ForQuestionAnswering"
