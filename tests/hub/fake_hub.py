"""A model hub in a thread: the HTTP API that `huggingface_hub` uses for model repositories.

Files are real and lie under `root`, commits are snapshots of them, large files arrive through Git
LFS and are refused unless their SHA-256 fits. Xet is not spoken: tests set `HF_HUB_DISABLE_XET`.
The fake can be told to fail (`fail`), and notes every request (`requests`).
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "fakeTokenForTests" * 2


@dataclass(frozen=True)
class Blob:
    """A file's content, by the SHA-256 under which it lies in `objects`."""

    sha256: str
    size: int
    lfs: bool
    git_oid: str

    @property
    def oid(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    oid: str
    message: str
    files: dict[str, Blob]


@dataclass
class Repo:
    private: bool
    commits: list[Commit] = field(default_factory=list)

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.head
        return next((c for c in self.commits if c.oid == revision), None)


@dataclass
class Fault:
    """What happens to requests whose `METHOD /path` matches: a status, "drop" or "hang"."""

    pattern: str
    action: int | str
    times: int


class FakeHub:
    """Use as a context manager; `endpoint` is its address."""

    def __init__(self, root: Path, token: str = TOKEN) -> None:
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self._objects = root / "objects"
        self._objects.mkdir(parents=True)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, pattern: str, action: int | str, times: int = 1_000) -> None:
        """Let the next `times` requests that match the regular expression fail."""
        self._faults.append(Fault(pattern, action, times))

    def fault(self, request: str) -> int | str | None:
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault.action
        return None

    def content(self, repo_id: str) -> dict[str, bytes]:
        """Every file of the main branch."""
        files = self.repos[repo_id].head.files
        return {name: self.read(blob) for name, blob in files.items()}

    def create(self, repo_id: str, *, private: bool, files: dict[str, bytes] | None = None) -> Repo:
        """Make a repository, with the `.gitattributes` that hubs put into every new one."""
        repo = self.repos[repo_id] = Repo(private)
        content = {".gitattributes": b"*.safetensors filter=lfs\n"} | (files or {})
        self.commit(repo, "initial commit", {name: self.store(c) for name, c in content.items()})
        return repo

    def commit(self, repo: Repo, message: str, files: dict[str, Blob]) -> Commit:
        with self._lock:
            listing = [(name, files[name].oid) for name in sorted(files)]
            text = json.dumps([len(repo.commits), message, listing])
            commit = Commit(hashlib.sha1(text.encode()).hexdigest(), message, files)
            repo.commits.append(commit)
            return commit

    def store(self, content: bytes, *, lfs: bool = False) -> Blob:
        sha256 = hashlib.sha256(content).hexdigest()
        (self._objects / sha256).write_bytes(content)
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Blob(sha256, len(content), lfs, git)

    def stored(self, sha256: str) -> Path | None:
        path = self._objects / sha256
        return path if path.is_file() else None

    def read(self, blob: Blob) -> bytes:
        return (self._objects / blob.sha256).read_bytes()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Handlers of hung or idle connections end with `closing` or with their client.
    block_on_close = False

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)


class RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An idle connection closes by itself.
    timeout = 20
    # Head and content are two writes: the second must not wait for the first's acknowledgement.
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.path = unquote(urlsplit(self.path).path)
        body = self._body()
        match self.server.hub.fault(f"{self.command} {self.path}"):
            case "drop":
                self.close_connection = True
                return
            case "hang":
                self.server.hub.closing.wait(30)
                self.close_connection = True
                return
            case int(status):
                # As unkind as it gets: a hub that quotes the request's credentials.
                said = f"fault for {self.headers.get('Authorization')}"
                self._send(status, {"error": said}, {"X-Error-Message": said})
                return
        try:
            self._route(body)
        except RefusedError as refused:
            headers = {"X-Error-Message": refused.message}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            self._send(refused.status, {"error": refused.message}, headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _send(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _route(self, body: bytes) -> None:
        routes = [
            (r"POST /api/repos/create", self._create),
            (r"POST /api/validate-yaml", self._validate),
            (r"POST /api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", self._modes),
            (r"POST /api/models/(?P<repo>[^/]+/[^/]+)/commit/main", self._commit),
            (r"POST /(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"PUT /lfs/(?P<sha256>[0-9a-f]{64})", self._upload),
            (r"GET /api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", self._tree),
            (r"GET /api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>.+))?", self._info),
            (
                r"(GET|HEAD) /(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)",
                self._resolve,
            ),
        ]
        for pattern, answer in routes:
            if found := re.fullmatch(pattern, f"{self.command} {self.path}"):
                answer(body, **found.groupdict())
                return
        raise RefusedError(404, f"no route {self.command} {self.path}")

    def _authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.hub.token}"

    def _require_token(self) -> None:
        if not self._authorised():
            raise RefusedError(401, "Invalid username or password.")

    def _repo(self, repo: str) -> Repo:
        found = self.server.hub.repos.get(repo)
        if found is None or (found.private and not self._authorised()):
            # Hubs do not tell a private repository from a missing one.
            raise RefusedError(404 if self._authorised() else 401, "Not found", "RepoNotFound")
        return found

    def _at(self, repo: str, revision: str | None) -> Commit:
        commit = self._repo(repo).at(revision or "main")
        if commit is None:
            raise RefusedError(404, f"no revision {revision}", "RevisionNotFound")
        return commit

    def _create(self, body: bytes) -> None:
        self._require_token()
        request = json.loads(body)
        repo_id = f"{request['organization']}/{request['name']}"
        value = {"url": f"{self.server.hub.endpoint}/{repo_id}", "name": repo_id}
        if repo_id in self.server.hub.repos:
            self._send(409, value)
            return
        self.server.hub.create(repo_id, private=request.get("visibility") == "private")
        self._send(200, value)

    def _validate(self, body: bytes) -> None:
        head = json.loads(body)["content"].split("---\n")[1]
        try:
            valid = isinstance(yaml.safe_load(head), dict)
        except yaml.YAMLError:
            valid = False
        errors = [] if valid else [{"message": "the head is not a YAML mapping"}]
        self._send(200 if valid else 400, {"errors": errors, "warnings": []})

    def _modes(self, body: bytes, repo: str, revision: str) -> None:
        self._require_token()
        head = self._at(repo, revision).files
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": head[file["path"]].oid if file["path"] in head else None,
            }
            for file in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def _batch(self, body: bytes, repo: str) -> None:
        self._require_token()
        self._repo(repo)
        objects = []
        for wanted in json.loads(body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if self.server.hub.stored(wanted["oid"]) is None:
                href = f"{self.server.hub.endpoint}/lfs/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": href}}
            objects.append(answer)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _upload(self, body: bytes, sha256: str) -> None:
        if hashlib.sha256(body).hexdigest() != sha256:
            raise RefusedError(400, "the content has another SHA-256")
        self.server.hub.store(body)
        self._send(200, {})

    def _commit(self, body: bytes, repo: str) -> None:
        self._require_token()
        target = self._repo(repo)
        files = dict(target.head.files)
        message = ""
        for line in body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            match key:
                case "header":
                    message = value["summary"]
                    if value.get("parentCommit") not in (None, target.head.oid):
                        raise RefusedError(412, "the branch has moved")
                case "file":
                    content = base64.b64decode(value["content"])
                    files[value["path"]] = self.server.hub.store(content)
                case "lfsFile":
                    stored = self.server.hub.stored(value["oid"])
                    if stored is None or stored.stat().st_size != value["size"]:
                        raise RefusedError(400, f"{value['path']} was not uploaded")
                    files[value["path"]] = self.server.hub.store(stored.read_bytes(), lfs=True)
                case "deletedFile":
                    del files[value["path"]]
                case _:
                    raise RefusedError(400, f"no operation {key}")
        commit = self.server.hub.commit(target, message, files)
        url = f"{self.server.hub.endpoint}/{repo}/commit/{commit.oid}"
        self._send(200, {"success": True, "commitOid": commit.oid, "commitUrl": url})

    def _info(self, body: bytes, repo: str, revision: str | None) -> None:
        commit = self._at(repo, revision)
        siblings = [{"rfilename": name} for name in sorted(commit.files)]
        private = self._repo(repo).private
        value = {"id": repo, "sha": commit.oid, "private": private, "siblings": siblings}
        if card := commit.files.get("README.md"):
            head = self.server.hub.read(card).decode().split("---\n")
            value["cardData"] = yaml.safe_load(head[1]) if len(head) > 1 else None
        self._send(200, value | {"tags": [], "downloads": 0, "likes": 0})

    def _tree(self, body: bytes, repo: str, revision: str) -> None:
        entries = []
        for name, blob in sorted(self._at(repo, revision).files.items()):
            entry: dict[str, Any] = {"type": "file", "path": name, "size": blob.size}
            entry["oid"] = blob.git_oid
            if blob.lfs:
                entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
            entries.append(entry)
        self._send(200, entries)

    def _resolve(self, body: bytes, repo: str, revision: str, name: str) -> None:
        commit = self._at(repo, revision)
        blob = commit.files.get(name)
        if blob is None:
            raise RefusedError(404, f"no file {name}", "EntryNotFound")
        headers = {"ETag": f'"{blob.oid}"', "X-Repo-Commit": commit.oid}
        self._send(200, self.server.hub.read(blob), headers)
