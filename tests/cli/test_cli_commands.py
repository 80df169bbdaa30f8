"""Each command's way through."""

import asyncio
import gzip
import re
from pathlib import Path

import orjson
import pytest
from job_files import MERGE, write_config
from record_values import answer, record, says

from distill import config as configs
from distill import load_router
from distill.config import StoreConfig
from distill.dataset import load_dataset
from distill.runs import RunDir, read_json
from distill.store import Store

ROOT = Path(__file__).parents[2]


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


def test_a_gateways_records_are_imported_and_built_from(done, tmp_path: Path):
    store = Store(StoreConfig(url=f"sqlite:///{tmp_path}/gateway.db"))

    async def put_all() -> None:
        for i in range(60):
            kind = {"response": answer(says("No."))} if i % 2 else {}
            local = {"decided_by": "local"} if i % 10 == 0 else {}
            await store.put(record(i, session=f"s{i}", **kind, **local))

    asyncio.run(put_all())
    store.close()
    source, out = f"gateway://{tmp_path}/gateway.db", tmp_path / "traces.jsonl.gz"
    printed = done("import", source, "-o", out)
    assert "54 traces from 60 records" in printed
    assert "6  answered by the router: context only" in printed
    assert len(gzip.decompress(out.read_bytes()).splitlines()) == 54
    done("build", source, "-o", tmp_path / "dataset", "split.merge_jaccard=null")
    manifest = load_dataset(tmp_path / "dataset").manifest
    assert (manifest["n_traces"], manifest["source"]["name"]) == (54, "gateway://gateway.db")


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
    assert configs.load(run / "config.yaml").risk.alphas == [0.001, 0.6]


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


@pytest.mark.parametrize(
    ("name", "overrides", "load"),
    [
        ("run/quickstart.yaml", ["seeds=[4]", "routers.rnn.train.epochs=2"], configs.load),
        ("serve/orderdesk.yaml", ["rollout.mode=on", "limits.tools=3"], configs.load_serve),
    ],
)
def test_config_prints_what_loads_to_the_same(done, tmp_path: Path, name, overrides, load):
    path = ROOT / "configs" / name
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(done("config", path, *overrides))
    assert load(resolved) == load(path, overrides)
    assert done("config", resolved) == resolved.read_text()


def test_push_dry_run_writes_a_folder_that_loads(done, finished: Path, tmp_path: Path):
    out = tmp_path / "published"
    printed = done("push", finished / "tfidf-s0", "ann/shop-router", "--dry-run", "-o", out)
    assert str(out / "README.md") in printed.splitlines()
    assert load_router(out).kind == "tfidf"


def test_export_shows_what_int8_weights_promise(done, config_of, traces: Path, tmp_path: Path):
    routers = {"small": config_of("encoder", epochs=1).model_dump(mode="json")}
    config = write_config(tmp_path, routers=routers, risk={"alphas": [0.9]})
    (run,) = done("train", config).splitlines()
    out = tmp_path / "int8"
    printed = done("export", run, "-o", out)
    rows = [line for line in printed.splitlines() if line.split()[:1] == ["all"]]
    assert [row.split()[1] for row in rows] == ["90.0%"]
    assert printed.splitlines()[-1] == str(out)


def test_only_an_encoder_is_exported(fails, finished: Path, tmp_path: Path):
    line = fails("export", finished / "tfidf-s0", "-o", tmp_path / "out")
    assert line == (
        f"{finished / 'tfidf-s0'}: holds a router of kind 'tfidf'; export a trained encoder with "
        "a closed catalogue and no arguments"
    )
    assert not (tmp_path / "out").exists()


def test_compare_recommends_the_cheapest_router_at_a_stated_accuracy(
    done, fails, finished: Path, tmp_path: Path
):
    runs = [finished / "majority-s0", finished / "tfidf-s0"]
    done("compare", *runs, "-o", tmp_path / "c", "--target-accuracy", "0.05")
    report = read_json(tmp_path / "c/report.json")
    able = [router for router in report["routers"] if router["tool_accuracy"]["low"] >= 0.05]
    cheapest = min(able, key=lambda router: router["latency_ms"]["p50"])
    assert report["reach"]["target"] == 0.05
    assert report["reach"]["recommended"] == {"name": cheapest["name"], "sure": True}
    page = (tmp_path / "c/report.html").read_text()
    assert f"for a tool accuracy of 5.0%: {cheapest['name']}, the cheapest" in page
    line = fails("compare", *runs, "-o", tmp_path / "d", "--target-accuracy", "95")
    assert "target_accuracy" in line
