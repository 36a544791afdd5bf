"""A name becomes files: a folder on this machine, or a repository of the Hugging Face hub.

Nothing is downloaded or opened but what is asked for by name. Hub files come through `huggingface_hub`, so tokens, the
cache and the environment variables (HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE) work as everywhere.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

COMMIT = "[0-9a-f]{40}"


class CheckpointError(ValueError):
    """A file that is broken, lies, or is not of a kind that is read here; the message names the file."""


@dataclass(frozen=True)
class Source:
    """Where the files of a checkpoint are looked for; for a folder only `name` and `subfolder` count."""

    name: str  # a folder, or a hub name: "gpt2", "org/name". A folder that exists wins, as in the reference
    revision: str | None = None  # branch, tag or commit; None is the hub's "main"
    subfolder: str = ""
    token: str | bool | None = field(default=None, repr=False)  # a secret: kept out of logs and tracebacks
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    @classmethod
    def split(cls, name: str | os.PathLike, options: Mapping[str, Any]) -> tuple["Source", dict[str, Any]]:
        """A source from the options that say where to look, and the options that say something else."""
        own = {known.name for known in fields(cls)} - {"name"}
        where = {key: value for key, value in options.items() if key in own and value is not None}
        return cls(os.fspath(name), **where), {key: value for key, value in options.items() if key not in own}

    def __str__(self) -> str:
        if os.path.isdir(self.name):
            return f"the folder {str(Path(self.name, self.subfolder))!r}"
        place = f", subfolder {self.subfolder!r}" if self.subfolder else ""
        return f"the hub repository {self.name!r} (revision {self.revision or 'main'!r}{place})"

    def find(self, filename: str) -> Path | None:
        """The path of a file, downloaded if need be; None if the source exists but has no such file.

        Raises:
            FileNotFoundError: no such folder, repository or revision; or not in the cache and the hub is out of reach.
            PermissionError: the repository is gated, or the token is refused.
            CheckpointError: the name leads out of the folder, or what bears it is no file.
        """
        wanted = f"{self.subfolder}/{filename}" if self.subfolder else filename
        if not _stays_inside(wanted):
            raise CheckpointError(f"{wanted!r} is refused: a file of {self} must lie inside it")
        if not self._is_folder():
            return self._from_hub(wanted)
        folder = os.path.join(self.name, self.subfolder)
        if not os.path.isdir(folder):
            inside = shortened(os.listdir(self.name))
            raise FileNotFoundError(f"the folder {self.name!r} has no subfolder {self.subfolder!r}; it holds {inside}")
        path = Path(folder, filename)
        if os.path.isfile(path):
            return path
        if os.path.lexists(path):
            raise CheckpointError(f"{path} is not a file but a folder, a device or a link to a file that is gone")
        return None

    def get(self, filename: str) -> Path:
        """As `find`, for a file that must be there: FileNotFoundError says what is there instead."""
        path = self.find(filename)
        if path is None:
            raise FileNotFoundError(
                f"{self} has no {filename!r}; it holds {shortened(self.names())}. "
                "Pass the folder or the hub name of a saved model; if it lies deeper, its subfolder."
            )
        return path

    def pinned(self, path: Path) -> "Source":
        """This source at the commit that `path` was found in, so that a branch that moves cannot mix two commits.

        Files of a commit that are in the cache are found without asking the hub again. A folder stays as it is.
        """
        commit = re.match(rf".*[/\\]snapshots[/\\]({COMMIT})[/\\]", str(path))
        return self if commit is None or self._is_folder() else replace(self, revision=commit[1])

    def names(self) -> list[str]:
        """The names of the files here (in the cache, where the hub cannot be asked), for error messages."""
        if self._is_folder():
            return sorted(os.listdir(os.path.join(self.name, self.subfolder)))
        from huggingface_hub import HfApi

        snapshot = self._snapshot()
        names = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
        if not self.local_files_only:
            with suppress(Exception):  # whatever it is, it must not hide the error that this list is wanted for
                names = HfApi().list_repo_files(self.name, revision=self.revision, token=self.token)
        prefix = f"{self.subfolder}/" if self.subfolder else ""
        return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))

    def _is_folder(self) -> bool:
        if os.path.isfile(self.name):
            folder = os.path.dirname(self.name) or "."
            raise NotADirectoryError(f"{self.name!r} is a file; pass the folder that holds it: {folder!r}")
        return os.path.isdir(self.name)

    def _from_hub(self, wanted: str) -> Path | None:
        from huggingface_hub import _CACHED_NO_EXIST, errors, hf_hub_download, try_to_load_from_cache

        place = {"repo_id": self.name, "filename": wanted, "revision": self.revision, "cache_dir": self.cache_dir}
        how = {"token": self.token, "local_files_only": self.local_files_only, "force_download": self.force_download}
        try:
            # a commit never changes: a file that it was once seen to lack needs no second question
            fixed = re.fullmatch(COMMIT, self.revision or "") and not self.force_download
            if fixed and try_to_load_from_cache(**place) is _CACHED_NO_EXIST:
                return None
            return Path(hf_hub_download(**place, **how))
        except Exception as raised:
            # a forced download wraps what went wrong in a ValueError
            error = raised.__cause__ if self.force_download and raised.__cause__ is not None else raised
            if isinstance(error, errors.LocalEntryNotFoundError):  # nobody answered: what does the cache know?
                known = self._snapshot().is_dir() if self._is_offline(error) else False
                absent = known or try_to_load_from_cache(**place) is _CACHED_NO_EXIST
            else:
                absent = isinstance(error, errors.EntryNotFoundError)
            if absent:
                return None
            told = self._told(wanted, error)
            if told is None:
                raise
            raise told from error

    def _is_offline(self, error: BaseException) -> bool:
        from huggingface_hub.errors import OfflineModeIsEnabled

        return self.local_files_only or isinstance(error.__cause__, OfflineModeIsEnabled)

    def _told(self, wanted: str, error: BaseException) -> OSError | None:
        """What the hub's error means to the person who gave the name; None where it speaks for itself."""
        from huggingface_hub import constants, errors

        hub, cache = constants.ENDPOINT, str(self.cache_dir or constants.HF_HUB_CACHE)
        no_folder = f"there is no folder {self.name!r} in {os.getcwd()!r}"
        match error:
            case errors.HFValidationError():
                return FileNotFoundError(
                    f"{no_folder}, and as a name of the hub it is not legal: that looks like 'gpt2' or 'org/name'"
                )
            case errors.GatedRepoError():
                return PermissionError(
                    f"{self} is gated: ask for access at {hub}/{self.name}, then log in (hf auth login) or pass token="
                )
            case errors.RepositoryNotFoundError():
                return FileNotFoundError(
                    f"{no_folder}, and {hub} shows you no repository of this name; if it is private, log in "
                    "(hf auth login) or pass token="
                )
            case errors.RevisionNotFoundError():
                return FileNotFoundError(f"the hub repository {self.name!r} has no revision {self.revision!r}")
            case errors.OfflineModeIsEnabled():
                return FileNotFoundError(f"{self} cannot be downloaded anew while HF_HUB_OFFLINE is set")
            case errors.LocalEntryNotFoundError() if self._is_offline(error):
                return FileNotFoundError(
                    f"{no_folder}, and {self} is not in the cache {cache!r}, while HF_HUB_OFFLINE or local_files_only "
                    "forbids to download it: allow it once, or point HF_HOME or cache_dir to a cache that has it"
                )
            case errors.LocalEntryNotFoundError():
                return FileNotFoundError(
                    f"{no_folder}; {wanted!r} of {self} is not in the cache {cache!r}, and asking {hub} failed: "
                    f"{error.__cause__ or error}"
                )
            case errors.HfHubHTTPError(response=response) if response.status_code in (401, 403):
                return PermissionError(f"{self} may not be read with this token: {error}")
            case errors.HfHubHTTPError():
                return FileNotFoundError(f"{wanted!r} of {self} could not be downloaded: {error}")
            case OSError() | ValueError():  # a full disk, a cache without write permission; options that contradict
                return None
            case _:  # what the HTTP library raises when a connection breaks
                return FileNotFoundError(f"{wanted!r} of {self} could not be downloaded: {error!r}")

    def _snapshot(self) -> Path:
        """The folder of this revision in the cache, there or not: huggingface_hub's guide "manage-cache" draws it."""
        from huggingface_hub import constants

        repository = Path(self.cache_dir or constants.HF_HUB_CACHE, "models--" + self.name.replace("/", "--"))
        revision = self.revision or "main"
        ref = repository / "refs" / revision
        return repository / "snapshots" / (ref.read_text() if ref.is_file() else revision)


def _stays_inside(name: str) -> bool:
    # a backslash or a colon leads out on Windows, and no file of a checkpoint needs them
    return bool(name) and not name.startswith("/") and ".." not in name.split("/") and not set(name) & set("\\:\0")


def shortened(names: list[str]) -> str:
    names = sorted(names)
    return (", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")) or "nothing"
