"""What describes a model: a flat record of numbers and names, the `config.json` of a checkpoint.

Each architecture's file begins with its own record, a dataclass whose field names and defaults are the reference's. A
key that a config does not know is kept, and written back. A *value* that minihf does not implement is an error that
names it: a number silently ignored would be another model.
"""

import math
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch

from minihf.checkpoints.fields import annotations, check_types
from minihf.checkpoints.files import CheckpointError, read_json, write_json
from minihf.checkpoints.hub import Source
from minihf.checkpoints.publish import PushToHubMixin, pushes
from minihf.nn.attention import IMPLEMENTATIONS
from minihf.nn.losses import PROBLEM_TYPES

# No model is larger than this in any one direction; products of three such sizes still fit in 64 bits.
LARGEST_SIZE = 2**20
MOST_LAYERS = 1_000  # the deepest published; a file that says a billion must not keep us building
FILE_NAME = "config.json"


@dataclass(init=False)
class Config(PushToHubMixin):
    """The fields that every architecture has.

    `Config(**fields)` takes keywords only: fields, the reference's other names for them (`attribute_map`),
    `num_labels`, `attn_implementation`, and unknown keys, which are kept.

    Raises:
        ValueError: a value of a wrong type, or one that makes no model.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[dict[str, str]] = {}
    """Another name of a field -> the field."""
    usual_labels: ClassVar[int] = 2
    """`num_labels` where nobody says it."""
    attn_implementations: ClassVar[tuple[str, ...]] = IMPLEMENTATIONS
    """The ways in which the architecture computes its attention, the default first."""

    architectures: list[str] | None = None
    """The class that was saved."""
    dtype: str | None = None
    """Of the parameters in the file: "float32", "bfloat16", …"""
    tie_word_embeddings: bool = True
    """The output layer uses the input embeddings' weights."""
    is_encoder_decoder: bool = False
    id2label: dict | None = None
    """Names of the classes of a classification head; None: LABEL_0, LABEL_1."""
    label2id: dict | None = None
    problem_type: str | None = None
    """Which loss a sequence classification head has (see `classification_loss`)."""
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True

    def __init__(self, **values: Any):
        for field in fields(self):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            object.__setattr__(self, field.name, default)
        values.pop("model_type", None)  # a class's own; the file's was read to choose the class
        former = values.pop("torch_dtype", None)  # the name of dtype until 2025
        values["dtype"] = values.get("dtype") or former
        impl = values.pop("attn_implementation", None) or "sdpa"
        num_labels = values.pop("num_labels", None)
        for name, value in values.items():
            if name not in annotations(type(self)) and hasattr(type(self), name):
                raise ValueError(f"a config can keep no key {name!r}: it is a name of {type(self).__name__} itself")
            setattr(self, name, value)
        if isinstance(self.dtype, (str, torch.dtype)):
            self.dtype = str(self.dtype).removeprefix("torch.")
        check_types(self)
        self._settle_labels(num_labels)
        if self.dtype is not None:
            as_dtype(self.dtype)
        for name in ("pruned_heads", "quantization_config"):
            if getattr(self, name, None):
                raise ValueError(f"{name}={getattr(self, name)!r} is not implemented; load a checkpoint without it")
        self.require_choice("problem_type", [None, *PROBLEM_TYPES])
        self.attn_implementation = impl
        self.check()

    def check(self) -> None:
        """Refuse numbers that make no model. Architectures say which."""

    def _settle_labels(self, num_labels: int | None) -> None:
        """Of the number of labels and their names in both directions, make what is not there."""
        try:  # JSON knows no integer keys
            names = None if self.id2label is None else {int(i): name for i, name in self.id2label.items()}
            numbers = None if self.label2id is None else {name: int(i) for name, i in self.label2id.items()}
        except (ValueError, TypeError) as error:
            raise ValueError(f"id2label maps numbers to names, label2id names to numbers: {error}") from error
        if names is None and numbers is not None:
            names = {i: name for name, i in numbers.items()}
        if names is None:
            names = numbered_labels(self.usual_labels if num_labels is None else num_labels)
        if num_labels is not None and (type(num_labels) is not int or num_labels != len(names)):
            raise ValueError(f"num_labels={num_labels!r}, but id2label names {len(names)}: give one, or both alike")
        if not names:
            raise ValueError("id2label={} makes no classification head: name at least one label")
        self.id2label = names
        self.label2id = {name: i for i, name in names.items()} if numbers is None else numbers

    @property
    def attn_implementation(self) -> str:
        """How attention is computed, "sdpa", "eager" or, in an encoder, "packed"; never written to a file: it is the
        program's business, not the checkpoint's."""
        return self._attn_implementation

    @attn_implementation.setter
    def attn_implementation(self, impl: str) -> None:
        if impl not in self.attn_implementations:
            name, known = type(self).__name__, ", ".join(self.attn_implementations)
            raise ValueError(f"attn_implementation={impl!r} is not known to {name}: choose one of {known}")
        if impl == "packed" and getattr(self, "is_decoder", False):
            raise ValueError('attn_implementation="packed" is for encoders: with is_decoder=True choose "sdpa"')
        self._attn_implementation = impl

    @property
    def num_labels(self) -> int:
        """How many classes a classification head tells apart. Another number renames them LABEL_0, LABEL_1, …"""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        if number != len(self.id2label):
            self.id2label = numbered_labels(number)
            self.label2id = {name: i for i, name in self.id2label.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, self.attribute_map.get(name, name), value)

    def __getattr__(self, name: str) -> Any:
        if name in type(self).attribute_map:
            return getattr(self, type(self).attribute_map[name])
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    # Words for `check`.

    def require_sizes(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and not 0 < getattr(self, name) <= LARGEST_SIZE:
                raise ValueError(f"{name}={getattr(self, name)} makes no model: expected 1 to {LARGEST_SIZE}")

    def require_magnitudes(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} makes no model: expected 0 or more")

    def require_token_ids(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and not -self.vocab_size <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"{name}={getattr(self, name)} is outside the vocabulary of {self.vocab_size}")

    def require_layers(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= MOST_LAYERS:
                raise ValueError(f"{name}={getattr(self, name)} makes no model: expected 0 to {MOST_LAYERS}")

    def require_probabilities(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is no probability: expected 0 to 1")

    def require_multiple(self, name: str, of: str) -> None:
        if getattr(self, name) % getattr(self, of):
            raise ValueError(
                f"{name}={getattr(self, name)} must be a multiple of {of}={getattr(self, of)}: heads have equal shares"
            )

    def require_choice(self, name: str, known: Any) -> None:
        """A value that minihf implements; a name that the file does not hold is fine."""
        value = getattr(self, name, None)
        if value not in known and (value is not None or name in annotations(type(self))):
            raise ValueError(f"{name}={value!r} is not implemented; known are {', '.join(map(repr, known))}")

    # To and from files.

    @classmethod
    def from_dict(cls, values: dict[str, Any], **changes: Any) -> "Config":
        """From the content of a `config.json`; `changes` win over what the file says."""
        # What older releases wrote about their own workings is not the model's.
        values = {cls.attribute_map.get(name, name): v for name, v in values.items() if not name.startswith("_")}
        changes = {cls.attribute_map.get(name, name): v for name, v in changes.items()}
        named = len(values["id2label"]) if isinstance(values.get("id2label"), dict) else None
        if {"id2label", "label2id"} & changes.keys() or changes.get("num_labels", named) != named:
            for name in ("num_labels", "id2label", "label2id"):  # the file's are void
                values.pop(name, None)
        return cls(**{**values, **changes})

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "Config":
        """Read `config.json` of a folder or a hub name.

        Args:
            name_or_path: a folder, or a name such as "bert-base-uncased".
            options: where to look (`revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`,
                `force_download`); all others change the config.

        Raises:
            FileNotFoundError: there is no such file. CheckpointError: it is broken, or its numbers make no model.
        """
        source, changes = Source.split(name_or_path, options)
        return cls.from_file(source.get(FILE_NAME), **changes)

    @classmethod
    def from_file(cls, path: Path, **changes: Any) -> "Config":
        try:
            values = read_json(path)
            if values.get("model_type", cls.model_type) != cls.model_type:
                raise ValueError(f"it describes a {values['model_type']!r} model, not a {cls.model_type!r}")
            return cls.from_dict(values, **changes)
        except CheckpointError:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """All that `config.json` holds: the model's type, the fields that say something, and the unknown keys."""
        defaults = {field.name: field.default for field in fields(self)}
        values = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        values = {
            name: value for name, value in values.items() if value is not None or defaults.get(name, "") is not None
        }
        usual = numbered_labels(self.usual_labels)
        if self.id2label == usual and self.label2id == {name: i for i, name in usual.items()}:
            del values["id2label"], values["label2id"]
        return {"model_type": self.model_type, **values}

    @pushes
    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write `config.json` into a folder, which is made where there is none."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        write_json(Path(save_directory) / FILE_NAME, self.to_dict())


def numbered_labels(number: int) -> dict[int, str]:
    if type(number) is not int or not 0 < number < LARGEST_SIZE:
        raise ValueError(f"num_labels={number!r} makes no classification head: give a positive number")
    return {i: f"LABEL_{i}" for i in range(number)}


def as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype that parameters can have, by itself or by name; float8 can be stored, but not computed with."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise ValueError(f"dtype={dtype!r} is no dtype of parameters: expected 'float32', 'bfloat16', 'float16', …")
    return found
