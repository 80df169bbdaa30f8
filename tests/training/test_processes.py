"""Two processes under `accelerate launch` take the same steps as one, through the real CLI.

`accelerate launch --cpu --num_processes 2` starts one process (several on CPUs it leaves to MPI);
`--multi_gpu` starts as many as it is told, on CPUs too where the environment says so.
"""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from ports import free_port
from safetensors.torch import load_file
from small_shop import without_dropout, write_traces

from distill.config import RunConfig, dump
from distill.dataset import load_dataset
from distill.routers import load_router
from distill.runs import RunDir

MICRO_BATCH = 4
SCRIPT = str(Path(__file__).parents[2] / "scripts" / "train.py")


LEARNED = ("rnn", "attention", "encoder", "open", "filling", "decoder")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, config_of):
    """The run directories of one process and of two, by router, and what two processes printed."""
    folder = tmp_path_factory.mktemp("processes")
    traces = write_traces(folder / "traces.jsonl")

    def settings(kind: str) -> dict[str, object]:
        # Dropout would draw other masks in each process.
        return without_dropout(config_of(kind, micro_batch=MICRO_BATCH)).model_dump()

    config = RunConfig.model_validate(
        {
            "name": "job",
            "data": {
                "traces": str(traces),
                "drop_duplicates": None,
                "split": {"merge_jaccard": None},
            },
            "routers": {
                "tfidf": {"kind": "tfidf"},
                **{kind: settings(kind) for kind in LEARNED},
            },
        }
    )
    file = folder / "config.yaml"
    file.write_text(dump(config))
    launch = ["-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no"]
    two = ["--multi_gpu", "--num_processes", "2", "--main_process_port", str(free_port())]
    found = {}
    for name, flags in {"one": ["--cpu"], "two": two}.items():
        done = subprocess.run(
            [sys.executable, *launch, *flags, SCRIPT, str(file), f"output={folder / name}"],
            timeout=300,
            capture_output=True,
            text=True,
            check=False,
            # A launcher's own choice of threads would only slow tiny tensors down.
            env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = {
            router: RunDir(folder / name / "job" / f"{router}-s0") for router in config.routers
        }
        found[f"{name} printed"] = done.stdout
    return found


def log(run: RunDir, key: str) -> list[float]:
    lines = map(orjson.loads, run.log.read_bytes().splitlines())
    return [line[key] for line in lines if key in line]


@pytest.mark.parametrize("kind", ["rnn", "attention", "encoder", "open", "decoder"])
def test_there_are_as_many_processes_as_asked_for(runs, kind):
    assert set(log(runs["one"][kind], "processes")) == {1}
    assert set(log(runs["two"][kind], "processes")) == {2}


@pytest.mark.parametrize("kind", ["rnn", "attention", "encoder", "open", "decoder"])
def test_two_processes_follow_the_same_curve(runs, kind):
    one, two = runs["one"][kind], runs["two"][kind]
    assert len(log(one, "loss")) >= 8
    assert log(two, "loss") == pytest.approx(log(one, "loss"), rel=1e-4)


@pytest.mark.parametrize("kind", ["rnn", "attention", "encoder", "open", "decoder"])
def test_two_processes_validate_the_same_rows(runs, kind):
    """Also where they fill the last batches with copies, which must not count."""
    one, two = runs["one"][kind], runs["two"][kind]
    rows = len(load_dataset(one.path.parent / "dataset-s0").examples("validation"))
    assert rows % (2 * MICRO_BATCH) != 0, "an even share would show nothing"
    assert len(log(one, "eval_loss")) == 3
    for key in ("eval_loss", "eval_standard_error"):
        assert log(two, key) == pytest.approx(log(one, key), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("kind", ["rnn", "attention", "encoder", "open", "decoder"])
def test_two_processes_end_at_the_same_weights(runs, kind):
    name = "adapter_model" if kind == "decoder" else "model"
    one, two = (
        load_file(runs[count][kind].router / f"{name}.safetensors") for count in ("one", "two")
    )
    assert one.keys() == two.keys()
    for key in one:
        difference = (one[key] - two[key]).abs().max()
        # Sums in another order differ in their last bits, which Adam's first steps magnify.
        assert difference < 2e-3 + 2e-3 * one[key].abs().max(), key


def test_two_processes_learn_to_fill_arguments_alike(runs):
    one, two = (RunDir(runs[count]["filling"].path, "arguments") for count in ("one", "two"))
    assert len(log(one, "loss")) >= 4
    for key in ("loss", "eval_loss", "eval_standard_error"):
        assert log(two, key) == pytest.approx(log(one, key), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("kind", ["tfidf", "rnn", "attention", "encoder", "open", "decoder"])
def test_two_processes_leave_a_whole_run(runs, kind):
    run = runs["two"][kind]
    assert run.whole
    assert load_router(run.router).kind == ("encoder" if kind == "open" else kind)
    assert not run.checkpoints.exists()


def test_one_process_alone_speaks(runs):
    paths = [Path(line).name for line in runs["two printed"].split()]
    assert paths == [f"{router}-s0" for router in ("tfidf", *LEARNED)]
