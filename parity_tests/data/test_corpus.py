"""The corpus is the same list on every run, holds what was written to be read, and is split by whole files."""

from pathlib import Path

import pytest

from minihf.data import corpus
from minihf.data.corpus import LEFT_OUT, read_corpus, split, stdlib_sources


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A standard library of our own."""
    files = {
        "abc.py": b"a = 1\n",
        "json/decoder.py": "é = 2\r\n".encode(),
        "json/__init__.py": b"",
        "latin.py": "# -*- coding: latin-1 -*-\né = 3\n".encode("latin-1"),
        "zzz.py": b"z = 4\n",
        "notes.txt": b"no source",
        "_sysconfigdata__linux_.py": b"build = 5\n",
        "json/tests/test_json.py": b"t = 6\n",
        "site-packages/torch/nn.py": b"s = 7\n",
        "encodings/cp1252.py": b"e = 8\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: {"stdlib": str(tmp_path)}[name])
    return tmp_path


def test_sources_of_this_python():
    paths = stdlib_sources()
    names = [path.name for path in paths]
    assert {"argparse.py", "decoder.py", "dataclasses.py", "shelve.py"} <= set(names)
    assert len(paths) > 300
    assert all(path.suffix == ".py" and path.is_file() for path in paths)
    root = Path(corpus.sysconfig.get_path("stdlib"))
    assert not [path for path in paths if LEFT_OUT & set(path.relative_to(root).parts)]


def test_sources_are_sorted_and_chosen(library):
    found = [path.relative_to(library).as_posix() for path in stdlib_sources()]
    assert found == ["abc.py", "json/__init__.py", "json/decoder.py", "latin.py", "zzz.py"]


def test_empty_files_and_other_encodings_are_left_out(library):
    assert read_corpus() == ["a = 1\n", "é = 2\n", "z = 4\n"]


def test_limit_stops_before_the_file_that_passes_it(library):
    assert read_corpus(limit_bytes=0) == []
    assert read_corpus(limit_bytes=6) == ["a = 1\n"]
    assert read_corpus(limit_bytes=13) == ["a = 1\n"]  # the next file has 8 bytes
    assert read_corpus(limit_bytes=14) == ["a = 1\n", "é = 2\n"]


def test_a_library_without_sources_is_an_error(tmp_path, monkeypatch):
    archive = tmp_path / "python311.zip"
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(archive))
    with pytest.raises(FileNotFoundError, match=r"python311\.zip holds no \.py files.*Use a Python from"):
        stdlib_sources()


def test_split_is_by_whole_documents_and_loses_none():
    documents = [f"text {i}" for i in range(1, 26)]
    train, held_out = split(documents)
    assert held_out == ["text 10", "text 20"]
    assert sorted(train + held_out) == sorted(documents)
    assert train == [text for text in documents if text not in held_out]
    assert split(documents, every=25)[1] == ["text 25"]


@pytest.mark.parametrize("every", [0, 1, 4])
def test_split_with_an_empty_side_is_an_error(every):
    with pytest.raises(ValueError, match=f"every={every} leaves one side without any of the 3 documents"):
        split(["a", "b", "c"], every=every)
