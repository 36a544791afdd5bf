"""A text to its title or summary: a small new Marian, or the checkpoint of --model.

By default: from a docstring to its first sentence. The model is not told to copy, nor where to end.

    python train/summarize.py
    python train/summarize.py --dataset xsum --columns document summary --model t5-small --learning-rate 3e-4
    python train/summarize.py --train-file articles.json --columns body title --max-length 512

One baseline copies the text's first words, one always says what is most frequent. Beside them stands the rule by which
the offline task is nearly made, all up to the first full stop. The metrics are rouge-score's F1.

The default run, on Python 3.11's library, in 128 s on 2 cores: ROUGE-L 0.93, the best baseline's 0.81, the rule's 0.93.
Its test asks of a shorter run for 0.02 more than the baseline's.
"""

import re
from collections import Counter

from common import arguments, finish, load
from rouge_score.rouge_scorer import RougeScorer
from seq2seq import learn_to_write

from minihf import set_seed
from minihf.data.python_tasks import first_sentences

COLUMNS = ["document", "summary"]


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__, columns=COLUMNS, out="runs/summarize", layers=1, width=128, vocab_size=800, max_length=96,
        epochs=20, batch_size=64, learning_rate=4e-3, max_test=300,
    ).parse_args(argv)  # fmt: skip
    set_seed(args.seed)
    data = load(args, COLUMNS, first_sentences, unique=("summary",))
    trainer, written = learn_to_write(args, data, *COLUMNS)

    source, right = (list(data["test"][name]) for name in COLUMNS)
    most = Counter(data["train"][COLUMNS[1]]).most_common(1)[0][0]
    guesses = {
        "baseline: the first words": first_words(source, right),
        "baseline: the most frequent summary": [most] * len(right),
        "a rule: the first full stop": [re.split(r"(?<=[.!?]) ", text, maxsplit=1)[0] for text in source],
        "this model": written,
    }
    scores = {who: rouge(guess, right) for who, guess in guesses.items()}
    finish(args, scores, model=trainer, task="summarization", summary="a text to its summary", data=data)


def first_words(texts: list[str], summaries: list[str]) -> list[str]:
    """As many as suit summaries of that length best."""
    usual = round(sum(len(text.split()) for text in summaries) / len(summaries))
    copies = [[" ".join(text.split()[:count]) for text in texts] for count in range(max(1, usual - 1), usual + 3)]
    return max(copies, key=lambda copy: rouge(copy, summaries)["rougeL"])


def rouge(guesses: list[str], right: list[str]) -> dict[str, float]:
    """The mean F1 of words, of pairs of words, and of the longest common row of words."""
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = [scorer.score(target, guess) for target, guess in zip(right, guesses, strict=True)]
    return {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in scorer.rouge_types}


if __name__ == "__main__":
    main()
