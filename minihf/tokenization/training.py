"""A new vocabulary for an engine that is otherwise kept: its normaliser, its cutting of words, its special tokens."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

SHARED = ("show_progress", "initial_alphabet")
BY_FREQUENCY = (*SHARED, "min_frequency", "limit_alphabet", "continuing_subword_prefix", "end_of_word_suffix")
# An algorithm's trainer, and the options that are the caller's to choose.
TRAINERS = {
    "BPE": (trainers.BpeTrainer, (*BY_FREQUENCY, "max_token_length")),
    "WordPiece": (trainers.WordPieceTrainer, BY_FREQUENCY),
    "WordLevel": (trainers.WordLevelTrainer, ("show_progress", "min_frequency")),
    "Unigram": (trainers.UnigramTrainer, (*SHARED, "shrinking_factor", "max_piece_length", "n_sub_iterations")),
}


def trained_anew(
    engine: Engine,
    texts: Iterable[str | list[str]],
    vocab_size: int,
    length: int | None,
    new_special_tokens: list[str | AddedToken],
    renamed: Mapping[str, str],
    options: Mapping[str, Any],
) -> Engine:
    """An engine like this one, trained on these texts. Its special tokens come first, in the order of their ids.

    Raises:
        ValueError: an engine of another algorithm, or options that its trainer has not.
    """
    plan = json.loads(engine.to_str())
    model = plan["model"]
    kind = model["type"]
    if kind not in TRAINERS:
        raise ValueError(f"a {kind} tokenizer cannot be trained; these can: {', '.join(TRAINERS)}")
    trainer, names = TRAINERS[kind]
    if unknown := options.keys() - set(names):
        raise ValueError(f"the trainer of {kind} has no options {sorted(unknown)}; it has {', '.join(names)}")
    options = {"show_progress": False, **options}
    added, frame = plan["added_tokens"], plan["post_processor"]
    plan |= {"added_tokens": [], "post_processor": None}  # both name ids, which are about to change
    if kind == "Unigram" and model["unk_id"] is not None:
        unknown_token = model["vocab"][model["unk_id"]][0]
        options["unk_token"] = renamed.get(unknown_token, unknown_token)
        model |= {"vocab": [[options["unk_token"], 0.0]], "unk_id": 0}
    elif kind != "Unigram":
        model |= {"vocab": {}} | ({"merges": []} if kind == "BPE" else {})
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if kind == "BPE" and model.get(name) is not None:
            options.setdefault(name, model[name])
    if '"ByteLevel"' in json.dumps(plan["pre_tokenizer"]):
        # every byte, whether these texts have it or not
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()

    # sentencepiece keeps the tokens that a user defined among its pieces, as it keeps the special ones
    kept = [token for token in added if token["special"] or kind == "Unigram"]
    flags = [{name: token[name] for name in token if name not in ("id", "special")} for token in kept]
    special = [AddedToken(**token | {"content": renamed.get(token["content"], token["content"])}) for token in flags]
    trained = Engine.from_str(json.dumps(plan))
    trained.train_from_iterator(
        texts,
        trainer=trainer(vocab_size=vocab_size, special_tokens=special + new_special_tokens, **options),
        length=length,
    )
    if frame is None:
        return trained
    plan = json.loads(trained.to_str()) | {"post_processor": _renumbered(frame, trained, renamed)}
    return Engine.from_str(json.dumps(plan))


def _renumbered(frame: Any, engine: Engine, renamed: Mapping[str, str]) -> Any:
    """A post-processor's description with the special tokens, and their ids, that there are now."""
    if isinstance(frame, list):
        return [_renumbered(part, engine, renamed) for part in frame]
    if not isinstance(frame, dict):
        return frame
    frame = {name: _renumbered(part, engine, renamed) for name, part in frame.items()}
    if {"id", "ids", "tokens"} <= frame.keys():  # of a template
        frame["tokens"] = [renamed.get(token, token) for token in frame["tokens"]]
        frame["ids"] = [_id(token, engine) for token in frame["tokens"]]
    for name in ("cls", "sep"):  # of the processors named after BERT and RoBERTa
        if isinstance(frame.get(name), list):
            token = renamed.get(frame[name][0], frame[name][0])
            frame[name] = [token, _id(token, engine)]
    return frame


def _id(token: str, engine: Engine) -> int:
    index = engine.token_to_id(token)
    if index is None:
        raise ValueError(f"{token!r}, which is put around each text, is no special token, so that training drops it")
    return index
