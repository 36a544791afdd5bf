"""One checkpoint on both sides, and all the ways in which its two models are compared.

A comparison builds a tiny model with random parameters, saves it, and lets the reference load the file strictly; then
both run the same batches: each attention implementation, each kind of mask, with and without dropout, forward and
backward.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minihf.inspection.batches import MASKS, cast, make_batch, other_inputs, randomise, reference_batch
from minihf.inspection.compare import TOLERANCES, Difference, compare, run
from minihf.inspection.families import FAMILIES, Variant
from minihf.inspection.locate import first_difference, listen
from minihf.models.architectures import ARCHITECTURES, class_for
from minihf.models.base import Model
from minihf.nn.cache import Cache


class ParityError(AssertionError):
    """The two sides differ; the message says where first, and by how much."""


@dataclass
class Pair:
    """The same checkpoint on both sides."""

    ours: Model
    theirs: nn.Module
    task: str
    positions_from_mask: bool
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> "Pair":
        self.ours.to(device, dtype)
        # Loaded in half precision, the reference keeps rope's frequencies in float32; a cast would round them for good.
        kept = {name: x for name, x in self.theirs.named_buffers() if name.endswith("inv_freq")}
        self.theirs.to(device, dtype)
        if hasattr(self.theirs.config, "num_local_experts"):  # the other ways to run experts know no float64
            self.theirs.set_experts_implementation("eager")
        for name, x in kept.items():
            path, _, last = name.rpartition(".")
            setattr(self.theirs.get_submodule(path), last, x.to(device, torch.promote_types(dtype, torch.float32)))
        return self

    def use(self, impl: str) -> "Pair":
        self.ours.set_attn_implementation(impl)
        self.theirs.set_attn_implementation(impl)
        return self


def heads_of(model_type: str) -> dict[str, str]:
    """Class name -> task, for each model class of an architecture."""
    return {name: task for task, name in ARCHITECTURES[model_type][1].items() if task != "Config"}


def variants_of(model_type: str, class_name: str) -> dict[str, Variant]:
    """The variants of the config that a class knows, plain first."""
    chosen = {
        name: v for name, v in FAMILIES[model_type].variants.items() if v.classes is None or class_name in v.classes
    }
    return {"plain": Variant({}), **chosen}


def make_pair(model_type: str, class_name: str, variant: Variant | None = None, *, seed: int = 0) -> Pair:
    """A tiny random checkpoint, saved by minihf and loaded by both; each side must account for every key.

    Raises:
        ParityError: the reference finds keys missing, unexpected or of another shape.
    """
    import transformers

    family, variant = FAMILIES[model_type], variant or Variant({})
    task = heads_of(model_type)[class_name]
    fields = {**family.config, **family.special.get(class_name, {}), **variant.fields}
    config = class_for(model_type, "Config")(**fields)
    model = class_for(model_type, task)(config)
    randomise(model, seed)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs, info = getattr(transformers, class_name).from_pretrained(folder, output_loading_info=True)
        ours = type(model).from_pretrained(folder)
    computed = {name for name, _ in ours.named_buffers()} - ours.state_dict().keys()  # by each side for itself
    for name in computed & dict(theirs.named_parameters()).keys():  # a parameter there, though never trained
        path, _, last = name.rpartition(".")
        table = theirs.get_submodule(path)._parameters.pop(last)
        theirs.get_submodule(path).register_buffer(last, table.data, persistent=False)
    wrong = {kind: keys for kind in info if (keys := {*info[kind]} - computed)}
    if wrong:
        raise ParityError(f"{class_name}: the reference does not load what minihf saved: {wrong}")
    dtypes = (torch.float32,) if variant.half_blind else (torch.float32, torch.float64)
    return Pair(ours, theirs, task, family.positions_from_mask, dtypes)


def batches(
    pair: Pair, kind: str, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Iterator[tuple[str, dict, dict]]:
    """(what it is, ours, the reference's): the batch with one kind of mask, and other ways to say it."""
    plain = make_batch(pair.ours, pair.task, kind)
    ways = {"": plain, **(other_inputs(pair.ours, pair.task, plain) if kind == "right" else {})}
    for way, batch in ways.items():
        batch = cast(batch, dtype, device)
        yield way, batch, reference_batch(batch, pair.task, positions=pair.positions_from_mask)


def comparisons(
    pair: Pair,
    dtype: torch.dtype,
    *,
    masks: tuple[str, ...] = MASKS,
    impls: tuple[str, ...] = ("eager", "sdpa"),
    modes: tuple[str, ...] = ("eval", "train"),
    device: torch.device | str = "cpu",
) -> Iterator[Difference]:
    """Run both sides over every combination. A difference above the tolerance says where it comes from first."""
    pair.to(dtype, device)
    for impl in impls:
        pair.use(impl)
        for kind in masks:
            for way, batch, others in batches(pair, kind, dtype, device):
                for mode in modes:
                    train = mode == "train"
                    options = {"train": train, "attentions": impl == "eager"}
                    found = compare(run(pair.ours, batch, **options), run(pair.theirs, others, **options))
                    if not found.within(TOLERANCES[dtype]):
                        sides = listen(pair.ours, batch, train=train), listen(pair.theirs, others, train=train)
                        first = first_difference(*sides, TOLERANCES[dtype]) or "all modules agree that both sides call"
                        found.worst += f" ({', '.join(filter(None, (impl, f'{kind} mask', way, mode)))}): {first}"
                    yield found


def check(pair: Pair, dtype: torch.dtype, **options) -> Difference:
    """The largest difference of all `comparisons`."""
    total = Difference()
    for found in comparisons(pair, dtype, **options):
        total.add("outputs", found.worst, found.outputs)
        total.add("gradients", found.worst, found.gradients)
    return total


def assert_parity(pair: Pair, dtype: torch.dtype, **options) -> None:
    """For tests: the first of the `comparisons` that is over the tolerance is an error.

    Raises:
        ParityError: its message names the first module path, in order of execution, that differs, and by how much.
    """
    for found in comparisons(pair, dtype, **options):
        if not found.within(TOLERANCES[dtype]):
            raise ParityError(
                f"{type(pair.ours).__name__} in {dtype}: outputs differ by {found.outputs:.1e}, gradients by "
                f"{found.gradients:.1e}, tolerance {TOLERANCES[dtype]:.0e}; {found.worst}"
            )


def chunked(model: Model, batch: dict, sizes: tuple[int, ...]) -> Tensor:
    """The output of a causal model that reads its text in pieces, through a cache: equal to reading it at once.

    Of an encoder-decoder, the decoder's text is cut; the encoder reads its own once, with the first piece.
    """
    cache, pieces, start, encoded = Cache(), [], 0, None
    side = "decoder_" if "decoder_input_ids" in batch else ""
    for size in sizes:
        part = {}
        for name, x in batch.items():
            if name in (side + "input_ids", side + "token_type_ids", side + "position_ids"):
                part[name] = x[:, start : start + size]
            elif name == side + "attention_mask":
                part[name] = x[:, : start + size]
            elif side or name.startswith(("encoder_", "inputs_embeds")):
                part[name] = x
        if encoded is not None:
            part["encoder_outputs"] = (encoded,)
            del part["input_ids"]
        out = model(**part, past_key_values=cache, use_cache=True)
        encoded = out.encoder_last_hidden_state if side else None
        pieces.append(out[0])
        start += size
    return torch.cat(pieces, dim=1)
