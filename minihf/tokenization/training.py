"""A new vocabulary for an engine that is otherwise kept: its normaliser, its cutting of words, its special tokens."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

TRAINERS = {"BPE": trainers.BpeTrainer, "WordPiece": trainers.WordPieceTrainer}


def trained_anew(
    engine: Engine,
    texts: Iterable[str | list[str]],
    vocab_size: int,
    length: int | None,
    new_special_tokens: list[str | AddedToken],
) -> Engine:
    """An engine like this one, trained on these texts. Its special tokens come first, in the order of their ids.

    Raises:
        ValueError: an engine of another algorithm.
    """
    plan = json.loads(engine.to_str())
    model = plan["model"]
    if model["type"] not in TRAINERS:
        raise ValueError(f"a {model['type']} tokenizer cannot be trained; these can: {', '.join(TRAINERS)}")
    added, frame = plan["added_tokens"], plan["post_processor"]
    plan |= {"added_tokens": [], "post_processor": None}  # both name ids, which are about to change
    model |= {"vocab": {}} | ({"merges": []} if model["type"] == "BPE" else {})

    options: dict[str, Any] = {}
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model["type"] == "BPE" and model.get(name) is not None:
            options[name] = model[name]
    if '"ByteLevel"' in json.dumps(plan["pre_tokenizer"]):
        # every byte, whether these texts have it or not
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    flags = [{name: token[name] for name in token if name != "id"} for token in added if token["special"]]
    special = [AddedToken(**token) for token in flags] + new_special_tokens
    trainer = TRAINERS[model["type"]](vocab_size=vocab_size, special_tokens=special, show_progress=False, **options)
    trained = Engine.from_str(json.dumps(plan))
    trained.train_from_iterator(texts, trainer=trainer, length=length)
    if frame is None:
        return trained
    plan = json.loads(trained.to_str()) | {"post_processor": _renumbered(frame, trained)}
    return Engine.from_str(json.dumps(plan))


def _renumbered(frame: Any, engine: Engine) -> Any:
    """A post-processor's description with the ids that its special tokens have now."""
    if isinstance(frame, list):
        return [_renumbered(part, engine) for part in frame]
    if not isinstance(frame, dict):
        return frame
    frame = {name: _renumbered(part, engine) for name, part in frame.items()}
    if {"id", "ids", "tokens"} <= frame.keys():  # of a template
        frame["ids"] = [_id(token, engine) for token in frame["tokens"]]
    for name in ("cls", "sep"):  # of the processors named after BERT and RoBERTa
        if isinstance(frame.get(name), list):
            frame[name] = [frame[name][0], _id(frame[name][0], engine)]
    return frame


def _id(token: str, engine: Engine) -> int:
    index = engine.token_to_id(token)
    if index is None:
        raise ValueError(f"{token!r}, which is put around each text, is no special token, so that training drops it")
    return index
