"""What went where: every tensor of a file and every parameter of a model, accounted for.

A model's `state_dict()` is the checkpoint, key for key. What cannot be mirrored is this short list:

- `gamma`/`beta`, the names of a norm's weight and bias in files converted from TensorFlow;
- stale buffers, which old files carry and nobody reads (`position_ids`, the causal triangle `attn.bias`, frequencies,
  positions where a model computes them, the `version` of the program that trained BART);
- the base model's prefix (`bert.`), which a file may lack, saved from the base model, or carry, saved from a head; in
  one of Llama's heads it is another than in the rest;
- tied parameters, which a file holds once;
- Mixtral's experts, which published files hold one by one, under older names (`minihf.checkpoints.experts`).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from minihf.checkpoints.files import CheckpointError, TensorInfo

MODERN_NAMES = {r"\.gamma$": ".weight", r"\.beta$": ".bias"}
STALE = re.compile(
    r"(^|\.)(position_ids|token_type_ids|(attn|(cross)?attention)\.(bias|masked_bias)|rotary_emb\.inv_freq"
    r"|embed_positions\.weight|(en|de)coder\.version|EncDecAttention\.relative_attention_bias\.weight)$"
)


@dataclass
class Ledger:
    """Keys of the model, unless said otherwise; of parameters that the file holds in parts, the keys of those.

    Every tensor of the file is in exactly one of `loaded` (values), `other_head`, `stale`, `mismatched` and
    `unexpected`; every parameter in exactly one of `loaded` (keys), `tied`, `new`, `mismatched` and `missing`.
    """

    loaded: dict[str, str] = field(default_factory=dict)
    """Key of the model -> key in the file."""
    tied: dict[str, str] = field(default_factory=dict)
    """Absent from the file; it is the same parameter as another."""
    new: list[str] = field(default_factory=list)
    """Of a task head that the file does not hold: freshly initialised."""
    missing: list[str] = field(default_factory=list)
    """Not in the file, and no head's: an error, unless `strict=False`."""
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Key, shape in the file, shape in the model: an error, unless `ignore_mismatched_sizes=True`."""
    wrong_dtype: list[tuple[str, torch.dtype]] = field(default_factory=list)
    """Key, and a dtype that no parameter can have: always an error."""
    unexpected: list[str] = field(default_factory=list)
    """Keys of the file that nobody knows: an error, unless `strict=False`."""
    other_head: list[str] = field(default_factory=list)
    """Keys of the file that belong to another head of the same architecture."""
    stale: list[str] = field(default_factory=list)
    """Keys of the file of buffers that are no longer read."""

    def as_dict(self, buffers: Collection[str] = ()) -> dict:
        """For `output_loading_info=True`: the reference's keys (no buffer is missing), and the ledger's own."""
        return {
            "missing_keys": {*self.missing, *self.new}.difference(buffers),
            "unexpected_keys": {*self.unexpected, *self.other_head},
            "mismatched_keys": {(key, tuple(there), tuple(here)) for key, there, here in self.mismatched},
            "error_msgs": [],
            **vars(self),
        }

    def check(self, where: str, *, strict: bool, ignore_mismatched_sizes: bool) -> None:
        """Raise one error that lists everything that is wrong, or none."""
        wrong = [f"{key}: is {dtype} in the file, expected floating point" for key, dtype in self.wrong_dtype]
        if not ignore_mismatched_sizes:
            wrong += [f"{key}: shape {there} in the file, {here} in the model" for key, there, here in self.mismatched]
        if strict:
            wrong += [f"{key}: missing from the file" for key in self.missing]
            wrong += [f"{key}: in the file, unknown to the model" for key in self.unexpected]
        if wrong:
            advice = []
            if self.mismatched and not ignore_mismatched_sizes:
                advice.append("ignore_mismatched_sizes=True initialises parameters of another shape afresh")
            if strict and (self.missing or self.unexpected):
                advice.append("strict=False loads what fits")
            lines = "\n  ".join(wrong)
            raise CheckpointError(f"{where} does not fit the model:\n  {lines}" + "".join(f"\n{a}" for a in advice))


def modern(key: str) -> str:
    """The name that a key of an old file has today."""
    for old, new in MODERN_NAMES.items():
        key = re.sub(old, new, key)
    return key


def match(
    file: Mapping[str, TensorInfo],
    model: Mapping[str, torch.Size],
    *,
    prefix: str,
    other_prefixes: tuple[str, ...] = (),
    is_base: bool,
    heads: tuple[str, ...],
    tied: Mapping[str, str],
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> Ledger:
    """Find each tensor's place.

    Args:
        file: the tensors of the file.
        model: the shapes of the model's parameters, and of its buffers that a file holds.
        prefix: the name that the base model has inside a model with a head ("bert").
        other_prefixes: the names that it has inside other heads of the architecture.
        is_base: the model is the base model.
        heads: the first names of the parameters of all heads of the architecture, seen from a base model's head classes
            ("cls", "classifier"), and of the base model's own parts that only some heads use ("pooler").
        tied: parameter -> the parameter that it is the same as.
        aliases: the name of a parameter in files of other heads -> its name in the model; where a file has both, the
            second counts.
    """
    ledger = Ledger()
    dotted = prefix + "."
    aliases = {old: new for old, new in aliases.items() if not {new, new.removeprefix(dotted)} & file.keys()}
    others = tuple(other + "." for other in other_prefixes)
    carries_prefix = any(key.startswith((dotted, *others)) for key in file)

    def local(key: str) -> str:
        """The name of a file's tensor inside the base model, or of a head's part."""
        return next((key.removeprefix(prefix) for prefix in (dotted, *others) if key.startswith(prefix)), key)

    def is_head(key: str) -> bool:
        return local(key).split(".")[0] in heads

    settled: set[str] = set()
    for key, info in file.items():
        name = modern(key)
        if name.startswith(others):
            name = dotted + local(name)
        if is_base:
            name = name.removeprefix(dotted)
        elif not carries_prefix and not (name in model and is_head(name)):
            name = dotted + name
        name = name if name in model else aliases.get(name, name)
        if name in model and name not in settled:
            settled.add(name)
            if not info.dtype.is_floating_point:
                ledger.wrong_dtype.append((key, info.dtype))
            elif tuple(info.shape) != tuple(model[name]):
                ledger.mismatched.append((name, tuple(info.shape), tuple(model[name])))
            else:
                ledger.loaded[name] = key
        elif STALE.search(key):
            ledger.stale.append(key)
        elif is_head(key):
            ledger.other_head.append(key)
        else:
            ledger.unexpected.append(key)

    for name in model:
        if name in settled:
            continue
        twin = tied.get(name) or next(
            (target for target, source in tied.items() if source == name and target in settled), None
        )
        if twin is not None and (twin in settled or twin in model):
            ledger.tied[name] = twin
        elif is_head(name):
            ledger.new.append(name)
        else:
            ledger.missing.append(name)
    return ledger
