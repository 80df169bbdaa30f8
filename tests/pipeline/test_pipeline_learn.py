"""A decoder's run that learns from outcomes: what may teach, what comes of it, what is refused."""

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from made_jobs import job_at, times
from small_shop import TOOLS, call, decoder, examples, write_traces

from distill import config as configs
from distill.chat import trace_json
from distill.config import OutcomesConfig
from distill.dataset import load_dataset
from distill.dataset.points import decision_points
from distill.errors import ConfigError, DatasetError, RouterError
from distill.pipeline.calibrate import calibrate_run
from distill.pipeline.evaluate import evaluate_run
from distill.pipeline.learn import learn
from distill.pipeline.teaching import HELD_OUT, held_out_from, taught
from distill.pipeline.train import train_router
from distill.progress import silent
from distill.routers import load_router
from distill.routers.confidence import Calibration, Threshold
from distill.routers.folder import read_router_file
from distill.runs import RunDir, read_json
from distill.traces import read
from distill.types import Message, Outcome, Trace

CONFIG = OutcomesConfig(epochs=1, learning_rate=1e-3, batch_size=4, max_rows=12, checkpoints=3)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, taught_llama) -> Path:
    """The folder of a job with a trained decoder, and of tries in all its groups."""
    folder = tmp_path_factory.mktemp("distilled")
    write_traces(folder / "traces.jsonl")
    settings = decoder(taught_llama, epochs=1, evaluations=1).model_dump(mode="json")
    job = job_at(folder, routers={"decoder": settings})
    run = train_router(job, "decoder", 0, silent)
    file = read_router_file(run.router)
    threshold = Threshold(0.1, 0.1, None, 0.5, 1.0, 0.0, 0.05, 10, 10)
    replace(file, calibration=Calibration(1.0, 0.0, 10, 10), thresholds=(threshold,)).save(
        run.router
    )
    with (folder / "tries.jsonl").open("wb") as file:
        for made in examples(80):
            right = Message("assistant", None if made.label.calls else "Fine.", made.label.calls)
            wrong = Message("assistant", None, (call("list_orders"),))
            for name, said, success in (("t", right, True), ("u", wrong, False)):
                messages = (*made.context.messages, said)
                trace = Trace(
                    f"{name}{made.trace_id}",
                    made.group,
                    "us",
                    "",
                    TOOLS,
                    messages,
                    Outcome(success),
                )
                file.write(orjson.dumps(trace_json(trace)) + b"\n")
    return folder


@pytest.fixture
def begun(distilled, tmp_path) -> RunDir:
    """A copy of the decoder's run and its dataset, which a test may change."""
    for path in distilled.iterdir():
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, tmp_path / path.name)
    return RunDir(tmp_path / "runs/shop/decoder-s0")


def tries(run: RunDir) -> str:
    return str(run.path.parents[2] / "tries.jsonl")


def beside(run: RunDir, name: str = "taught-s0") -> Path:
    return run.path.parent / name


def test_what_is_learned_is_a_run_like_any_other(begun):
    before = times(begun.path)
    assert read_router_file(begun.router).calibration is not None
    run = learn(begun, [tries(begun)], beside(begun), CONFIG, silent)
    assert times(begun.path) == before
    assert read_router_file(run.router).calibration is None
    assert not read_router_file(run.router).thresholds
    assert load_router(run.path).kind == "decoder"
    manifest, first = read_json(run.manifest), read_json(begun.manifest)
    assert manifest["router"] == "taught"
    assert manifest["dataset"] == first["dataset"]
    assert manifest["train_seconds"] > first["train_seconds"]
    learned = manifest["learned_from"]
    assert learned["config"]["method"] == "dpo"
    assert learned["begun_from"]["run"] == "decoder-s0"
    assert learned["traces"][0]["name"] == "tries.jsonl"
    assert len(learned["traces"][0]["sha256"]) == 64
    counts = learned["trials"]
    decisions = sum(len(list(decision_points(trace))) for trace in read(tries(begun)))
    assert counts["learned"] + counts["left_out"][HELD_OUT] == decisions
    assert list(configs.load(run.config).routers) == ["taught"]
    calibrate_run(run, silent)
    assert read_router_file(run.router).calibration is not None
    assert evaluate_run(run, silent)["routers"][0]["name"] == "taught"
    again = times(run.path)
    learn(begun, [tries(begun)], beside(begun), CONFIG, silent)
    assert times(run.path) == again


def test_what_is_held_out_never_teaches(distilled):
    dataset = load_dataset(distilled / "runs/shop/dataset-s0")
    job = job_at(distilled)
    left_out: Counter[str] = Counter()
    source = str(distilled / "tries.jsonl")
    kept = list(taught([source, source], job.data, dataset, left_out))
    known = {example.group for example in dataset.examples("train")}
    others = {
        example.group
        for part in ("validation", "calibration", "test")
        for example in dataset.examples(part)
    }
    assert kept
    assert not {trace.group for trace in kept} & others
    assert {trace.group for trace in kept} >= known
    of_kept = sum(len(list(decision_points(trace))) for trace in kept)
    of_all = sum(len(list(decision_points(trace))) for trace in read(source))
    assert of_kept + left_out[HELD_OUT] == 2 * of_all


def test_a_held_out_trace_is_known_by_its_id_its_group_or_what_it_asks(distilled):
    dataset = load_dataset(distilled / "runs/shop/dataset-s0")
    held_out = held_out_from(dataset)
    traces = list(read(distilled / "traces.jsonl"))
    tested = dataset.examples("test")[0]
    trained = dataset.examples("train")[0]
    by_id = {trace.id: trace for trace in traces}
    new = Message("user", "a question that nobody asked before")
    other = replace(by_id[trained.trace_id], id="new", group="new")
    asks_anew = replace(other, messages=(new, *other.messages[1:]))
    assert not held_out(by_id[trained.trace_id])
    assert not held_out(replace(by_id[tested.trace_id], id="new", group=trained.group))
    assert not held_out(asks_anew)
    assert held_out(replace(asks_anew, id=tested.trace_id))
    assert held_out(replace(asks_anew, group=tested.group))
    assert held_out(replace(by_id[tested.trace_id], id="new", group="new"))


def test_a_killed_learning_goes_on_and_another_is_refused(begun):
    out = beside(begun)

    def killed(stage: str, done: int, total: int | None = None) -> None:
        if stage.startswith("training") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(begun, [tries(begun)], out, CONFIG, killed)
    other = CONFIG.model_copy(update={"beta": 0.5})
    with pytest.raises(RouterError, match="made from something else"):
        learn(begun, [tries(begun)], out, other, silent)
    steps = []
    run = learn(
        begun, [tries(begun)], out, CONFIG, lambda stage, done, total=None: steps.append(done)
    )
    assert run.whole
    assert min(steps) > 1
    with pytest.raises(RouterError, match="made from something else"):
        learn(begun, [tries(begun)], out, other, silent)
    with Path(tries(begun)).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(RouterError, match="made from something else"):
        learn(begun, [tries(begun)], out, CONFIG, silent)


def test_what_lies_there_already_is_left_alone(begun):
    with pytest.raises(ConfigError, match=r"would not find the dataset .*NAME-s0"):
        learn(begun, [tries(begun)], begun.path, CONFIG, silent)
    with pytest.raises(ConfigError, match="would not find the dataset"):
        learn(begun, [tries(begun)], begun.path.parent / "taught", CONFIG, silent)
    with pytest.raises(ConfigError, match="would not find the dataset"):
        learn(begun, [tries(begun)], begun.path.parents[1] / "taught-s0", CONFIG, silent)
    shutil.copytree(begun.path, beside(begun))
    with pytest.raises(RouterError, match="made from something else"):
        learn(begun, [tries(begun)], beside(begun), CONFIG, silent)


def test_a_job_does_not_take_it_for_its_own_training(begun):
    learn(begun, [tries(begun)], beside(begun), CONFIG, silent)
    single = configs.load(beside(begun) / "config.yaml")
    moved = single.model_copy(update={"output": begun.path.parents[1]})
    with pytest.raises(ConfigError, match="taught by outcomes"):
        train_router(moved, "taught", 0, silent)


def test_only_decoders_learn_here(finished):
    run = RunDir(finished / "runs/shop/tfidf-s0")
    with pytest.raises(ConfigError, match=r"of kind 'tfidf'.*distill\.workflow"):
        learn(run, [str(finished / "traces.jsonl")], run.path.parent / "x-s0", CONFIG, silent)


def test_traces_without_outcomes_teach_nothing(begun, caplog):
    ungraded = str(begun.path.parents[2] / "traces.jsonl")
    with pytest.raises(DatasetError, match="dpo: there is no decision beside one"):
        learn(begun, [ungraded], beside(begun), CONFIG, silent)
    assert "left out: trace not graded" in caplog.text


WORLD = """
from small_shop import TOOLS
from distill.environment import Score, Task
from distill.types import Message, ToolCall

class Orders:
    tools = TOOLS
    def tasks(self):
        return [Task(f"w{n}", f"g{n}", (f"cancel order {n}",)) for n in range(12)]
    def reset(self, task):
        self.wanted, self.cancelled = [int(task.id[1:])], []
    def execute(self, call):
        self.cancelled += [call.arguments["order"]] if call.name == "cancel_order" else []
        return "cancelled"
    def score(self, words):
        wrong = len(self.cancelled) > 1 or self.cancelled and self.cancelled != self.wanted
        return Score(self.cancelled == self.wanted, wrong_calls=int(wrong))

class Recorded(Orders):
    def record(self, task):
        call = ToolCall("cancel_order", {"order": int(task.id[1:])})
        said = Message("assistant", "Done."), Message("user", task.user[0])
        called = Message("assistant", None, (call,))
        # The first conversation is broken off.
        messages = said[1], called, Message("tool", "cancelled"), said[0]
        return messages[:1] if task.id == "w0" else messages
"""

GRPO = OutcomesConfig(
    method="grpo", epochs=1, learning_rate=1e-3, batch_size=4, max_rows=2, generations=2
)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "orders_to_learn.py").write_text(WORLD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "orders_to_learn"
    sys.modules.pop("orders_to_learn", None)


def test_tries_are_made_in_tasks_that_are_not_held_out(begun, world, caplog):
    run = learn(begun, [], beside(begun), GRPO, silent, environment=f"{world}:Recorded")
    dataset = load_dataset(begun.path.parent / "dataset-s0")
    others = {
        example.group
        for part in ("validation", "calibration", "test")
        for example in dataset.examples(part)
    }
    groups = {f"g{n}" for n in range(12)}
    assert groups & others
    learned = read_json(run.manifest)["learned_from"]
    tasks = len(groups - others - {"g0"})
    assert learned["tries"] == {"tasks": tasks, "contexts": 2 * tasks}
    assert learned["environment"] == f"{world}:Recorded"
    assert load_router(run.path).kind == "decoder"
    if "g0" not in others:
        assert "1 tasks left out: their record fails" in caplog.text


def test_a_method_and_what_it_learns_from_belong_together(begun, world):
    with pytest.raises(ConfigError, match="grpo learns from tries"):
        learn(begun, [tries(begun)], beside(begun), GRPO, silent)
    with pytest.raises(ConfigError, match="grpo learns from tries"):
        learn(begun, [], beside(begun), GRPO, silent)
    with pytest.raises(ConfigError, match="dpo learns from traces"):
        learn(begun, [], beside(begun), CONFIG, silent, environment=f"{world}:Recorded")
    with pytest.raises(ConfigError, match="dpo learns from traces"):
        learn(begun, [], beside(begun), CONFIG, silent)
    with pytest.raises(ConfigError, match="has no record of a teacher"):
        learn(begun, [], beside(begun), GRPO, silent, environment=f"{world}:Orders")
