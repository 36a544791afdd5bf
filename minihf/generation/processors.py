"""What is done to the logits before a token is chosen: pure functions (ids (B, T), logits (B, V)) -> logits (B, V).

The ids are all so far, the prompt's included; the logits float32, and never written to in place. Here is the order,
the reference's, so that sampled ids equal its own under one seed. The functions themselves are in `penalties` (which
look back at the text), `forcing` (what must come, and what must not), `truncations` (what to draw from), `guidance`.
"""

import logging
from collections.abc import Callable, Sequence
from functools import update_wrapper

import torch
from torch import Tensor

from minihf.generation import Processor, forcing, penalties, truncations
from minihf.generation.config import GenerationConfig

logger = logging.getLogger(__name__)


class LogitsProcessor:
    """What people derive their own processors from; any callable (input_ids, scores) -> scores does as well."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no __call__(input_ids, scores)")


class LogitsProcessorList(list):
    """Processors, one after the other."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for process in self:
            scores = process(input_ids, scores)
        return scores


def processors_for(
    config: GenerationConfig,
    *,
    prompt: int,
    steps: int,
    beams: int = 1,
    mask: Tensor | None = None,
    encoder_ids: Tensor | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
    guidance: Processor | None = None,
    diversity: Processor | None = None,
    own: Sequence[Processor] | None = None,
    device: torch.device | str = "cpu",
) -> list[Processor]:
    """All that the settings ask for, in the reference's order.

    Args:
        prompt: the length of the prompt; with an encoder, of the decoder's.
        steps: the most tokens to add.
        beams: rows of one text, side by side.
        mask: of the prompts (B, T), 0 where they are padded; the decoder's.
        encoder_ids: what the encoder reads (B, K), where it reads ids; without an encoder, the prompts.
        prefix_allowed_tokens_fn: (number of the text, ids (T,)) -> the tokens that may follow.
        guidance, diversity: see `guidance.guidance`; what keeps groups of beams apart.
        own: the caller's.
        device: of the ids and logits.

    Raises:
        TypeError: `own` is no list of callables.
    """
    own = [] if own is None else own if isinstance(own, (list, tuple)) else [own]
    for process in own:
        if not callable(process):
            raise TypeError(f"logits_processor takes callables (input_ids, scores) -> scores, not {process!r}")
    ends = config.end_tokens
    least = config.min_length or 0 if config.min_new_tokens is None else prompt + config.min_new_tokens

    made: list[Processor | None] = [guidance]
    if config.sequence_bias:
        made.append(penalties.sequence_bias(dict_of(config.sequence_bias), device))
    made.append(diversity)
    penalty, size = config.encoder_repetition_penalty, config.encoder_no_repeat_ngram_size
    if encoder_ids is None and (penalty not in (None, 1) or size):
        logger.warning("the settings that begin with encoder_ look at ids, and embeddings came: they do nothing")
    if penalty not in (None, 1) and encoder_ids is not None:
        made.append(penalties.encoder_repetition(penalty, encoder_ids))
    if config.repetition_penalty not in (None, 1):
        made.append(penalties.repetition(config.repetition_penalty, mask))
    if config.no_repeat_ngram_size:
        made.append(penalties.no_repeat_ngram(config.no_repeat_ngram_size))
    if size and encoder_ids is not None:
        made.append(penalties.no_repeat_ngram(size, encoder_ids))
    if config.bad_words_ids:
        made.append(penalties.bad_words(config.bad_words_ids, ends, device))
    if least and ends:
        made.append(forcing.no_end_before(least, ends, device))
    if prefix_allowed_tokens_fn is not None:
        made.append(forcing.allowed_only(prefix_allowed_tokens_fn, beams))
    if config.forced_bos_token_id is not None:
        made.append(forcing.forced(1, [config.forced_bos_token_id], device))
    if config.forced_eos_token_id is not None:
        last = config.forced_eos_token_id
        made.append(forcing.forced(prompt + steps - 1, [last] if isinstance(last, int) else last, device))
    if config.remove_invalid_values:
        made.append(forcing.finite)
    if config.exponential_decay_length_penalty is not None:
        start, factor = config.exponential_decay_length_penalty
        made.append(penalties.exponential_decay(prompt + start, factor, ends, device))
    if config.suppress_tokens is not None:
        made.append(forcing.suppressed(config.suppress_tokens, device))
    if config.begin_suppress_tokens is not None:
        begin = prompt if prompt > 1 or config.forced_bos_token_id is None else prompt + 1
        made.append(forcing.suppressed(config.begin_suppress_tokens, device, at=begin))
    made += map(answering, own)
    if config.do_sample:
        made += truncations.truncations(config, keep=1 if beams == 1 else max(len(ends), 1) + 1)
    if config.renormalize_logits:
        made.append(renormalized)
    return [process for process in made if process is not None]


def answering(process: Processor) -> Processor:
    """A caller's processor, whose answer is looked at: to forget the `return` is the usual mistake."""

    def asked(ids: Tensor, scores: Tensor) -> Tensor:
        answer = process(ids, scores)
        shape = answer.shape if isinstance(answer, Tensor) else None
        if shape != scores.shape:
            came = f"a {type(answer).__name__}" if shape is None else f"shape {tuple(shape)}"
            raise ValueError(
                f"a logits_processor answered with {came}, expected the scores of all rows, {tuple(scores.shape)}"
            )
        return answer

    named = process if hasattr(process, "__qualname__") else type(process)
    return update_wrapper(asked, named, updated=())


def renormalized(ids: Tensor, logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)


def dict_of(bias: dict | list) -> dict[tuple[int, ...], float]:
    """Of both ways to write it: {(5, 7): -1.5} and [[[5, 7], -1.5]]."""
    return {tuple(ids): value for ids, value in (bias.items() if isinstance(bias, dict) else bias)}
