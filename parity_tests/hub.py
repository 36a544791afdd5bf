"""A stand-in for the hub, on the loopback address: huggingface_hub downloads from it and uploads to it.

It keeps repositories in memory and answers what huggingface_hub asks of a model's repository: make it, list it, branch,
upload (small files inside a commit, large ones by git-lfs before it), download. It knows its users by their tokens.
"""

import hashlib
import json
import re
import threading
from base64 import b64decode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

LARGE = ".safetensors"  # goes by git-lfs, however small it is
API = re.compile(r"/api/models/([^/]+(?:/[^/]+)??)(?:/(tree|preupload|commit|branch|refs|revision)(?:/(.*))?)?")
RESOLVE = re.compile(r"/([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")
BATCH = re.compile(r"/(.+)\.git/info/lfs/objects/batch")


@dataclass
class Commit:
    oid: str
    title: str
    description: str
    files: dict[str, bytes]  # all that the repository holds then


@dataclass
class Repository:
    private: bool = False
    tags: list[str] = field(default_factory=list)  # that the hub reads out of a card
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)  # tags and pull requests too -> their commit

    def at(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision, revision)
        return next((commit for commit in self.commits if commit.oid == oid), None)

    def add(self, files: dict[str, bytes], *branches: str, oid: str | None = None, title: str = "", about: str = ""):
        oid = oid or hashlib.sha1(repr((len(self.commits), title, sorted(files))).encode()).hexdigest()
        self.commits.append(Commit(oid, title, about, files))
        self.branches |= dict.fromkeys(branches, oid)
        return self.commits[-1]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What a revision holds, without the file that git has its settings in."""
        return {name: content for name, content in self.at(revision).files.items() if name != ".gitattributes"}

    def titles(self, revision: str = "main") -> list[str]:
        """Of the commits after the first one, which makes the repository."""
        return [commit.title for commit in self.commits[1:]]


class StandInHub(ThreadingHTTPServer):
    """Its repositories, and what may be changed from outside.

    users: token -> who it is; he may write under his own name and in his organizations.
    readers: tokens that may not write.
    faults: a part of a path -> what is answered instead, as `Handler.answer` takes it.
    gate: while it is not set, commits wait.
    asked: the method and path of what was asked about repositories.
    """

    def __init__(self, home: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.users = {"secret": "me", "read-only": "me", "other": "you"}
        self.readers = {"read-only"}
        self.organizations = {"team": {"me"}}
        self.faults: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.gate, self.lock = threading.Event(), threading.Lock()
        self.gate.set()
        self.cache = str(home / "hub")
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.environment = {"HF_ENDPOINT": self.url, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1"}

    def __enter__(self) -> "StandInHub":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()

    def __getitem__(self, name: str) -> Repository:
        return self.repositories[name]

    def put(self, name: str, files: dict[str, str | bytes], *branches: str, **options: Any) -> Repository:
        """A repository that holds a commit with these files, by these branches."""
        repository = self.repositories.setdefault(name, Repository(private=options.pop("private", False)))
        content = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        repository.add(content, *(branches or ("main",)), **options)
        return repository


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves in one piece: two cost 40 ms, as the second waits for the first's receipt
    server: StandInHub

    def do_GET(self) -> None:
        self.path, _, self.query = self.path.partition("?")
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/models/" in self.path or "/resolve/" in self.path or "/repos/" in self.path:
            self.server.asked.append(f"{self.command} {self.path}")
        fault = next((fault for part, fault in self.server.faults.items() if part in self.path), None)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        if fault is not None:
            return self.answer(**fault)
        if token is not None and token not in self.server.users:
            return self.answer(401, message="Invalid credentials in Authorization header")
        self.user, self.reads_only = self.server.users.get(token), token in self.server.readers
        with self.server.lock:
            return self.route()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def route(self) -> None:
        if self.path == "/api/repos/create":
            return self.create()
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if self.path.startswith("/large/"):
            self.server.large[self.path.removeprefix("/large/")] = self.body
            return self.answer(200)
        if match := API.fullmatch(self.path):
            name, what, rest = match[1], match[2] or "revision", unquote(match[3] or "main")
        elif match := RESOLVE.fullmatch(self.path):
            name, what, rest = match[1], "resolve", (unquote(match[2]), unquote(match[3]))
        elif match := BATCH.fullmatch(self.path):
            name, what, rest = match[1], "batch", ""
        else:
            return self.answer(404)
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.owns(name)):
            return self.answer(401 if self.user is None else 404, code="RepoNotFound")
        if what in ("preupload", "commit", "branch", "batch") and not self.may_write(name):
            if self.user is None:
                return self.answer(401, code="RepoNotFound")
            if not ("create_pr" in self.query or (what == "batch" and not self.reads_only)):
                return self.answer(403, message=f"you may not write to {name}")
        return getattr(self, what)(name, repository, rest)

    def owns(self, name: str) -> bool:
        owner = name.partition("/")[0]
        return self.user is not None and (owner == self.user or self.user in self.server.organizations.get(owner, ()))

    def may_write(self, name: str) -> bool:
        return self.owns(name) and not self.reads_only

    # Repositories

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization'] or self.user}/{asked['name']}"
        if self.user is None:
            return self.answer(401, {"error": "Invalid username or password."})
        if not self.may_write(name):
            return self.answer(403, message=f"you may not make a repository in {name.partition('/')[0]}")
        url = {"url": f"{self.server.url}/{name}"}
        if name in self.server.repositories:
            return self.answer(409, url)
        self.server.put(name, {".gitattributes": ""}, private=asked.get("visibility") == "private")
        return self.answer(200, url)

    def revision(self, name: str, repository: Repository, revision: str) -> None:
        if (commit := repository.at(revision)) is None:
            return self.answer(404, code="RevisionNotFound")
        return self.answer(200, {"id": name, "sha": commit.oid, "private": repository.private, "tags": repository.tags})

    def refs(self, name: str, repository: Repository, rest: str) -> None:
        rows = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": oid} for b, oid in repository.branches.items()]
        return self.answer(200, {"branches": rows, "tags": [], "converts": []})

    def branch(self, name: str, repository: Repository, branch: str) -> None:
        if branch in repository.branches:
            return self.answer(409)
        repository.branches[branch] = repository.branches["main"]
        return self.answer(200)

    def tree(self, name: str, repository: Repository, revision: str) -> None:
        if (commit := repository.at(revision.rstrip("/"))) is None:
            return self.answer(404, code="RevisionNotFound")
        rows = [{"type": "file", "path": f, "size": len(c), "oid": blob_id(c)} for f, c in commit.files.items()]
        return self.answer(200, rows)

    # Uploads

    def preupload(self, name: str, repository: Repository, revision: str) -> None:
        if (commit := repository.at(revision)) is None:
            return self.answer(404, code="RevisionNotFound")
        rows = []
        for path in (row["path"] for row in json.loads(self.body)["files"]):
            content, large = commit.files.get(path), path.endswith(LARGE)
            known = None if content is None else hashlib.sha256(content).hexdigest() if large else blob_id(content)
            mode = "lfs" if large else "regular"
            rows.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known})
        return self.answer(200, {"files": rows})

    def batch(self, name: str, repository: Repository, rest: Any) -> None:
        rows = []
        for row in json.loads(self.body)["objects"]:
            to = {"upload": {"href": f"{self.server.url}/large/{row['oid']}"}}
            rows.append(row if row["oid"] in self.server.large else row | {"actions": to})
        return self.answer(200, {"transfer": "basic", "objects": rows})

    def commit(self, name: str, repository: Repository, revision: str) -> None:
        self.server.gate.wait(30)
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = dict(repository.at(revision).files)
        header = lines[0]["value"]
        for line in lines[1:]:
            path = line["value"]["path"]
            if line["key"] == "deletedFile":
                del files[path]
            elif line["key"] == "lfsFile":
                files[path] = self.server.large[line["value"]["oid"]]
            else:
                files[path] = b64decode(line["value"]["content"])
        number = 1 + sum(branch.startswith("refs/pr/") for branch in repository.branches)
        proposed = "create_pr" in self.query
        branch = f"refs/pr/{number}" if proposed else revision
        done = repository.add(files, branch, title=header["summary"], about=header["description"])
        url = f"{self.server.url}/{name}"
        pull = f"{url}/discussions/{number}" if proposed else None
        answer = {"commitOid": done.oid, "commitUrl": f"{url}/commit/{done.oid}", "pullRequestUrl": pull}
        return self.answer(200, answer)

    # Downloads

    def resolve(self, name: str, repository: Repository, rest: tuple[str, str]) -> None:
        revision, path = rest
        if (commit := repository.at(revision)) is None:
            return self.answer(404, code="RevisionNotFound")
        if path not in commit.files:
            return self.answer(404, code="EntryNotFound", commit=commit.oid)
        content = commit.files[path]
        return self.answer(200, content, commit=commit.oid, etag=blob_id(content))

    def answer(
        self,
        status: int,
        content: Any = b"",
        *,
        code: str | None = None,
        message: str | None = None,
        commit: str | None = None,
        etag: str | None = None,
        length: int | None = None,
    ) -> None:
        """Headers as the hub has them. With a `length` that is too long the connection breaks in the middle."""
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        headers["ETag"] = etag and f'"{etag}"'
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        if length is not None:
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


def blob_id(content: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
