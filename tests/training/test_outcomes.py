"""A decoder that learns from what came of decisions: what moves, how far, and what is kept."""

import math
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file
from small_shop import TOOLS, ask, call, decoder, job

from distill.config import OutcomesConfig
from distill.errors import ConfigError, DatasetError
from distill.render import completion
from distill.routers import load_router
from distill.routers.confidence import Calibration
from distill.routers.folder import read_router_file
from distill.training import train
from distill.training.job import Parts
from distill.training.outcomes import learn_outcomes
from distill.training.trials import Trial
from distill.types import Decision

ASKED = [ask(f"where is order {n}") for n in range(4)]
RIGHT = Decision("call", (call("list_orders"),))
WRONG = [Decision("call", (call("get_order", order=n),)) for n in range(4)]


def trials(successes: int = 1, failures: int = 1) -> list[Trial]:
    """What the distilled router does fails, and something else succeeds."""
    made = []
    for context, wrong in zip(ASKED, WRONG, strict=True):
        made += [Trial(context, RIGHT, True)] * successes
        made += [Trial(context, wrong, False)] * failures
    return made


def config(method: str, **changes) -> OutcomesConfig:
    values = {"epochs": 6, "learning_rate": 1e-2, "batch_size": 4, "checkpoints": 3, "beta": 0.1}
    return OutcomesConfig(method=method, **values | changes)


@pytest.fixture(scope="module")
def folder(trained) -> Path:
    return trained("decoder").folder


@pytest.fixture(scope="module")
def unheld(folder, tmp_path_factory):
    """What a method learns with a small beta, and its run, once."""
    made = {}

    def get(method: str):
        if method not in made:
            run = tmp_path_factory.mktemp(method)
            made[method] = (*learn(config(method), folder, run), run)
        return made[method]

    return get


def learn(config, folder, run, made=None, **job_changes):
    """The learned router, saved and loaded as any other, and its folder."""
    parts = Parts([], [], TOOLS)
    learned = learn_outcomes(
        config, folder, trials() if made is None else made, job(run, parts=parts, **job_changes)
    )
    out = run / "router"
    out.mkdir(exist_ok=True)
    learned.router.save(out)
    return load_router(out), out


def log_probability(router, context, decision) -> float:
    prompt = router.format.ids(router.format.prompt(context))
    text = completion(decision, context.tools)
    answer = [*router.format.ids(text), router.tokenizer.eos_token_id]
    with torch.no_grad():
        logits = router.model(input_ids=torch.tensor([prompt + answer])).logits[0]
    logs = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
    return float(logs[range(len(answer)), answer].sum())


def moved(folder, learned) -> tuple[float, float]:
    """By how much what succeeded, and what failed, became likelier: means over contexts."""
    before = load_router(folder)
    changes = [
        [log_probability(learned, c, d) - log_probability(before, c, d) for d in (RIGHT, w)]
        for c, w in zip(ASKED, WRONG, strict=True)
    ]
    right, wrong = torch.tensor(changes).mean(0).tolist()
    return right, wrong


def logged(run: Path, key: str) -> list[float]:
    lines = map(orjson.loads, (run / "log.jsonl").read_bytes().splitlines())
    return [line[key] for line in lines if key in line]


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_what_succeeded_becomes_likelier_than_what_failed(folder, unheld, method):
    learned, _, _ = unheld(method)
    right, wrong = moved(folder, learned)
    assert right > 0
    assert right - wrong > 0.5


@pytest.mark.parametrize(
    ("method", "loss"), [("sft", 1 / 2), ("dpo", math.log(2) + 1 / 2), ("kto", 1 / 2)]
)
def test_the_reference_is_the_distilled_router(unheld, method, loss):
    """At the first step nothing has moved from it: every r in the losses is 0."""
    _, _, run = unheld(method)
    assert logged(run, "loss")[0] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_beta_holds_the_router_to_its_beginning(folder, tmp_path, method):
    gained = {}
    for beta in (0.1, 5.0):
        settings = config(method, beta=beta, learning_rate=2e-3, batch_size=2)
        right, wrong = moved(folder, learn(settings, folder, tmp_path / str(beta))[0])
        gained[beta] = right - wrong
    assert abs(gained[5.0]) < gained[0.1] / 3


def test_a_decision_weighs_the_share_of_its_trials_that_succeeded(folder, tmp_path):
    """So it moves by share / beta at the optimum, and one that never succeeded is not taught."""
    made = trials(successes=1) + [Trial(context, RIGHT, False) for context in ASKED for _ in "abc"]
    settings = config("sft", epochs=25, beta=0.5, learning_rate=1e-3)
    learned, _ = learn(settings, folder, tmp_path, made)
    right, wrong = moved(folder, learned)
    assert right == pytest.approx(0.25 / 0.5, abs=0.2)
    assert wrong < 0


def test_what_is_saved_is_a_plain_adapter_without_calibration(folder, tmp_path):
    calibrated = tmp_path / "calibrated"
    calibrated.mkdir()
    for file in folder.iterdir():
        (calibrated / file.name).write_bytes(file.read_bytes())
    before = read_router_file(folder)
    replace(before, calibration=Calibration(1.0, 0.0, 10, 10)).save(calibrated)
    _, out = learn(config("dpo", epochs=1), calibrated, tmp_path / "run")
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}
    assert read_router_file(out) == before
    weights, old = (load_file(at / "adapter_model.safetensors") for at in (out, folder))
    assert weights.keys() == old.keys()
    assert any(not torch.equal(weights[name], old[name]) for name in old)
    described, as_before = (
        orjson.loads((at / "adapter_config.json").read_bytes()) for at in (out, folder)
    )
    assert described == as_before


class Killed(BaseException):
    """Raised in the middle of a training, where nothing catches it."""


def kill_at(step: int):
    def progress(stage: str, done: int, total: int | None = None) -> None:
        if done == step:
            raise Killed

    return progress


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_a_killed_training_goes_on_exactly(folder, unheld, tmp_path, method):
    _, whole, run = unheld(method)
    with pytest.raises(Killed):
        learn(config(method), folder, tmp_path, progress=kill_at(5))
    assert any((tmp_path / "checkpoints").glob("checkpoint-*"))
    _, resumed = learn(config(method), folder, tmp_path)
    a, b = (load_file(at / "adapter_model.safetensors") for at in (resumed, whole))
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert logged(tmp_path, "loss") == logged(run, "loss")


def test_what_cannot_be_learned_from_is_refused(folder, tmp_path):
    succeeded, failed = trials(failures=0), trials(successes=0)
    with pytest.raises(DatasetError, match="sft: there is no decision that succeeded"):
        learn(config("sft"), folder, tmp_path, failed)
    with pytest.raises(DatasetError, match="dpo: there is no decision beside one"):
        learn(config("dpo"), folder, tmp_path, succeeded)
    even = succeeded + [replace(trial, succeeded=False) for trial in succeeded]
    with pytest.raises(DatasetError, match="kto: there is no decision that succeeded or failed"):
        learn(config("kto"), folder, tmp_path, even)
    with pytest.raises(ConfigError, match="micro_batch: kto compares"):
        learn(config("kto", micro_batch=1), folder, tmp_path)


def test_a_training_that_diverges_is_told_by_the_key_of_its_config(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"^learning_rate: at 1e"):
        learn(config("sft", learning_rate=1e30), folder, tmp_path)


@pytest.mark.parametrize("lora", [True, False])
def test_a_soft_prompt_learns_too_and_its_reference_is_its_own(taught_llama, tmp_path, lora):
    settings = decoder(taught_llama, epochs=1, evaluations=1)
    changes = {"soft_prompt": 3, "lora": settings.lora if lora else None}
    distilled = train(settings.model_copy(update=changes), job(tmp_path / "distilled")).router
    folder = tmp_path / "distilled/router"
    folder.mkdir()
    distilled.save(folder)
    learned, _ = learn(config("dpo"), folder, tmp_path)
    assert logged(tmp_path, "loss")[0] == pytest.approx(math.log(2) + 1 / 2, abs=1e-6)
    right, wrong = moved(folder, learned)
    assert right - wrong > 0.2
