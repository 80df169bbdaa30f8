"""A decoder that learns from the rewards of its own tries."""

from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file
from small_shop import TOOLS, ask, job

from distill.config import OutcomesConfig
from distill.errors import ConfigError, DatasetError, WorkflowError
from distill.routers import load_router
from distill.training.job import Parts
from distill.training.online import learn_online
from distill.types import Context, Decision

REPLY = Decision("reply")


@dataclass
class Asked:
    """A context in which a reply is wanted, and nothing else."""

    name: str
    context: Context
    worth: float = 1.0
    tried: list[Decision | None] = field(default_factory=list)

    def reward(self, decision: Decision | None) -> float:
        self.tried.append(decision)
        return self.worth if decision == REPLY else 0.0


def asked(worth: float = 1.0) -> list[Asked]:
    return [Asked(f"s{n}", ask(f"where is order {n}"), worth) for n in range(4)]


def config(**changes) -> OutcomesConfig:
    values = {
        "method": "grpo",
        "epochs": 4,
        "learning_rate": 1e-2,
        "batch_size": 16,
        "micro_batch": 16,
        "generations": 8,
        "temperature": 1.5,
        "checkpoints": 4,
        "beta": 0.1,
    }
    return OutcomesConfig(**values | changes)


@pytest.fixture(scope="module")
def folder(trained) -> Path:
    return trained("decoder").folder


def learn(folder, run, situations, settings=None, **job_changes) -> Path:
    """The folder of the learned router."""
    made = job(run, parts=Parts([], [], TOOLS), **job_changes)
    learned = learn_online(settings or config(), folder, situations, made)
    (run / "router").mkdir()
    learned.router.save(run / "router")
    return run / "router"


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    """An unbroken run, its router's folder, and the situations."""
    run, situations = tmp_path_factory.mktemp("unbroken"), asked()
    return run, learn(folder, run, situations), situations


def replies(folder: Path) -> float:
    """The mean log-probability of a reply."""
    router = load_router(folder)
    found = []
    for situation in asked():
        prompt = router.format.ids(router.format.prompt(situation.context))
        answer = [*router.format.ids("reply"), router.tokenizer.eos_token_id]
        with torch.no_grad():
            logits = router.model(input_ids=torch.tensor([prompt + answer])).logits[0]
        logs = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
        found.append(float(logs[range(len(answer)), answer].sum()))
    return sum(found) / len(found)


def logged(run: Path, key: str) -> list[float]:
    lines = map(orjson.loads, (run / "log.jsonl").read_bytes().splitlines())
    return [line[key] for line in lines if key in line]


def test_what_is_rewarded_becomes_likelier(folder, unbroken):
    run, learned, situations = unbroken
    assert all(len(one.tried) == 4 * 8 for one in situations)
    tried = [decision for one in situations for decision in one.tried]
    assert REPLY in tried
    assert None in tried  # drawn without a grammar
    assert replies(learned) > replies(folder) + 0.2
    assert logged(run, "kl")[0] == 0  # the reference is where it began


def test_a_killed_run_goes_on_exactly(folder, unbroken, tmp_path):
    run, learned, _ = unbroken

    class Killed(BaseException):
        pass

    def killed(stage: str, done: int, total: int | None = None) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        learn(folder, tmp_path, asked(), progress=killed)
    situations = asked()
    resumed = learn(folder, tmp_path, situations)
    assert all(len(one.tried) == 2 * 8 for one in situations)  # from the checkpoint at step 4
    a, b = (load_file(at / "adapter_model.safetensors") for at in (resumed, learned))
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert logged(tmp_path, "reward") == logged(run, "reward")


def test_beta_holds_the_router_to_its_beginning(folder, unbroken, tmp_path):
    held = learn(folder, tmp_path, asked(), config(beta=20.0))
    before, free = replies(folder), replies(unbroken[1])
    assert abs(replies(held) - before) < (free - before) / 2


def test_rewards_that_never_differ_are_named(folder, tmp_path, caplog):
    situations = asked(worth=0.0)
    learn(folder, tmp_path, situations, config(epochs=1))
    assert "taught nothing, in 4 of 4 contexts: s" in caplog.text


def test_what_cannot_be_learned_from_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size: 12 tries are not whole groups of 8"):
        learn(folder, tmp_path, asked(), config(batch_size=12))
    with pytest.raises(DatasetError, match="grpo: there is no context"):
        learn(folder, tmp_path, [])
    with pytest.raises(WorkflowError, match=r"s\d: its reward is nan, no finite number"):
        learn(folder, tmp_path, asked(worth=float("nan")))
