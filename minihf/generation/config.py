"""What to ask of `generate`: the content of `generation_config.json`, and the keywords of `model.generate`.

Names, meanings and defaults are the reference's, those that its current release has dropped included.
"""

import copy
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from minihf.checkpoints.files import CheckpointError, read_json, write_json
from minihf.checkpoints.hub import Source
from minihf.checkpoints.publish import PushToHubMixin, pushes
from minihf.generation.checks import NEUTRAL, check_together, check_values

FILE_NAME = "generation_config.json"
# What holds where nobody says anything. The reference draws from the 50 most probable tokens unasked, and so do we.
DEFAULTS = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "num_return_sequences": 1,
    "use_cache": True,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "max_matching_ngram_size": 2,
}
# A model's config has these of its own: they say how `forward` answers, not how `generate` does.
OF_FORWARD = ("use_cache", "output_attentions", "output_hidden_states")


@dataclass(init=False, repr=False)
class GenerationConfig(PushToHubMixin):
    """Settings of `generate`. None: not said here; see `settle` for what holds then, and `repr` shows it.

    Raises:
        ValueError: a setting of a wrong type, or one that makes no sense.
    """

    # How long.
    max_new_tokens: int | None = None
    """The most tokens to add; 20 where neither this nor `max_length` is said."""
    max_length: int | None = None
    """The most tokens in all, the prompt's included; `max_new_tokens` wins over it."""
    min_new_tokens: int | None = None
    """No end token before so many are added."""
    min_length: int | None = None
    """No end token before there are so many in all, the prompt's included."""
    max_time: float | None = None
    """Seconds, after which no further token is begun."""
    stop_strings: str | list[str] | None = None
    """A text ends where one of these appears in it; `generate` then needs the `tokenizer`."""

    # Which search.
    do_sample: bool | None = None
    """Draw from the distribution, rather than take the most probable token. Default False."""
    num_beams: int | None = None
    """Keep so many of the most probable continuations at each step (beam search). Default 1: no search."""
    num_beam_groups: int | None = None
    """Search in so many groups of beams, each kept away from what those before it chose. Default 1."""
    diversity_penalty: float | None = None
    """What a token loses for each earlier group that chose it at this step (arXiv 1610.02424)."""
    penalty_alpha: float | None = None
    """Contrastive search (arXiv 2202.06417): how much a token that resembles the text before it is held back."""
    low_memory: bool | None = None
    """In the reference, contrastive search then takes its candidates one by one. Here nothing comes of it."""
    length_penalty: float | None = None
    """A finished beam's log-probability is divided by its length to this power: long texts gain. Default 1."""
    early_stopping: bool | str | None = None
    """Search until there are `num_beams` texts (True), a better one is unlikely (False, the default) or impossible
    ("never")."""
    constraints: list | None = None
    """What a beam search must bring into the text, as `Constraint` objects."""
    force_words_ids: list | None = None
    """Words, each a list of ids, that a beam search must bring into the text; of a list of words, one."""
    num_return_sequences: int | None = None
    """How many continuations of each prompt: draws, or the best beams. Default 1."""
    use_cache: bool | None = None
    """Keep keys and values of past tokens, rather than compute them anew for every new one. Default True."""
    cache_implementation: str | None = None
    """"static": keep them in memory that does not move, so that on CUDA a token is one graph of kernels rather than a
    thousand calls (`minihf.fast.graphs`); greedy or sampled. "dynamic": in memory that grows. None: the same, but on a
    CPU a long text is written by a tape (`minihf.fast.tapes`), if the model allows it."""
    max_cache_len: int | None = None
    """How many tokens a static cache holds; by default as many as the texts need. To write many texts with one graph,
    make a `StaticCache` and pass it as `past_key_values` each time."""
    compile_config: dict | None = None
    """Arguments of `torch.compile` for what a static cache's graph holds: {} for its defaults. None: not compiled."""
    disable_compile: bool | None = None
    """Record no step: with a static cache, neither compile nor capture; without, make no tape. Default False."""

    # What is done to the logits, in this order.
    guidance_scale: float | None = None
    """Above 1, away from what the model says without the prompt (arXiv 2306.17806); 1: no guidance."""
    sequence_bias: dict | list | None = None
    """{ids of a sequence: added to the logit of its last token, after the others}; in files [[ids, bias], …]."""
    encoder_repetition_penalty: float | None = None
    """Above 1, logits of the encoder's tokens are raised: multiplied where positive, divided where negative. Without an
    encoder, those of the prompt's."""
    repetition_penalty: float | None = None
    """Above 1, logits of tokens already there are lowered so (arXiv 1909.05858)."""
    no_repeat_ngram_size: int | None = None
    """No n tokens in a row occur twice."""
    encoder_no_repeat_ngram_size: int | None = None
    """No n tokens in a row of the encoder's text occur; without an encoder, of the prompt."""
    bad_words_ids: list[list[int]] | None = None
    """Sequences of tokens that never occur."""
    forced_bos_token_id: int | None = None
    """The first token after the decoder's start: the language, in mBART."""
    forced_eos_token_id: int | list[int] | None = None
    """The last token, where the greatest length is reached; one of these."""
    remove_invalid_values: bool | None = None
    """Replace NaN by 0, infinities by the largest numbers."""
    exponential_decay_length_penalty: tuple | list | None = None
    """(start, factor): after so many new tokens, the end token's logit grows exponentially."""
    suppress_tokens: list[int] | None = None
    """Tokens that are never chosen."""
    begin_suppress_tokens: list[int] | None = None
    """Tokens that are not chosen first."""

    # When drawing, in this order; without do_sample they do nothing.
    temperature: float | None = None
    """Above 1 flattens the distribution, below 1 sharpens it. Default 1."""
    top_h: float | None = None
    """Draw from the most probable tokens, whose entropy is up to this share of the whole's (arXiv 2509.02510)."""
    top_k: int | None = None
    """Draw from the k most probable tokens only; 0: from all. Default 50. Contrastive search has k candidates."""
    top_p: float | None = None
    """Draw from the fewest tokens that hold this much of the probability. Default 1."""
    min_p: float | None = None
    """Draw from tokens at least this share as probable as the most probable one (arXiv 2407.01082)."""
    typical_p: float | None = None
    """As `top_p`, beginning with tokens whose surprise is nearest the expected one (arXiv 2202.00666)."""
    epsilon_cutoff: float | None = None
    """Draw from tokens at least this probable (arXiv 2210.15191)."""
    eta_cutoff: float | None = None
    """As `epsilon_cutoff`, lowered where the entropy is high (arXiv 2210.15191)."""
    renormalize_logits: bool | None = None
    """Last of all, log-softmax."""

    # What `generate` gives.
    return_dict_in_generate: bool | None = None
    """An output with attributes, rather than the ids alone."""
    output_scores: bool | None = None
    """Its `scores`: the logits of each step as the token was chosen from them."""
    output_logits: bool | None = None
    """Its `logits`: as the model gave them."""
    output_hidden_states: bool | None = None
    output_attentions: bool | None = None

    # Tokens of a meaning.
    bos_token_id: int | None = None
    """The prompt where there is none."""
    eos_token_id: int | list[int] | None = None
    """A text ends with this token, or any of these."""
    pad_token_id: int | None = None
    """Fills up the rows that ended early; None: the (first) end token."""
    decoder_start_token_id: int | list[int] | None = None
    """What a decoder with an encoder reads first; one for each row, in a list."""

    # Guessing tokens ahead, and checking them all at once.
    num_assistant_tokens: int | None = None
    """How many the assistant model guesses at a time. Default 20."""
    num_assistant_tokens_schedule: str | None = None
    """"constant" (the default), or "heuristic", "heuristic_transient": 2 more when all were right, else 1 less."""
    assistant_confidence_threshold: float | None = None
    """The assistant guesses no further where it is less sure of a token. Default 0.4."""
    prompt_lookup_num_tokens: int | None = None
    """Guess so many by looking for the last tokens earlier in the text, with no assistant model."""
    max_matching_ngram_size: int | None = None
    """So many last tokens are looked for, then fewer. Default 2."""

    def __init__(self, **settings: Any):
        for field in fields(self):
            setattr(self, field.name, field.default)
        self.other: dict[str, Any] = {}  # settings that are not ours: kept, and written back
        self.update(settings)

    def __repr__(self) -> str:
        said = self.said()
        unsaid = {name: value for name, value in DEFAULTS.items() if name not in said}
        said, unsaid = (", ".join(f"{name}={value!r}" for name, value in x.items()) for x in (said, unsaid))
        return f"GenerationConfig({said}" + (f"; by default {unsaid})" if unsaid else ")")

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
        check_values(self)

    def check_other(self) -> None:
        """Before generating: do the settings contradict each other, is there a wish that would go unheard?"""
        check_together(self)

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
        """What a model's own config says of generating: the special tokens, and in old ones any setting."""
        names = [field.name for field in fields(cls) if field.name not in OF_FORWARD]
        settings = {name: getattr(config, name, None) for name in names}
        if getattr(config, "force_bos_token_to_be_generated", False):  # the name it had in 2020
            settings["forced_bos_token_id"] = settings["bos_token_id"]
        return cls(**settings)

    @classmethod
    def strangers_in(cls, config: Any) -> list[str]:
        """The settings of generation that a model's config holds, and has no field for."""
        own = {field.name for field in fields(config)}
        return [f.name for f in fields(cls) if f.name in vars(config) and f.name not in own]

    @classmethod
    def from_file(cls, path: Path) -> "GenerationConfig":
        """Read a `generation_config.json`; CheckpointError where it makes no sense."""
        settings = read_json(path)
        try:
            return cls(**settings)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: {error}") from error

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> "GenerationConfig":
        """Read `generation_config.json` of a folder or a hub name; `options` as `Config.from_pretrained` has them."""
        source, changes = Source.split(name_or_path, options)
        return cls.from_file(source.get(FILE_NAME)).update(changes)

    @pushes
    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write what is said into `generation_config.json`."""
        said = self.said()
        if "constraints" in said:
            raise ValueError("constraints are objects, which no file holds: save force_words_ids, or set them to None")
        said.pop("compile_config", None)  # of one machine; nor does the reference write it, or read it
        if isinstance(self.sequence_bias, dict):  # JSON knows no keys but strings
            said["sequence_bias"] = [[list(ids), bias] for ids, bias in self.sequence_bias.items()]
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        write_json(Path(save_directory) / FILE_NAME, said)


def settle(own: GenerationConfig, given: GenerationConfig | None, settings: dict[str, Any]) -> GenerationConfig:
    """What holds for one call: its settings (None unsets), the given config, the model's own, DEFAULTS."""
    return GenerationConfig(**{**DEFAULTS, **own.said(), **(given.said() if given else {}), **settings})


def check_names(settings: dict[str, Any], others: Sequence[str] = ()) -> None:
    """A keyword that nobody has ever heard of is a slip of the pen, and may have meant one of the `others`."""
    known = [field.name for field in fields(GenerationConfig)] + list(NEUTRAL)
    for name in settings:
        if name in others:
            raise TypeError(f"generate alone takes {name!r}: what is streamed or traced is shown as it is written")
        if name == "trace":
            raise TypeError("generate shows its steps through trace_generation(model, ...), with the same arguments")
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *others], n=1)
            raise TypeError(f"generate has no argument {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
