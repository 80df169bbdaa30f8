"""Two processes under `accelerate launch` learn what one does."""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from ports import free_port
from safetensors.torch import load_file

LEARN = """
import random, sys
from flows import fork
from distill.config import LearnConfig
from distill.workflow import Threshold, learn

chance = random.Random(0)
seen = [{"x": chance.uniform(-2, 2)} for _ in range(30)]
config = LearnConfig(epochs=6, learning_rate=0.05, batch_size=7, evaluations=3)
learn(fork(Threshold(2.5, 0.5)), seen, seen, config, folder=sys.argv[1])
"""


def test_two_processes_learn_what_one_does(tmp_path: Path):
    script = tmp_path / "learn.py"
    script.write_text(LEARN)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--multi_gpu"]
    launch += ["--num_processes", "2", "--main_process_port", str(free_port())]
    here = str(Path(__file__).parent)
    settings = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    for name, start in {"one": [sys.executable], "two": launch}.items():
        done = subprocess.run(
            [*start, str(script), str(tmp_path / name)],
            timeout=200,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | settings | {"PYTHONPATH": path},
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (orjson.loads((tmp_path / n / "learned.json").read_bytes()) for n in ("one", "two"))
    assert one["learned"]["kept"] > 0
    objectives = [
        [each["objective"] for each in found["learned"]["evaluations"]] for found in (one, two)
    ]
    # A batch of seven is shared as four and three.
    assert objectives[1] == pytest.approx(objectives[0], rel=1e-4)
    weights = [load_file(tmp_path / name / "learned.safetensors") for name in ("one", "two")]
    for key, tensor in weights[0].items():
        assert weights[1][key].item() == pytest.approx(tensor.item(), rel=1e-4)
    lines = (tmp_path / "two" / "log.jsonl").read_bytes().splitlines()
    assert len({orjson.loads(x)["step"] for x in lines if b"grad_norm" in x}) == len(
        [x for x in lines if b"grad_norm" in x]
    ), "the main process alone writes"
