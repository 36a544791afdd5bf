"""What all recipes share: their arguments, their data, a new tokenizer, and what they leave behind."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

# Read on import. On a busy machine, threads that spin while they wait make small steps many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

try:
    import torch
    from datasets import Dataset, DatasetDict, load_dataset
    from datasets.exceptions import DatasetGenerationError
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer, processors
    from torch import nn

    from minihf import BertTokenizer, PreTrainedTokenizerFast, Trainer
    from minihf.data.corpus import read_corpus
    from minihf.data.python_tasks import Row, split_task
    from minihf.training.distributed import is_main, join, shared
    from minihf.training.results import Curves, draw, losses, model_card, print_scores
except ModuleNotFoundError as missing:
    sys.exit(f'{missing}. What the recipes need comes with this, in the repository: pip install -e ".[train]"')

START = time.perf_counter()
HEADS = 4  # of a new model


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Paragraphs as they are written, and the defaults."""


def arguments(
    about: str | None, *, columns: Iterable[str], network: bool = True, **defaults: Any
) -> argparse.ArgumentParser:
    """The arguments of every recipe; `defaults` are this one's. `columns` are what its data are called.

    With `network=False` those are left out that belong to a network.
    """
    columns = list(columns)
    parser = argparse.ArgumentParser(description=about, formatter_class=HelpFormatter, allow_abbrev=False)
    group = parser.add_argument_group("data", "without --dataset or --train-file, a task made of this Python's library")
    group.add_argument("--dataset", help="name of a data set of the hub")
    group.add_argument("--dataset-config", help="which of its configurations, such as mrpc of glue")
    group.add_argument("--train-file", type=Path, help="a .csv, .json, .jsonl or .txt file")
    group.add_argument("--test-file", type=Path, help="another one to judge by; without it a tenth is held out")
    group.add_argument("--columns", nargs="+", default=columns, help="what your data call these columns")
    group.add_argument("--source-bytes", type=int, help="read no more of the library than this")
    group.add_argument("--max-test", type=int, default=defaults.pop("max_test", 500), help="rows to judge by, at most")
    if network:
        group = parser.add_argument_group("model")
        group.add_argument("--model", help="a checkpoint to fine-tune, a folder or a hub name, instead of a new model")
        group.add_argument("--layers", type=int, help="of a new model")
        group.add_argument("--width", type=int, help=f"of a new model, a multiple of {HEADS}")
        group.add_argument("--max-length", type=int, help="tokens of a text, read or written")
    parser.add_argument("--vocab-size", type=int, help="of a new tokenizer")
    if network:
        group = parser.add_argument_group("training")
        group.add_argument("--epochs", type=float, help="times to go through the data")
        group.add_argument("--max-steps", type=int, default=-1, help="steps to stop after; -1: as the epochs say")
        group.add_argument("--batch-size", type=int)
        group.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the model, its card and the curve")
    parser.set_defaults(**defaults)
    return parser


def load(
    args: argparse.Namespace,
    columns: list[str],
    maker: Callable[[list[str]], list[Row]],
    unique: tuple[str, ...],
    least: int | None = None,
) -> DatasetDict:
    """The data that the arguments name, or that `maker` makes: "train" and "test", with these columns, of which all
    are needed or the first `least`.
    """
    if args.dataset and args.train_file:
        sys.exit("--dataset and --train-file are both given, and only one can be read")
    if args.test_file and not args.train_file:
        sys.exit("--test-file is given without --train-file")
    if getattr(args, "width", 0) % HEADS and not args.model:
        sys.exit(f"--width {args.width} is no multiple of {HEADS}, the number of attention heads")
    least = least or len(columns)
    if not least <= len(args.columns) <= len(columns):
        count = f"{least} to {len(columns)}" if least < len(columns) else least
        sys.exit(f"--columns takes {count} names, for {' '.join(columns)}; {len(args.columns)} came")
    if args.dataset or args.train_file:
        parts = load_dataset(args.dataset, args.dataset_config) if args.dataset else local(args)
        if any("." in name for name in args.columns):
            parts = parts.flatten()  # translation.en is in the column translation
        train = parts["train"]
        if absent := set(args.columns) - set(train.column_names):
            sys.exit(f"the data have the columns {train.column_names}, not {sorted(absent)}: name yours by --columns")
        test = next((parts[name] for name in ("validation", "test") if name in parts), None)
        if test is None:
            if len(train) < 2:
                sys.exit(f"of {len(train)} rows none can be held out: pass more, or --test-file, too")
            train, test = train.train_test_split(0.1, seed=args.seed).values()
        data = DatasetDict(train=train, test=test).select_columns(args.columns)
        for part, rows in data.items():
            if empty := {name: count for name in args.columns if (count := rows.data.column(name).null_count)}:
                sys.exit(f"rows to {part} have no value, by column: {empty}; fill them or leave them out")
        names = dict(zip(args.columns, columns, strict=False))
        data = data.rename_columns({old: new for old, new in names.items() if old != new})
    else:
        texts = read_corpus(args.source_bytes)  # of which one in ten is held out
        train, test = split_task(maker, texts, unique=unique) if len(texts) >= 10 else ([], [])
        if not train or not test:
            sys.exit(f"{len(train)} rows to train on and {len(test)} to judge by are too few: pass more --source-bytes")
        data = DatasetDict(train=Dataset.from_list(train), test=Dataset.from_list(test))
    data["test"] = data["test"].shuffle(seed=args.seed).select(range(min(args.max_test, len(data["test"]))))
    say(f"{len(data['train']):,} rows to train on, {len(data['test']):,} held out")
    return data


def say(text: str = "") -> None:
    """Print once, however many processes there are."""
    if is_main():
        print(text)


def local(args: argparse.Namespace) -> DatasetDict:
    """What the files hold. A text is one row: what it is cut into is the model's business."""
    files = {"train": args.train_file, "test": args.test_file}
    files = {name: path for name, path in files.items() if path is not None}
    kinds = {".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}
    for path in files.values():
        if path.suffix not in kinds:
            sys.exit(f"{path} is none of {', '.join(kinds)}")
        if not path.is_file() or not path.stat().st_size:
            sys.exit(f"{path} is {'empty' if path.is_file() else 'no file'}")
    if len({kinds[path.suffix] for path in files.values()}) > 1:
        sys.exit(f"{args.train_file} and {args.test_file} are of two kinds, and must be of one")
    kind = kinds[args.train_file.suffix]
    try:
        if kind != "text":
            return load_dataset(kind, data_files={name: str(path) for name, path in files.items()})
        texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    except (DatasetGenerationError, ValueError) as error:
        sys.exit(f"{' or '.join(map(str, files.values()))} cannot be read as {kind}: {error.__cause__ or error}")
    if "test" not in texts:
        whole = texts["train"]
        end = whole.rfind("\n", 0, len(whole) * 9 // 10) + 1 or len(whole) * 9 // 10
        texts = {"train": whole[:end], "test": whole[end:]}
    return DatasetDict({name: Dataset.from_dict({"text": [text]}) for name, text in texts.items()})


# A new tokenizer


def word_pieces(texts: Iterable[str], vocab_size: int, *, lowercase: bool = False) -> BertTokenizer:
    """WordPiece, as BERT's; a word ends at each character that is no letter and no digit."""
    engine = BertWordPieceTokenizer(lowercase=lowercase)
    engine.train_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    frame = [(token, engine.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    engine.post_processor = processors.BertProcessing(*frame)
    join()  # pieces are numbered by chance: under torchrun all processes take the main one's
    return shared(BertTokenizer(tokenizer_object=engine._tokenizer))


def byte_pieces(texts: Iterable[str], vocab_size: int, *, frame: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's, to which nothing is unknown; with `frame` each text has an end token."""
    engine = ByteLevelBPETokenizer()
    engine.train_from_iterator(texts, vocab_size=vocab_size, special_tokens=["<pad>", "</s>"], show_progress=False)
    if frame:
        engine.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", engine.token_to_id("</s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=engine._tokenizer, pad_token="<pad>", eos_token="</s>", bos_token=None if frame else "</s>"
    )


# The training, and what it leaves


def settings(args: argparse.Namespace, model: nn.Module) -> dict[str, Any]:
    """What all recipes tell `TrainingArguments`, if the model can read as much as it is to be given."""
    limit = model.position_limit
    if limit is not None and args.max_length > limit:
        sys.exit(f"--max-length {args.max_length} is more than the {limit} positions of {args.model}")
    return {
        "output_dir": str(args.out),
        "per_device_train_batch_size": args.batch_size,
        "per_device_eval_batch_size": 2 * args.batch_size,
        "num_train_epochs": args.epochs,
        "max_steps": args.max_steps,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,  # of all steps
        "weight_decay": 0.01,
        "logging_steps": 10,
        "logging_first_step": True,  # so that the shortest run has a curve
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "seed": args.seed,
        "dataloader_pin_memory": False,
    }


def finish(
    args: argparse.Namespace,
    scores: Mapping[str, Mapping[str, float]],
    *,
    task: str,
    summary: str,
    data: DatasetDict,
    model: Trainer | PreTrainedTokenizerFast,
    curves: Curves | None = None,
) -> None:
    """Save what was trained, its losses or other `curves` (`curve.png`), its card (`README.md`), and print the scores,
    which are in `results.json` as well.
    """
    seconds = time.perf_counter() - START
    args.out.mkdir(parents=True, exist_ok=True)
    if isinstance(model, Trainer):
        model.save_model()
    if not is_main():
        return
    if isinstance(model, Trainer):
        draw(losses(model.state.log_history), args.out / "curve.png", title=summary)
        made = f"fine-tuned from {args.model}" if args.model else "trained from scratch"
        use = f'from minihf import pipeline\n\nask = pipeline("{task}", model="{args.out.name}")'
    else:
        model.save_pretrained(args.out)
        draw(curves, args.out / "curve.png", title=summary, xlabel="vocabulary", ylabel="characters per token")
        made = "new"
        use = f'from minihf import AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained("{args.out.name}")'
    about = f"{summary[0].upper()}{summary[1:]}, {made}, made with minihf.\n\n```python\n{use}\n```"
    source = args.dataset or args.train_file or f"the standard library of Python {platform.python_version()}"
    card = model_card(
        args.out.name,
        about,
        scores,
        task=task,
        data=f"{source}: {len(data['train']):,} rows to train on, {len(data['test']):,} held out",
        settings={name: value for name, value in vars(args).items() if value not in (None, []) and name != "out"},
        seconds=seconds,
    )
    (args.out / "README.md").write_text(card, encoding="utf-8")
    results = json.dumps({"seconds": round(seconds, 1), "scores": scores}, indent=2)
    (args.out / "results.json").write_text(results, encoding="utf-8")
    print_scores(scores, title=summary)
    print(f"{seconds:.0f} s in all, with {torch.get_num_threads()} threads; the files are in {args.out.resolve()}")
