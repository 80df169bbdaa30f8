"""The folder to be published: complete, free of this machine, and refused when it should be."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from distill.errors import HubError, InputError, RouterError
from distill.hub.folder import prepare
from distill.routers.pretrained import resolve
from distill.runs import RunDir, read_json, write, write_json

from .factory import make_run, manifest, report

REPO = "acme/desk-router"
RECORDS = {"README.md", "router.json", "manifest.json", "report.json", "config.yaml"}


def test_it_holds_the_router_and_its_records_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "decoder")
    (run.path / "log.jsonl").write_text("{}")
    (run.checkpoints).mkdir()
    (run.checkpoints / "optimizer.pt").write_bytes(b"pickle")
    files = prepare(run, REPO, tmp_path / "out")
    assert files == sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert {path.name for path in files} == RECORDS | {
        "adapter_model.safetensors",
        "adapter_config.json",
        "chat_template.jinja",
        "tokenizer.json",
        "vocab.txt",
    }
    assert "PEFT's own words" not in (tmp_path / "out" / "README.md").read_text()


def test_subfolders_of_a_router_are_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run.router / "adapter" / "vocab.txt", "x")
    assert tmp_path / "out" / "adapter" / "vocab.txt" in prepare(run, REPO, tmp_path / "out")


def test_a_cascade_holds_both_stages_freed_of_paths(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "cascade")
    place = run.router / "encoder" / "router.json"
    config = {"kind": "encoder", "model": "/home/ann/mini"}
    base = resolve(str(tmp_path)).describe() | {"name": "/home/ann/mini"}
    write_json(place, read_json(place) | {"config": config, "base_model": base})
    out = tmp_path / "out"
    names = {path.relative_to(out).as_posix() for path in prepare(run, REPO, out)}
    assert {"encoder/router.json", "encoder/model.safetensors", "decoder/router.json"} < names
    assert {"decoder/adapter_model.safetensors", "decoder/chat_template.jinja"} < names
    assert "decoder/README.md" not in names, "PEFT's own"
    stage = read_json(out / "encoder" / "router.json")
    assert (stage["config"]["model"], stage["base_model"]["name"]) == ("mini", "mini")
    assert read_json(out / "encoder" / "config.json")["_name_or_path"] == "mini"
    adapter = read_json(out / "decoder" / "adapter_config.json")
    assert adapter["base_model_name_or_path"] == "acme/tiny-lm"


def test_a_cascade_with_an_adapter_of_a_local_model_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "cascade")
    place = run.router / "decoder" / "router.json"
    write_json(place, read_json(place) | {"base_model": resolve(str(tmp_path)).describe()})
    with pytest.raises(HubError, match=r"router/decoder: .*nobody else could load it"):
        prepare(run, REPO, tmp_path / "out")


def _delete(*path: str) -> Callable[[RunDir], object]:
    return lambda run: run.path.joinpath(*path).unlink()


def _add(name: str, content: bytes = b"x") -> Callable[[RunDir], object]:
    return lambda run: (run.router / name).write_bytes(content)


def _without(path: Callable[[RunDir], Path], *keys: str) -> Callable[[RunDir], object]:
    def change(run: RunDir) -> None:
        value = read_json(path(run))
        inner = value
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        write_json(path(run), value)

    return change


def _set(path: Callable[[RunDir], Path], **values: Any) -> Callable[[RunDir], object]:
    return lambda run: write_json(path(run), read_json(path(run)) | values)


def _manifest(run: RunDir) -> Path:
    return run.manifest


def _report(run: RunDir) -> Path:
    return run.report


def _router(run: RunDir) -> Path:
    return run.router / "router.json"


def _weights(change: Callable[[bytes], bytes]) -> Callable[[RunDir], object]:
    def damage(run: RunDir) -> None:
        path = run.router / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


REFUSALS: dict[str, tuple[Callable[[RunDir], object], str]] = {
    "not whole": (_delete("manifest.json"), "not a finished run"),
    "not evaluated": (_delete("report.json"), "report.json: missing"),
    "no config": (_delete("config.yaml"), "config.yaml: missing"),
    "an export": (_set(_router, onnx={"quantise": "int8"}), "is exported for ONNX Runtime"),
    "a folder of an export": (
        lambda run: write_json(run.path / "router.json", {"onnx": {"quantise": "int8"}}),
        "push the run it is from",
    ),
    "no router": (_delete("router", "router.json"), "router.json: missing"),
    "manifest lacks keys": (_without(_manifest, "dataset", "hash"), "lacks dataset.hash"),
    "manifest lacks more": (_without(_manifest, "teacher"), "lacks teacher.name"),
    "manifest no mapping": (lambda run: write_json(run.manifest, []), "not a mapping"),
    "manifest no JSON": (lambda run: write(run.manifest, "{"), "not JSON"),
    "router lacks keys": (_without(_router, "catalogue"), "lacks catalogue"),
    "report lacks keys": (_without(_report, "routers"), "lacks routers"),
    "report on two": (_set(_report, routers=report("rnn")["routers"] * 2), "not about one router"),
    "another kind": (_set(_manifest, kind="rnn"), "but manifest.json says 'rnn'"),
    "another router": (_set(_router, kind="rnn"), "kind 'rnn', but manifest.json says 'encoder'"),
    "another dataset": (_set(_report, dataset={"hash": "e"}), "dataset 'e', but manifest.json"),
    "a .bin": (_add("training_args.bin"), "training_args.bin: may hold pickled code"),
    "a .pt": (_add("model.pt"), "model.pt: may hold pickled code"),
    "a .pkl": (_add("labels.pkl"), "labels.pkl: may hold pickled code"),
    "unknown kind": (_add("run.sh"), "run.sh: is of no kind that is published"),
    "a link": (lambda run: (run.router / "vocab.txt").symlink_to("/etc/hosts"), "is a link"),
    "own record": (_add("config.yaml"), "would be overwritten"),
    "empty weights": (_weights(lambda _: b""), "not safetensors"),
    "cut weights": (_weights(lambda b: b[:-4]), "not safetensors"),
    "long weights": (_weights(lambda b: b + b"more"), "not safetensors"),
    "header": (_weights(lambda b: struct.pack("<Q", 2**60) + b[8:]), "not safetensors"),
}

# Made up, and put together here so that no scanner takes this file's for real.
SECRETS = {
    "Hugging Face": "hf_" + "a1B2" * 8,
    "OpenAI": "sk-" + "proj-a1B2" * 4,
    "GitHub": "ghp_" + "a1B2" * 9,
    "GitHub, fine-grained": "github" + "_pat_" + "11ABCDEFG0" * 2 + "_" + "a1B2" * 10,
    "AWS": "AKIA" + "IOSFODNN7EXAMPLE",
    "Google": "AIza" + "Sy-a1_" * 5 + "B2c3d",
    "Slack": "xoxb" + "-123456789012-" + "a1B2" * 6,
    "a private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "a private key of no kind": "-----BEGIN " + "PRIVATE KEY-----",
    "a web token": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0." + "a1-B2_c3d4",
    "a password": "https://ann:" + "secret@example.org/x",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_is_named_in_one_line_and_nothing_is_written(
    tmp_path: Path, name: str
) -> None:
    damage, told = REFUSALS[name]
    run = make_run(tmp_path / "run", "encoder")
    (run.router / "vocab.txt").unlink()
    damage(run)
    with pytest.raises(InputError) as caught:
        prepare(run, REPO, tmp_path / "out")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_secret_is_refused_and_not_repeated(tmp_path: Path, secret: str) -> None:
    run = make_run(tmp_path / "run", "encoder")
    write(run.config, f"note: see {secret}")
    with pytest.raises(HubError, match=r"config\.yaml: holds what looks like a secret") as caught:
        prepare(run, REPO, tmp_path / "out")
    assert secret not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["vocab.txt", "merges.txt", "spiece.model", "tokenizer.json", "terms.json"]
)
def test_words_of_the_training_conversations_are_searched_too(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run", "tfidf")
    # As a TF-IDF vectorizer keeps it: in lower case.
    words = f'{{"words": ["order", "{SECRETS["Hugging Face"].lower()}"]}}'
    write(run.router / name, words)
    with pytest.raises(HubError, match=f"{name}: holds what looks like a secret"):
        prepare(run, REPO, tmp_path / "out")


def test_every_missing_key_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_json(run.manifest, {"format": 1})
    with pytest.raises(RouterError) as caught:
        prepare(run, REPO, tmp_path / "out")
    for key in ("run", "kind", "dataset.hash", "teacher.name", "environment.hardware.cpu"):
        assert key in caught.value.fault


def test_no_path_of_this_machine_is_published(tmp_path: Path) -> None:
    home = "/home/ann/secret-project"
    kind = manifest("encoder")
    kind["dataset"]["source"]["name"] = f"{home}/traces.jsonl"
    kind["base_model"] |= {"name": f"{home}/mini", "origin": "mini", "local": True}
    config = {"kind": "encoder", "model": f"{home}/mini"}
    run = make_run(
        tmp_path / "run",
        "encoder",
        manifest=kind,
        config={"output": f"{home}/runs", "data": {"traces": f"{home}/traces.jsonl"}},
        router={"config": config, "base_model": {"name": f"{home}/mini"}},
    )
    write_json(run.router / "config.json", {"_name_or_path": f"{home}/mini", "layers": 6})
    write_json(run.router / "tokenizer_config.json", {"name_or_path": "secret-project/mini"})
    out = tmp_path / "out"
    for path in prepare(run, REPO, out):
        assert b"secret-project" not in path.read_bytes(), path
    assert yaml.safe_load((out / "config.yaml").read_text())["data"]["traces"] == "traces.jsonl"
    assert read_json(out / "config.json") == {"_name_or_path": "mini", "layers": 6}
    assert read_json(out / "router.json")["config"]["model"] == "mini"


def test_what_only_looks_like_a_path_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "encoder")
    prepare(run, REPO, tmp_path / "out")
    for name in ("tokenizer.json", "model.safetensors", "vocab.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (run.router / name).read_bytes()
    catalogue = read_json(tmp_path / "out" / "router.json")["catalogue"]
    assert catalogue == read_json(run.router / "router.json")["catalogue"]


def test_a_path_in_an_unforeseen_place_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_json(run.router / "config.json", {"cache": f"in {run.path.resolve()}/cache"})
    with pytest.raises(HubError, match=r"config\.json: holds a path of this machine"):
        prepare(run, REPO, tmp_path / "out")


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("key", [True, False], ids=["recorded", "of an older run"])
def test_an_adapter_of_a_local_model_is_refused_wherever_it_is_pushed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool, key: bool
) -> None:
    (tmp_path / "models" / "lm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    model = str(tmp_path / "models" / "lm") if absolute else "models/lm"
    base = resolve(model).describe()
    if not key:
        del base["local"]
    config = {"kind": "decoder", "model": model}
    run = make_run(
        tmp_path / "run", "decoder", manifest={"base_model": base}, router={"config": config}
    )
    (tmp_path / "models" / "lm").rmdir()
    monkeypatch.chdir(tmp_path / "models")
    with pytest.raises(HubError, match="nobody else could load it"):
        prepare(run, REPO, tmp_path / "out")


def test_a_folder_that_happens_to_be_named_like_the_base_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", "decoder")
    (tmp_path / "acme" / "tiny-lm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    prepare(run, REPO, tmp_path / "out")
    assert "base_model: acme/tiny-lm" in (tmp_path / "out" / "README.md").read_text()


def test_a_licence_is_taken_over_only_where_the_run_knows_none(tmp_path: Path) -> None:
    for kind, known in (("decoder", "mit"), ("encoder", "apache-2.0"), ("rnn", "apache-2.0")):
        out = tmp_path / kind / "out"
        prepare(
            make_run(tmp_path / kind / "run", kind), REPO, out, licenses={"acme/tiny-lm": "mit"}
        )
        assert f"license: {known}\n" in (out / "README.md").read_text()
        base = read_json(out / "manifest.json")["base_model"]
        assert base is None or base["license"] == known


def test_an_adapter_names_its_base_as_the_manifest_does(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "decoder")
    settings = {"base_model_name_or_path": "/root/.cache/unpacked", "r": 4}
    write_json(run.router / "adapter_config.json", settings)
    prepare(run, REPO, tmp_path / "out")
    written = read_json(tmp_path / "out" / "adapter_config.json")
    assert written == {"base_model_name_or_path": "acme/tiny-lm", "r": 4}


def test_preparing_again_replaces_only_what_was_prepared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "encoder")
    out = tmp_path / "out"
    first = {path: path.read_bytes() for path in prepare(run, REPO, out)}
    (out / "stale.txt").write_text("old")
    assert {path: path.read_bytes() for path in prepare(run, REPO, out)} == first
    for precious in (run.path, run.router, tmp_path):
        with pytest.raises(HubError, match="holds other files"):
            prepare(run, REPO, precious)
    assert run.whole


def test_a_prepared_folder_is_made_of_valid_files(tmp_path: Path) -> None:
    written = prepare(make_run(tmp_path / "run", "decoder"), REPO, tmp_path / "out")
    json_files = [path for path in written if path.suffix == ".json"]
    values = {path.name: orjson.loads(path.read_bytes()) for path in json_files}
    assert {"router.json", "adapter_config.json", "report.json", "manifest.json"} <= set(values)
    assert all(isinstance(value, dict) for value in values.values())
