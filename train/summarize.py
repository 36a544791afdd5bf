"""A text to its title or summary: T5.

By default: from a function's code to an outline of it, such as "a method with one argument: loops, may raise KeyError,
returns a value". With --offline-task sentence, from the rest of a docstring to its first sentence: a new model that has
read a few thousand texts says what is in them, but does not write freely, and is no match there for the first words.

    python train/summarize.py
    python train/summarize.py --offline-task sentence
    python train/summarize.py --dataset xsum --columns document summary --model t5-small --learning-rate 3e-4
    python train/summarize.py --train-file articles.json --columns body title --max-length 512

One baseline copies the text's first words, one always says what is most frequent. The metrics are rouge-score's F1.

The default run, on Python 3.11's library, in about 165 s of processor time: ROUGE-L 0.95, the best baseline's 0.74. Its
test asks of a shorter run for 0.05 more.
"""

from collections import Counter

from common import arguments, finish, load
from rouge_score.rouge_scorer import RougeScorer
from seq2seq import learn_to_write

from minihf import set_seed
from minihf.data.python_tasks import first_sentences, outlines

COLUMNS = ["document", "summary"]
TASKS = {"outline": (outlines, ("document",)), "sentence": (first_sentences, ("summary",))}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(
        __doc__, columns=COLUMNS, out="runs/summarize", layers=2, width=96, vocab_size=1500, max_length=96,
        source_bytes=5_000_000, epochs=4, batch_size=32, learning_rate=3e-3, max_test=300,
    )  # fmt: skip
    parser.add_argument("--offline-task", choices=TASKS, default="outline", help="where no data are named")
    args = parser.parse_args(argv)
    set_seed(args.seed)
    data = load(args, COLUMNS, *TASKS[args.offline_task])
    trainer, written = learn_to_write(args, data, *COLUMNS)

    source, right = (list(data["test"][name]) for name in COLUMNS)
    most = Counter(data["train"][COLUMNS[1]]).most_common(1)[0][0]
    guesses = {
        "baseline: the first words": first_words(source, right),
        "baseline: the most frequent summary": [most] * len(right),
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
