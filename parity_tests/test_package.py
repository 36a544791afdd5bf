"""The package as people get it: the wheel alone, what imports what, the command line, the two scripts."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import PathDistribution, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

import minihf

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], text=True, capture_output=True, timeout=240, **options)


def modules(folder: Path) -> list[str]:
    """The dotted names of minihf's modules under this folder."""
    files = (path.relative_to(folder).with_suffix("") for path in (folder / "minihf").rglob("*.py"))
    return sorted(".".join(file.parts).removesuffix(".__init__") for file in files)


# The wheel, alone


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The folder that a freshly built wheel unpacks to."""
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with ZipFile(path) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def metadata(wheel: Path) -> PathDistribution:
    return PathDistribution(wheel / "minihf-0.1.0.dist-info")


def closure(lines: list[str]) -> set[str]:
    """Names of the distributions that these requirements bring, extras left out unless something asks for them."""
    found, todo = set(), [(line, "") for line in lines]
    while todo:
        line, extra = todo.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for asked in {"", *requirement.extras}:
            if (requirement.name, asked) not in found:
                found.add((requirement.name, asked))
                todo += [(line, asked) for line in distribution(requirement.name).requires or []]
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """An environment that holds the wheel and what it requires, linked from the running one; gives its bin folder."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    for name in closure(metadata(wheel).requires):
        dist = distribution(name)
        for top in {file.parts[0] for file in dist.files} - {"..", "__pycache__"}:
            link = site / top
            if not link.is_symlink():
                link.symlink_to(dist.locate_file(top))
    # By hand, not by pip: an environment that runs the tests need not have one.
    shutil.copytree(wheel, site, dirs_exist_ok=True)
    command = home / "bin" / "minihf"
    command.write_text(f"#!{home}/bin/python -I\nimport sys\nfrom minihf.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    return home / "bin"


def test_the_wheel_holds_minihf_and_nothing_else(wheel):
    assert {path.name for path in wheel.iterdir()} == {"minihf", "minihf-0.1.0.dist-info"}
    assert modules(wheel) == modules(ROOT)
    assert (wheel / "minihf-0.1.0.dist-info/licenses/LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    (command,) = metadata(wheel).entry_points
    assert (command.group, command.name, command.value) == ("console_scripts", "minihf", "minihf.cli:main")


def test_the_wheel_requires_what_it_promises(wheel):
    always = {line for line in metadata(wheel).requires if "extra ==" not in line}
    tokenizers = {"tokenizers", "sentencepiece", "protobuf", "jinja2>=3.1.6"}
    assert always == {"torch>=2.9", "numpy", "safetensors", "huggingface-hub", "tqdm"} | tokenizers


def test_every_module_imports_without_the_reference(wheel, bare, tmp_path):
    code = """
import importlib, json, pkgutil
from importlib.util import find_spec
import minihf
names = ["minihf"]
for module in pkgutil.walk_packages(minihf.__path__, "minihf.", onerror=lambda name: None):
    importlib.import_module(module.name)
    names.append(module.name)
absent = [name for name in ("transformers", "peft", "accelerate", "rich", "matplotlib") if find_spec(name) is None]
print(json.dumps({"file": minihf.__file__, "names": names, "absent": absent}))
"""
    done = run(bare / "python", "-I", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["absent"] == ["transformers", "peft", "accelerate", "rich", "matplotlib"]
    assert Path(seen["file"]).is_relative_to(bare.parent)
    assert sorted(seen["names"]) == modules(wheel)


def test_the_command_line_without_the_reference(bare, tmp_path):
    answers = {
        arguments: run(bare / "minihf", *arguments.split(), cwd=tmp_path)
        for arguments in ("--help", "--version", "parity", "parity folder --architecture bert", "", "describe folder")
    }
    assert [answer.returncode for answer in answers.values()] == [0, 0, 2, 2, 2, 2]
    assert {"describe", "parity", "run", "trace"} <= set(answers["--help"].stdout.split())
    told = "no command was given; there are: minihf describe, minihf parity, minihf run, minihf trace\n"
    assert answers[""].stderr.endswith(told)
    assert answers["describe folder"].stderr == (
        "minihf describe prints its table with rich; install it with: pip install rich, or ask for --json\n"
    )
    assert answers["--version"].stdout == "minihf 0.1.0\n"
    assert answers["parity"].stderr == (
        'minihf parity compares with the reference library; install it with: pip install "minihf[parity]"\n'
    )
    assert "leave it out" in answers["parity folder --architecture bert"].stderr


# Public names, loaded on first use


HELP = "from minihf.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"


@pytest.mark.parametrize("use", ["import minihf", HELP])
def test_importing_minihf_and_asking_for_help_load_nothing_heavy(use):
    heavy = "{'torch', 'transformers', 'numpy', 'tokenizers', 'safetensors', 'huggingface_hub'}"
    done = run(sys.executable, "-c", f"{use}\nimport sys\nprint({heavy} & set(sys.modules))", cwd=ROOT)
    assert done.stdout.endswith("set()\n"), done
    assert ("usage: minihf" in done.stdout) == ("--help" in use)


def test_every_public_name_is_there():
    assert len(minihf.__all__) == len(set(minihf.__all__))
    assert {"AutoModel", "AutoTokenizer", "BertModel", "GPT2LMHeadModel"} <= set(minihf.__all__)
    assert set(minihf.__all__) <= set(dir(minihf))
    assert [name for name in minihf.__all__ if getattr(minihf, name, None) is None] == []
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = minihf.no_such_name


@pytest.mark.parametrize("error", [ValueError("two\n  lines"), FileNotFoundError("no such folder")])
def test_a_users_error_is_one_line_and_no_traceback(error, monkeypatch, capsys):
    from minihf import cli
    from minihf.inspection import parity

    def fail(target, *, json_output, architectures):
        assert (target, json_output, architectures) == ("folder", True, None)
        raise error

    monkeypatch.setattr(parity, "run_command", fail)
    assert cli.main(["parity", "folder", "--json"]) == 2
    assert capsys.readouterr() == ("", f"minihf parity: {' '.join(str(error).split())}\n")


# Imports go down only

FLOORS = (
    {"nn", "checkpoints"},
    {"generation", "fast"},
    {"models"},
    {"tokenization", "data", "adapters", "training"},
    {"pipelines", "inspection"},
    {"cli", "__init__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
RUNTIME = {"torch", "numpy", "safetensors", "tokenizers", "sentencepiece", "huggingface_hub", "jinja2", "tqdm"}
REFERENCE = {"transformers", "peft", "accelerate"}
EXTRAS = {"matplotlib", "rich", "datasets"}
NO_ARCHITECTURE = ("minihf.models.base.", "minihf.models.outputs.")  # all that training may take from models


def imports(file: Path, source: str) -> Iterator[tuple[str, bool]]:
    """(the dotted name that is imported, whether inside a function) for each import of one file, lazy ones too."""

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, inside) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = file.with_suffix("").parts[:-level] if level else ()
                origin = ".".join([*start, *([module] if module else [])])
                yield from ((f"{origin}.{alias.name}", inside) for alias in names)
            case ast.Call(func=ast.Attribute(attr=call) | ast.Name(id=call), args=[ast.Constant(value=str(name)), *_]):
                if call in ("import_module", "__import__") and not name.startswith("."):
                    yield name, inside
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(source), False)


def room_of(name: str) -> str:
    """The room of minihf that a dotted name lies in; what hangs on `minihf` itself counts as `__init__`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__"


def faults(sources: dict[str, str]) -> list[str]:
    """Everything that these sources, by path from the root, import against the rules."""
    found, neighbours = [], {}
    for path, source in sources.items():
        file = Path(path)
        here = file.parts[1].removesuffix(".py")
        if here not in FLOOR:
            found.append(f"{path}: no such room")
            continue
        for name, inside in imports(file, source):
            top, there = name.partition(".")[0], room_of(name)
            if top == "minihf":
                if FLOOR[there] > FLOOR[here]:
                    found.append(f"{path}: imports up, {name}")
                elif FLOOR[there] == FLOOR[here] and there != here:
                    neighbours.setdefault(here, set()).add(there)
                elif (here, there) == ("training", "models") and not f"{name}.".startswith(NO_ARCHITECTURE):
                    found.append(f"{path}: imports an architecture, {name}")
            elif top in REFERENCE:
                if not (here == "inspection" and inside):
                    found.append(f"{path}: imports the reference, {name}")
            elif not (top in RUNTIME or top in sys.stdlib_module_names or (top in EXTRAS and inside)):
                found.append(f"{path}: imports what the wheel does not require, {name}")
    try:
        TopologicalSorter(neighbours).prepare()
    except CycleError as error:
        found.append(f"rooms import each other in a ring: {error.args[1]}")
    return found


def test_imports_go_down_only():
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "minihf").rglob("*.py"))}
    assert "minihf/models/bert.py" in sources
    assert faults(sources) == []


PLANTED = [
    ("nn/a.py", "from minihf.models.bert import BertModel", "imports up, minihf.models.bert.BertModel"),
    ("nn/a.py", "from ..models import bert", "imports up, minihf.models.bert"),
    ("nn/__init__.py", "from .. import models", "imports up, minihf.models"),
    ("models/a.py", "from minihf import AutoModel", "imports up, minihf.AutoModel"),
    ("models/a.py", "def f():\n    import minihf.cli", "imports up, minihf.cli"),
    ("models/a.py", "import_module('minihf.inspection')", "imports up, minihf.inspection"),
    ("fast/a.py", "from minihf.models.base import Model", "imports up, minihf.models.base"),
    ("training/a.py", "from ..models.gpt2 import Block", "imports an architecture"),
    ("training/a.py", "from minihf.models import BertModel", "imports an architecture"),
    ("generation/a.py", "import minihf.models.base", "imports up, minihf.models.base"),
    ("models/a.py", "def f():\n    import transformers", "imports the reference"),
    ("inspection/a.py", "class A:\n    import peft.tuners", "imports the reference"),
    ("inspection/a.py", "importlib.import_module('accelerate')", "imports the reference"),
    ("data/a.py", "def f():\n    import pandas", "the wheel does not require, pandas"),
    ("data/a.py", "import matplotlib.pyplot as plt", "the wheel does not require, matplotlib"),
    ("helpers/a.py", "", "no such room"),
]
ALLOWED = {
    "minihf/models/__init__.py": "from .bert import BertModel",
    "minihf/models/bert.py": "import torch.nn.functional as F\nfrom ..nn.attention import attend",
    "minihf/training/a.py": "from ..models import base\nfrom minihf.models.base import Model\nimport minihf.data",
    "minihf/inspection/a.py": "class A:\n    def f(self):\n        import rich, transformers",
    "minihf/cli.py": "from minihf import __version__\nfrom minihf.inspection import parity",
    "minihf/__init__.py": "def __getattr__(name):\n    from minihf.fast import f",
}


@pytest.mark.parametrize(("path", "source", "fault"), PLANTED)
def test_the_reader_of_imports_sees_a_planted_fault(path, source, fault):
    (found,) = set(faults(ALLOWED | {f"minihf/{path}": source})) - set(faults(ALLOWED))
    assert fault in found


def test_the_reader_of_imports_sees_a_ring_and_nothing_where_nothing_is():
    assert faults(ALLOWED) == []
    (found,) = faults(ALLOWED | {"minihf/data/a.py": "import minihf.training.b"})
    assert "ring" in found


# The two scripts


def test_ci_runs_exactly_what_people_run():
    last = {name: (ROOT / name).read_text().splitlines()[-1] for name in (".ci/run", "scripts/test", "scripts/demo")}
    assert last == {
        ".ci/run": "bash scripts/test",
        "scripts/test": 'exec .venv/bin/python -m pytest -n auto --dist worksteal "$@"',
        "scripts/demo": 'exec .venv/bin/python scripts/demo.py "$@"',
    }
    for name in (*last, "scripts/environment.sh", "scripts/constraints.txt", "pyproject.toml"):
        assert not re.search("index|://", (ROOT / name).read_text()), name  # pip takes what the machine offers


# Stands for the interpreter that is found, and for the one in .venv: writes down what it is asked, installs nothing.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
    *--version*) echo Python 3.99 ;;
    *"-m venv"*) echo venv >>log; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    *"-m pip"*) echo pip "${@: -1}" >>log; [[ ! -e no-network ]] ;;
    *"-m pytest"*) echo pytest "${@: -1}" >>log; exit 7 ;;
    *"-m ruff"*) echo ruff >>log ;;
    *) echo 3.99 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository of the scripts alone, with an interpreter that only pretends."""
    root = tmp_path / "a repository"
    (root / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "scripts/environment.sh", "scripts/constraints.txt", "scripts/test", "scripts/demo"):
        shutil.copy(ROOT / name, root / name)
    (root / "python").write_text(FAKE_PYTHON)
    (root / "python").chmod(0o755)
    return root


def run_script(root: Path, name: str, *arguments: str) -> tuple[int, list[str], str]:
    """(exit status, what the interpreter was asked for, stderr) of a script that is run from another folder."""
    (root / "log").write_text("")
    environment = os.environ | {"MINIHF_PYTHON": str(root / "python")}
    done = run("bash", root / "scripts" / name, *arguments, cwd=root.parent, env=environment)
    return done.returncode, (root / "log").read_text().splitlines(), done.stderr


def test_the_environment_is_made_once_and_mended_when_it_must_be(checkout):
    suite = ["ruff", "pytest -x"]
    assert run_script(checkout, "test", "-x") == (7, ["venv", "pip .[test]", *suite], "")
    assert run_script(checkout, "test", "-x") == (7, suite, "")

    with (checkout / "scripts/constraints.txt").open("a") as file:
        file.write("tqdm==4.70.1\n")
    assert run_script(checkout, "test", "-x") == (7, ["pip .[test]", *suite], "")

    (checkout / "no-network").touch()
    assert run_script(checkout, "demo") == (1, ["pip .[demo]"], "")
    (checkout / "no-network").unlink()
    assert run_script(checkout, "test", "-x") == (7, ["venv", "pip .[test]", *suite], "")

    assert run_script(checkout, "demo")[1][0] == "pip .[demo]"  # both extras are in, and neither undoes the other
    assert run_script(checkout, "test", "-x") == (7, suite, "")
    assert not [step for step in run_script(checkout, "demo")[1] if step.startswith(("venv", "pip"))]


def test_an_interpreter_that_does_not_suit_is_named(checkout):
    (checkout / "python").write_text("#!/usr/bin/env bash\necho Python 2.7.18, which is too old >&2\nexit 1\n")
    status, asked, stderr = run_script(checkout, "test")
    assert (status, asked) == (1, [])
    assert f"{checkout}/python: Python 2.7.18, which is too old" in stderr
    assert "Python 3.11 or newer" in stderr
