"""From here to the hub: `push_to_hub`, and `save_pretrained(…, push_to_hub=True)`.

`huggingface_hub` uploads. Everything goes in one commit, so that a repository has all of a save or nothing of it: what
fails on the way leaves the files there as they were. The same commit removes weights of an earlier save that would
stand beside the new ones, and brings a model card where there is none. Argument names, defaults, commit messages and
what comes back are those of `transformers` 5.23. An older text's names are taken with a warning, or refused by name.
"""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from minihf.checkpoints.card import FILE_NAME, add_tags, card_for, is_ours, listed
from minihf.checkpoints.files import INDEX, SHARD, SINGLE
from minihf.checkpoints.hub import shortened

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, ModelCard

# Names that push_to_hub had in releases before 5 -> what to write today.
FORMER = {
    "repo_path_or_name": 'the name on the hub, first: push_to_hub("user/name")',
    "repo_name": 'the name on the hub, first: push_to_hub("user/name")',
    "repo_url": 'the name on the hub, first: push_to_hub("user/name")',
    "use_temp_dir": "nothing in its place: files are always written aside and removed after the upload",
    "safe_serialization": "nothing in its place: weights are always safetensors",
}


class PushToHubMixin:
    """What has a `save_pretrained` can be uploaded."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: str | list[str] | None = None,
        organization: str | None = None,
        use_auth_token: bool | str | None = None,
        **former: Any,
    ) -> "CommitInfo":
        """Upload what `save_pretrained` writes to the hub, in one commit.

        Args:
            repo_id: "name", under your own account, or "organization/name"; made where there is none.
            commit_message: None: "Upload model", "Upload tokenizer", "Upload config", …
            commit_description: more about it.
            private: whether others cannot see a repository that is made; None: as its owner has it.
            token: None: the one you logged in with, or HF_TOKEN.
            revision: the branch, made where there is none.
            create_pr: propose the change in a pull request, which needs no right to write.
            max_shard_size: of a file with weights (see `Model.save_pretrained`).
            tags: to find it by; they are added to the card's.
            organization, use_auth_token: former names.

        A repository without a README.md gets a model card. To write it yourself, upload it before or afterwards.

        Returns:
            Which commit it is, with `commit_url`, `oid` and, of a pull request, `pr_url`.

        Raises:
            PermissionError: nobody is logged in, or the token may not write there.
            ConnectionError: the hub is out of reach, or HF_HUB_OFFLINE forbids to ask it.
            FileNotFoundError: there is no such repository or branch.
            ValueError: no such name can be, or the arguments contradict each other.
        """
        refuse_former(former)
        with TemporaryDirectory(prefix="minihf-push-") as folder:
            sharded = "max_shard_size" in inspect.signature(self.save_pretrained).parameters
            self.save_pretrained(folder, **({"max_shard_size": max_shard_size} if sharded else {}))
            return upload(
                files_in(folder),
                with_organization(repo_id, organization),
                commit_message=commit_message or f"Upload {kind_of(self)}",
                commit_description=commit_description,
                private=private,
                token=with_auth_token(token, use_auth_token),
                revision=revision,
                create_pr=create_pr,
                tags=tags,
                card=lambda repo_id: card_for(self, repo_id),
            )


HUB_OPTIONS = (*inspect.signature(PushToHubMixin.push_to_hub).parameters,)[1:-1]


def pushes(save: Callable) -> Callable:
    """Of a `save_pretrained`: it takes `push_to_hub=True` and `push_to_hub`'s arguments as well.

    What it has written is uploaded then. `repo_id` is the folder's name if it is not said. Where it writes nothing, as
    in all processes but one, nothing is uploaded.
    """

    @wraps(save)
    def saving(self: Any, save_directory: str | Path, *args: Any, push_to_hub: bool = False, **options: Any) -> Any:
        own = inspect.signature(save).parameters
        hub = {name: value for name, value in options.items() if name in HUB_OPTIONS and name not in own}
        rest = {name: value for name, value in options.items() if name not in hub}
        hub.pop("max_shard_size", None)  # of weights, which this save has none of
        if not push_to_hub:
            if given := [name for name, value in hub.items() if value is not None]:
                raise TypeError(f"{', '.join(given)} says how to upload: add push_to_hub=True, or leave it out")
            return save(self, save_directory, *args, **rest)
        folder = Path(save_directory)
        before = stamps(folder)
        result = save(self, folder, *args, **rest)
        now, readme = stamps(folder), folder / FILE_NAME
        files = {name: path for name, path in files_in(folder).items() if now[path] != before.get(path)}
        hub["token"] = with_auth_token(hub.get("token"), hub.pop("use_auth_token", None))
        repo_id = with_organization(hub.pop("repo_id", None) or folder.absolute().name, hub.pop("organization", None))
        message = hub.pop("commit_message", None) or f"Upload {kind_of(self)}"
        if files:
            upload(
                files,
                repo_id,
                commit_message=message,
                card=lambda repo_id: read_card(readme) if readme.is_file() else card_for(self, repo_id),
                **hub,
            )
        return result

    return saving


def upload(
    files: Mapping[str, Path],
    repo_id: str,
    *,
    commit_message: str,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: str | list[str] | None = None,
    card: "Callable[[str], ModelCard]",
    renew_card: bool = False,
) -> "CommitInfo":
    """Put files into a repository of the hub, in one commit.

    Args:
        files: their names there -> where they are. README.md is the card's business.
        card: makes one, of the repository's whole name, where there is none.
        renew_card: also where there is one that minihf made.

    The other arguments, and errors, are `push_to_hub`'s.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    if create_pr and revision not in (None, "main"):
        raise ValueError(f"create_pr=True proposes a change of the main branch: leave out revision={revision!r}")
    api = HfApi(token=token)
    with explained(repo_id, revision):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision not in (None, "main") and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        there = api.list_repo_files(repo_id, revision=revision)
        changes = [CommitOperationAdd(name, str(path)) for name, path in files.items() if name != FILE_NAME]
        changes += [CommitOperationDelete(name) for name in stale(there, files)]
        old = read_card(api.hf_hub_download(repo_id, FILE_NAME, revision=revision)) if FILE_NAME in there else None
        tags, known = listed(tags), listed(old.data.tags) if old else []
        anew = old is None or (renew_card and is_ours(old))
        if anew or not set(tags) <= set(known):
            new = add_tags(card(repo_id) if anew else old, [*known, *tags])
            changes.append(CommitOperationAdd(FILE_NAME, str(new).encode()))
        return api.create_commit(
            repo_id,
            changes,
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def stale(there: Iterable[str], files: Iterable[str]) -> list[str]:
    """Weights of an earlier save, in a folder that gets new ones: nobody could tell which of them hold."""
    folders = {Path(name).parent for name in files if is_weights(name)}
    return [name for name in there if is_weights(name) and Path(name).parent in folders and name not in files]


def is_weights(name: str) -> bool:
    last = Path(name).name
    return last in (SINGLE, INDEX) or SHARD.fullmatch(last) is not None


def files_in(folder: str | Path) -> dict[str, Path]:
    """All files of a folder, by their names in a repository."""
    folder = Path(folder)
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """What changes when a file is written: all saves write a new one and give it the name."""
    stats = {path: path.stat() for path in files_in(folder).values()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def read_card(path: str | Path) -> "ModelCard":
    from huggingface_hub import ModelCard

    return ModelCard.load(str(path), ignore_metadata_errors=True)


# Names


def kind_of(saved: Any) -> str:
    """What the reference's commit messages call it."""
    name = type(saved).__name__
    return next((part.lower() for part in ("Model", "Config", "Tokenizer") if part in name), name)


def refuse_former(given: Mapping[str, Any]) -> None:
    for name in given:
        if name in FORMER:
            raise TypeError(f"push_to_hub has no argument {name!r} any more: write {FORMER[name]}")
        raise TypeError(f"push_to_hub has no argument {name!r}; it has {', '.join(HUB_OPTIONS)}")


def with_organization(repo_id: str, organization: str | None) -> str:
    if organization is None:
        return repo_id
    repo_id = f"{organization}/{repo_id.rsplit('/', 1)[-1]}"
    warnings.warn(f"organization is a former name: write repo_id={repo_id!r}", FutureWarning, stacklevel=3)
    return repo_id


def with_auth_token(token: bool | str | None, former: bool | str | None) -> bool | str | None:
    if former is None:
        return token
    if token is not None:
        raise TypeError("use_auth_token is the former name of token: give one of them")
    warnings.warn("use_auth_token is the former name of token: write token=", FutureWarning, stacklevel=3)
    return former


# Errors


@contextmanager
def explained(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """What goes wrong on the way to the hub is told in the words of the person who gave the name."""
    try:
        yield
    except Exception as raised:
        # an upload of a large file wraps what went wrong
        error = raised.__cause__ if type(raised) is RuntimeError and raised.__cause__ is not None else raised
        told = meaning(error, repo_id, revision)
        if told is None:
            raise
        raise told from error


def meaning(error: BaseException, repo_id: str, revision: str | None) -> Exception | None:
    """What an error of huggingface_hub means; None where it speaks for itself."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    login = "log in (hf auth login, or huggingface_hub.notebook_login() in a notebook), set HF_TOKEN or pass token="
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    match error:
        case errors.HFValidationError():
            return ValueError(f"{repo_id!r} is no name of a repository, which looks like 'name' or 'org/name': {error}")
        case errors.OfflineModeIsEnabled():
            return ConnectionError(
                f"{repo_id!r} cannot be uploaded while HF_HUB_OFFLINE is set: unset it and start Python anew, or save "
                "into a folder now and upload that later (hf upload)"
            )
        case errors.LocalTokenNotFoundError():
            return PermissionError(f"uploading {repo_id!r} needs to know who you are: {login} with the right to write")
        case errors.HfHubHTTPError() if status == 401:
            known = "authorization" in error.response.request.headers
            why = f"{hub} refuses this token" if known else f"{hub} wants to know who you are"
            return PermissionError(f"{repo_id!r} was not uploaded, as {why}: {login} with the right to write")
        case errors.HfHubHTTPError() if status == 403:
            return PermissionError(
                f"{repo_id!r} was not uploaded, as you may not write there: {shortened([server_message(error)])}. Use "
                "a token with the right to write, a name of your own, or propose the change with create_pr=True"
            )
        case errors.HfHubHTTPError() if status == 404:
            place = f"no repository {repo_id!r}, or no revision {revision or 'main'!r} of it"
            return FileNotFoundError(f"nothing was uploaded: {hub} shows you {place}")
        case errors.HfHubHTTPError() if status in (400, 409, 412, 413, 422):
            return ValueError(f"{hub} does not take the upload to {repo_id!r}: {server_message(error)}")
        case errors.HfHubHTTPError() | errors.LocalEntryNotFoundError():
            return ConnectionError(f"{repo_id!r} was not uploaded, as {hub} failed: {error}. Try again later")
        case errors.HTTPError() | RuntimeError():  # of the HTTP library, and of the one for large files
            return ConnectionError(
                f"{repo_id!r} was not uploaded, as {hub} is out of reach: {error!r}. Is there a network? What was "
                "saved into a folder is still there, and the upload can be tried again"
            )
        case _:  # a file that is gone or cannot be read; a card that is no card
            return None


def server_message(error: Any) -> str:
    return getattr(error, "server_message", None) or str(error)
