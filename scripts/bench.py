"""Is minihf faster than the reference, and by how much? `python scripts/bench.py generate`

Times of one machine say little about another, and on a busy machine not even about the next minute. So the figure is a
ratio, ours / the reference's, of work done in turn: A B, B A, A B, … Each side has a process of its own for each row,
warmed up, and while one works the other waits; what slows the machine down for a while slows both. Printed are the
median of the paired ratios and its quartiles. Both sides load the same weights, and their first results are compared:
where they differ nothing is timed.

Memory is what the first run in the fresh process adds at its peak, mapped pages of files included as soon as they are
read; in brackets the part that is private to the process when the run is over. Files have been read before (they are
in the page cache), on both sides.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from bench_cases import Job, Row, cases

SIDES = {"ours": "minihf", "reference": "transformers"}
WIDTH = 52  # of the table's first column
TURN = 0.2  # seconds that a turn takes at least: short work is repeated


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and return 0 however it came out; 2: there is nothing to compare with, or the work differs."""
    args = parser().parse_args(argv)
    table = cases(args.quick)
    if unknown := set(args.cases) - set(table):
        return refuse(f"no case {', '.join(sorted(unknown))}; there are {', '.join(table)}")
    if args.worker:
        (row,) = (row for row in table[args.cases[0]] if row.name == args.only)
        return serve(row, args.worker, Path(args.folder))
    chosen = [(case, row) for case in args.cases or table for row in table[case] if args.only in row.name]
    if args.list:
        print("\n".join(f"{case:9} {row.name}" for case, row in chosen))
        return 0
    if find_spec("transformers") is None:
        return refuse('transformers is not installed; install it with: pip install "minihf[parity]"')
    if not chosen:
        return refuse(f"no row has {args.only!r} in its name; see --list")
    report = {"environment": environment(args), "rows": []}
    if not args.json:
        print(heading(report["environment"]))
    for case, row in chosen:
        print(f"{case}: {row.name} …", end="\r" if sys.stdout.isatty() else "\n", file=sys.stderr, flush=True)
        try:
            measured = measure(case, row, args)
        except BenchError as error:
            return refuse(f"{case}: {row.name}: {error}")
        report["rows"].append(measured)
        if not args.json:
            print(described(measured), flush=True)
    if args.json:
        print(json.dumps(report, indent=2))
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="which cases (see --list); all, if none is named")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose name has this text in it")
    parser.add_argument("--rounds", type=at_least(2), default=11, help="paired measurements of a row (%(default)s)")
    parser.add_argument("--threads", type=at_least(1), default=cores(), help="of each side (all cores: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--list", action="store_true", help="print the cases and their rows, and measure nothing")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the benchmark itself")
    parser.add_argument("--worker", choices=["make", *SIDES], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser


def at_least(smallest: int):
    def number(text: str) -> int:
        if int(text) < smallest:
            raise argparse.ArgumentTypeError(f"{text} is less than {smallest}")
        return int(text)

    return number


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def refuse(reason: str) -> int:
    print(f"bench: {reason}", file=sys.stderr)
    return 2


# The parent: who works when


class BenchError(Exception):
    """Nothing can be measured."""


class Worker:
    """A process that does a row's work for one side, when asked."""

    def __init__(self, side: str, case: str, row: Row, args: argparse.Namespace, folder: Path):
        command = [sys.executable, __file__, case, "--only", row.name, "--worker", side, "--folder", str(folder)]
        self.side = side
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self.process = subprocess.Popen(
            command + ["--quick"] * args.quick,
            env=worker_environment(args.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Its next message, which is the answer to the request, if there is one."""
        try:
            if request is not None:
                print(json.dumps(request), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace")
            raise BenchError(f"the worker for {self.side} ended:\n{said[-4000:]}")
        return json.loads(answer)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def worker_environment(threads: int) -> dict[str, str]:
    """This checkout's minihf, no network, nothing printed in between, and the same number of threads."""
    path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONWARNINGS": "ignore",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }


def measure(case: str, row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of a row: seconds of one unit of work, memory in bytes."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minihf-bench-")))
        if row.checkpoint is not None:
            with Worker("make", case, row, args, folder) as maker:
                maker.ask()
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        workers = [stack.enter_context(Worker(side, case, row, args, folder)) for side in SIDES]
        for worker in workers:
            worker.ask()
        first = {worker.side: worker.ask({"save": str(folder / worker.side)}) for worker in workers}
        check_same_work(*(folder / side for side in SIDES))
        times, peak = take_turns(workers, args.rounds)
    ratios = [ours / reference for ours, reference in zip(times["ours"], times["reference"], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    added, private = ({side: first[side][what] for side in SIDES} for what in ("added", "private"))
    growth = added["ours"] / size if size and added["ours"] is not None else None
    return {
        "case": case,
        "name": row.name,
        "ratio": {"median": median, "low": low, "high": high},
        "goal": row.goal,
        "met": None if row.goal is None else median <= row.goal,
        "unit": row.unit,
        "seconds": {side: statistics.median(times[side]) / row.units for side in SIDES},
        "ratios": ratios,
        "peak": peak,
        "added": added,
        "private": private,
        "file": size or None,
        "memory_goal": row.memory_goal,
        "memory_met": None if None in (row.memory_goal, growth) else growth <= row.memory_goal,
    }


def check_same_work(ours: Path, reference: Path) -> None:
    """A benchmark of different work would compare nothing. Ids are equal, or numbers are within float32's reach."""
    if not ours.exists() and not reference.exists():
        return
    a, b = np.load(ours), np.load(reference)
    tolerance = 0 if a.dtype.kind == "i" else 1e-3
    if a.shape != b.shape or not np.allclose(a, b, rtol=tolerance, atol=tolerance):
        far = f"they differ by up to {np.abs(a - b).max():.3g}" if a.shape == b.shape else f"{a.shape} and {b.shape}"
        raise BenchError(f"the two sides do not give the same result ({far}), so their times say nothing")


def take_turns(workers: list[Any], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of one run, for each side and round, and each side's peak memory in bytes."""
    slowest = max(worker.ask({"runs": 1})["seconds"] for worker in workers)
    runs = max(1, round(TURN / slowest))
    times: dict[str, list[float]] = {worker.side: [] for worker in workers}
    peaks = dict.fromkeys(times, 0)
    for turn in range(-1, rounds):  # the first is to warm up
        for worker in workers if turn % 2 == 0 else reversed(workers):
            answer = worker.ask({"runs": runs})
            peaks[worker.side] = max(peaks[worker.side], answer["peak"])
            if turn >= 0:
                times[worker.side].append(answer["seconds"])
    return times, peaks


# A worker


def serve(row: Row, side: str, folder: Path) -> int:
    """Prepare the row's work, then do it as often as each message asks, a JSON object a line, until no more come."""
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)  # what a library prints is no message

        def tell(**message: Any) -> None:
            print(json.dumps(message), file=channel, flush=True)

        if side == "make":
            import torch

            torch.manual_seed(0)
            row.checkpoint().save_pretrained(folder)
            tell()
            return 0
        job = row.prepare(SIDES[side], folder)
        tell()
        first = json.loads(sys.stdin.readline())
        before = memory(job)
        reset_peak()
        result = job.run()
        after = memory(job)
        shown = job.show(result)
        del result
        if shown is not None:
            with open(first["save"], "wb") as file:
                np.save(file, shown.numpy())
        tell(
            added=difference(after["peak"], before["resident"]),
            private=difference(after["private"], before["private"]),
        )
        for request in map(json.loads, sys.stdin):
            seconds = timed(job, request["runs"])
            tell(seconds=seconds, peak=max(before["peak"], memory(job)["peak"]))
    return 0


def timed(job: Job, runs: int) -> float:
    """Seconds of one run, on average. What a run returns is let go before the next, and not at its expense."""
    import gc

    gc.collect()
    time.sleep(0.05)  # until the threads of whoever worked last have gone to sleep
    spent = 0.0
    for _ in range(runs):
        start = time.perf_counter()
        result = job.run()
        spent += time.perf_counter() - start
        del result
    return spent / runs


def memory(job: Job) -> dict[str, int | None]:
    """Of whoever does the work, in bytes: the most that was resident, what is now, and the part that is no file's."""
    if job.in_child or not sys.platform.startswith("linux"):
        who = resource.RUSAGE_CHILDREN if job.in_child else resource.RUSAGE_SELF
        most = resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"peak": most, "resident": 0 if job.in_child else None, "private": None}
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"peak": "VmHWM", "resident": "VmRSS", "private": "RssAnon"}
    return {what: int(lines[name].split()[0]) * 1024 for what, name in names.items()}


def difference(after: int | None, before: int | None) -> int | None:
    return None if None in (after, before) else after - before


def reset_peak() -> None:
    """Let the peak be counted from now on: importing may have taken more than was left when it was over."""
    with suppress(OSError):  # where the system does not offer it, what is reported is at most too much
        Path("/proc/self/clear_refs").write_text("5")


# The report


def environment(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "threads": args.threads,
        "rounds": args.rounds,
        "quick": args.quick,
    }


def heading(about: dict[str, Any]) -> str:
    titles = [f"{'':{WIDTH}} ratio  {'quartiles':13} {'goal':11}", "    ours reference  time of"]
    titles += [f"{'peak MB: ours, ref.':>22}", f"{'added MB (private): ours, reference':>38}"]
    lines = [
        "minihf / transformers {transformers}; torch {torch}, Python {python}, {system}, {cores} cores",
        "{threads} threads a side, {rounds} rounds in turn. A ratio below 1: minihf is faster.",
        "--quick: tiny sizes, whose figures mean nothing\n" if about["quick"] else "",
    ]
    return "\n".join(lines).format(**about) + "\n" + "".join(titles)


def described(row: dict[str, Any]) -> str:
    """A line of the table; another where the memory has a goal."""
    ratio, times, peak, file = row["ratio"], row["seconds"], row["peak"], row["file"]
    goal = "" if row["goal"] is None else f"{row['goal']:.2f} {verdict(row['met'])}"
    quartiles = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
    columns = [
        f"{row['case'] + ': ' + row['name']:{WIDTH}} {ratio['median']:5.2f}  {quartiles:13} {goal:11}",
        f"{duration(times['ours']):>8} {duration(times['reference']):>9}  {row['unit']:7}",
        *(f"{megabytes(peak[side]):>11}" for side in SIDES),
        *(f"{megabytes(row['added'][side]) + ' (' + megabytes(row['private'][side]) + ')':>19}" for side in SIDES),
    ]
    if row["memory_met"] is None:
        return "".join(columns)
    parts = ", ".join(f"{side} {row['added'][side] / file:.2f} ({row['private'][side] / file:.2f})" for side in SIDES)
    goal = f"{row['memory_goal']} {verdict(row['memory_met'])}"
    return "".join(columns) + f"\n{'':{WIDTH}} added / the file's {megabytes(file)} MB: {parts}; goal {goal}"


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"


def duration(seconds: float) -> str:
    unit, scale = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    return f"{seconds * scale:.3g} {unit}"


if __name__ == "__main__":
    sys.exit(main())
