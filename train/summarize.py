"""A text to its summary: T5.

By default: from the rest of a docstring, and the function's signature, to the docstring's first sentence.

    python train/summarize.py
    python train/summarize.py --dataset xsum --columns document summary --model t5-small --learning-rate 3e-4
    python train/summarize.py --train-file articles.json --columns body title --max-length 512

The baseline always says what is most frequent. For comparison there are the text's first words, as many as a summary
has; a small model that has read a few thousand texts does not come up to these. The metrics are rouge-score's F1.
"""

from collections import Counter

from common import arguments, byte_pieces, finish, load, seq2seq_settings, show, small_t5
from rouge_score.rouge_scorer import RougeScorer

from minihf import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)
from minihf.data.python_tasks import first_sentences

COLUMNS = ["document", "summary"]


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__, columns=COLUMNS, out="runs/summarize", layers=2, width=96, vocab_size=1500, max_length=64,
        epochs=3, batch_size=32, learning_rate=3e-3, max_test=300,
    ).parse_args(argv)  # fmt: skip
    set_seed(args.seed)
    data = load(args, COLUMNS, first_sentences, unique=("summary",))

    if args.model:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForSeq2SeqLM.from_pretrained(args.model)
    else:
        tokenizer = byte_pieces((text for name in COLUMNS for text in data["train"][name]), args.vocab_size, frame=True)
        model = small_t5(args, tokenizer)

    def encode(rows):
        source, target = (rows[name] for name in COLUMNS)
        return tokenizer(source, text_target=target, truncation=True, max_length=args.max_length)

    encoded = data.map(encode, batched=True, remove_columns=COLUMNS)
    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(**seq2seq_settings(args)),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        train_dataset=encoded["train"],
        eval_dataset=encoded["test"],
        processing_class=tokenizer,
    )
    trainer.train()

    written = trainer.predict(encoded["test"]).predictions
    written[written < 0] = tokenizer.pad_token_id
    source, right = (list(data["test"][name]) for name in COLUMNS)
    most = Counter(data["train"][COLUMNS[1]]).most_common(1)[0][0]
    length = round(sum(len(text.split()) for text in right) / len(right))
    guesses = {
        "for comparison: the first words": [" ".join(text.split()[:length]) for text in source],
        "baseline: the most frequent summary": [most] * len(right),
        "this model": tokenizer.batch_decode(written, skip_special_tokens=True),
    }
    scores = {who: rouge(guess, right) for who, guess in guesses.items()}
    show(source, right, guesses["this model"])
    finish(args, scores, model=trainer, task="summarization", summary="a text to its summary", data=data)


def rouge(guesses: list[str], right: list[str]) -> dict[str, float]:
    """The mean F1 of words, of pairs of words, and of the longest common row of words."""
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = [scorer.score(target, guess) for target, guess in zip(right, guesses, strict=True)]
    return {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in scorer.rouge_types}


if __name__ == "__main__":
    main()
