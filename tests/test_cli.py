"""The command line: each command's way through, and one clear line for everything a user can do.

All in process, on traces of seconds; hardly more than the two baselines is trained.
"""

import errno
import gzip
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer.main
import yaml
from safetensors import SafetensorError
from small_shop import job_values, write_traces

from distill import cli, load_router, pipeline, runs
from distill.config import load
from distill.dataset import load_dataset, spool
from distill.routers import scratch
from distill.runs import RunDir, read_json

COMMANDS = [
    *("import", "build", "train", "calibrate", "evaluate", "compare", "run"),
    *("export", "push", "config"),
]
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what the command line sets for the libraries."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def distill(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command: exit code, what it printed, what it said on stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            cli.main([str(argument) for argument in arguments])
            code: Any = 0
        except SystemExit as done:
            code = done.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def done(distill) -> Callable[..., str]:
    """Runs a command that must succeed: what it printed."""

    def run(*arguments: object) -> str:
        code, out, err = distill(*arguments)
        assert code == 0, err
        return out

    return run


@pytest.fixture
def fails(distill) -> Callable[..., str]:
    """Runs a command that must fail for the user's fault: the one line that says so."""

    def run(*arguments: object) -> str:
        code, _, err = distill(*arguments)
        assert code == 2
        assert "Traceback" not in err
        # Steps of a job are lines of their own; the fault is the last and only other one.
        lines = [line for line in err.splitlines() if not re.match(r"\[\d+/\d+\] ", line)]
        assert len(lines) == 1, err
        return lines[0]

    return run


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    return write_traces(tmp_path / "traces.jsonl")


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job_values(folder, **changes), sort_keys=False))
    return path


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_traces(folder / "traces.jsonl")
    job = load(write_config(folder))
    for step in pipeline.steps(job):
        step.do(lambda stage, done, total=None: None)
    return folder / "runs/shop"


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Path:
    """The folder of a finished job that a test may change."""
    return Path(shutil.copytree(_finished, tmp_path / "finished/shop"))


MERGE = "split.merge_jaccard=null"


# --- help


def test_every_command_is_known():
    assert sorted(typer.main.get_command(cli.app).commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(done, command: str):
    text = done(command, "--help")
    assert f"Example: distill {command} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_every_command_parses(command: str):
    described = typer.main.get_command(cli.app).commands[command]
    example = re.search(r"Example: `distill (.*)`", described.help or "")
    assert example is not None
    name, *arguments = shlex.split(example[1])
    assert name == command
    described.make_context(name, arguments)


def test_without_a_command_the_commands_are_listed(distill):
    code, out, err = distill()
    assert code == 2
    assert all(command in out + err for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'CONFIG'"),
        (["build", "x.jsonl"], "Missing option '-o'"),
        (["push", "a", "b/c", "--publc"], "No such option: --publc"),
    ],
)
def test_a_mistyped_command_line_is_one_line(fails, arguments: list[str], expected: str):
    assert expected in fails(*arguments)


# --- the ways through


def test_import_writes_canonical_traces_and_counts(done, traces: Path, tmp_path: Path):
    with traces.open("ab") as file:
        file.write(b"{oops\n")
    out = tmp_path / "canonical.jsonl.gz"
    printed = done("import", traces, "-o", out)
    assert printed.splitlines()[0] == f"80 traces from 81 lines in {out}"
    assert re.search(r"^ +1  not JSON$", printed, re.MULTILINE)
    assert gzip.decompress(out.read_bytes()).count(b"\n") == 80
    assert orjson.loads(out.with_name(f"{out.name}.rejected.jsonl").read_bytes()) == {
        "line": 81,
        "reason": "not JSON",
    }


def test_import_reads_a_request_log(done, tmp_path: Path):
    log = tmp_path / "log.jsonl"
    request = {"model": "big", "messages": [{"role": "user", "content": "hi"}]}
    response = {"choices": [{"message": {"role": "assistant", "content": "Hello."}}]}
    log.write_bytes(orjson.dumps({"request": request, "response": response, "user": "u1"}))
    out = tmp_path / "traces.jsonl"
    done("import", log, "-o", out, "--format", "openai", "--group-by", "user")
    trace = orjson.loads(out.read_bytes())
    assert [m["role"] for m in trace["messages"]] == ["user", "assistant"]
    assert trace["group"] == "u1"


def test_build_writes_a_dataset_and_shows_its_parts(done, traces: Path, tmp_path: Path):
    out = tmp_path / "dataset"
    printed = done("build", traces, "-o", out, MERGE, "split.train=0.5")
    dataset = load_dataset(out)
    for part in ("train", "validation", "calibration", "test"):
        count = len(dataset.examples(part))
        assert re.search(rf"│ {part} +│ {count} +│", printed)
    assert printed.splitlines()[-1] == f"{out} (hash {dataset.manifest['hash'][:12]})"
    assert dataset.manifest["config"]["split"]["train"] == 0.5


def test_the_seed_of_build_decides_the_split(done, traces: Path, tmp_path: Path):
    groups = []
    for seed in (0, 1):
        done("build", traces, "-o", tmp_path / f"d{seed}", MERGE, "--seed", seed)
        test = load_dataset(tmp_path / f"d{seed}").examples("test")
        groups.append({example.group for example in test})
    assert groups[0] != groups[1]


def test_train_evaluate_and_compare_do_piecewise_what_run_does(
    done, finished: Path, traces: Path, tmp_path: Path
):
    config = write_config(tmp_path)
    printed = done("train", config).splitlines()
    job = tmp_path / "runs/shop"
    assert printed == [str(job / "majority-s0"), str(job / "tfidf-s0")]
    for run in printed:
        assert not RunDir(Path(run)).report.exists()
        assert done("evaluate", run).splitlines()[-1] == str(RunDir(Path(run)).report)
    out = tmp_path / "comparison"
    assert done("compare", *printed, "-o", out).splitlines()[-1] == str(out / "report.html")
    piecewise, at_once = (
        read_json(out / "report.json"),
        read_json(finished / "comparison/report.json"),
    )
    for a, b in zip(piecewise["routers"], at_once["routers"], strict=True):
        assert (a["name"], a["tool_accuracy"]["value"], a["call_accuracy"]["value"]) == (
            b["name"],
            b["tool_accuracy"]["value"],
            b["call_accuracy"]["value"],
        )


def test_calibrate_shows_what_the_data_supports_and_what_not(done, finished: Path):
    run = finished / "tfidf-s0"
    printed = done("calibrate", run, "--alpha", "0.001", "--alpha", "0.6", "--delta", "0.2")
    rows = [line for line in printed.splitlines() if line.split()[:1] == ["all"]]
    assert [row.split()[1:3] for row in rows] == [["0.1%", "80.0%"], ["60.0%", "80.0%"]]
    assert "not supported" in rows[0]
    assert "100.0%" in rows[1]
    assert printed.splitlines()[-1] == str(run / "router/router.json")
    assert load(run / "config.yaml").risk.alphas == [0.001, 0.6]


def test_run_does_it_all_and_shows_the_table_whole(done, traces: Path, tmp_path: Path):
    printed = done("run", write_config(tmp_path), "seeds=[1]")
    folder = tmp_path / "runs/shop/comparison"
    assert printed.splitlines()[-1] == f"Report: {folder / 'report.html'}"
    assert (folder / "report.html").is_file()
    assert RunDir(tmp_path / "runs/shop/tfidf-s1").whole
    report = read_json(folder / "report.json")
    for entry in report["routers"]:
        assert entry["name"] in printed
        assert f"{entry['tool_accuracy']['value']:.1%}" in printed, "a log's cells are not cut"


def test_run_tells_a_log_what_it_does(distill, traces: Path, tmp_path: Path):
    code, _, err = distill("run", write_config(tmp_path, routers={"m": {"kind": "majority"}}))
    assert code == 0
    assert [line.partition(" · ")[0] for line in err.splitlines()] == [
        "[1/5] dataset, seed 0",
        "[2/5] train m-s0",
        "[3/5] calibrate m-s0",
        "[4/5] evaluate m-s0",
        "[5/5] compare",
    ]


def test_config_prints_what_loads_to_the_same(done, tmp_path: Path):
    path = ROOT / "configs/run/quickstart.yaml"
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(done("config", path, "seeds=[4]", "routers.rnn.train.epochs=2"))
    assert load(resolved) == load(path, ["seeds=[4]", "routers.rnn.train.epochs=2"])
    assert done("config", resolved) == resolved.read_text()


def test_push_dry_run_writes_a_folder_that_loads(done, finished: Path, tmp_path: Path):
    out = tmp_path / "published"
    printed = done("push", finished / "tfidf-s0", "ann/shop-router", "--dry-run", "-o", out)
    assert str(out / "README.md") in printed.splitlines()
    assert load_router(out).kind == "tfidf"


def test_only_an_encoder_is_exported(fails, finished: Path, tmp_path: Path):
    line = fails("export", finished / "tfidf-s0", "-o", tmp_path / "out")
    assert line == (
        f"{finished / 'tfidf-s0'}: holds a router of kind 'tfidf'; export a trained encoder with "
        "a closed catalogue and no arguments"
    )
    assert not (tmp_path / "out").exists()


# --- bad traces


def build(fails: Callable[..., str], source: Path, *overrides: str) -> str:
    out = source.parent / "dataset"
    line = fails("build", source, "-o", out, MERGE, *overrides)
    assert not out.exists()
    return line


def test_a_trace_file_that_is_not_there(fails, tmp_path: Path):
    missing = tmp_path / "nowhere.jsonl"
    for line in (build(fails, missing), fails("import", missing, "-o", tmp_path / "o.jsonl")):
        assert line.startswith(f"{missing}: cannot be read (No such file or directory); give")


def test_a_trace_file_that_is_cut_off(fails, traces: Path, tmp_path: Path):
    packed = tmp_path / "traces.jsonl.gz"
    packed.write_bytes(gzip.compress(traces.read_bytes())[:-20])
    line = build(fails, packed)
    assert line.startswith(f"{packed}:")
    assert "the compressed stream ends early" in line
    assert line.endswith("; fetch the file again")


TRACE = {
    "tools": [
        {
            "name": "get",
            "parameters": {
                "type": "object",
                "properties": {"n": {"type": "integer"}},
                "required": ["n"],
            },
        }
    ],
    "messages": [
        {"role": "user", "content": "get 1"},
        {"role": "assistant", "tool_calls": [{"name": "get", "arguments": {"n": 1}}]},
    ],
}


def said(*messages: dict[str, Any], tools: list[dict[str, Any]] | None = None) -> bytes:
    return orjson.dumps({"tools": TRACE["tools"] if tools is None else tools, "messages": messages})


USER = {"role": "user", "content": "get 1"}


def calling(name: str, arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"name": name, "arguments": arguments}]}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{oops", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"tools": []}', "neither a trace (messages) nor a request with its response"),
        (b'{"tools": [], "messages": []}', "messages: missing or empty"),
        (said(USER, {"role": "robot", "content": "x"}), "messages[].role: unknown role 'robot'"),
        (said(USER, calling("get", "{oops")), "messages[].tool_calls[].arguments: not JSON"),
        (said(USER, calling("get", "[1]")), "messages[].tool_calls[].arguments: not a JSON object"),
        (
            said(USER).replace(b"get 1", b"get \\ud800"),
            "an unpaired surrogate in a string",
        ),
    ],
)
def test_lines_that_are_no_traces_are_named_listed_and_leave_nothing(
    fails, tmp_path: Path, line: bytes, reason: str
):
    source = tmp_path / "bad.jsonl"
    source.write_bytes(line + b"\n")
    assert f"1 lines were rejected (1 times: {reason})" in build(fails, source)
    out = tmp_path / "out.jsonl"
    assert reason in fails("import", source, "-o", out)
    assert not out.exists()
    for listed in (tmp_path / "dataset.rejected.jsonl", tmp_path / "out.jsonl.rejected.jsonl"):
        entry = orjson.loads(listed.read_bytes())
        assert entry["line"] == 1
        assert re.sub(r"\[\d+\]", "[]", entry["reason"]) == reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (said(USER, calling("got", {"n": 1})), "called tool not offered"),
        (said(USER, calling("get", {"n": "one"})), "arguments break the tool's schema"),
        (said(USER, calling("get", {})), "arguments break the tool's schema"),
        (
            said(USER, calling("get", {}), tools=[{"name": "get", "parameters": {"type": 5}}]),
            "called tool has a broken schema",
        ),
    ],
)
def test_decisions_that_cannot_teach_are_dropped_and_counted(
    done, fails, traces: Path, line: bytes, reason: str
):
    with traces.open("ab") as file:
        file.write(line + b"\n")
    printed = done("build", traces, "-o", traces.parent / "mixed", MERGE)
    assert re.search(rf"^ +1  {reason}$", printed, re.MULTILINE)
    alone = traces.parent / "alone.jsonl"
    alone.write_bytes(line)
    assert f"no decision point is left of 1 traces ({reason}: 1)" in build(fails, alone)


def test_rejected_lines_do_not_stop_the_rest(distill, traces: Path, tmp_path: Path, caplog):
    with traces.open("ab") as file:
        file.write(b"{oops\n")
    code, _, _ = distill("build", traces, "-o", tmp_path / "dataset", MERGE)
    assert code == 0
    assert "1 lines rejected (1 times: not JSON)" in caplog.text
    assert load_dataset(tmp_path / "dataset").manifest["n_traces"] == 80


def test_a_message_of_a_megabyte_works(done, traces: Path, tmp_path: Path):
    long = "get " + " ".join(str(n) for n in range(160_000))
    assert len(long) > 1_000_000
    with traces.open("ab") as file:
        file.write(said({"role": "user", "content": long}, calling("get", {"n": 1})) + b"\n")
    imported = tmp_path / "imported.jsonl.zst"
    assert done("import", traces, "-o", imported).startswith("81 traces from 81 lines")
    done("build", imported, "-o", tmp_path / "dataset", "split.train=0.4")
    manifest = load_dataset(tmp_path / "dataset").manifest
    assert (manifest["n_traces"], manifest["dropped"]) == (81, {})


def test_nothing_left_after_filtering(fails, traces: Path):
    line = build(fails, traces, "outcome=succeeded")
    assert re.search(r"no decision point is left of 80 traces \(trace not graded: \d+\); wid", line)


def test_a_filter_that_no_trace_passes(fails, traces: Path):
    assert "holds no traces" in build(fails, traces, "where.toolset=all")


def test_one_decision_only(fails, tmp_path: Path):
    source = tmp_path / "traces.jsonl"
    hello = {"role": "assistant", "content": "Hello."}
    rows = [said({"role": "user", "content": f"greeting {n}"}, hello) for n in range(60)]
    source.write_bytes(b"\n".join(rows))
    assert "train knows a single decision (reply; 60 groups); there is nothing to learn" in build(
        fails, source
    )


def test_a_part_without_a_group(fails, tmp_path: Path):
    source = write_traces(tmp_path / "traces.jsonl", 3)
    line = build(fails, source)
    assert line.startswith("data.split: no group falls into ")
    assert "(3 groups); take another seed or traces of more groups" in line


def test_an_unknown_format(fails, traces: Path, tmp_path: Path):
    line = fails("import", traces, "-o", tmp_path / "o", "--format", "csv")
    assert line == "--format: unknown format 'csv'; use auto, traces or openai"


def test_a_dataset_is_not_written_over_the_traces(fails, traces: Path):
    before = traces.read_bytes()
    assert "is there and is no dataset folder" in fails("build", traces, "-o", traces)
    assert traces.read_bytes() == before


# --- bad configs, runs and models


@pytest.mark.parametrize("command", ["train", "run", "config"])
def test_a_misspelt_key(fails, traces: Path, tmp_path: Path, command: str):
    config = write_config(tmp_path, sedes=[1])
    assert fails(command, config).startswith(f"{config}: unknown key 'sedes'; valid names: name, ")
    assert not (tmp_path / "runs").exists()


def test_a_bad_override(fails, traces: Path, tmp_path: Path):
    assert "'x' is missing" not in fails("run", write_config(tmp_path), "data.splits=1")
    assert "unknown key 'spilt'" in fails("build", traces, "-o", tmp_path / "d", "spilt=1")
    assert "not an override" in fails("build", traces, "-o", tmp_path / "d", "spilt")


def test_a_missing_tracker(fails, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def nothing_installed(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "version", nothing_installed)
        line = fails("train", write_config(tmp_path), "trackers=[trackio]")
    assert line == (
        "trackers: trackio: needs the extra 'trackio'; "
        "install it with: pip install 'tool-router-distill[trackio]'"
    )
    assert not (tmp_path / "runs").exists()


def test_a_model_that_cannot_be_found_offline_loses_no_work(
    fails, done, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub.constants  # noqa: PLC0415

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    routers = {"majority": {"kind": "majority"}, "lm": {"kind": "encoder", "model": "a/nothing"}}
    line = fails("run", write_config(tmp_path, routers=routers))
    assert line.startswith("a/nothing: cannot be loaded (")
    assert line.endswith(
        "; check the name and the network, or use a local folder or a packaged: model"
    )
    run = RunDir(tmp_path / "runs/shop/majority-s0")
    assert run.report.is_file()
    mended = write_config(tmp_path, routers=routers | {"lm": {"kind": "majority"}})
    done("run", mended)


def test_runs_that_are_not_there_or_not_finished(fails, finished: Path, tmp_path: Path):
    nowhere = tmp_path / "nowhere"
    unfinished = "no manifest.json: not a finished run; finish it with distill train"
    assert fails("evaluate", nowhere) == f"{nowhere}: {unfinished}"
    assert fails("push", nowhere, "a/b", "--dry-run") == f"{nowhere}: {unfinished}"
    run = RunDir(finished / "majority-s0")
    run.report.unlink()
    line = fails("compare", finished / "tfidf-s0", run.path, "-o", tmp_path / "c")
    assert line == f"{run.path}: no report.json: not evaluated; run: distill evaluate {run.path}"
    assert not (tmp_path / "c").exists()


def test_a_bad_repository_name(fails, finished: Path):
    line = fails("push", finished / "tfidf-s0", "no owner", "--dry-run")
    assert line.startswith("'no owner': no repository name; write owner/name")


def test_pushing_without_a_token(fails, finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert "set HF_TOKEN" in fails("push", finished / "tfidf-s0", "ann/router")


# --- the machine gives up


def test_a_full_disk_leaves_what_was_there(
    fails, done, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "dataset"
    done("build", traces, "-o", out, MERGE)
    before = load_dataset(out).manifest

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs.os, "fsync", fsync)
    line = fails("build", traces, "-o", out, MERGE, "split.train=0.5")
    assert line == "disk: No space left on device; mend that and run the same command again"
    assert load_dataset(out).manifest == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "traces.jsonl"]


def test_a_disk_that_fills_while_traces_are_read(
    fails, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spool, "_SCHEMA", f"PRAGMA max_page_count = 16;{spool._SCHEMA}")
    assert "disk is full; mend that and run the same command again" in build(fails, traces)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["traces.jsonl"]


def test_a_disk_that_fills_while_weights_are_written(
    fails, done, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = write_config(tmp_path, routers={"rnn": {"kind": "rnn", "train": {"epochs": 1}}})

    def full(*arguments: object, **keywords: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(scratch, "save_file", full)
        line = fails("train", config)
    assert line == "disk: No space left on device; mend that and run the same command again"
    assert not RunDir(tmp_path / "runs/shop/rnn-s0").whole
    done("train", config)


def test_a_place_where_no_folder_can_be(fails, traces: Path):
    line = fails("build", traces, "-o", traces / "dataset", MERGE)
    assert "Not a directory" in line or "File exists" in line


def test_an_interrupted_job_goes_on(
    distill, done, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = write_config(tmp_path)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "evaluate_run", interrupted)
        code, _, err = distill("run", config)
    assert code == 130
    assert err.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert RunDir(tmp_path / "runs/shop/majority-s0").whole
    done("run", config)


def test_our_own_faults_keep_their_traceback(distill, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(cli.configs, "load", broken)
    with pytest.raises(AssertionError, match="ours"):
        distill("config", "job.yaml")


def test_an_unexpected_fault_of_the_system_is_ours(distill, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(cli.configs, "load", broken)
    with pytest.raises(OSError, match="Bad file descriptor"):
        distill("config", "job.yaml")
