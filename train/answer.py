"""Where in a text does the answer to a question stand? As in SQuAD: BERT.

By default: what does this function return, raise, loop over; what is this parameter by default?

    python train/answer.py
    python train/answer.py --dataset squad --model distilbert-base-uncased --max-length 384 --learning-rate 5e-5
    python train/answer.py --train-file questions.json   # with answers such as {"text": ["1"], "answer_start": [7]}

The baseline gives to each question the answer most frequent among those that begin with the same two words.

The default run, on Python 3.11's library, in 108 s on 2 cores: F1 0.505, the baseline's 0.222. Its test asks of a
shorter run for 0.05 more.
"""

from collections import Counter, defaultdict

from common import HEADS, arguments, finish, load, settings, word_pieces

from minihf import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    Trainer,
    TrainingArguments,
    pipeline,
    set_seed,
)
from minihf.data.python_tasks import code_questions

COLUMNS = ["question", "context", "answers"]


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__, columns=COLUMNS, out="runs/answer", layers=3, width=96, vocab_size=2000, max_length=256,
        source_bytes=5_000_000, epochs=2, batch_size=32, learning_rate=2e-3,
    ).parse_args(argv)  # fmt: skip
    set_seed(args.seed)
    data = load(args, COLUMNS, code_questions, unique=("question", "context"))
    if not {"text", "answer_start"} <= set(data["train"][0]["answers"]):
        raise SystemExit('answers are such as {"text": ["1"], "answer_start": [7]}: in a .json file, or a data set')

    if args.model:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForQuestionAnswering.from_pretrained(args.model)
    else:
        lines = (text for name in ("question", "context") for text in data["train"][name])
        tokenizer = word_pieces(lines, args.vocab_size)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=args.width, num_hidden_layers=args.layers, num_attention_heads=HEADS,
            intermediate_size=4 * args.width, max_position_embeddings=args.max_length,
            initializer_range=args.width**-0.5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            attn_implementation="packed",
        )  # fmt: skip
        model = BertForQuestionAnswering(config)

    def encode(rows):
        """A long context becomes several parts that overlap; a part without the answer points at its first token."""
        encoded = tokenizer(
            rows["question"], rows["context"], truncation="only_second", max_length=args.max_length,
            stride=args.max_length // 4, return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        places = [
            place_of(rows["answers"][row], encoded.sequence_ids(part), offsets)
            for part, (row, offsets) in enumerate(
                zip(encoded.pop("overflow_to_sample_mapping"), encoded.pop("offset_mapping"), strict=True)
            )
        ]
        encoded["start_positions"], encoded["end_positions"] = (list(side) for side in zip(*places, strict=True))
        return encoded

    trainer = Trainer(
        model,
        TrainingArguments(**settings(args, model)),
        train_dataset=data["train"].map(encode, batched=True, remove_columns=data["train"].column_names),
        processing_class=tokenizer,
    )
    trainer.train()

    answer = pipeline("question-answering", model=model.eval(), tokenizer=tokenizer, batch_size=32)
    found = answer(
        question=list(data["test"]["question"]), context=list(data["test"]["context"]), max_seq_len=args.max_length,
        doc_stride=args.max_length // 4, max_answer_len=40, align_to_words=False,
    )  # fmt: skip
    guesses = {
        "baseline: the most frequent answer": most_frequent(data["train"], data["test"]["question"]),
        "this model": [each["answer"] for each in found],
    }
    right = [answers["text"] for answers in data["test"]["answers"]]
    scores = {who: exact_and_f1(guess, right) for who, guess in guesses.items()}
    finish(args, scores, model=trainer, task="question-answering", summary="answers, found in a text", data=data)


def place_of(answers: dict, sequence_ids: list[int | None], offsets: list[tuple[int, int]]) -> tuple[int, int]:
    """The first and the last token of the first answer, or (0, 0) where not all of it is in this part."""
    if not answers["text"]:
        return 0, 0
    start = answers["answer_start"][0]
    end = start + len(answers["text"][0])
    own = [i for i, text in enumerate(sequence_ids) if text == 1]
    inside = [i for i in own if offsets[i][0] < end and offsets[i][1] > start]
    whole = inside and offsets[own[0]][0] <= start and end <= offsets[own[-1]][1]
    return (inside[0], inside[-1]) if whole else (0, 0)


def most_frequent(train, questions: list[str]) -> list[str]:
    counts = defaultdict(Counter)
    for question, answers in zip(train["question"], train["answers"], strict=True):
        counts[kind(question)].update(answers["text"][:1])
    return [counts[kind(question)].most_common(1)[0][0] if counts[kind(question)] else "" for question in questions]


def kind(question: str) -> str:
    """ "What does f return?" is of the kind "What does return?": the words that open a question, and its last one."""
    words = question.split()
    return " ".join([*words[:2], *words[-1:]])


def exact_and_f1(guesses: list[str], right: list[list[str]]) -> dict[str, float]:
    """How many answers are right, and the F1 over words, with the best of several right ones; as SQuAD's, but in code
    case, articles and punctuation mean something, so nothing is stripped."""
    exact = [guess in texts or not (guess or texts) for guess, texts in zip(guesses, right, strict=True)]
    f1 = [max(overlap(guess, text) for text in texts or [""]) for guess, texts in zip(guesses, right, strict=True)]
    return {"exact match": sum(exact) / len(exact), "F1": sum(f1) / len(f1)}


def overlap(guess: str, text: str) -> float:
    a, b = Counter(guess.split()), Counter(text.split())
    return 2 * (a & b).total() / (a.total() + b.total()) if a or b else 1.0


if __name__ == "__main__":
    main()
