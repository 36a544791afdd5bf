"""What to ask of `generate`: the content of `generation_config.json`, and the keywords of `model.generate`."""

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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
    "return_dict_in_generate": (False,),
    "output_scores": (False,),
}


@dataclass(init=False)
class GenerationConfig:
    """Settings of `generate`.

    Raises:
        ValueError: a setting that makes no sense, or one that minihf does not implement, set to a value that matters.
    """

    max_new_tokens: int | None = None
    """The most tokens to add; 20 where neither this nor `max_length` is set."""
    max_length: int | None = None
    """The most tokens in all, the prompt's included; `max_new_tokens` wins over it."""
    do_sample: bool = False
    """Draw from the distribution, rather than take the most probable token."""
    temperature: float = 1.0
    """Above 1 flattens the distribution, below 1 sharpens it."""
    top_k: int | None = 50
    """When sampling, draw from the k most probable tokens only. The reference does so unasked; 0 or None: from all."""
    top_p: float = 1.0
    """When sampling, draw from the fewest tokens that hold this much of the probability."""
    num_return_sequences: int = 1
    """When sampling, how many continuations of each prompt."""
    use_cache: bool = True
    """Keep keys and values of past tokens, rather than compute them anew for every new one."""
    bos_token_id: int | None = None
    """The prompt where there is none."""
    eos_token_id: int | list[int] | None = None
    """A text ends with this token, or any of these."""
    pad_token_id: int | None = None
    """Fills up the rows that ended early; None: the (first) end token."""

    def __init__(self, **settings: Any):
        for field in fields(self):
            setattr(self, field.name, field.default)
        self.other: dict[str, Any] = {}  # kept, and written back
        self.update(settings)

    def update(self, settings: dict[str, Any]) -> "GenerationConfig":
        """Change settings; a None changes nothing, save where None is a value (`top_k`)."""
        known = {field.name for field in fields(self)}
        for name, value in settings.items():
            if name not in known:
                self.other[name] = value
            elif value is not None or name == "top_k":
                setattr(self, name, value)
        self.check()
        return self

    def check(self) -> None:
        for name in ("max_new_tokens", "max_length"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not self.temperature > 0:
            raise ValueError(
                f"temperature={self.temperature}: expected above 0; do_sample=False takes the most probable token"
            )
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: expected 1 or more, or 0 for no limit")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: expected above 0, up to 1")
        if self.num_return_sequences < 1:
            raise ValueError(f"num_return_sequences={self.num_return_sequences}: expected 1 or more")
        if self.num_return_sequences > 1 and not self.do_sample:
            raise ValueError("num_return_sequences > 1 gives the same text several times without do_sample=True")

    def check_other(self) -> None:
        """Before generating: is there a wish that would go unheard?"""
        for name, value in self.other.items():
            if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
                raise ValueError(f"{name}={value!r} is not implemented by minihf's generate")

    @property
    def end_tokens(self) -> list[int]:
        if self.eos_token_id is None:
            return []
        return [self.eos_token_id] if isinstance(self.eos_token_id, int) else list(self.eos_token_id)

    def copy(self) -> "GenerationConfig":
        return GenerationConfig(**self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, **self.other}

    @classmethod
    def from_file(cls, path: Path) -> "GenerationConfig":
        try:
            return cls(**read_json(path))
        except (ValueError, TypeError) as error:
            raise error if isinstance(error, CheckpointError) else CheckpointError(f"{path}: {error}") from error

    def save_pretrained(self, folder: str | Path) -> None:
        changed = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}
        write_json(Path(folder) / FILE_NAME, {**self.other, **changed})


def check_names(settings: dict[str, Any]) -> None:
    """A keyword that nobody has ever heard of is a slip of the pen."""
    known = [field.name for field in fields(GenerationConfig)] + list(NEUTRAL)
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"generate has no argument {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
