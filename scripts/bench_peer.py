"""ctranslate2 beside the two: an engine of its own in C++, for the rows of `bench.py generate`.

It reads a format of its own, so a row's checkpoint is converted first. Its vocabulary is words, and a bare checkpoint
has none: the number of each id stands for it.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench_row import Job

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"beam_size": 1},
    "sampled": {"beam_size": 1, "sampling_topk": 50},
    "beam 4": {"beam_size": 4},
}


def write(folder: Path, new_tokens: int, texts: int, prompt: int, way: str, weights: str | None = None) -> Job:
    """The work of `bench_generate.write`. Only greedy ids are compared: draws, ties and rounding are its own."""
    import ctranslate2
    import torch

    config = json.loads((folder / "config.json").read_text())
    encodes = config["is_encoder_decoder"]
    engine = (ctranslate2.Translator if encodes else ctranslate2.Generator)(
        converted(folder, config["vocab_size"], pad=encodes),
        compute_type=weights or "float32",
        intra_threads=int(os.environ["OMP_NUM_THREADS"]),
    )
    seed = torch.Generator().manual_seed(1)
    ids = torch.randint(1, config["vocab_size"] - 1, (texts, prompt), generator=seed)
    words = [[str(word) for word in text] for text in ids.tolist()]
    length = ("max_decoding_length", "min_decoding_length") if encodes else ("max_length", "min_length")
    go = engine.translate_batch if encodes else engine.generate_batch
    given = {} if encodes else {"include_prompt_in_result": False}  # or it would read the prompt word by word

    def run():
        return go(words, end_token=[], **dict.fromkeys(length, new_tokens), **WAYS[way], **given)

    def show(results: list[Any]):
        return torch.cat([ids, torch.tensor([result.sequences_ids[0] for result in results])], 1)

    return Job(run, show if way == "greedy" and weights is None else lambda results: None)


def converted(folder: Path, words: int, pad: bool) -> str:
    """The checkpoint in ctranslate2's format. With `pad` the last word is Marian's padding, which it leaves out."""
    from ctranslate2.converters import TransformersConverter

    names = [str(word) for word in range(words)]
    if pad:
        names[-1] = "<pad>"
    vocabulary = {name: number for number, name in enumerate(names)}

    class Converter(TransformersConverter):
        def load_tokenizer(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
            special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "0")
            return SimpleNamespace(get_vocab=lambda: vocabulary, **special)

    return Converter(str(folder)).convert(str(folder / "ctranslate2"))
