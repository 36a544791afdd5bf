"""Generation with the lid off: at each step, what could have come, what each processor made of it, and what came.

The texts are those of `generate`, by its own loops: what is added to them looks, and changes nothing. Of beams there is
the tree, too: every beam that ran, where it came from, and what became of it. Of contrastive search, what it compared;
where tokens are guessed ahead, which were, and which guesses were refused.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minihf.generation.generate import finished, searched, written
from minihf.generation.task import prepare
from minihf.inspection.trace_record import Trace
from minihf.inspection.trace_watch import Watch
from minihf.models.architectures import ARCHITECTURES
from minihf.models.auto import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from minihf.models.base import Model
from minihf.tokenization import AutoTokenizer


def trace_generation(
    model: Model,
    inputs: Tensor | str | Sequence[str] | None = None,
    tokenizer: Any = None,
    *,
    top: int = 5,
    **settings: Any,
) -> Trace:
    """Generate, and keep what each step chose from.

    Args:
        model: one that can generate.
        inputs: the prompts as ids (B, T), or as text; None: they are among the settings.
        tokenizer: for text, and to show tokens as more than numbers.
        top: how many of the best candidates are kept at each stage; one that was chosen is kept besides, and so is a
            guess that was not. Of contrastive search, the score that decides is the last stage.
        settings: all else that `generate` takes.

    Raises:
        ValueError, TypeError: `generate` would raise it.
    """
    if not model.can_generate:
        raise TypeError(
            f"{type(model).__name__} has no language model head to generate with; load it with AutoModelForCausalLM"
        )
    model.require_values("trace_generation")
    if type(top) is not int or top < 1:
        raise ValueError(f"top is how many candidates are kept at each stage, 1 or more, not {top!r}")
    if inputs is not None and not isinstance(inputs, Tensor):
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"the prompts are {inputs!r}: pass ids as a tensor, or text")
        if tokenizer is None:
            raise ValueError("the prompts are text: pass the tokenizer too, or ids")
        # What a decoder continues must stand next to what it writes.
        side = {} if model.config.is_encoder_decoder else {"padding_side": "left"}
        batch = tokenizer(list(texts), padding=len(texts) > 1, return_tensors="pt", return_attention_mask=True, **side)
        inputs = batch["input_ids"].to(model.device)
        settings.setdefault("attention_mask", batch["attention_mask"].to(model.device))
    task = prepare(model, inputs, tokenizer=tokenizer, **settings)
    watch = Watch(task, top, tokenizer)
    if task.beams > 1:
        watch.trace.result = searched(task)
        watch.rank()
    else:
        sequences = task.ids
        for chosen in written(task):
            watch.chose(chosen)
            sequences = torch.cat([sequences, chosen[:, None]], dim=1)
        watch.trace.result = finished(task, sequences)
    return watch.trace


def run_command(
    target: str,
    text: str,
    *,
    png: str | None = None,
    seed: int = 0,
    top: int = 5,
    force_word: Sequence[str] = (),
    assistant_model: str | None = None,
    **settings: Any,
) -> int:
    """`minihf trace`: prints, and gives the exit status 0.

    Raises:
        ValueError, OSError: no such checkpoint, one that writes nothing, or settings that make no sense.
    """
    kind = writer(target)
    model, tokenizer = kind.from_pretrained(target).eval(), AutoTokenizer.from_pretrained(target)
    if force_word:
        settings["force_words_ids"] = [tokenizer.encode(word, add_special_tokens=False) for word in force_word]
    if assistant_model is not None:
        settings["assistant_model"] = writer(assistant_model).from_pretrained(assistant_model).eval()
    torch.manual_seed(seed)
    trace = trace_generation(model, text, tokenizer, top=top, **settings)
    print(trace)
    if png is not None:
        trace.draw(png)
    return 0


def writer(target: str) -> type[AutoModelForCausalLM] | type[AutoModelForSeq2SeqLM]:
    """Which Auto class loads a checkpoint to write with. ValueError: it is an encoder."""
    config = AutoConfig.from_pretrained(target)
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    _, classes = ARCHITECTURES[config.model_type]
    decoder = "ForSeq2SeqLM" in classes or vars(config).get("is_decoder", True)  # which is set as it is loaded
    if "ForCausalLM" not in classes or not decoder:
        raise ValueError(
            f"{target} is an encoder ({config.model_type}): it reads a text from both sides and writes none. Take a "
            "model that writes: a decoder (such as gpt2, or a bert whose config says is_decoder=true), or one with "
            "encoder and decoder (such as t5 or bart)"
        )
    return AutoModelForCausalLM
