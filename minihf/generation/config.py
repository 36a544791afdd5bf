"""What to ask of `generate`: the content of `generation_config.json`, and the keywords of `model.generate`."""

import copy
import difflib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from minihf.checkpoints.fields import check_types
from minihf.checkpoints.files import CheckpointError, read_json, write_json

FILE_NAME = "generation_config.json"
# Of the reference's other settings, the values that change nothing. Any other value is an error, not a silent wish.
NEUTRAL: dict[str, tuple] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "encoder_repetition_penalty": (1, 1.0),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "min_p": (0, 0.0),
    "typical_p": (1, 1.0),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "guidance_scale": (1, 1.0),
    "renormalize_logits": (False,),
    "bad_words_ids": (),
    "force_words_ids": (),
    "sequence_bias": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "stop_strings": (),
    "max_time": (),
    "prompt_lookup_num_tokens": (),
    "top_h": (),
    "exponential_decay_length_penalty": (),
    "encoder_no_repeat_ngram_size": (0,),
    "watermarking_config": (),
    "token_healing": (False,),
    "dola_layers": (),
    "constraints": (),
    "diversity_penalty": (0, 0.0),
    "return_dict_in_generate": (False,),
    "output_logits": (False,),
    "output_hidden_states": (False,),
    "output_attentions": (False,),
    "output_scores": (False,),
}


# What holds where nobody says anything. The reference draws from the 50 most probable tokens unasked, and so do we.
DEFAULTS = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "num_return_sequences": 1,
    "use_cache": True,
}


@dataclass(init=False)
class GenerationConfig:
    """Settings of `generate`. None: not said here; see `settle` for what holds then.

    Raises:
        ValueError: a setting of a wrong type, or one that makes no sense.
    """

    max_new_tokens: int | None = None
    """The most tokens to add; 20 where neither this nor `max_length` is said."""
    max_length: int | None = None
    """The most tokens in all, the prompt's included; `max_new_tokens` wins over it."""
    do_sample: bool | None = None
    """Draw from the distribution, rather than take the most probable token. Default False."""
    temperature: float | None = None
    """Above 1 flattens the distribution, below 1 sharpens it. Default 1."""
    top_k: int | None = None
    """When sampling, draw from the k most probable tokens only; 0: from all. Default 50."""
    top_p: float | None = None
    """When sampling, draw from the fewest tokens that hold this much of the probability. Default 1."""
    num_return_sequences: int | None = None
    """When sampling, how many continuations of each prompt. Default 1."""
    use_cache: bool | None = None
    """Keep keys and values of past tokens, rather than compute them anew for every new one. Default True."""
    bos_token_id: int | None = None
    """The prompt where there is none."""
    eos_token_id: int | list[int] | None = None
    """A text ends with this token, or any of these."""
    pad_token_id: int | None = None
    """Fills up the rows that ended early; None: the (first) end token."""

    def __init__(self, **settings: Any):
        for field in fields(self):
            setattr(self, field.name, field.default)
        self.other: dict[str, Any] = {}  # settings that are not ours: kept, and written back
        self.update(settings)

    def update(self, settings: dict[str, Any]) -> "GenerationConfig":
        """Change settings; where one makes no sense, none is changed."""
        before = dict(vars(self))
        known = {field.name for field in fields(self)}
        for name, value in settings.items():
            if name in known:
                setattr(self, name, copy.copy(value))
            else:
                self.other = {**self.other, name: value}
        try:
            self.check()
        except ValueError:
            vars(self).update(before)
            raise
        return self

    def check(self) -> None:
        """Refuse what makes no sense; what shapes the distribution, only where it is drawn from."""
        check_types(self)
        for name in ("max_new_tokens", "max_length"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if self.num_return_sequences is not None and self.num_return_sequences < 1:
            raise ValueError(f"num_return_sequences={self.num_return_sequences}: expected 1 or more")
        if not self.do_sample:
            return
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature}: expected above 0; do_sample=False takes the most probable token"
            )
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: expected 1 or more, or 0 for no limit")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: expected above 0, up to 1")

    def check_other(self) -> None:
        """Before generating: is there a wish that would go unheard?"""
        if (self.num_return_sequences or 1) > 1 and not self.do_sample:
            raise ValueError("num_return_sequences > 1 gives the same text several times without do_sample=True")
        for name, value in self.other.items():
            if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
                raise ValueError(f"{name}={value!r} is not implemented by minihf's generate")

    @property
    def end_tokens(self) -> list[int]:
        if self.eos_token_id is None:
            return []
        return [self.eos_token_id] if isinstance(self.eos_token_id, int) else list(self.eos_token_id)

    def copy(self) -> "GenerationConfig":
        return copy.deepcopy(self)

    def said(self) -> dict[str, Any]:
        """The settings that are not None."""
        return {name: value for name, value in self.to_dict().items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, **self.other}

    @classmethod
    def from_model_config(cls, config: Any) -> "GenerationConfig":
        """The special tokens that a model's own config knows."""
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return cls(**{name: getattr(config, name, None) for name in names})

    @classmethod
    def from_file(cls, path: Path) -> "GenerationConfig":
        """Read a `generation_config.json`; CheckpointError where it makes no sense."""
        settings = read_json(path)
        try:
            return cls(**settings)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: {error}") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what is said into `generation_config.json`."""
        write_json(Path(folder) / FILE_NAME, self.said())


def settle(own: GenerationConfig, given: GenerationConfig | None, settings: dict[str, Any]) -> GenerationConfig:
    """What holds for one call: its settings (None unsets), the given config, the model's own, DEFAULTS."""
    return GenerationConfig(**{**DEFAULTS, **own.said(), **(given.said() if given else {}), **settings})


def check_names(settings: dict[str, Any]) -> None:
    """A keyword that nobody has ever heard of is a slip of the pen."""
    known = [field.name for field in fields(GenerationConfig)] + list(NEUTRAL)
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"generate has no argument {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
