"""Models and batches that a wrong formula cannot please.

A freshly initialised model is blind: its weights are tiny, its biases zero, its norms one, so that a swapped norm or a
missing bias changes next to nothing. Here every parameter is random, of a size that keeps activations near 1.
"""

import inspect

import torch
from torch import Tensor, nn

from minihf.models.base import Model
from minihf.models.config import Config
from minihf.nn.positions import positions_from_mask

MASKS = ("full", "right", "left", "holes")
# Of a batch: texts, tokens (of an encoder-decoder, the decoder's), an encoder's tokens, choices.
B, TOKENS, S, CHOICES = 3, 11, 7, 2
SOURCE = 13  # an encoder-decoder's encoder reads so many


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter values of its own: norms around 1, biases around 0, matrices that keep a vector's length."""
    generator = torch.Generator().manual_seed(seed)
    held = model.state_dict().keys()
    buffers = [(name, x) for name, x in model.named_buffers() if name in held]
    for name, parameter in [*model.named_parameters(), *buffers]:
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        module = model.get_submodule(name.rpartition(".")[0])
        if parameter.dim() == 1:
            is_norm_weight = name.endswith("weight") and not isinstance(module, nn.Linear)
            values = (1 if is_norm_weight else 0) + 0.3 * noise
        elif isinstance(module, nn.Embedding):
            values = 0.7 * noise
        else:
            values = noise * (parameter.numel() / parameter.shape[-1]) ** -0.5
        parameter.copy_(values)


def attention_mask(kind: str, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor | None:
    """1 = real, 0 = padding. "full": None; "right", "left": rows of other lengths; "holes": anywhere but the ends."""
    if kind == "full":
        return None
    mask = torch.ones(shape, dtype=torch.long)
    rows = mask.view(-1, shape[-1])
    for i, row in enumerate(rows):
        padding = (3 * i + 2) % (shape[-1] - 4)
        if kind == "right":
            row[len(row) - padding :] = 0
        elif kind == "left":
            row[:padding] = 0
        elif kind == "holes":
            row[1:-1] = torch.randint(0, 2, (len(row) - 2,), generator=generator)
    return mask


def takes(model: Model, name: str) -> bool:
    """Its forward has an argument of that name."""
    return name in inspect.signature(model.forward).parameters


def make_batch(model: Model, task: str, kind: str, seed: int = 0) -> dict[str, Tensor]:
    """The arguments of a forward: ids, types, mask, and labels of the task.

    An encoder-decoder gets ids and a mask for each side, and its labels are the decoder's.

    Padded places bear the pad token, where there is one; labels there, and where a padded token would have to predict,
    count for nothing.
    """
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def random(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    two_sides = takes(model, "decoder_input_ids")
    one_answer = two_sides and task == "ForSequenceClassification"  # whose decoder reads the encoder's text
    T = SOURCE if two_sides and not one_answer else TOKENS
    T = min(T, model.position_limit or T)
    shape = (B, CHOICES, T) if task in ("ForMultipleChoice", "ForDoubleHeads") else (B, T)
    pad = config.pad_token_id
    special = min(3, config.vocab_size - 1)  # the first tokens of our own checkpoints
    ids = random(config.vocab_size - special, *shape) + special
    mask = attention_mask(kind, generator, shape)
    batch = {"input_ids": ids}
    if mask is not None:
        batch["attention_mask"] = mask
    if pad is not None and kind in ("right", "left"):
        batch["input_ids"] = ids.masked_fill(mask == 0, pad)
    elif pad is not None:
        ids[..., T // 3] = pad  # a text may hold the pad token, too
    if one_answer:
        batch["input_ids"] = with_ends(batch["input_ids"], mask, config.eos_token_id)
    if takes(model, "token_type_ids"):  # which index the token table, where there is none of their own
        batch["token_type_ids"] = random(getattr(config, "type_vocab_size", config.vocab_size), *shape)
    if getattr(config, "add_cross_attention", False):
        batch["encoder_hidden_states"] = torch.randn(B, S, config.hidden_size, generator=generator, dtype=torch.float64)
        batch["encoder_attention_mask"] = attention_mask("right", generator, (B, S))

    if two_sides:  # from here on, shape and mask are the decoder's
        shape = (B, T if one_answer else min(TOKENS, model.position_limit or TOKENS))
        mask = mask if one_answer else attention_mask(kind, generator, shape)
        ids = batch["decoder_input_ids"] = random(target_words(config) - special, *shape) + special
        if mask is not None:
            batch["decoder_attention_mask"] = mask
        if mask is not None and pad is not None:
            batch["decoder_input_ids"] = ids.masked_fill(mask == 0, pad)
    T = shape[-1]
    real = torch.ones(shape, dtype=torch.bool) if mask is None else mask.bool()
    scored = real & real.roll(1, dims=-1) & (random(4, *shape) > 0)
    N = config.num_labels
    if task in ("ForMaskedLM", "ForCausalLM", "ForSeq2SeqLM", "ForPreTraining", "ForDoubleHeads"):
        words = target_words(config) if two_sides else config.vocab_size
        batch["labels"] = random(words, *shape).masked_fill(~scored, -100)
    if task == "ForPreTraining" and model.output_embeddings is None:  # which tokens were replaced: yes or no for each
        batch["labels"] = random(2, *shape).double()  # integers the reference takes to float32, and its loss with them
    for name in ("next_sentence_label", "sentence_order_label"):
        if takes(model, name):
            batch[name] = random(2, B)
    if task == "ForDoubleHeads":
        batch["mc_labels"] = random(CHOICES, B)
        batch["mc_token_ids"] = real.long().mul(torch.arange(T)).argmax(-1)
    if task == "ForNextSentencePrediction":
        batch["labels"] = random(2, B)
    if task == "ForMultipleChoice":
        batch["labels"] = random(CHOICES, B)
    if task == "ForTokenClassification":
        batch["labels"] = random(N, *shape).masked_fill(~scored, -100)
    if task == "ForQuestionAnswering" and kind != "left":  # its loss compares all places, those that see nothing too
        batch["start_positions"], batch["end_positions"] = random(T, B), random(T + 5, B)
    if task == "ForSequenceClassification":
        floats = torch.rand(B, N, generator=generator, dtype=torch.float64)
        several = config.problem_type == "multi_label_classification"
        numbers = N == 1 or config.problem_type == "regression"
        batch["labels"] = floats.squeeze(-1) if numbers else floats.round() if several else random(N, B)
    return batch


def target_words(config: Config) -> int:
    """How many words an encoder-decoder's decoder knows."""
    return getattr(config, "decoder_vocab_size", None) or config.vocab_size


def with_ends(ids: Tensor, mask: Tensor | None, end: int) -> Tensor:
    """The first and the last real token of each text become its end tokens, and there is no other."""
    real = torch.ones_like(ids) if mask is None else mask
    first, last = real.argmax(-1), real.mul(torch.arange(ids.shape[1])).argmax(-1)  # (B, T) -> (B,)
    ids, rows = ids.masked_fill(ids == end, (end + 1) % 3), torch.arange(len(ids))
    ids[rows, first] = ids[rows, last] = end
    return ids


def other_inputs(model: Model, task: str, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The same batch said in other ways: embeddings instead of ids, positions and types by hand or left out.

    Of an encoder-decoder, too: no decoder ids (from what is there, they are made), no mask for them, and the output of
    the encoder passed in.
    """
    ids = batch["input_ids"]
    width, generator = model.get_input_embeddings().embedding_dim, torch.Generator().manual_seed(1)

    def vectors(*shape: int) -> Tensor:
        return 0.7 * torch.randn(*shape, width, generator=generator, dtype=torch.float64)

    def without(*names: str) -> dict[str, Tensor]:
        return {name: x for name, x in batch.items() if name not in names}

    embeds = vectors(*ids.shape)
    ways = {}
    if "decoder_input_ids" in batch:
        read = () if task == "ForSequenceClassification" else ("input_ids",)  # it looks for the end tokens in them
        if task in ("ForSeq2SeqLM", "ForSequenceClassification", "ForQuestionAnswering"):
            ways["no decoder ids"] = without("decoder_input_ids", "decoder_attention_mask")
        ways["no decoder mask"] = without("decoder_attention_mask")
        ways["encoder outputs"] = {**without(*read), "encoder_outputs": (embeds,)}
        ways["embeddings"] = {
            **without("decoder_input_ids", *read),
            "decoder_inputs_embeds": vectors(*batch["decoder_input_ids"].shape),
            **({"inputs_embeds": embeds} if read else {}),
        }
        return ways
    always_crosses = takes(model, "encoder_hidden_states") and not hasattr(model.config, "add_cross_attention")
    if task == "ForCausalLM" and always_crosses:
        ways["an encoder's output"] = {
            **batch,
            "encoder_hidden_states": vectors(B, S),
            "encoder_attention_mask": attention_mask("right", generator, (B, S)),
        }
    if takes(model, "position_ids"):
        ways["positions"] = {**batch, "position_ids": torch.arange(ids.shape[-1]).flip(0).expand(ids.shape)}
    if takes(model, "token_type_ids"):
        ways["no types"] = without("token_type_ids")
    if task != "ForDoubleHeads":  # whose embeddings the reference takes for a flat batch
        ways["embeddings"] = {**without("input_ids"), "inputs_embeds": embeds}
    return ways


def reference_batch(batch: dict[str, Tensor], task: str, *, positions: bool) -> dict[str, Tensor]:
    """The batch for the reference: where minihf counts positions over the mask, it must be told them."""
    if positions and "position_ids" not in batch and "attention_mask" in batch:
        batch = {**batch, "position_ids": positions_from_mask(batch["attention_mask"])}
    if task in ("ForDoubleHeads", "ForMultipleChoice") and "position_ids" in batch:  # some flatten those of all else
        batch = {**batch, "position_ids": batch["position_ids"].flatten(0, 1)}
    if task == "ForDoubleHeads" and "attention_mask" in batch:  # GPT's flattens the choices of all but the mask
        batch = {**batch, "attention_mask": batch["attention_mask"].flatten(0, 1)}
    return batch


def cast(batch: dict[str, Tensor], dtype: torch.dtype, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Floats to a dtype, everything to a device."""

    def move(x: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        if isinstance(x, tuple):
            return tuple(map(move, x))
        return x.to(device, dtype if x.is_floating_point() else None)

    return {name: move(x) for name, x in batch.items()}
