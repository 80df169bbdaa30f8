"""Evaluation streams: a killed one goes on, with the same figures, and memory stays as it was."""

import tracemalloc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, overload

import pytest
from made_up import FAST, TIMING, TOOLS, Scripted, call, example, write_run

from distill.config import EvaluationConfig
from distill.errors import EndpointError
from distill.evaluation.compare import run_report
from distill.evaluation.evaluate import evaluate, limited, predict
from distill.evaluation.predictions import Draft, Prediction, load
from distill.routers.confidence import Threshold
from distill.types import Context, Decision, Example

SMALL = EvaluationConfig(bootstrap=100, batch_size=4, latency_samples=2)
EXAMPLES = [example(i, call(TOOLS[i % 3]), group=f"g{i // 4}") for i in range(22)]


def answer(context: Context) -> Decision:
    """Right now and then, with scores and a confidence."""
    luck = Random(context.messages[0].content)
    name = luck.choice(TOOLS[:3])
    scores = {tool: luck.random() for tool in TOOLS}
    return replace(call(name, confidence=luck.random()), scores=scores)


class Dying(Scripted):
    """Is killed when it is asked for more than so many decisions."""

    def __init__(self, most: int) -> None:
        super().__init__(answer)
        self.most = most

    def decide(self, contexts: Sequence[Context]) -> list[Decision]:
        if sum(self.batches) + len(contexts) > self.most:
            raise KeyboardInterrupt
        return super().decide(contexts)


def asked(router: Scripted) -> int:
    """How many decisions were made, those that are timed left out."""
    timed = 3 + SMALL.latency_samples + 2 * SMALL.batch_size
    return sum(router.batches) - timed


def begun(
    path: Path, settings: dict[str, Any], most: int = 12, examples: Sequence[Example] = EXAMPLES
) -> Path:
    """A draft that was killed after so many decisions; returns where it lies."""
    with pytest.raises(KeyboardInterrupt):
        evaluate(Dying(most), examples, SMALL, Draft(path, settings), seed=0)
    (part,) = path.parent.glob("*.part.jsonl")
    assert not path.exists()
    return part


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions.jsonl"


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The file of an evaluation that nothing disturbed."""
    draft = Draft(tmp_path / "whole" / "predictions.jsonl", {})
    evaluate(Scripted(answer), EXAMPLES, SMALL, draft, seed=0)
    draft.finish()
    (only,) = (tmp_path / "whole").iterdir()
    return only.read_bytes()


def test_a_killed_evaluation_goes_on_after_its_last_batch(path: Path, whole: bytes) -> None:
    begun(path, {})
    router, told = Scripted(answer), list[tuple[int, int]]()
    draft = Draft(path, {})
    evaluate(router, EXAMPLES, SMALL, draft, seed=0, on_progress=lambda *now: told.append(now))
    draft.finish()
    assert asked(router) == 10
    assert told == [(16, 22), (20, 22), (22, 22)]
    assert path.read_bytes() == whole


def test_an_evaluation_that_was_killed_while_timing_decides_nothing_again(path: Path) -> None:
    begun(path, {}, most=22)
    router = Scripted(answer)
    made, _ = evaluate(router, EXAMPLES, SMALL, Draft(path, {}), seed=0)
    assert asked(router) == 0
    assert [p.id for p in made] == [e.id for e in EXAMPLES]


@pytest.mark.parametrize("cut", [1, 100])
def test_a_torn_last_line_is_decided_again(path: Path, whole: bytes, cut: int) -> None:
    part = begun(path, {})
    part.write_bytes(part.read_bytes()[:-cut])
    router, draft = Scripted(answer), Draft(path, {})
    evaluate(router, EXAMPLES, SMALL, draft, seed=0)
    draft.finish()
    assert asked(router) == 11
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [None, b'{"part":7}\n', b"\x00\x00\n"])
def test_what_was_begun_with_something_else_is_begun_anew(
    path: Path, whole: bytes, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    part = begun(path, {"dataset": "another"})
    if content is not None:
        part.write_bytes(part.read_bytes() + content)
    router, draft = Scripted(answer), Draft(path, {"dataset": "this"})
    assert draft.done == set()
    assert f"{part}:" in caplog.text
    assert "begun anew" in caplog.text
    evaluate(router, EXAMPLES, SMALL, draft, seed=0)
    draft.finish()
    assert asked(router) == 22
    assert path.read_bytes() == whole


def test_a_finished_file_stays_until_the_next_is_whole(path: Path, whole: bytes) -> None:
    path.write_bytes(whole)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Dying(12), EXAMPLES, SMALL, Draft(path, {}), seed=0)
    assert path.read_bytes() == whole


def test_what_could_not_be_had_is_asked_again_and_alone(path: Path, whole: bytes) -> None:
    missing = [EXAMPLES[i].context for i in (0, 5, 6)]

    def flaky(context: Context) -> Decision:
        return Decision("reply", error="HTTP 503") if context in missing else answer(context)

    made, _ = evaluate(Scripted(flaky), EXAMPLES, SMALL, Draft(path, {}), seed=0)
    assert [i for i, p in enumerate(made) if p.decision.error] == [0, 5, 6]
    router, draft = Scripted(answer), Draft(path, {})
    evaluate(router, EXAMPLES, SMALL, draft, seed=0)
    draft.finish()
    assert asked(router) == 3
    assert path.read_bytes() == whole


def test_an_endpoint_that_gave_nothing_is_asked_anew_and_given_up_anew(path: Path) -> None:
    broken = Scripted(lambda context: Decision("reply", error="HTTP 401"))
    for _ in range(2):
        with pytest.raises(EndpointError, match="first 20 decisions"):
            evaluate(broken, EXAMPLES, SMALL, Draft(path, {}), seed=0)
    assert sum(broken.batches) == 40
    evaluate(Scripted(answer), EXAMPLES, SMALL, draft := Draft(path, {}), seed=0)
    assert len(draft.done) == 22


def test_figures_are_those_of_predictions_in_memory(path: Path) -> None:
    examples = [example(i, call(TOOLS[i % 3]), f"g{i // 5}", i % 4) for i in range(90)]
    held = [Prediction.of(e, answer(e.context)) for e in examples]
    thresholds = [Threshold(0.2, 0.1, None, 0.5, None, None, 1.0, 90, 18)]
    run = write_run(path.parent / "a-s0", "a", held, thresholds=thresholds)
    begun(path, {}, examples=examples)
    streamed, _ = evaluate(Scripted(answer), examples, SMALL, Draft(path, {}), seed=0)
    expected = run_report(run, held, TIMING, FAST)
    assert expected["routers"][0]["risk"]
    assert run_report(run, streamed, TIMING, FAST) == expected
    assert run_report(run, load(run.predictions), TIMING, FAST) == expected


def test_a_limited_part_is_read_like_a_whole_one() -> None:
    some = limited(EXAMPLES, 9, 0, "max_examples")
    kept = [e for e in EXAMPLES if e in list(some)]
    assert list(some) == kept
    assert 0 < len(some) == len(kept) <= 9
    assert list(some[1:3]) == kept[1:3]
    assert some[-1] == kept[-1]


class Made(Sequence[Example]):
    """Examples that are made when they are asked for, as a dataset decodes them."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.n))]
        if index >= self.n:
            raise IndexError
        return self.made(index)

    def made(self, index: int) -> Example:
        return example(index, call(TOOLS[index % 3]), group=f"g{index // 4}")


class Watched(Made):
    """Counts the contexts that are in memory."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.alive = self.most_alive = 0

    def made(self, index: int) -> Example:
        made = super().made(index)
        weakref.finalize(made.context, self._freed)
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        return made

    def _freed(self) -> None:
        self.alive -= 1


def test_few_contexts_are_in_memory_at_a_time(path: Path) -> None:
    """Two batches while deciding, then those that are timed, and all of a part or some."""
    for n in (60, 400):
        for limit in (None, n - 1):
            examples = Watched(n)
            config = SMALL.model_copy(update={"max_examples": limit})
            draft = Draft(path, {"n": n, "limit": limit})
            made, _ = evaluate(Scripted(answer), examples, config, draft, seed=0)
            assert len(made) == (n if limit is None else n - 4)
            assert examples.most_alive < 20


def peak(folder: Path, n: int) -> int:
    """Bytes that deciding so many examples needs at most."""
    draft = Draft(folder / f"{n}.jsonl", {})
    names = [f"tool_{i}" for i in range(20)]
    router = Scripted(lambda context: replace(call("a"), scores=dict.fromkeys(names, 0.05)))
    tracemalloc.start()
    for prediction in predict(router, Made(n), 32):
        draft.add(prediction)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(draft.done) == n
    return most


def test_memory_while_deciding_does_not_grow_with_the_number_of_decisions(tmp_path: Path) -> None:
    """But for ids and their places in the draft, under 300 bytes of each decision."""
    peak(tmp_path, 32)  # what is made once
    few, many = peak(tmp_path, 2_000), peak(tmp_path, 10_000)
    assert many - few < 8_000 * 300
