"""Names become files: folders, cache folders built by hand, and a stand-in hub that records what it is asked."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from minihf.checkpoints.hub import CheckpointError, Source

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "a" * 40, "b" * 40  # commits
CLIMBING = ["../x.json", "a/../../x.json", "/etc/passwd", "..", "..\\x.json", "C:x.json", "x\0.json", ""]


# Folders


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "config.json").write_text('{"sub": 1}')
    return folder


def test_folder(folder):
    source = Source(str(folder), revision="ignored", force_download=True)
    assert source.find("config.json") == source.get("config.json") == folder / "config.json"
    assert source.find("absent.json") is None
    assert replace(source, subfolder="sub").get("config.json") == folder / "sub" / "config.json"
    assert source.pinned(folder / "config.json") == source
    assert source.names() == ["config.json", "sub"]


def test_folder_wins_over_hub_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert Source("model").get("config.json") == Path("model/config.json")


def test_absent_file_tells_what_is_there(folder):
    expected = r"the folder '.*model' has no 'absent.json'; it holds 'config.json', 'sub'\."
    with pytest.raises(FileNotFoundError, match=expected):
        Source(str(folder)).get("absent.json")


def test_absent_subfolder_is_no_absent_file(folder):
    with pytest.raises(FileNotFoundError, match=r"no subfolder 'onnx'; it holds 'config.json', 'sub'"):
        Source(str(folder), subfolder="onnx").find("config.json")


def test_file_in_place_of_folder(folder):
    with pytest.raises(NotADirectoryError, match=r"config.json' is a file; pass the folder that holds it: '.*model'"):
        Source(str(folder / "config.json")).find("config.json")


def test_what_bears_the_name_must_be_a_file(folder):
    (folder / "gone.json").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.json")  # opening it would wait for ever
    for name in ("sub", "gone.json", "pipe.json"):
        with pytest.raises(CheckpointError, match=f"{name} is not a file"):
            Source(str(folder)).find(name)


@pytest.mark.parametrize("name", CLIMBING)
def test_no_way_out_of_the_folder(folder, name):
    (folder.parent / "x.json").write_text("{}")
    for source in (Source(str(folder)), Source("org/name")):
        with pytest.raises(CheckpointError, match="refused"):
            source.find(name)
        if name:
            with pytest.raises(CheckpointError, match="refused"):
                replace(source, subfolder=name).find("config.json")


@pytest.mark.parametrize("name", ["", "./nowhere", "/no/such/folder", "a/b/c", "with space", "org/na..me", "x" * 300])
def test_neither_folder_nor_hub_name(name):
    with pytest.raises(FileNotFoundError, match=r"no folder .* not legal: that looks like 'gpt2' or 'org/name'"):
        Source(name).find("config.json")


def test_split_and_secrets(folder):
    source, rest = Source.split(folder, {"revision": "v1", "subfolder": None, "token": "hf_secret", "num_labels": 3})
    assert source == Source(str(folder), revision="v1", token="hf_secret")
    assert rest == {"num_labels": 3}
    assert "hf_secret" not in repr(source) + str(source)


# A cache folder, built by hand as huggingface_hub's documentation draws it. Tests have no network: see conftest.py.


@pytest.fixture
def cache(tmp_path) -> Path:
    repository = tmp_path / "hub" / "models--org--tiny"
    files = {OLD: {"config.json": "old"}, NEW: {"config.json": "new", "sub/config.json": "deep"}}
    for commit, texts in files.items():
        for name, text in texts.items():
            blob = repository / "blobs" / f"{text}-etag"
            link = repository / "snapshots" / commit / name
            blob.parent.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            blob.write_text(text)
            link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(NEW)
    (repository / "refs" / "v1").write_text(OLD)
    return tmp_path / "hub"


@pytest.mark.parametrize("local_files_only", [True, False])
def test_cache(cache, local_files_only):
    source = Source("org/tiny", cache_dir=cache, local_files_only=local_files_only)
    assert source.get("config.json").read_text() == "new"
    assert source.get("config.json") == Path(hf_hub_download("org/tiny", "config.json", cache_dir=cache))
    assert replace(source, revision="v1").get("config.json").read_text() == "old"
    assert replace(source, revision=OLD).get("config.json").read_text() == "old"
    assert replace(source, subfolder="sub").get("config.json").read_text() == "deep"
    assert replace(source, cache_dir=str(cache)).find("absent.json") is None
    assert replace(source, subfolder="sub").find("absent.json") is None
    assert source.names() == ["config.json", "sub/config.json"]
    assert replace(source, subfolder="sub").names() == ["config.json"]
    with pytest.raises(FileNotFoundError, match=r"hub repository 'org/tiny' \(revision 'main'\) has no 'absent.json'"):
        source.get("absent.json")


def test_cache_without_it(cache):
    for source in (Source("org/other", cache_dir=cache), Source("org/tiny", cache_dir=cache, revision="v2")):
        with pytest.raises(FileNotFoundError, match=r"no folder 'org/.*not in the cache '.*hub', while HF_") as told:
            source.find("config.json")
        assert told.value.__cause__ is not None


def test_pinned(cache):
    source = Source("org/tiny", cache_dir=cache, token="t", local_files_only=True)
    pinned = source.pinned(source.get("config.json"))
    assert pinned == replace(source, revision=NEW)
    (cache / "models--org--tiny" / "refs" / "main").write_text(OLD)
    assert source.get("config.json").read_text() == "old"
    assert pinned.get("config.json").read_text() == "new"
    deep = replace(source, subfolder="sub", revision=NEW)
    assert deep.pinned(deep.get("config.json")) == deep


def test_contradictory_options(cache):
    with pytest.raises(FileNotFoundError, match="cannot be downloaded anew while HF_HUB_OFFLINE is set"):
        Source("org/tiny", cache_dir=cache, force_download=True).find("config.json")
    with pytest.raises(ValueError, match="force_download"):
        Source("org/tiny", cache_dir=cache, force_download=True, local_files_only=True).find("config.json")


# A stand-in hub. It is asked from processes of their own, as huggingface_hub reads its environment once.

ASK = """
import json, sys, time
time.sleep = lambda seconds: None  # retries wait seconds
from minihf.checkpoints.hub import Source
for options, method, *args in json.load(sys.stdin):
    try:
        value = getattr(Source(**options), method)(*args)
        answer = {"text": value.read_text(), "path": str(value)} if hasattr(value, "read_text") else {"value": value}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error), "cause": type(error.__cause__).__name__}
    print(json.dumps(answer))
print(json.dumps("huggingface_hub" in sys.modules))
"""


def ask(*questions: tuple, **environment) -> list:
    """A fresh process answers (options of Source, method, arguments) with dicts, then whether it used the hub."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        input=json.dumps(questions),
        env=clean | {"PYTHONPATH": str(ROOT)} | {key: str(value) for key, value in environment.items()},
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def hub(hub):
    hub.users["secret"] = "org"
    hub.put("org/tiny", {"config.json": "old"}, "v1", oid=OLD)
    hub.put("org/tiny", {"config.json": "new", "model.safetensors": "weights", "sub/a.json": "deep"}, oid=NEW)
    hub.repositories["org/private"] = replace(hub["org/tiny"], private=True)
    hub.faults["org/gated"] = {"status": 403, "code": "GatedRepo"}
    hub.faults["org/down"] = {"status": 500}
    hub.faults["org/cut"] = {"status": 200, "commit": NEW, "etag": "e", "length": 1000, "content": b"cut short"}
    return hub


TINY = {"name": "org/tiny"}


def test_a_folder_never_touches_the_hub(folder):
    source = {"name": str(folder)}
    found, absent, used = ask((source, "get", "config.json"), (source, "find", "absent.json"))
    assert (found["text"], absent, used) == ("{}", {"value": None}, False)


def test_home_and_offline(cache, tmp_path):
    other = {"name": "org/other"}
    questions = (TINY, "get", "config.json"), (TINY, "find", "absent.json"), (other, "find", "config.json")
    by_home = ask(*questions, HF_HOME=tmp_path, HF_HUB_OFFLINE=1)
    by_cache = ask(*questions, HF_HUB_CACHE=cache, HF_HUB_OFFLINE=1)
    assert by_home == by_cache
    assert [by_home[0]["text"], by_home[1]["value"], by_home[2]["error"]] == ["new", None, "FileNotFoundError"]


def test_download_only_what_is_asked_for(hub):
    answers = ask(
        (TINY, "get", "config.json"), (TINY, "find", "absent.json"), (TINY | {"subfolder": "sub"}, "get", "a.json"),
        (TINY | {"revision": "v1"}, "get", "config.json"), (TINY | {"revision": OLD}, "get", "config.json"),
        **hub.environment,
    )  # fmt: skip
    assert [answer.get("text") for answer in answers[:-1]] == ["new", None, "deep", "old", "old"]
    assert answers[1] == {"value": None}
    assert all(hub.environment["HF_HOME"] in Path(answers[i]["path"]).parents for i in (0, 2, 3))
    got = [path for path in hub.asked if path.startswith("GET")]
    wanted = "main/config.json", "main/sub/a.json", "v1/config.json"
    assert got == [f"GET /org/tiny/resolve/{path}" for path in wanted]
    assert not any("model.safetensors" in path for path in hub.asked)


def test_cache_dir_and_second_time(hub, tmp_path):
    question = TINY | {"cache_dir": str(tmp_path / "mine")}, "get", "config.json"
    answer, _ = ask(question, **hub.environment)
    assert tmp_path / "mine" in Path(answer["path"]).parents
    hub.asked.clear()
    assert ask(question, **hub.environment)[0] == answer
    assert hub.asked == ["HEAD /org/tiny/resolve/main/config.json"]
    ask((question[0] | {"force_download": True}, *question[1:]), **hub.environment)
    assert hub.asked[-1] == "GET /org/tiny/resolve/main/config.json"


def test_pinned_asks_no_second_question(hub):
    ask((TINY, "get", "config.json"), (TINY, "find", "absent.json"), **hub.environment)
    hub.asked.clear()
    pinned = TINY | {"revision": NEW}
    answers = ask((pinned, "get", "config.json"), (pinned, "find", "absent.json"), **hub.environment)
    assert (answers[0]["text"], answers[1], hub.asked) == ("new", {"value": None}, [])


def test_token(hub):
    private = {"name": "org/private"}
    question = "get", "config.json"
    answers = ask((private, *question), (private | {"token": "secret"}, *question), **hub.environment)
    refused = answers[0]
    assert (refused["error"], refused["cause"]) == ("FileNotFoundError", "RepositoryNotFoundError")
    assert "no folder 'org/private'" in refused["message"]
    assert "pass token=" in refused["message"]
    assert answers[1]["text"] == "new"
    bad = ask((private | {"token": "bad", "revision": "v1"}, *question), **hub.environment)[0]
    assert bad["error"] == "PermissionError"
    assert ask((private, *question), **hub.environment, HF_TOKEN="secret")[0]["text"] == "new"
    # the environment's token is not sent where it is switched off
    off = private | {"token": False, "revision": "v1"}
    assert ask((off, *question), **hub.environment, HF_TOKEN="secret")[0]["error"] == "FileNotFoundError"


@pytest.mark.parametrize(
    "options, error, cause, told",
    [
        ({"name": "org/nobody"}, "FileNotFoundError", "RepositoryNotFoundError", "no repository of this name"),
        ({"name": "nobody"}, "FileNotFoundError", "RepositoryNotFoundError", "no repository of this name"),
        (TINY | {"revision": "v9"}, "FileNotFoundError", "RevisionNotFoundError", "'org/tiny' has no revision 'v9'"),
        ({"name": "org/gated"}, "PermissionError", "GatedRepoError", "ask for access at http://127.0.0.1"),
        ({"name": "org/down"}, "FileNotFoundError", "LocalEntryNotFoundError", "500"),
        ({"name": "org/nobody", "force_download": True}, "FileNotFoundError", "RepositoryNotFoundError", "shows you"),
        ({"name": "org/cut"}, "FileNotFoundError", "RemoteProtocolError", "could not be downloaded"),
    ],
)
def test_refusals(hub, options, error, cause, told):
    for answer in ask((options, "find", "config.json"), (options, "get", "config.json"), **hub.environment)[:-1]:
        assert (answer["error"], answer["cause"]) == (error, cause)
        assert told in answer["message"]


def test_absent_file_on_the_hub_tells_what_is_there(hub):
    answer = ask((TINY, "get", "absent.json"), **hub.environment)[0]
    assert answer["error"] == "FileNotFoundError"
    assert "it holds 'config.json', 'model.safetensors', 'sub/a.json'" in answer["message"]


def test_hub_out_of_reach(hub):
    """What is in the cache is found, what is known to be absent is None, what nobody knows is an error."""
    ask((TINY, "get", "config.json"), (TINY, "find", "known.json"), **hub.environment)
    hub.shutdown()
    hub.server_close()
    answers = ask(
        (TINY, "get", "config.json"), (TINY, "find", "known.json"), (TINY, "find", "unknown.json"),
        (TINY | {"force_download": True}, "find", "config.json"), **hub.environment,
    )  # fmt: skip
    assert answers[0]["text"] == "new"
    assert answers[1] == {"value": None}
    assert (answers[2]["error"], answers[2]["cause"]) == ("FileNotFoundError", "LocalEntryNotFoundError")
    assert "'unknown.json' of the hub repository 'org/tiny'" in answers[2]["message"]
    assert (answers[3]["error"], answers[3]["cause"]) == ("FileNotFoundError", "ConnectError")
