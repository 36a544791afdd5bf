"""A corpus that is always there: the source files of Python's own standard library, some nine megabytes.

Where they lie is asked of `sysconfig`. Left out are tests, tables, and what was generated rather than written: a model
learns little from them. Versions of Python differ in their files, so the figures of a training differ a little, too.
"""

import os
import sysconfig
from pathlib import Path

LEFT_OUT = {
    *("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"),
    *("encodings", "pydoc_data", "lib2to3"),  # tables of characters, generated help, samples in odd encodings
}


def stdlib_sources() -> list[Path]:
    """The standard library's source files, sorted by their path inside it.

    Raises:
        FileNotFoundError: this Python has none, as where its library is a zip file or compiled files only.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        # _sysconfigdata is generated when Python is built: hundreds of lines about that one machine.
        names = [name for name in files if name.endswith(".py") and not name.startswith("_sysconfigdata")]
        found += [Path(folder, name) for name in names]
    if not found:
        raise FileNotFoundError(
            f"{root} holds no .py files: the library of this Python is a zip file, or compiled files only. "
            "Use a Python from python.org, from your system's packages, or from pyenv, uv or conda"
        )
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def read_corpus(limit_bytes: int | None = None) -> list[str]:
    """The texts of `stdlib_sources`, in their order; files that are empty or no UTF-8 are left out.

    Args:
        limit_bytes: stop before the file with which all would be larger than this; None reads all.
    """
    texts, size = [], 0
    for path in stdlib_sources():
        content = path.read_bytes()
        size += len(content)
        if limit_bytes is not None and size > limit_bytes:
            break
        try:
            text = content.decode("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue
        if text:
            texts.append(text)
    return texts


def split(documents: list[str], every: int = 10) -> tuple[list[str], list[str]]:
    """Documents to train on, and every `every`-th one held out, whole: no part of a text is on both sides.

    Raises:
        ValueError: there are too few documents for both sides.
    """
    if not 2 <= every <= len(documents):
        raise ValueError(
            f"every={every} leaves one side without any of the {len(documents)} documents; "
            "it must be at least 2 and at most their number"
        )
    train = [text for i, text in enumerate(documents, 1) if i % every]
    return train, documents[every - 1 :: every]
