"""A language model that fills gaps: BERT, on docstrings.

    python train/mlm.py
    python train/mlm.py --dataset imdb --model distilbert-base-uncased --learning-rate 5e-5
    python train/mlm.py --train-file notes.txt

The baseline knows how often each token occurs, and no context. Both are judged by perplexity on the same gaps, and by
how many of these they fill rightly.

The default run, on Python 3.11's library, in 67 s on 2 cores: a perplexity of 270, the baseline's 469. Its test asks of
a shorter run that the model's be less by 20.
"""

import math
from collections import Counter

from common import HEADS, arguments, finish, load, settings, word_pieces

from minihf import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    default_data_collator,
    group_texts,
    set_seed,
)
from minihf.data.python_tasks import functions

COLUMNS = ["text"]


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__, columns=COLUMNS, out="runs/mlm", layers=2, width=128, vocab_size=2000, max_length=64,
        epochs=5, batch_size=32, learning_rate=3e-3,
    ).parse_args(argv)  # fmt: skip
    set_seed(args.seed)
    data = load(args, COLUMNS, docstrings, unique=("text",))

    if args.model:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForMaskedLM.from_pretrained(args.model)
    else:
        tokenizer = word_pieces(data["train"]["text"], args.vocab_size, lowercase=True)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=args.width, num_hidden_layers=args.layers, num_attention_heads=HEADS,
            intermediate_size=4 * args.width, max_position_embeddings=args.max_length,
            initializer_range=args.width**-0.5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        model = BertForMaskedLM(config)
        # What a word means comes first, where it stands second: so the model sooner looks at words at all.
        model.bert.embeddings.position_embeddings.weight.data.mul_(0.3)

    encoded = data.map(
        lambda rows: tokenizer(rows["text"], return_special_tokens_mask=True, verbose=False), batched=True,
        remove_columns=COLUMNS,
    )  # fmt: skip
    blocks = encoded.map(group_texts, batched=True, fn_kwargs={"block_size": args.max_length})
    gaps = DataCollatorForLanguageModeling(tokenizer, seed=args.seed)
    fixed = with_gaps(blocks["test"], gaps)  # the same gaps for all who are judged
    trainer = Trainer(
        model,
        TrainingArguments(**settings(args, model)),
        data_collator=gaps,
        train_dataset=blocks["train"],
        processing_class=tokenizer,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )
    trainer.train()

    trainer.data_collator = default_data_collator
    found = trainer.predict(fixed)
    at_gaps = found.label_ids != -100
    right = (found.predictions == found.label_ids)[at_gaps].mean().item()
    loss = found.metrics["test_loss"]
    scores = {
        "baseline: token frequencies": frequencies(blocks["train"]["input_ids"], found.label_ids[at_gaps], tokenizer),
        "this model": {"loss": loss, "perplexity": math.exp(loss), "accuracy": right},
    }
    finish(args, scores, model=trainer, task="fill-mask", summary="a masked language model", data=data)


def docstrings(texts: list[str]) -> list[dict[str, str]]:
    return [{"text": f.docstring} for text in texts for f in functions(text) if f.docstring]


def with_gaps(blocks, gaps: DataCollatorForLanguageModeling) -> list[dict[str, list[int]]]:
    batch = gaps(list(blocks.remove_columns("labels")))
    names = ("input_ids", "attention_mask", "labels")
    return [dict(zip(names, row, strict=True)) for row in zip(*(batch[name].tolist() for name in names), strict=True)]


def frequencies(rows: list[list[int]], gaps, tokenizer) -> dict[str, float]:
    """What those do who say of every gap how often each token occurs."""
    counts = Counter(token for row in rows for token in row if token not in tokenizer.all_special_ids)
    total = counts.total() + len(tokenizer)  # each token counts once more: what was never seen is not impossible
    losses = [-math.log((counts[token] + 1) / total) for token in gaps.tolist()]
    loss = sum(losses) / len(losses)
    most = counts.most_common(1)[0][0]
    return {"loss": loss, "perplexity": math.exp(loss), "accuracy": (gaps == most).mean().item()}


if __name__ == "__main__":
    main()
