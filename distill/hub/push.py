"""To and from a model hub: one commit up, one snapshot down.

What is published is decided in `distill.hub.folder`; this module only carries it, and turns what
goes wrong on the way into one line. The token goes into requests and nowhere else.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session

# httpx's in huggingface_hub 1, httpx2's in 2: both under this name.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
)

from distill.errors import HubError, InputError, RouterError
from distill.hub import folder
from distill.hub.folder import PUBLISHED, is_published, require_replaceable
from distill.hub.license import licenses_on_hub
from distill.hub.record import read_record, require_repo_id
from distill.runs import RunDir, new_folder

__all__ = ["TIMEOUT", "prepare", "pull", "push"]

TIMEOUT = 60.0
"""Seconds without a byte after which a request to the hub is given up."""


def prepare(
    run: RunDir,
    repo_id: str,
    out: Path,
    *,
    token: str | None = None,
    endpoint: str | None = None,
    timeout: float = TIMEOUT,
) -> list[Path]:
    """Write exactly the folder that `push` uploads.

    Nothing is sent. The hub is asked one thing, and only where the run does not know it: the
    licences of its base models. Without an answer the card calls them unknown.

    Args:
        run: a finished, evaluated run.
        repo_id: the repository as `owner/name`; the card speaks of it.
        out: where to; a folder prepared earlier is replaced, any other must be empty.
        token: defaults to the environment's `HF_TOKEN`; public base models need none.
        endpoint: the hub's address; defaults to `HF_ENDPOINT`, else huggingface.co.
        timeout: seconds after which the question is given up.

    Returns:
        The files written, sorted.

    Raises:
        HubError, RouterError: as `distill.hub.folder.prepare`.
    """
    require_repo_id(repo_id)
    require_replaceable(out)
    record = read_record(run)
    api = HfApi(endpoint=endpoint, token=_token(token) or False)
    licenses = licenses_on_hub(record, api, timeout=timeout)
    return folder.prepare(run, repo_id, out, licenses=licenses)


def push(
    run: RunDir,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
    timeout: float = TIMEOUT,
) -> str:
    """Publish a finished run as a model repository, in one commit.

    The repository is made where it does not exist. Afterwards it holds what `prepare` writes: files
    of an earlier router that this one lacks go in the same commit. Nothing is committed where
    nothing changed.

    Args:
        run: a finished, evaluated run.
        repo_id: the repository as `owner/name`.
        private: make the repository private, or public; one that is there already and is the
            other is refused, not changed.
        token: defaults to the environment's `HF_TOKEN`.
        endpoint: the hub's address; defaults to `HF_ENDPOINT`, else huggingface.co.
        timeout: seconds without a byte after which a request is given up.

    Returns:
        The repository's address.

    Raises:
        HubError: nothing to authenticate with, refused, unreachable, or a repository with other
            things in it; all that `prepare` refuses.
        RouterError: the run is not whole, not evaluated, or its files are damaged.
    """
    require_repo_id(repo_id)
    token = _token(token)
    if token is None:
        raise HubError(repo_id, "no token", "set HF_TOKEN to one that may write there")
    api = HfApi(endpoint=endpoint, token=token)
    with TemporaryDirectory() as temporary:
        out = Path(temporary) / "repository"
        files = prepare(run, repo_id, out, token=token, endpoint=endpoint, timeout=timeout)
        with _in_words(repo_id, api.endpoint, token, "write"), _patience(timeout):
            url = str(api.create_repo(repo_id, private=private, exist_ok=True))
            ours = {path.relative_to(out).as_posix(): path for path in files}
            _commit(api, repo_id, ours, _message(run), private)
    return url


def pull(
    repo_id: str,
    out: Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    timeout: float = TIMEOUT,
) -> Path:
    """Fetch a published router, so that `load_router(pull(...))` works.

    Args:
        repo_id: the repository as `owner/name`.
        out: where to; a router pulled earlier is replaced, any other folder must be empty. It
            appears only when every file has arrived.
        revision: a branch, tag or commit; defaults to the main branch.
        token: defaults to the environment's `HF_TOKEN`; public repositories need none.
        endpoint: the hub's address; defaults to `HF_ENDPOINT`, else huggingface.co.
        timeout: seconds without a byte after which a request is given up.

    Returns:
        `out`.

    Raises:
        HubError: not found, refused or unreachable, or `out` holds other files.
        RouterError: the repository holds no router.
    """
    require_repo_id(repo_id)
    require_replaceable(out)
    token = _token(token)
    # False keeps the library from looking for a token in places other than the environment.
    api = HfApi(endpoint=endpoint, token=token or False)
    with new_folder(out) as fresh:
        # The library's bookkeeping stays inside, and goes: a router folder holds a router.
        cache = fresh / ".cache"
        with _in_words(repo_id, api.endpoint, token, "read"), _patience(timeout):
            api.snapshot_download(
                repo_id,
                revision=revision,
                local_dir=fresh,
                cache_dir=cache,
                allow_patterns=PUBLISHED,
                etag_timeout=timeout,
            )
        shutil.rmtree(cache, ignore_errors=True)
        if not (fresh / "router.json").is_file():
            raise RouterError(repo_id, "holds no router.json: no router", "name another repository")
    return out


def _commit(api: HfApi, repo_id: str, ours: dict[str, Path], message: str, private: bool) -> None:
    # Not `upload_folder`: with hf_xet installed it may split a folder into several commits.
    info = api.model_info(repo_id)
    if private and not info.private:
        raise HubError(
            repo_id, "exists and is public", "make it private on the hub, or push it as public"
        )
    if info.private and not private:
        raise HubError(
            repo_id, "exists and is private", "make it public on the hub, or push it as private"
        )
    remote = [file.rfilename for file in info.siblings or ()]
    stale = [name for name in remote if is_published(name) and name not in ours]
    if stale and "router.json" not in remote:
        raise HubError(
            repo_id,
            f"holds something other than a router ({', '.join(stale[:3])})",
            "push to a new repository",
        )
    additions = [CommitOperationAdd(name, path) for name, path in ours.items()]
    deletions = [CommitOperationDelete(name) for name in stale]
    # A commit by somebody else since `model_info` makes this one fail rather than mix with it.
    api.create_commit(
        repo_id, [*additions, *deletions], commit_message=message, parent_commit=info.sha
    )


def _message(run: RunDir) -> str:
    manifest = read_record(run).manifest
    return f"{manifest['kind']} router {manifest['router']}, seed {manifest['seed']}"


def _token(given: str | None) -> str | None:
    """The token to send: the given one, else the environment's."""
    token = (given or os.environ.get("HF_TOKEN") or "").strip()
    if not token:
        return None
    # The HTTP library would quote a header it cannot send, token and all.
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise HubError("token", "holds characters that no token has", "set HF_TOKEN anew")
    return token


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Bound every request: the hub library's shared client waits for ever by default."""
    session = get_session()
    before = session.timeout
    session.timeout = seconds
    try:
        yield
    finally:
        session.timeout = before


@contextmanager
def _in_words(repo_id: str, endpoint: str, token: str | None, access: str) -> Iterator[None]:
    """Turn what the hub library raises into one HubError line, free of the token."""
    try:
        yield
    except InputError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError, KeyError, EntryNotFoundError) as error:
        place, fault, cure = _explain(error, repo_id, endpoint, access)
        if token is not None:
            fault = fault.replace(token, "***")
        # The original holds the request, and with it the token.
        raise HubError(place, fault, cure) from None


def _explain(
    error: BaseException, repo_id: str, endpoint: str, access: str
) -> tuple[str, str, str]:
    """Place, fault and cure."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OfflineModeIsEnabled):
            return endpoint, "offline mode is on", "unset HF_HUB_OFFLINE"
        if isinstance(cause, HfHubHTTPError):
            return repo_id, *_refusal(cause, access)
    for cause in causes:
        if isinstance(cause, HTTPError):
            fault = f"cannot be reached ({type(cause).__name__})"
            return endpoint, fault, "check the connection and HF_ENDPOINT, then try again"
    if isinstance(error, KeyError | JSONDecodeError):
        return endpoint, "does not answer like a model hub", "check HF_ENDPOINT"
    # The library wraps what fails in its upload threads: the first cause says why.
    said = dict.fromkeys(_line(cause) for cause in (causes[0], causes[-1]))
    return repo_id, ": ".join(said), "mend what it names, then try again"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(error: HfHubHTTPError, access: str) -> tuple[str, str]:
    """Fault and cure of an answer that is an HTTP error."""
    status = error.response.status_code
    said = f": {_line(error.server_message)}" if error.server_message else ""
    may = f"set HF_TOKEN to one that may {access} there"
    match status:
        case 401:
            return "the hub does not accept the token (HTTP 401)", may
        case 403:
            return "the token has no permission (HTTP 403)", may
        case 404:
            return "not found, or not for this token (HTTP 404)", f"check the name, or {may}"
        case 409 | 412:
            return f"changed meanwhile (HTTP {status})", "try again"
        case _ if status >= 500 or status == 429:
            return f"the hub failed (HTTP {status}){said}", "try again later"
    return f"the hub refused (HTTP {status}){said}", "see what it says"


def _line(value: object) -> str:
    return " ".join(str(value).split())[:300]
