"""Which settings of `generate` make sense: each alone, when it is set; all together, before generating."""

import logging
import math
from typing import Any

from minihf.checkpoints.fields import check_types, fits

logger = logging.getLogger(__name__)
# Of the reference's other settings, the values that change nothing. Any other value is an error, not a silent wish.
NEUTRAL: dict[str, tuple] = {
    "watermarking_config": (),
    "token_healing": (False,),
    "dola_layers": (),
    "use_mtp": (False,),
    "is_assistant": (False,),
    "assistant_early_exit": (),
    "assistant_lookbehind": (10,),
    "target_lookbehind": (10,),
    "assistant_ensemble_weight": (),
    "speculation_type": (),
    "cache_config": (),
    "return_legacy_cache": (False,),
    "prefill_chunk_size": (),
    "continuous_batching_config": (),
}
AT_LEAST = {
    "max_new_tokens": 0,
    "max_length": 0,
    "min_new_tokens": 0,
    "min_length": 0,
    "max_time": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "diversity_penalty": 0,
    "penalty_alpha": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "num_assistant_tokens": 1,
    "prompt_lookup_num_tokens": 1,
    "max_matching_ngram_size": 1,
    "max_cache_len": 1,
    "assistant_confidence_threshold": 0,
}
SCHEDULES = ("constant", "heuristic", "heuristic_transient")
# What shapes the distribution to draw from: is a value right, and what would be.
DRAWN = {
    "temperature": (lambda x: 0 < x < math.inf, "above 0; do_sample=False takes the most probable token"),
    "top_k": (lambda x: x >= 0, "1 or more, or 0 for no limit"),
    "top_p": (lambda x: 0 < x <= 1, "above 0, up to 1"),
    "top_h": (lambda x: 0 < x <= 1, "above 0, up to 1"),
    "min_p": (lambda x: 0 <= x <= 1, "from 0 to 1"),
    "typical_p": (lambda x: 0 < x <= 1, "above 0, up to 1"),
    "epsilon_cutoff": (lambda x: 0 <= x < 1, "from 0, below 1"),
    "eta_cutoff": (lambda x: 0 <= x < 1, "from 0, below 1"),
}


def check_values(config: Any) -> None:
    """Each setting alone; what shapes the distribution, only where it is drawn from, as published files have it."""
    check_types(config)

    def require(name: str, right: bool, expected: str) -> None:
        if not right:
            raise ValueError(f"{name}={getattr(config, name)!r}: expected {expected}")

    for name, least in AT_LEAST.items():
        value = getattr(config, name)
        require(name, value is None or value >= least, f"{least} or more")
    penalty = config.length_penalty
    require("length_penalty", penalty is None or math.isfinite(penalty), "a finite number")
    for name in ("repetition_penalty", "encoder_repetition_penalty"):
        value = getattr(config, name)
        require(name, value is None or value > 0, "above 0; 1 is no penalty")
    scale = config.guidance_scale
    require("guidance_scale", scale is None or math.isfinite(scale), "a finite number; 1 is no guidance")
    for name in ("forced_eos_token_id", "constraints"):
        require(name, getattr(config, name) != [], "at least one, or None for none")
    require("early_stopping", config.early_stopping in (None, True, False, "never"), "True, False or 'never'")
    schedule = config.num_assistant_tokens_schedule
    require("num_assistant_tokens_schedule", schedule in (None, *SCHEDULES), f"one of {', '.join(SCHEDULES)}")
    stops = config.stop_strings
    require("stop_strings", stops is None or (bool(stops) and all(stops)), "a string, or a list of some")
    require("bad_words_ids", all(config.bad_words_ids or ()), "lists of at least one id")
    decay = config.exponential_decay_length_penalty
    pair = decay is None or (len(decay) == 2 and fits(decay[0], int) and fits(decay[1], float))
    pair = pair and not (decay and math.isnan(decay[1]))
    require("exponential_decay_length_penalty", pair, "(start, factor), as (5, 1.2)")
    require("force_words_ids", _are_words(config.force_words_ids), "lists of ids, or lists of such lists")
    require("sequence_bias", _are_biased(config.sequence_bias), "{(5, 7): -1.5, …}, or [[[5, 7], -1.5], …]")
    if config.do_sample:
        for name, (right, expected) in DRAWN.items():
            value = getattr(config, name)
            require(name, value is None or right(value), expected)


def _are_words(words: list | None) -> bool:
    if words is None:
        return True
    choices = [word if fits(word, list[list]) else [word] for word in words]
    return bool(words) and all(fits(choice, list[list[int]]) and choice and all(choice) for choice in choices)


def _are_biased(bias: dict | list | None) -> bool:
    if bias is None:
        return True
    pairs = bias.items() if isinstance(bias, dict) else bias
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        return False
    return all(
        isinstance(ids, (tuple, list)) and ids and fits([*ids], list[int]) and fits(b, float) and not math.isnan(b)
        for ids, b in pairs
    )


def check_tokens(config: Any, vocabulary: int | None) -> None:
    """Before generating: ids that are to come, or not to, are some. What is beyond the vocabulary cannot be forced.

    Args:
        vocabulary: how many tokens the model chooses from; None: unknown.
    """
    biased = config.sequence_bias or ()
    named = {
        "forced_bos_token_id": [config.forced_bos_token_id],
        "forced_eos_token_id": config.forced_eos_token_id,
        "bad_words_ids": config.bad_words_ids,
        "force_words_ids": config.force_words_ids,
        "sequence_bias": [*biased] if isinstance(biased, dict) else [ids for ids, _ in biased],
    }
    for name, value in named.items():
        ids = flat(value)
        if min(ids, default=0) < 0:
            raise ValueError(f"{name}={getattr(config, name)!r}: ids begin at 0, and {min(ids)} came")
        if name.startswith("forced_") and vocabulary is not None and max(ids, default=0) >= vocabulary:
            raise ValueError(f"{name}: the token {max(ids)} is to be forced: there are {vocabulary} tokens")
    if max(map(abs, config.end_tokens), default=0) >= 2**63:
        raise ValueError(f"eos_token_id={config.eos_token_id!r} is no id: ids have 64 bits")


def flat(value: Any) -> list[int]:
    """The ids in lists of lists."""
    if isinstance(value, (list, tuple)):
        return [i for each in value for i in flat(each)]
    return [] if value is None else [value]


def check_together(config: Any) -> None:
    """Before generating: settings that contradict each other, or ask for what nobody does, are errors."""
    for name, value in config.other.items():
        if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
            raise ValueError(f"{name}={value!r} is not implemented by minihf's generate")
    beams, groups, copies = config.num_beams or 1, config.num_beam_groups or 1, config.num_return_sequences or 1
    constrained = config.constraints is not None or config.force_words_ids is not None

    def refuse(wrong: bool, message: str) -> None:
        if wrong:
            raise ValueError(message)

    if copies > 1 and beams == 1 and not config.do_sample:
        raise ValueError("num_return_sequences > 1 gives the same text several times without do_sample=True or beams")
    if copies > beams > 1:
        raise ValueError(f"num_return_sequences={copies} of num_beams={beams}: there are no more texts than beams")

    diversity = config.diversity_penalty or 0
    grouped = f"num_beam_groups={groups} (diverse beam search)"
    if groups > 1:
        refuse(beams % groups != 0, f"{grouped} takes num_beams that divide into the groups, not {beams}")
        refuse(bool(config.do_sample), f"{grouped} does not draw: set do_sample=False")
        refuse(diversity == 0, f"{grouped} without a diversity_penalty writes the same in each group: set it above 0")
    refuse(groups == 1 and diversity > 0, f"diversity_penalty={diversity} acts between groups: set num_beam_groups")

    if constrained:
        name = "constraints" if config.constraints is not None else "force_words_ids"
        refuse(beams == 1, f"{name} takes a beam search: set num_beams above 1")
        refuse(bool(config.do_sample), f"{name} takes a beam search that does not draw: set do_sample=False")
        refuse(groups > 1, f"{name} takes a beam search without groups: set num_beam_groups=1")

    contrastive = f"penalty_alpha={config.penalty_alpha} (contrastive search)"
    if config.penalty_alpha:
        refuse(bool(config.do_sample), f"{contrastive} does not draw: set do_sample=False, or penalty_alpha=None")
        refuse(beams > 1, f"{contrastive} has no beams: set num_beams=1, or penalty_alpha=None")
        refuse((config.top_k or 0) < 2, f"{contrastive} compares candidates: set top_k above 1, not {config.top_k}")
        refuse(config.use_cache is False, f"{contrastive} reads its candidates with a cache: leave use_cache out")
    if config.prompt_lookup_num_tokens is not None:
        name = f"prompt_lookup_num_tokens={config.prompt_lookup_num_tokens}"
        refuse(beams > 1, f"{name} guesses for one text, not for beams: set num_beams=1")
        refuse(copies > 1, f"{name} guesses for one text: set num_return_sequences=1")
        refuse(bool(config.penalty_alpha), f"{name} guesses for greedy and sampled texts: set penalty_alpha=None")
        refuse(config.use_cache is False, f"{name} checks its guesses with a cache: leave use_cache out")

    if config.cache_implementation == "static":
        name = "cache_implementation='static'"
        recorded = config.return_dict_in_generate and (config.output_attentions or config.output_hidden_states)
        refuse(config.use_cache is False, f"{name} is a cache: leave use_cache out")
        refuse(beams > 1, f"{name} is for single texts, and beams have a cache of their own: set num_beams=1")
        refuse(bool(config.penalty_alpha), f"{name} cannot take back a candidate: set penalty_alpha=None")
        mode = (config.compile_config or {}).get("mode")
        own = f"compile_config={config.compile_config} makes CUDA graphs of its own, beside that of {name}: try "
        refuse(mode in ("reduce-overhead", "max-autotune"), own + "{} or {'mode': 'max-autotune-no-cudagraphs'}")
        refuse(bool(recorded), f"{name} gives no hidden states and no attentions: leave it out to see them")
    else:
        known = config.cache_implementation in (None, "dynamic")
        refuse(not known, f"cache_implementation={config.cache_implementation!r} is not implemented: 'static' is")
        for name in ("max_cache_len", "compile_config"):
            refuse(getattr(config, name) is not None, f"{name} takes cache_implementation='static'")

    decay = config.exponential_decay_length_penalty
    refuse(decay is not None and not config.end_tokens, "exponential_decay_length_penalty takes an eos_token_id")
    suppressed = set(config.suppress_tokens or ())
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = getattr(config, name)
        forced = {forced} if isinstance(forced, int) else set(forced or ())
        refuse(bool(forced) and forced <= suppressed, f"{name}={sorted(forced)} and suppress_tokens leave no token")
    _warn_of_the_harmless(config)


def _warn_of_the_harmless(config: Any) -> None:
    for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
        low, high = getattr(config, least), getattr(config, most)
        if low and high is not None and low > high and (most == "max_new_tokens" or config.max_new_tokens is None):
            logger.warning("%s=%d is more than %s=%d, which wins: no text will end by itself", least, low, most, high)
    if not config.return_dict_in_generate:
        flags = ("output_scores", "output_logits", "output_hidden_states", "output_attentions")
        asked = [name for name in flags if getattr(config, name)]
        if asked:
            logger.warning("%s: nothing comes of it without return_dict_in_generate=True", ", ".join(asked))
