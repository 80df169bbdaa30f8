"""To the hub and back: what arrives, what is refused, and what an error may say."""

import shutil
import socket
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub import ModelCard

from distill.errors import HubError, RouterError
from distill.hub.push import prepare, pull, push
from distill.runs import RunDir, read_json, write_json

from .factory import base_model, make_run
from .fake_hub import TOKEN, FakeHub

# huggingface_hub 2.4 uploads LFS files with httpx2's deprecated `data=`; users do not see it.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "acme/desk-router"


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def published(hub: FakeHub, repo_id: str = REPO) -> dict[str, bytes]:
    files = hub.content(repo_id)
    del files[".gitattributes"]
    return files


@pytest.mark.parametrize("kind", ["tfidf", "encoder", "decoder", "cascade"])
def test_dry_run_push_and_pull_hold_the_same_bytes(hub: FakeHub, tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run", kind)
    prepare(run, REPO, tmp_path / "dry", endpoint=hub.endpoint)
    url = push(run, REPO, endpoint=hub.endpoint)
    pulled = pull(REPO, tmp_path / "pulled", endpoint=hub.endpoint)
    assert url == f"{hub.endpoint}/{REPO}"
    assert content(tmp_path / "dry") == published(hub) == content(pulled)
    weights = [name for name in content(pulled) if name.endswith(".safetensors")]
    assert all(content(pulled)[name] == (run.router / name).read_bytes() for name in weights)


def test_weights_travel_as_large_files(hub: FakeHub, tmp_path: Path) -> None:
    push(make_run(tmp_path / "run"), REPO, endpoint=hub.endpoint)
    files = hub.repos[REPO].head.files
    assert {name for name, blob in files.items() if blob.lfs} == {"model.safetensors"}


def test_a_repository_is_private_unless_asked_otherwise(hub: FakeHub, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    push(run, REPO, endpoint=hub.endpoint)
    push(run, "acme/open", private=False, endpoint=hub.endpoint)
    assert hub.repos[REPO].private
    assert not hub.repos["acme/open"].private


def test_nothing_goes_into_a_public_repository_unasked(hub: FakeHub, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    repo = hub.create(REPO, private=False)
    with pytest.raises(HubError, match="exists and is public"):
        push(run, REPO, endpoint=hub.endpoint)
    assert len(repo.commits) == 1
    push(run, REPO, private=False, endpoint=hub.endpoint)
    assert len(repo.commits) == 2


def test_a_private_repository_is_not_taken_for_a_public_one(hub: FakeHub, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    push(run, REPO, endpoint=hub.endpoint)
    with pytest.raises(HubError, match="exists and is private; make it public on the hub"):
        push(run, REPO, private=False, endpoint=hub.endpoint)
    assert hub.repos[REPO].private
    assert len(hub.repos[REPO].commits) == 2


def licence(folder: Path) -> str:
    return str(ModelCard.load(folder / "README.md").data.license)


def test_the_base_models_licence_is_asked_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.create("acme/tiny-lm", private=False, files={"README.md": b"---\nlicense: MIT\n---\n"})
    base = base_model("decoder", revision=hub.repos["acme/tiny-lm"].head.oid)
    run = make_run(tmp_path / "run", "decoder", manifest={"base_model": base})
    prepare(run, REPO, tmp_path / "dry", endpoint=hub.endpoint)
    push(run, REPO, endpoint=hub.endpoint)
    assert licence(tmp_path / "dry") == "mit"
    assert content(tmp_path / "dry") == published(hub)


def test_the_licence_of_a_cascades_stage_is_asked_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.create("acme/tiny-lm", private=False, files={"README.md": b"---\nlicense: MIT\n---\n"})
    run = make_run(tmp_path / "run", "cascade")
    place = run.router / "decoder" / "router.json"
    base = base_model("decoder", revision=hub.repos["acme/tiny-lm"].head.oid)
    write_json(place, read_json(place) | {"base_model": base})
    prepare(run, REPO, tmp_path / "dry", endpoint=hub.endpoint)
    card = (tmp_path / "dry" / "README.md").read_text()
    assert "| Licence | encoder: apache-2.0; decoder: mit |" in card
    assert read_json(tmp_path / "dry/decoder/router.json")["base_model"]["license"] == "mit"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"README.md": b"no head"},
        {"README.md": b"---\nlanguage: en\n---\n"},
        {"README.md": b"---\nlicense: [mit, '<b>']\n---\n"},
        {"README.md": b"---\nlicense: 'say: <b>'\n---\n"},
    ],
)
def test_a_base_model_that_states_no_licence(
    hub: FakeHub, tmp_path: Path, files: dict[str, bytes]
) -> None:
    hub.create("acme/tiny-lm", private=False, files=files)
    base = base_model("decoder", revision=None)
    run = make_run(tmp_path / "run", "decoder", manifest={"base_model": base})
    prepare(run, REPO, tmp_path / "dry", endpoint=hub.endpoint)
    assert licence(tmp_path / "dry") == "other"


@pytest.mark.parametrize("action", [401, 403, 404, 500, "drop", "hang", 200])
def test_a_hub_that_does_not_tell_the_licence_stops_nothing(
    hub: FakeHub, tmp_path: Path, action: int | str
) -> None:
    hub.fail("GET /api/models", action)
    run = make_run(tmp_path / "run", "decoder")
    prepare(run, REPO, tmp_path / "dry", endpoint=hub.endpoint, timeout=0.4)
    assert licence(tmp_path / "dry") == "other"


def test_without_a_network_the_licence_is_unknown(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    prepare(make_run(tmp_path / "run", "decoder"), REPO, tmp_path / "dry", endpoint=hub.endpoint)
    assert licence(tmp_path / "dry") == "other"


@pytest.mark.parametrize("kind", ["rnn", "encoder"])
def test_a_dry_run_that_knows_the_licence_asks_nobody(
    hub: FakeHub, tmp_path: Path, kind: str
) -> None:
    prepare(make_run(tmp_path / "run", kind), REPO, tmp_path / "dry", endpoint=hub.endpoint)
    assert hub.requests == []


def test_a_push_is_one_commit_and_the_same_push_again_is_none(hub: FakeHub, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    push(run, REPO, endpoint=hub.endpoint)
    first = list(hub.repos[REPO].commits)
    push(run, REPO, endpoint=hub.endpoint)
    assert len(first) == 2  # the hub's own, and ours
    assert hub.repos[REPO].commits == first


def test_a_new_router_replaces_the_old_one_in_one_commit(hub: FakeHub, tmp_path: Path) -> None:
    push(make_run(tmp_path / "old", "encoder"), REPO, endpoint=hub.endpoint)
    new = make_run(tmp_path / "new", "decoder")
    push(new, REPO, endpoint=hub.endpoint)
    prepare(new, REPO, tmp_path / "dry")
    assert published(hub) == content(tmp_path / "dry")
    assert len(hub.repos[REPO].commits) == 3


def test_a_repository_with_something_else_is_left_alone(hub: FakeHub, tmp_path: Path) -> None:
    repo = hub.create(REPO, private=True, files={"pytorch.json": b"{}", "logo.png": b"png"})
    with pytest.raises(HubError, match=r"other than a router \(pytorch.json\)"):
        push(make_run(tmp_path / "run"), REPO, endpoint=hub.endpoint)
    assert len(repo.commits) == 1


def test_files_that_are_no_part_of_a_router_stay(hub: FakeHub, tmp_path: Path) -> None:
    hub.create(REPO, private=True, files={"logo.png": b"png"})
    push(make_run(tmp_path / "run"), REPO, endpoint=hub.endpoint)
    assert hub.content(REPO)["logo.png"] == b"png"
    assert "logo.png" not in content(pull(REPO, tmp_path / "out", endpoint=hub.endpoint))


def test_somebody_elses_commit_meanwhile_is_not_overwritten(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    repo = hub.create(REPO, private=True)
    seen = hub.fault

    def interfere(request: str) -> Any:
        if "/preupload/" in request:
            hub.commit(repo, "theirs", repo.head.files | {"theirs.txt": hub.store(b"!")})
        return seen(request)

    monkeypatch.setattr(hub, "fault", interfere)
    with pytest.raises(HubError, match="changed meanwhile"):
        push(run, REPO, endpoint=hub.endpoint)
    assert repo.head.message == "theirs"


def test_a_passing_upload_failure_is_retried(hub: FakeHub, tmp_path: Path) -> None:
    hub.fail("PUT /lfs/", 503, times=1)
    run = make_run(tmp_path / "run")
    push(run, REPO, endpoint=hub.endpoint)
    assert published(hub)["model.safetensors"] == (run.router / "model.safetensors").read_bytes()


def test_a_repository_name_is_checked_before_any_request(hub: FakeHub, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ["", "alone", "a/b/c", "../x", "acme/x y", "acme/x--y", "acme/.x", "https://h/a"]:
        for attempt in (
            lambda name=name: push(run, name, endpoint=hub.endpoint),
            lambda name=name: pull(name, tmp_path / "out", endpoint=hub.endpoint),
            lambda name=name: prepare(run, name, tmp_path / "out"),
        ):
            with pytest.raises(HubError, match="owner/name"):
                attempt()
    assert hub.requests == []
    assert not (tmp_path / "out").exists()


def test_a_run_that_may_not_be_published_makes_no_request(hub: FakeHub, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run.router / "training_args.bin").write_bytes(b"pickle")
    with pytest.raises(HubError, match=r"training_args\.bin"):
        push(run, REPO, endpoint=hub.endpoint)
    assert hub.requests == []


def test_without_a_token_no_request_is_made(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    monkeypatch.setenv("HF_TOKEN", " ")
    with pytest.raises(HubError, match="no token; set HF_TOKEN"):
        push(run, REPO, endpoint=hub.endpoint)
    assert hub.requests == []


def test_a_token_saved_by_another_program_is_not_used(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(make_run(tmp_path / "run"), REPO, endpoint=hub.endpoint)
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(HubError, match="HTTP 401"):
        pull(REPO, tmp_path / "out", endpoint=hub.endpoint)


def test_a_public_router_is_pulled_without_a_token(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(make_run(tmp_path / "run"), REPO, private=False, endpoint=hub.endpoint)
    monkeypatch.delenv("HF_TOKEN")
    assert content(pull(REPO, tmp_path / "out", endpoint=hub.endpoint)) == published(hub)


# Where a request fails, how, and what the user is told. Only requests that the hub library does
# not retry for half a minute: those are its business, and it names the same errors in the end.
FAULTS: list[tuple[str, int | str, str]] = [
    ("POST /api/repos/create", 401, "does not accept the token"),
    ("POST /api/repos/create|GET /api/models", 403, "no permission"),
    ("POST /api/repos/create", "hang", r"cannot be reached \(ReadTimeout\)"),
    ("GET /api/models", 404, "not found"),
    ("POST .*/preupload/", 403, "no permission"),
    ("POST .*/objects/batch", 400, "the hub refused"),
    ("PUT /lfs/", 403, "no permission"),
    ("POST .*/commit/", 500, r"the hub failed \(HTTP 500\)"),
    ("POST .*/commit/", "drop", "cannot be reached"),
    ("POST .*/commit/", "hang", r"cannot be reached \(ReadTimeout\)"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f[0]}-{f[1]}")
def test_a_failing_push_is_one_line_without_the_token(
    hub: FakeHub,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    fault: tuple[str, int | str, str],
) -> None:
    run = make_run(tmp_path / "run")
    request, action, told = fault
    hub.fail(request, action)
    with pytest.raises(HubError, match=told) as caught:
        push(run, REPO, endpoint=hub.endpoint, timeout=0.4)
    out, err = capfd.readouterr()
    assert "\n" not in str(caught.value)
    for text in (str(caught.value), repr(caught.value.__cause__), out, err, caplog.text):
        assert TOKEN not in text
    assert REPO not in hub.repos or len(hub.repos[REPO].commits) == 1


@pytest.mark.parametrize(
    ("pattern", "action", "told"),
    [
        ("GET /api/models", 401, "does not accept the token"),
        ("GET /api/models", 403, "no permission"),
        ("GET /api/models/.*/tree/", 404, "not found"),
        ("HEAD /.*/resolve/", 403, "no permission"),
        ("GET /.*/resolve/.*safetensors", 404, "not found"),
        ("GET /.*/resolve/.*safetensors", 500, "the hub failed"),
    ],
)
def test_a_failing_pull_is_one_line_and_leaves_nothing(
    hub: FakeHub, tmp_path: Path, pattern: str, action: int | str, told: str
) -> None:
    push(make_run(tmp_path / "run"), REPO, endpoint=hub.endpoint)
    hub.fail(pattern, action)
    with pytest.raises(HubError, match=told) as caught:
        pull(REPO, tmp_path / "out", endpoint=hub.endpoint, timeout=0.4)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_failing_pull_keeps_what_was_pulled_before(hub: FakeHub, tmp_path: Path) -> None:
    push(make_run(tmp_path / "run"), REPO, endpoint=hub.endpoint)
    out = pull(REPO, tmp_path / "out", endpoint=hub.endpoint)
    before = content(out)
    hub.fail("GET /api/models", 403)
    with pytest.raises(HubError, match="no permission"):
        pull(REPO, out, endpoint=hub.endpoint)
    assert content(out) == before


def test_a_malformed_token_is_refused_without_being_quoted(hub: FakeHub, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for token in (f"{TOKEN}\nX: y", f"{TOKEN} x", f"{TOKEN}é"):
        with pytest.raises(HubError, match="set HF_TOKEN anew") as caught:
            push(run, REPO, token=token, endpoint=hub.endpoint)
        assert TOKEN not in str(caught.value)


def test_a_hub_that_is_not_there(hub: FakeHub, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused for certain
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(HubError, match="cannot be reached"):
            push(make_run(tmp_path / "run"), REPO, endpoint=endpoint)
        with pytest.raises(HubError, match="cannot be reached"):
            pull(REPO, tmp_path / "out", endpoint=endpoint)


def test_offline_mode_is_named(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="unset HF_HUB_OFFLINE"):
        push(make_run(tmp_path / "run"), REPO, endpoint=hub.endpoint)
    with pytest.raises(HubError, match="unset HF_HUB_OFFLINE"):
        pull(REPO, tmp_path / "out", endpoint=hub.endpoint)


def test_the_shared_client_is_given_back_as_it_was(hub: FakeHub, tmp_path: Path) -> None:
    before = huggingface_hub.get_session().timeout
    push(make_run(tmp_path / "run"), REPO, endpoint=hub.endpoint, timeout=7)
    assert huggingface_hub.get_session().timeout == before


def test_pull_takes_no_pickle_and_replaces_only_routers(hub: FakeHub, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    repo = hub.create(REPO, private=True)
    push(run, REPO, endpoint=hub.endpoint)
    hub.commit(repo, "worse", repo.head.files | {"weights.bin": hub.store(b"pickle")})
    out = pull(REPO, tmp_path / "out", endpoint=hub.endpoint)
    assert not (out / "weights.bin").exists()
    (out / "stale.json").write_text("{}")
    assert "stale.json" not in content(pull(REPO, out, endpoint=hub.endpoint))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(HubError, match="holds other files"):
        pull(REPO, foreign, endpoint=hub.endpoint)
    assert content(foreign) == {"thesis.txt": b"years of work"}


def test_pull_of_a_revision_and_of_no_router(hub: FakeHub, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "tfidf")
    push(run, REPO, endpoint=hub.endpoint)
    first = published(hub)
    commit = hub.repos[REPO].head.oid
    shutil.rmtree(run.path)
    push(make_run(run.path, "rnn"), REPO, endpoint=hub.endpoint)
    old = pull(REPO, tmp_path / "old", revision=commit, endpoint=hub.endpoint)
    assert content(old) == first
    with pytest.raises(HubError, match="not found"):
        pull(REPO, tmp_path / "none", revision="no-such-branch", endpoint=hub.endpoint)
    hub.create("acme/other", private=True, files={"config.json": b"{}"})
    with pytest.raises(RouterError, match=r"no router\.json"):
        pull("acme/other", tmp_path / "none", endpoint=hub.endpoint)


def test_an_answer_that_is_no_hubs_is_an_error_in_words(hub: FakeHub, tmp_path: Path) -> None:
    hub.fail("POST /api/repos/create", 200)  # a proxy's login page: success, and nothing in it
    with pytest.raises(HubError, match="check HF_ENDPOINT") as caught:
        push(make_run(tmp_path / "run"), REPO, endpoint=hub.endpoint)
    assert TOKEN not in str(caught.value)


def test_a_run_directory_is_left_as_it_was(hub: FakeHub, tmp_path: Path) -> None:
    run: RunDir = make_run(tmp_path / "run", "decoder")
    before = content(run.path)
    push(run, REPO, endpoint=hub.endpoint)
    assert content(run.path) == before
