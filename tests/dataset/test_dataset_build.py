"""The whole: deterministic bytes, stable splits, nothing uncounted, faults that name cures."""

import random
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_datasets import CONFIG, all_examples, contents, make, parts_by_group
from made_traces import BOOK, SEARCH, calls, many, says, search, trace, user

from distill.config import DataConfig, SplitConfig
from distill.dataset import build
from distill.dataset.parts import PARTS
from distill.dataset.points import decision_points
from distill.dataset.similar import jaccard
from distill.dataset.split import part_of
from distill.errors import DatasetError
from distill.types import Message, ToolCall, ToolSpec, Trace

FOUND = Message("tool", "found")
STAGES = ["read", "split", "write"]


def mixed() -> list[Trace]:
    """Good traces among every kind of fault, with copies and near copies."""
    good = list(many(40, group_size=2))
    copies = [
        Trace(f"copy-{t.id}", t.group, t.teacher, t.source, t.tools, t.messages) for t in good[:7]
    ]
    long = "I would like to book a table for four people at the place near the station, please"
    return [
        *good,
        *copies,
        good[0],
        trace("near-1", user(long), calls(search("x")), group="near"),
        trace("near-2", user(long + "!"), calls(search("x")), group="near"),
        trace("failed", user("x"), calls(search("x")), FOUND, says("y"), success=False),
        trace("unknown", user("x"), calls(ToolCall("cancel", {})), says("y")),
        trace("wrong", user("x"), calls(ToolCall("book", {"seats": "2"})), says("y")),
        trace(
            "broken",
            user("x"),
            calls(ToolCall("odd", {})),
            tools=(ToolSpec("odd", "", {"type": "none"}),),
        ),
        trace("greets", says("Hello"), user("x"), Message("assistant"), group="greets"),
    ]


def test_the_same_traces_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    traces = [t for i, t in enumerate(mixed()) if t.id not in {s.id for s in mixed()[:i]}]
    make(traces, tmp_path / "a")
    random.Random(1).shuffle(traces)
    make(traces, tmp_path / "b")
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    assert {Path(name).name for name in first} == {
        "examples.arrow",
        "messages.arrow",
        "catalogues.jsonl",
        "manifest.json",
        "README.md",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_examples_come_back_as_they_were(tmp_path: Path) -> None:
    traces = list(many(40))
    _, dataset = make(traces, tmp_path / "d")
    expected = {point.id: point for made in traces for point in decision_points(made)}
    got = all_examples(dataset)
    assert {e.id: e for e in got} == expected
    assert len(got) == len(expected)
    assert all(parts_by_group(dataset)[e.group] == part_of(e.group, CONFIG.split, 0) for e in got)


def test_every_decision_point_is_kept_merged_or_counted(tmp_path: Path) -> None:
    manifest, dataset = make(mixed(), tmp_path / "d")
    kept = all_examples(dataset)
    dropped, merged = manifest["dropped"], manifest["merged"]
    assert dropped == {
        "trace graded as failed": 2,
        "trace id seen before": 3,
        "called tool not offered": 1,
        "arguments break the tool's schema": 1,
        "called tool has a broken schema": 1,
    }
    assert merged == {"exact": 21, "near": 1}
    assert manifest["skipped_turns"] == {"empty assistant turn": 1, "no user message yet": 1}
    total = len(kept) + sum(merged.values()) + sum(dropped.values())
    points = sum(1 for made in mixed() for _ in decision_points(made))
    assert total == manifest["n_decision_points"] == points
    assert sum(e.weight for e in kept) == len(kept) + sum(merged.values())
    assert manifest["n_traces"] == len(mixed())
    assert manifest["n_groups"] == len({e.group for e in kept})
    counts = Counter(parts_by_group(dataset).values())
    for part in PARTS:
        expected = {"examples": len(dataset.examples(part)), "groups": counts[part]}
        assert manifest["parts"][part] == expected


def test_kept_invalid_arguments_are_not_dropped(tmp_path: Path) -> None:
    config = DataConfig(invalid_arguments="keep")
    manifest, dataset = make(mixed(), tmp_path / "d", config)
    assert "arguments break the tool's schema" not in manifest["dropped"]
    (wrong,) = (e for e in all_examples(dataset) if e.id == "wrong#0")
    assert wrong.label.calls == (ToolCall("book", {"seats": "2"}),)


def test_adding_traces_moves_nothing_that_was_not_merged(tmp_path: Path) -> None:
    _, small = make(many(60), tmp_path / "small")
    _, large = make([*many(60, prefix="new"), *many(60)], tmp_path / "large")
    after = parts_by_group(large)
    assert {g: after[g] for g in parts_by_group(small)} == parts_by_group(small)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.text(min_size=1, max_size=6), min_size=1, max_size=8), st.integers(0, 3))
def test_whatever_is_added_an_old_group_stays(tmp_path: Path, names: set[str], seed: int) -> None:
    config = DataConfig(split=SplitConfig(merge_jaccard=None))
    added = [trace(f"new {n}", user("t0"), says("ok"), group=f"new {n}") for n in names]
    _, dataset = make([*added, *many(60)], tmp_path / "d", config, seed)
    for group, part in parts_by_group(dataset).items():
        assert part == part_of(group, config.split, seed)


@pytest.mark.parametrize(
    ("seed", "key", "part"),
    [
        (0, "g0001", "test"),
        (1, "g0001", "train"),
        (0, "task 2", "validation"),
        (7, "task 0", "calibration"),
        (7, "überweisung", "train"),
    ],
)
def test_a_group_stays_where_earlier_versions_put_it(seed: int, key: str, part: str) -> None:
    """Or figures of before and after an upgrade are over different tests."""
    assert part_of(key, SplitConfig(), seed) == part


def test_no_similar_requests_in_two_parts(tmp_path: Path) -> None:
    draw = random.Random(2)
    traces = []
    for i in range(150):
        words = ["".join(draw.choices("abcdefghij", k=5)) for _ in range(12)]
        for j in range(2):
            words[draw.randrange(12)] += "s"
            text = " ".join(words)
            traces.append(trace(f"{i}-{j}", user(text), calls(search(text)), FOUND, says("ok")))
    manifest, dataset = make(traces, tmp_path / "d")
    assert manifest["n_groups"] < manifest["n_group_keys"] == 300
    place = {
        e.context.messages[0].content or "": (part, e.group)
        for part in PARTS
        for e in dataset.examples(part)
    }
    texts = sorted(place)
    assert len(texts) == 300
    close = [(a, b) for a, b in pairwise(texts) if jaccard(a, b) >= 0.8]
    assert len(close) > 50
    assert all(place[a] == place[b] for a, b in close)

    apart = DataConfig(split=SplitConfig(merge_jaccard=None))
    _, leaky = make(traces, tmp_path / "leaky", apart)
    part = parts_by_group(leaky)
    assert any(part[f"{i}-0"] != part[f"{i}-1"] for i in range(150))


def test_equal_requests_of_different_group_keys_are_one_group(tmp_path: Path) -> None:
    """One unit of the split and of every interval: their decisions are not independent."""
    extra = [trace(f"same{i}", user("What now?"), says("Tea."), group=f"s{i}") for i in range(9)]
    manifest, dataset = make([*many(60), *extra], tmp_path / "d")
    same = [e for e in all_examples(dataset) if e.trace_id.startswith("same")]
    assert len(same) == 9
    assert len({e.group for e in same}) == 1
    assert same[0].group in {f"s{i}" for i in range(9)}
    assert (manifest["n_group_keys"], manifest["n_groups"]) == (69, 61)
    assert sum(part["groups"] for part in manifest["parts"].values()) == 61
    assert "69 keys made 61 groups" in " ".join((tmp_path / "d/README.md").read_text().split())


def test_the_teacher_is_counted_before_merging(tmp_path: Path) -> None:
    def observed(name: str, label: Message, teacher: str, number: int) -> Trace:
        clock = Message("system", f"{number} o'clock")
        return trace(name, clock, user("tea or coffee"), label, group="g", teacher=teacher)

    tea, coffee = calls(search("tea")), says("coffee")
    asked = [
        observed("1", tea, "a", 1),
        observed("2", tea, "a", 2),
        observed("3", coffee, "a", 3),
        observed("4", coffee, "b", 4),
    ]
    manifest, dataset = make([*many(60), *asked], tmp_path / "d")
    teacher = manifest["teacher"]
    assert teacher["name"] == "a, b, teacher"
    assert teacher["self_agreement"] == pytest.approx(1 / 3)
    assert teacher["label_agreement"] == pytest.approx(2 / 6)
    assert teacher["self_agreement_contexts"] == teacher["label_agreement_contexts"] == 1
    weights = {e.id: e.weight for e in all_examples(dataset) if e.group == "g"}
    assert weights == {"1#0": 2, "3#0": 2}


def test_another_seed_is_another_split_of_the_same_examples(tmp_path: Path) -> None:
    first, a = make(many(60), tmp_path / "a", seed=0)
    second, b = make(many(60), tmp_path / "b", seed=1)
    assert first["hash"] != second["hash"]
    assert parts_by_group(a) != parts_by_group(b)
    assert {e.id for e in all_examples(a)} == {e.id for e in all_examples(b)}


def test_shares_are_kept_on_average() -> None:
    counts = Counter(part_of(f"group {i}", SplitConfig(), 3) for i in range(10_000))
    shares = {part: counts[part] / 10_000 for part in PARTS}
    assert shares == pytest.approx(
        {"train": 0.6, "validation": 0.1, "calibration": 0.1, "test": 0.2}, abs=0.02
    )


def test_catalogues_are_stored_once_and_shared(tmp_path: Path) -> None:
    other = (BOOK, ToolSpec("late", "Not in every trace."))
    extra = [trace(f"x{i}", user(f"{i} {i}"), says("y"), tools=other) for i in range(20)]
    manifest, dataset = make([*many(40), *extra], tmp_path / "d")
    lines = (tmp_path / "d" / "catalogues.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert manifest["tools"] == ["book", "late", "search"]
    distinct = {id(example.context.tools) for example in all_examples(dataset)}
    assert len(distinct) == 2
    assert {tool.name for tool in dataset.catalogue()} == {"book", "late", "search"}
    assert (
        dict(zip(["search", "book"], (SEARCH, BOOK), strict=True)).items()
        <= {tool.name: tool for tool in dataset.catalogue()}.items()
    )


def test_progress_names_the_stages(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    build(
        many(120),
        CONFIG,
        0,
        tmp_path / "d",
        source="test",
        progress=lambda stage, done: seen.append((stage, done)),
    )
    assert [stage for stage, _ in seen] == sorted((s for s, _ in seen), key=STAGES.index)
    assert ("read", 120) in seen
    assert ("split", 120) in seen
    assert seen[-1] == ("write", 360)


def test_a_file_is_named_with_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text("abc")
    manifest = build(many(40), CONFIG, 0, tmp_path / "d", source=str(file))
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest["source"] == {"name": "traces.jsonl", "sha256": digest, "catalogues": {}}
    assert digest in (tmp_path / "d" / "README.md").read_text()
    assert str(tmp_path) not in (tmp_path / "d" / "manifest.json").read_text()


def test_nothing_left_says_why(tmp_path: Path) -> None:
    traces = [
        trace("a", user("x"), says("y"), success=False),
        trace("b", user("x"), calls(ToolCall("cancel", {}))),
        trace("c", says("hello")),
    ]
    with pytest.raises(DatasetError, match="no decision point is left of 3 traces") as caught:
        make(traces, tmp_path / "d")
    for count in ("graded as failed: 1", "not offered: 1", "no user message yet: 1"):
        assert count in caught.value.fault
    with pytest.raises(DatasetError, match="holds no traces"):
        make([], tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_a_part_without_a_group_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no group falls into") as caught:
        make(many(2), tmp_path / "d")
    assert "2 groups" in caught.value.fault
    assert "another seed" in caught.value.cure
    alike = [trace(f"{i}", user("the same"), says("y")) for i in range(50)]
    with pytest.raises(DatasetError, match=r"50 groups .* merge into 1") as merged:
        make(alike, tmp_path / "d")
    assert "merge_jaccard" in merged.value.cure


def test_a_part_of_no_share_may_stay_empty(tmp_path: Path) -> None:
    config = DataConfig(split=SplitConfig(train=0.5, validation=0, calibration=0))
    manifest, dataset = make(many(20), tmp_path / "d", config)
    assert manifest["parts"]["calibration"] == {"examples": 0, "groups": 0}
    assert len(dataset.examples("calibration")) == 0


def test_one_decision_is_nothing_to_learn(tmp_path: Path) -> None:
    traces = [trace(f"{i}", user(f"{i * 7919}"), says("y"), group=f"group {i}") for i in range(60)]
    with pytest.raises(DatasetError, match=r"train knows a single decision \(reply"):
        make(traces, tmp_path / "d")


def test_a_failed_build_leaves_the_old_folder(tmp_path: Path) -> None:
    make(many(40), tmp_path / "d")
    before = contents(tmp_path / "d")

    def torn() -> Iterable[Trace]:
        yield from many(10)
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="ends here"):
        make(torn(), tmp_path / "d")
    with pytest.raises(DatasetError):
        make(many(2), tmp_path / "d")
    assert contents(tmp_path / "d") == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
