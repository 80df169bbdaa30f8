"""Where training computes and in which number format, by config and by launcher."""

import pytest
import torch
from small_shop import job
from transformers import TrainingArguments

from distill.config import TrainConfig
from distill.routers import devices
from distill.training import loop


def arguments(path, **train) -> TrainingArguments:
    config = TrainConfig(micro_batch=4, **train)
    return loop.training_arguments(
        TrainingArguments, config, job(path), rows=99, metric="eval_score"
    )


@pytest.fixture
def a_gpu(monkeypatch):
    """torch says that there is one, which computes in bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)


@pytest.mark.usefixtures("a_gpu")
def test_a_gpu_is_used_in_bfloat16():
    assert devices.device().type == "cuda"
    assert devices.dtype("auto") == torch.bfloat16
    assert devices.dtype("float32") == torch.float32


@pytest.mark.usefixtures("a_gpu")
def test_a_launcher_told_to_use_the_cpu_is_obeyed(tmp_path, monkeypatch):
    """What `accelerate launch --cpu` sets."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert devices.device().type == "cpu"
    assert devices.dtype("auto") == torch.float32
    args = arguments(tmp_path)
    assert (args.use_cpu, args.bf16, args.device.type) == (True, False, "cpu")


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", "no"), ("auto", "no"), ("bfloat16", "bf16")]
)
def test_the_config_outdoes_the_launchers_precision(tmp_path, monkeypatch, precision, expected):
    """On a CPU; a launcher's own default would be taken over silently."""
    launcher = "no" if expected == "bf16" else "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert arguments(tmp_path, precision=precision).mixed_precision == expected


def test_several_gpus_without_a_launcher_are_one(tmp_path, monkeypatch, caplog):
    def four(args):
        args._n_gpu, args.distributed_state = 4, None
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(four))
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda args: args._n_gpu))
    args = arguments(tmp_path)
    assert args.n_gpu == 1
    assert args.train_batch_size == 4, "the batch must not grow with the number of GPUs"
    (line,) = caplog.messages
    assert line.startswith("one of 4 GPUs is used; accelerate launch --multi_gpu")
