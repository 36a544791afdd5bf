"""One text to another, as from English to French: a small new Marian, or the checkpoint of --model.

By default: from a docstring to the signature of its function, whose name is told. Left out are functions without a
parameter.

    python train/translate.py
    python train/translate.py --train-file pairs.csv --columns english french --model t5-small --learning-rate 3e-4
    python train/translate.py --dataset Helsinki-NLP/kde4 --dataset-config en-fr --columns translation.en translation.fr

One baseline copies the source, one always says what is most frequent. The metrics are sacrebleu's, from 0 to 100.

The default run, on Python 3.11's library, in 71 s on 2 cores: BLEU 15.7 and chrF 24.1, the best baseline's 5.2 and
19.9. Its test asks of a shorter run for a BLEU that is higher by 2.
"""

from collections import Counter

from common import arguments, finish, load
from sacrebleu.metrics import BLEU, CHRF
from seq2seq import learn_to_write

from minihf import set_seed
from minihf.data.python_tasks import signatures

COLUMNS = ["docstring", "signature"]


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__, columns=COLUMNS, out="runs/translate", layers=2, width=128, vocab_size=1500, max_length=48,
        epochs=4, batch_size=32, learning_rate=2e-3, max_test=300,
    ).parse_args(argv)  # fmt: skip
    set_seed(args.seed)
    data = load(args, COLUMNS, signatures, unique=("docstring",))
    trainer, written = learn_to_write(args, data, *COLUMNS)

    source, right = (list(data["test"][name]) for name in COLUMNS)
    most = Counter(data["train"][COLUMNS[1]]).most_common(1)[0][0]
    guesses = {
        "baseline: a copy of the source": source,
        "baseline: the most frequent target": [most] * len(right),
        "this model": written,
    }
    scores = {
        who: {
            "BLEU": BLEU(tokenize="13a").corpus_score(guess, [right]).score,
            "chrF": CHRF().corpus_score(guess, [right]).score,
            "exact match": sum(a == b for a, b in zip(guess, right, strict=True)) / len(right),
        }
        for who, guess in guesses.items()
    }
    finish(args, scores, model=trainer, task="translation", summary="one text to another", data=data)


if __name__ == "__main__":
    main()
