"""What describes a model: a flat record of numbers and names, the `config.json` of a checkpoint.

Each architecture's file begins with its own record, a dataclass whose field names and defaults are the reference's. A
key that a config does not know is kept, and written back. A *value* that minihf does not implement is an error that
names it: a number silently ignored would be another model.
"""

import types
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from minihf.checkpoints.files import CheckpointError, read_json, write_json
from minihf.checkpoints.hub import Source
from minihf.nn.attention import IMPLEMENTATIONS

# No model is larger than this in any one direction; products of three such sizes still fit in 64 bits.
LARGEST_SIZE = 2**20
MOST_LAYERS = 10_000
FILE_NAME = "config.json"


@dataclass(init=False)
class Config:
    """The fields that every architecture has.

    `Config(**fields)` takes keywords only: fields, the reference's other names for them (`attribute_map`), `num_labels`,
    `attn_implementation`, and unknown keys, which are kept.

    Raises:
        ValueError: a value of a wrong type, or one that makes no model.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[dict[str, str]] = {}
    """Another name of a field -> the field."""

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
        if "torch_dtype" in values:  # the name until 2025
            values["dtype"] = values.pop("torch_dtype") or values.get("dtype")
        self.attn_implementation = values.pop("attn_implementation", None) or "sdpa"
        num_labels = values.pop("num_labels", None)
        for name, value in values.items():
            setattr(self, name, value)
        self._settle_labels(num_labels)
        self.dtype = None if self.dtype is None else str(self.dtype).removeprefix("torch.")
        self._check_types()
        self.check()

    def check(self) -> None:
        """Refuse numbers that make no model. Architectures say which."""

    def _settle_labels(self, num_labels: int | None) -> None:
        if self.id2label is not None:
            self.id2label = {int(i): name for i, name in self.id2label.items()}  # JSON knows no integer keys
        elif self.label2id is not None:
            self.id2label = {int(i): name for name, i in self.label2id.items()}
        if num_labels is None:
            num_labels = 2 if self.id2label is None else len(self.id2label)
        if self.id2label is not None and len(self.id2label) != num_labels:
            raise ValueError(f"num_labels={num_labels}, but id2label names {len(self.id2label)}: give one of them, or both alike")
        if self.id2label is None:
            self.num_labels = num_labels
        elif self.label2id is None or set(self.label2id.values()) != set(self.id2label):
            self.label2id = {name: i for i, name in self.id2label.items()}

    @property
    def attn_implementation(self) -> str:
        """How attention is computed, "sdpa" or "eager"; the program's business, not the checkpoint's: never written."""
        return self._attn_implementation

    @attn_implementation.setter
    def attn_implementation(self, impl: str) -> None:
        if impl not in IMPLEMENTATIONS:
            raise ValueError(f"attn_implementation={impl!r} is not known: choose one of {', '.join(IMPLEMENTATIONS)}")
        self._attn_implementation = impl

    @property
    def num_labels(self) -> int:
        """How many classes a classification head tells apart. Setting it renames them LABEL_0, LABEL_1, …"""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        if not isinstance(number, int) or not 0 < number < LARGEST_SIZE:
            raise ValueError(f"num_labels={number!r} makes no classification head: give a positive number")
        self.id2label = {i: f"LABEL_{i}" for i in range(number)}
        self.label2id = {name: i for i, name in self.id2label.items()}

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, self.attribute_map.get(name, name), value)

    def __getattr__(self, name: str) -> Any:
        if name in type(self).attribute_map:
            return getattr(self, type(self).attribute_map[name])
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def _check_types(self) -> None:
        wrong = []
        for name, kind in annotations(type(self)).items():
            value = getattr(self, name)
            if not fits(value, kind):
                wrong.append(f"{name}={value!r} (expected {getattr(kind, '__name__', kind)})")
        if wrong:
            raise ValueError(f"{type(self).__name__}: " + ", ".join(wrong))

    # Words for `check`.

    def require_sizes(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and not 0 < getattr(self, name) <= LARGEST_SIZE:
                raise ValueError(f"{name}={getattr(self, name)} makes no model: expected 1 to {LARGEST_SIZE}")

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
            raise ValueError(f"{name}={getattr(self, name)} must be a multiple of {of}={getattr(self, of)}: each head gets an equal share")

    def require_choice(self, name: str, known: Any) -> None:
        """A value that minihf implements; a name that the file does not hold is fine."""
        value = getattr(self, name, None)
        if name in annotations(type(self)) or value is not None:
            if value not in known:
                raise ValueError(f"{name}={value!r} is not implemented; known are {', '.join(map(repr, known))}")

    # To and from files.

    @classmethod
    def from_dict(cls, values: dict[str, Any], **changes: Any) -> "Config":
        """From the content of a `config.json`; `changes` win over what the file says."""
        values = {**values, **{cls.attribute_map.get(name, name): value for name, value in changes.items()}}
        for name in cls.attribute_map:
            values.pop(name, None) if cls.attribute_map[name] in values else None
        if "num_labels" in changes:  # other labels than the file's: its names for them are void
            values.update({"id2label": changes.get("id2label"), "label2id": changes.get("label2id")})
        elif "id2label" in changes or "label2id" in changes:
            values.pop("num_labels", None)
            values.update({"id2label": changes.get("id2label"), "label2id": changes.get("label2id")})
        return cls(**values)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "Config":
        """Read `config.json` of a folder or a hub name.

        Args:
            name_or_path: a folder, or a name such as "bert-base-uncased".
            options: where to look (`revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`, `force_download`);
                all others change the config.

        Raises:
            FileNotFoundError: there is no such file. CheckpointError: it is broken, or its numbers make no model.
        """
        source, changes = Source.split(name_or_path, options)
        return cls.from_file(source.get(FILE_NAME), **changes)

    @classmethod
    def from_file(cls, path: Path, **changes: Any) -> "Config":
        try:
            return cls.from_dict(read_json(path), **changes)
        except CheckpointError:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """All that `config.json` holds: the fields, the unknown keys, and the model's type."""
        values = {name: value for name, value in vars(self).items() if not name.startswith("_") and value is not None}
        if self.id2label == {0: "LABEL_0", 1: "LABEL_1"}:
            del values["id2label"], values["label2id"]
        return {"model_type": self.model_type, **values}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into a folder, which is made where there is none."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / FILE_NAME, self.to_dict())


@cache
def annotations(cls: type) -> dict[str, Any]:
    """The fields of a config class and their types."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type. An int is a float; a bool is not an int."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(fits(value, k) for k in get_args(kind))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(kind) or kind)
