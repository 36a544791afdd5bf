"""Is minihf faster than the reference, and by how much? `python scripts/bench.py generate`

Times of one machine say little about another, and on a busy machine not even about the next minute. So the figure is a
ratio, ours / the reference's, of work done in turn: A B, B A, A B, … Each side has a process of its own for each row,
warmed up, and while one works the other waits; what slows the machine down for a while slows both. Printed are the
median of the paired ratios and its quartiles. Both sides load the same weights, and their first results are compared:
where they differ nothing is timed. Some rows have a third side, their peer, which takes its turn after the two.

Memory is the peak of the process, and what the first run adds to it: pages of a mapped file count from when they are
read. In brackets is the part that is the process's own when the run is over, and no file's. Files have been read before
(they are in the page cache), on both sides.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bench_cases
import bench_gpu
import numpy as np
from bench_cases import Row, cases

SIDES = {"ours": "minihf", "reference": "transformers"}  # and a row's peer
WIDTH = 52  # of the table's first column
TURN = 0.2  # seconds that a turn takes at least: short work is repeated


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and return 0 however it came out; 2: there is nothing to compare with, or the work differs."""
    args = parser().parse_args(argv)
    table = cases(args.quick)
    if unknown := set(args.cases) - set(table):
        return refuse(f"no case {', '.join(sorted(unknown))}; there are {', '.join(table)}")
    chosen = [(case, row) for case in args.cases or table for row in table[case] if args.only in row.name]
    if not chosen:
        return refuse(f"no row has {args.only!r} in its name; see --list")
    if args.list:
        print("\n".join(f"{case:9} {row.name}" for case, row in chosen))
        return 0
    if find_spec("transformers") is None:
        return refuse('it compares with transformers; install it with: pip install "minihf[parity]"')
    if not args.quick and any(case == "gpu" for case, _ in chosen) and not bench_gpu.has_gpu():
        if "gpu" in args.cases:
            return refuse("the case gpu needs a CUDA GPU, and PyTorch finds none here")
        chosen = [(case, row) for case, row in chosen if case != "gpu"]
        print("gpu: needs a CUDA GPU, and PyTorch finds none here", file=sys.stderr)

    report = {"environment": environment(args), "rows": []}
    if not args.json:
        print(heading(report["environment"]))
    for case, row in chosen:
        print(f"{case}: {row.name} …", end="\r" if sys.stdout.isatty() else "\n", file=sys.stderr, flush=True)
        try:
            report["rows"].append(measure(case, row, args))
        except BenchError as error:
            return refuse(f"{case}: {row.name}: {error}")
        if not args.json:
            print(described(report["rows"][-1]), flush=True)
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
    return parser


def at_least(smallest: int):
    def number(text: str) -> int:
        if int(text) < smallest:
            raise argparse.ArgumentTypeError(f"{text} is less than {smallest}")
        return int(text)

    return number


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def processor() -> str:
    """Its name: which library multiplies best depends on who made it."""
    told = Path("/proc/cpuinfo")  # on Linux, where Python does not know it
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "an unnamed processor"


def refuse(reason: str) -> int:
    print(f"bench: {reason}", file=sys.stderr)
    return 2


# Who works when


class BenchError(Exception):
    """Nothing can be measured."""


class Worker:
    """A process that does a row's work for one side, when asked. What it says on stderr is kept for its obituary."""

    def __init__(self, task: str, case: str, row: Row, args: argparse.Namespace, folder: Path):
        order = {"task": task, "case": case, "row": row.name, "quick": args.quick, "folder": str(folder)}
        self.task = task
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self.process = subprocess.Popen(
            [sys.executable, bench_cases.__file__, json.dumps(order)],
            env=worker_environment(args.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Its answer to a request; without one, its next message."""
        try:
            if request:
                print(json.dumps(request), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace")
            raise BenchError(f"the worker of {self.task} ended:\n{said[-4000:]}")
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
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
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
        sides = SIDES | ({"peer": row.peer} if row.peer and find_spec(row.peer) else {})
        workers = {side: stack.enter_context(Worker(task, case, row, args, folder)) for side, task in sides.items()}
        for worker in workers.values():
            worker.ask()  # that it is ready
        first = {side: worker.ask(save=str(folder / side)) for side, worker in workers.items()}
        check_same_work(*(folder / side for side in SIDES))
        if (folder / "peer").exists():
            check_same_work(folder / "ours", folder / "peer")
        runs, peak = take_turns(workers, args.rounds)
    seconds = {side: [time / row.units for time in times] for side, times in runs.items()}
    ratio = over(seconds, "reference")
    added, private = ({side: first[side][what] for side in sides} for what in ("added", "private"))
    floors = [first[side]["floor"] for side in SIDES]
    floor = None if None in floors else statistics.mean(floors)
    reached = None if floor is None else {side: floor / statistics.median(times) for side, times in seconds.items()}
    growth = added["ours"] / size if size and added["ours"] is not None else None
    return {
        "case": case,
        "name": row.name,
        "ratio": ratio,
        "peer": {"name": row.peer, "ratio": over(seconds, "peer")} if "peer" in sides else None,
        "goal": row.goal,
        "met": None if row.goal is None else ratio["median"] <= row.goal,
        "unit": row.unit,
        "seconds": {side: statistics.median(times) for side, times in seconds.items()},
        "rounds": seconds,
        "reached": reached,
        "floor_goal": row.floor_goal,
        "floor_met": None if None in (row.floor_goal, reached) else reached["ours"] >= row.floor_goal,
        "peak": peak,
        "added": added,
        "private": private,
        "file": size or None,
        "memory_goal": row.memory_goal,
        "memory_met": None if None in (row.memory_goal, growth) else growth <= row.memory_goal,
    }


def over(seconds: dict[str, list[float]], other: str) -> dict[str, float]:
    """Our time over another's, round by round: the median and its quartiles."""
    ratios = [ours / its for ours, its in zip(seconds["ours"], seconds[other], strict=True)]
    return dict(zip(("low", "median", "high"), statistics.quantiles(ratios, n=4, method="inclusive"), strict=True))


def check_same_work(ours: Path, reference: Path) -> None:
    """A benchmark of different work would compare nothing. Ids are equal, or numbers are within float32's reach."""
    if not ours.exists() and not reference.exists():
        return
    a, b = np.load(ours), np.load(reference)
    tolerance = 0 if a.dtype.kind == "i" else 1e-3
    if a.shape != b.shape or not np.allclose(a, b, rtol=tolerance, atol=tolerance):
        far = f"they differ by up to {np.abs(a - b).max():.3g}" if a.shape == b.shape else f"{a.shape} and {b.shape}"
        raise BenchError(f"the two sides do not give the same result ({far}), so their times say nothing")


def take_turns(workers: dict[str, Any], rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of one run, for each side and round, and each side's peak memory in bytes."""
    slowest = max(worker.ask(runs=1)["seconds"] for worker in workers.values())
    runs = max(1, round(TURN / slowest))
    times: dict[str, list[float]] = {side: [] for side in workers}
    peak = dict.fromkeys(workers, 0)
    for turn in range(-1, rounds):  # the first is to warm up
        for side in workers if turn % 2 == 0 else reversed(workers):
            answer = workers[side].ask(runs=runs)
            peak[side] = max(peak[side], answer["peak"])
            if turn >= 0:
                times[side].append(answer["seconds"])
    return times, peak


# The report


def environment(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": cores(),
        "busy": os.getloadavg()[0],
        "threads": args.threads,
        "rounds": args.rounds,
        "quick": args.quick,
    }


def heading(about: dict[str, Any]) -> str:
    lines = [
        "minihf / transformers {transformers}; torch {torch}, Python {python}, {system}, {cores} cores of {processor}",
        "{threads} threads a side, {rounds} rounds in turn. A ratio below 1: minihf is faster.",
    ]
    if about["quick"]:
        lines.append("--quick: tiny sizes, whose figures mean nothing")
    if about["busy"] > about["cores"] / 2:
        lines.append("The machine is busy (load {busy:.1f}): threads wait for each other; --threads 1 suffers least.")
    titles = [f"{'':{WIDTH}} ratio  {'quartiles':13} {'goal':11}", "    ours reference  time of"]
    titles += [f"{'peak MB: ours, ref.':>22}", f"{'added MB (private): ours, reference':>38}"]
    return "\n".join([*lines, ""]).format(**about) + "\n" + "".join(titles)


def described(row: dict[str, Any]) -> str:
    """A line of the table; another for the peer, and where the memory has a goal."""
    ratio, times, added, private, file = (row[name] for name in ("ratio", "seconds", "added", "private", "file"))
    goal = "" if row["goal"] is None else f"{row['goal']:.2f} {verdict(row['met'])}"
    quartiles = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
    columns = [
        f"{row['case'] + ': ' + row['name']:{WIDTH}} {ratio['median']:5.2f}  {quartiles:13} {goal:11}",
        f"{duration(times['ours']):>8} {duration(times['reference']):>9}  {row['unit']:7}",
        *(f"{megabytes(row['peak'][side]):>11}" for side in SIDES),
        *(f"{megabytes(added[side]) + ' (' + megabytes(private[side]) + ')':>19}" for side in SIDES),
    ]
    if row["peer"]:
        name, peer = row["peer"]["name"], row["peer"]["ratio"]
        line = f"{'':{WIDTH}} {peer['median']:5.2f}  {peer['low']:.2f} to {peer['high']:.2f}  of {name}'s"
        columns.append(f"\n{line:{WIDTH + 33}}{duration(times['peer']):>18}")
    if row["reached"] is not None:
        speed = ", ".join(f"{side} {1 / times[side]:.4g} ({row['reached'][side]:.2f})" for side in SIDES)
        goal = "" if row["floor_met"] is None else f"; goal {row['floor_goal']} {verdict(row['floor_met'])}"
        columns += [f"\n{'':{WIDTH}} {row['unit']}s a second (of what reading the weights allows): {speed}{goal}"]
    if row["memory_met"] is None:
        return "".join(columns)
    parts = ", ".join(f"{side} {added[side] / file:.2f} ({private[side] / file:.2f})" for side in SIDES)
    goal = f"{row['memory_goal']} {verdict(row['memory_met'])}"
    return "".join(columns) + f"\n{'':{WIDTH}} added / the file's {megabytes(file)} MB: {parts}; goal {goal}"


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def megabytes(size: int | None) -> str:
    return "-" if size is None else str(round(size / 1e6))


def duration(seconds: float) -> str:
    unit, scale = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
    return f"{seconds * scale:.3g} {unit}"


if __name__ == "__main__":
    sys.exit(main())
