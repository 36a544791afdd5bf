"""The rows of `bench.py pipelines`: sentences of natural length through two tasks, and one through the shell."""

import random
import re
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from bench_row import Job, Row, fresh_python, seconds_of


def answering(quick: bool) -> list[Row]:
    """`quick` makes every size tiny."""
    sentences = 8 if quick else 256
    model = partial(classifier, 2, 32, 2, 64) if quick else partial(classifier, 6, 384, 12, 1536)
    return [
        Row(
            f"{task}, {sentences} sentences, {how}",
            partial(answer, task=task, sentences=sentences, best_size=best_size),
            model,
            units=sentences,
            unit="text",
            goal=goal,
        )
        for task in ("text-classification", "feature-extraction")
        for how, best_size, goal in (("as it comes", False, 0.4), ("the best batch size", True, 0.6))
    ] + [Row("one sentence, from the shell", shell, model, goal=0.6)]


def classifier(layers: int, width: int, heads: int, inner: int) -> Any:
    """A model with its tokenizer, which is made from the texts that it will read."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import WordPiece

    from minihf import BertConfig, BertForSequenceClassification, BertTokenizer, pipeline

    engine = Tokenizer(WordPiece(unk_token="[UNK]"))
    engine.normalizer, engine.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=8000, special_tokens=special, show_progress=False)
    engine.train_from_iterator(english(), trainer)
    engine.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = BertConfig(
        vocab_size=engine.get_vocab_size(),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=inner,
        initializer_range=0.1,
    )
    tokenizer = BertTokenizer(engine, model_max_length=512)
    return pipeline("text-classification", BertForSequenceClassification(config), tokenizer=tokenizer, device="cpu")


def english() -> list[str]:
    """Sentences of Python's own manual, 3 to 60 words long, in an order of chance."""
    from pydoc_data.topics import topics

    parts = (part.split() for text in topics.values() for part in re.split(r"(?<=[.!?])\s+|\n\n+", text))
    found = sorted({" ".join(words) for words in parts if 3 <= len(words) <= 60 and words[0][0].isupper()})
    random.Random(0).shuffle(found)
    return found


def answer(library: str, folder: Path, task: str, sentences: int, best_size: bool) -> Job:
    """A list of sentences through a pipeline; the reference's best batch size is found by trying."""
    import torch

    pipe = import_module(library).pipeline(task, str(folder), device="cpu")
    texts, size = english()[:sentences], None
    if best_size and library == "transformers":
        sizes = (1, 2, 4, 8, 16, 32, 64)
        pipe(texts[:8])
        size = min(sizes, key=lambda size: seconds_of(partial(pipe, texts, batch_size=size)))

    def show(answers: list) -> Any:
        if task == "text-classification":
            return torch.tensor([found["score"] for found in answers])
        return torch.tensor([states[0][0] for states in answers])  # of each text's first token

    return Job(partial(pipe, texts, batch_size=size), show)


ANSWER = {
    "minihf": "import sys; from minihf.cli import main; "
    "main(['run', 'sentiment-analysis', 'I love this.', '--device', 'cpu', '--model', sys.argv[2]])",
    "transformers": "import sys; from transformers import pipeline; "
    "print(pipeline('sentiment-analysis', sys.argv[2], device='cpu')('I love this.'))",
}


def shell(library: str, folder: Path) -> Job:
    return fresh_python(library, folder, ANSWER[library])
