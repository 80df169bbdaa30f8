import dataclasses
from collections import Counter
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import TOOLS, Scripted, call, example, predictions, save, simulate

from distill.chat import parse_decision
from distill.config import EvaluationConfig
from distill.errors import ConfigError, DatasetError, RouterError
from distill.evaluation.buckets import TITLES, by_bucket
from distill.evaluation.difficulty import Difficulty
from distill.evaluation.evaluate import evaluate
from distill.evaluation.latency import measure
from distill.evaluation.predictions import Draft, load
from distill.types import Context, Decision, Message, ToolCall

SMALL = EvaluationConfig(bootstrap=100, batch_size=4, latency_samples=6)
EXAMPLES = [example(i, call(TOOLS[i % 3]), group=f"g{i // 4}") for i in range(22)]

arguments = st.none() | st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
)
calls = st.lists(
    st.builds(ToolCall, st.text(min_size=1), arguments, st.none() | st.text(min_size=1)), max_size=3
)
decisions = st.builds(
    lambda made, confidence, scores: Decision(
        "call" if made else "reply", tuple(made), confidence, scores
    ),
    calls,
    st.none() | st.floats(0, 1),
    st.dictionaries(st.text(max_size=5), st.floats(0, 1), max_size=3),
)


@given(st.lists(st.tuples(decisions, decisions), min_size=1, max_size=4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_predictions_survive_the_file(
    tmp_path: Path, pairs: list[tuple[Decision, Decision]]
) -> None:
    made = predictions(pairs)
    save(tmp_path / "predictions.jsonl", made)
    assert load(tmp_path / "predictions.jsonl") == [p.unscored for p in made]
    lines = (tmp_path / "predictions.jsonl").read_bytes().splitlines()
    kept = [parse_decision(orjson.loads(line)["decision"]) for line in lines]
    assert kept == [p.decision for p in made], "scores are in the file"


@pytest.mark.parametrize("content", [None, b"", b"{}\n", b"[1]\n", b'{"id": "a"\n'])
def test_a_bad_predictions_file_is_refused_with_its_cure(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "predictions.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RouterError, match="distill evaluate") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_bad_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    save(path, predictions([(call(), call())] * 3))
    path.write_bytes(path.read_bytes() + b'{"id": 3}\n')
    with pytest.raises(RouterError, match=r"predictions\.jsonl:4: "):
        load(path)


def test_every_example_is_decided_once_in_order_and_in_batches(tmp_path: Path) -> None:
    router = Scripted(lambda context: call(context.messages[0].content or ""))
    progress: list[tuple[int, int]] = []
    draft = Draft(tmp_path / "predictions.jsonl", {})
    made, timing = evaluate(
        router, EXAMPLES, SMALL, draft, seed=0, on_progress=lambda *now: progress.append(now)
    )
    assert [p.id for p in made] == [e.id for e in EXAMPLES]
    assert [p.decision.tools for p in made] == [(f"request {i}",) for i in range(22)]
    assert router.batches[:6] == [4, 4, 4, 4, 4, 2]
    assert progress == [(4, 22), (8, 22), (12, 22), (16, 22), (20, 22), (22, 22)]
    assert timing["latency_samples"] == 6
    assert (timing["latency_ms"]["p95"], timing["latency_ms"]["p99"]) == (None, None)


def test_a_limit_keeps_whole_groups_that_the_seed_draws(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"max_examples": 9})
    router = Scripted(lambda context: call())

    def groups_of(seed: int, name: str) -> list[str]:
        draft = Draft(tmp_path / name, {})
        return [p.group for p in evaluate(router, EXAMPLES, config, draft, seed=seed)[0]]

    kept = {seed: groups_of(seed, f"{seed}.jsonl") for seed in range(6)}
    sizes = Counter(e.group for e in EXAMPLES)
    for groups in kept.values():
        assert len(groups) <= 9
        assert all(groups.count(group) == sizes[group] for group in groups)
    assert len({tuple(groups) for groups in kept.values()}) > 1
    assert kept[0] == groups_of(0, "again.jsonl")


def test_a_limit_below_one_group_and_an_empty_test_part_are_the_users_to_mend(
    tmp_path: Path,
) -> None:
    router, draft = Scripted(lambda context: call()), Draft(tmp_path / "p.jsonl", {})
    with pytest.raises(ConfigError, match="max_examples"):
        evaluate(router, EXAMPLES, SMALL.model_copy(update={"max_examples": 1}), draft, seed=0)
    with pytest.raises(DatasetError, match="no examples"):
        evaluate(router, [], SMALL, draft, seed=0)


def test_latency_is_timed_one_at_a_time_and_throughput_in_full_batches() -> None:
    router = Scripted(lambda context: call())
    timing = measure(router, [e.context for e in EXAMPLES[:3]], samples=10, batch_size=4)
    single, batched = Counter(router.batches)[1], Counter(router.batches)[4]
    assert single > 10  # the warm-up is not counted
    assert batched == 1 + 3  # one to warm up, three of four for ten samples
    assert single + batched == len(router.batches)
    latency = timing["latency_ms"]
    assert latency["p95"] is not None
    assert latency["p99"] is not None
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert timing["decisions_per_s"] > 0


def test_difficulty_is_read_off_the_example() -> None:
    label = Decision("call", (ToolCall("a", {"x": 1, "y": 2}), ToolCall("b", None)))
    assert Difficulty.of(example(0, label, turns=2)) == Difficulty(
        n_tools=len(TOOLS), step=2, n_calls=2, n_arguments=2, branches=0, length=39
    )


def test_difficulty_counts_turns_as_the_dataset_does() -> None:
    """Two messages of the assistant in a row are one turn."""
    messages = [Message(role, "x") for role in ("user", "assistant", "assistant", "user")]
    split = dataclasses.replace(example(0, call()), context=Context(tuple(messages), ()))
    assert Difficulty.of(split).step == 1


def test_a_weight_counts_in_a_bucket_and_groups_count_once() -> None:
    made = predictions([(call("a"), call("a")), (call("a"), call())] * 6, ["g", "h", "i"] * 4)
    heavy = [dataclasses.replace(p, weight=3.0) for p in made]
    copies = [p for p in made for _ in range(3)]
    assert by_bucket(heavy, 100) == by_bucket(copies, 100)
    (row,) = by_bucket(heavy, 100)["n_calls"]
    assert (row["n"], row["n_groups"]) == (36, 3)
    assert row["tool_accuracy"] == {"value": 0.5, "low": None, "high": None}


def test_buckets_hold_every_example_once_in_order() -> None:
    made = simulate(0.8, 0)
    report = by_bucket(made, 100)
    assert list(report) == list(TITLES)
    with_calls = sum(p.label.action == "call" for p in made)
    for dimension, rows in report.items():
        of_arguments = dimension in ("n_arguments", "dependent_steps", "argument_kind")
        total = with_calls if of_arguments else len(made)
        assert sum(row["n"] for row in rows) == total
        right = sum(row["n"] * row["tool_accuracy"]["value"] for row in rows)
        expected = [
            p.decision.tools == p.label.tools for p in made if not of_arguments or p.label.calls
        ]
        assert right == pytest.approx(sum(expected))
    assert [row["bucket"] for row in report["step"]] == ["0", "1", "2", "3-4", "5-9"]


def test_buckets_leave_out_what_did_not_occur() -> None:
    report = by_bucket(predictions([(call(), call())]), 100)
    assert [row["bucket"] for row in report["n_calls"]] == ["0"]
    assert report["n_arguments"] == report["argument_kind"] == []


def test_a_property_that_was_not_recorded_is_in_no_bucket(tmp_path: Path) -> None:
    """Predictions of before a property was recorded are still read."""
    made = predictions([(call("a"), call("a")), (call("a"), call())] * 6)
    save(tmp_path / "p.jsonl", made)
    lines = [orjson.loads(line) for line in (tmp_path / "p.jsonl").read_bytes().splitlines()]
    kept = ("n_tools", "step", "n_calls", "n_arguments")
    for line in lines[:4]:
        line["buckets"] = {name: line["buckets"][name] for name in kept}
    (tmp_path / "p.jsonl").write_bytes(b"\n".join(map(orjson.dumps, lines)))
    report = by_bucket(load(tmp_path / "p.jsonl"), 100)
    for dimension in ("complexity", "branches", "length", "dependent_steps", "argument_kind"):
        assert sum(row["n"] for row in report[dimension]) == 8
    assert sum(row["n"] for row in report["n_calls"]) == 12
