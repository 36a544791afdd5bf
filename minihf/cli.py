"""The command line: `minihf run` for answers, `minihf describe` for all who are handed a checkpoint, `minihf trace` for
those who wonder why a model writes what it writes, `minihf parity` for readers and for CI.

Nothing heavy is imported before a command asks for it, so that `minihf --help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from minihf import __version__

# What `minihf trace` takes as `generate` does.
TRACED = {
    "num_beams": int, "num_beam_groups": int, "diversity_penalty": float, "num_return_sequences": int,
    "temperature": float, "top_k": int, "top_p": float, "repetition_penalty": float,
    "penalty_alpha": float, "prompt_lookup_num_tokens": int,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 a comparison failed, 2 wrong use.

    `argv` holds the arguments after the command's name; None takes them from `sys.argv`.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if args.command == "run":  # texts may stand before options and behind them; all that follows "--" is text
        named = rest[: rest.index("--")] if "--" in rest else rest
        if not any(text.startswith("-") and " " not in text for text in named):
            args.texts, rest = args.texts + named + rest[len(named) + 1 :], []
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.command is None:
        parser.error("no command was given; there are: minihf describe, minihf parity, minihf run, minihf trace")
    if args.command == "describe":
        return _describe(args)
    if args.command == "run":
        return _run(args)
    if args.command == "trace":
        return _trace(args)
    if args.target is not None and args.architecture is not None:
        parser.error("--architecture chooses among freshly made checkpoints; leave it out beside a folder or name")
    return _parity(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="minihf", description="The Hugging Face course's stack in plain PyTorch.")
    parser.add_argument("--version", action="version", version=f"minihf {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    describe = commands.add_parser(
        "describe",
        help="what is in a checkpoint: sizes, parameters, memory",
        description="Describe a checkpoint without reading its weights: class and sizes, parameters by module, what it "
        "takes in memory, what the files lack or hold besides. It may be larger than this machine's memory.",
    )
    describe.add_argument("target", metavar="FOLDER_OR_NAME", help="a checkpoint's folder, or its name on the hub")
    describe.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parity = commands.add_parser(
        "parity",
        help="compare with the reference library, tensor for tensor",
        description="Compare minihf with transformers: every architecture and head over freshly made checkpoints, "
        "or one checkpoint of your own. The exit status is 1 when a row is over tolerance.",
    )
    parity.add_argument(
        "target", nargs="?", metavar="FOLDER_OR_NAME", help="a checkpoint's folder, or its name on the hub"
    )
    parity.add_argument("--json", action="store_true", help="print the rows as JSON")
    parity.add_argument(
        "--architecture", nargs="+", action="extend", metavar="NAME", help="only these, such as: bert gpt2"
    )
    run = commands.add_parser(
        "run",
        help="a pipeline: text in, answers out",
        description="Do a task: sentiment-analysis, ner, question-answering, fill-mask, zero-shot-classification, "
        "feature-extraction, … Without TEXT each line of standard input is one.",
    )
    run.add_argument("task", metavar="TASK", help="such as sentiment-analysis")
    run.add_argument("texts", nargs="*", metavar="TEXT", help="for question-answering: QUESTION CONTEXT")
    run.add_argument("--model", metavar="NAME", help="a checkpoint's folder or hub name; none: the course's")
    run.add_argument("--labels", metavar="A,B,C", help="of zero-shot-classification: what to choose from")
    run.add_argument("--context", metavar="TEXT", help="of question-answering: where answers to all questions stand")
    run.add_argument("--device", help="cpu, cuda:1; the GPU where there is one, if none is named")
    run.add_argument(
        "--option", "-o", action="append", default=[], metavar="NAME=VALUE", help="of the task, such as top_k=3"
    )
    run.add_argument("--json", action="store_true", help="print each answer as a line of JSON, as Python gets it")
    trace = commands.add_parser(
        "trace",
        help="write a text, and show what each step chose from",
        description="Generate, and print what each step chose from: the candidates before and after each processor, "
        "what was guessed ahead or compared, or the tree of a beam search.",
    )
    trace.add_argument("target", metavar="FOLDER_OR_NAME", help="a checkpoint's folder, or its name on the hub")
    trace.add_argument("text", metavar="TEXT", help="what the model reads")
    trace.add_argument("--max-new-tokens", type=int, metavar="N", default=20)
    trace.add_argument("--do-sample", action="store_true", default=None)
    for name, kind in TRACED.items():
        named = f"--{name.replace('_', '-')}"
        trace.add_argument(named, type=kind, metavar="X", help="as in generate; when left out, the model's own")
    trace.add_argument(
        "--force-word", action="append", metavar="TEXT", help="what the text must hold, as it stands in it: ' pies'"
    )
    trace.add_argument("--assistant-model", metavar="NAME", help="a smaller checkpoint, which guesses tokens ahead")
    trace.add_argument("--seed", type=int, metavar="N", default=0, help="of what is drawn (default: 0)")
    trace.add_argument("--top", type=int, metavar="N", default=5, help="candidates to show (default: 5)")
    trace.add_argument("--png", metavar="FILE", help="draw it, too")
    return parser


def _run(args: argparse.Namespace) -> int:
    import warnings

    warnings.showwarning = lambda message, *where: print("minihf run:", message, file=sys.stderr)
    try:
        from minihf.pipelines.command import run_command

        return run_command(args)
    except BrokenPipeError:  # who reads has read enough, as `head` does; nothing is left to be written at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyError as error:  # whose own words stand in quotes
        return _refuse(f"run: {error.args[0]}")
    except (OSError, ValueError, TypeError) as error:
        return _refuse(f"run: {error}")


def _parity(args: argparse.Namespace) -> int:
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("transformers", "rich")):
        return _refuse('parity compares with the reference library; install it with: pip install "minihf[parity]"')
    from minihf.inspection.parity import run_command

    try:
        return run_command(args.target, json_output=args.json, architectures=args.architecture)
    except (OSError, ValueError) as error:  # what people give: a folder that is not there, a config that makes no model
        return _refuse(f"parity: {error}")


def _describe(args: argparse.Namespace) -> int:
    from importlib.util import find_spec

    if find_spec("rich") is None and not args.json:
        return _refuse("describe prints its table with rich; install it with: pip install rich, or ask for --json")
    from minihf.inspection.describe import run_command

    try:
        return run_command(args.target, json_output=args.json)
    except (OSError, ValueError) as error:
        return _refuse(f"describe: {error}")


def _trace(args: argparse.Namespace) -> int:
    from importlib.util import find_spec

    if args.png is not None and find_spec("matplotlib") is None:
        return _refuse('trace draws with matplotlib; install it with: pip install "minihf[train]", or leave out --png')
    from minihf.inspection.trace import run_command

    names = ("max_new_tokens", "do_sample", "force_word", "assistant_model", *TRACED)
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    try:
        return run_command(args.target, args.text, png=args.png, seed=args.seed, top=args.top, **given)
    except (OSError, ValueError) as error:
        return _refuse(f"trace: {error}")


def _refuse(reason: str) -> int:
    print("minihf", " ".join(reason.split()), file=sys.stderr)
    return 2
