"""The folder: what is stored once, read lazily, and refused when it is not whole."""

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from datasets.load import load_dataset as load_arrow
from made_datasets import contents, make
from made_traces import calls, many, says, search, trace, user

from distill.chat import parse_messages, trace_json
from distill.config import DataConfig, SplitConfig
from distill.dataset import load_dataset
from distill.dataset.parts import PARTS
from distill.errors import DatasetError
from distill.types import Message, Trace


def test_the_folder_opens_with_datasets(tmp_path: Path) -> None:
    manifest, dataset = make(many(40), tmp_path / "d")
    loaded = load_arrow(str(tmp_path / "d"), cache_dir=str(tmp_path / "cache"))
    assert {part: len(loaded[part]) for part in loaded} == {
        part: manifest["parts"][part]["examples"] for part in PARTS
    }
    row, example = loaded["test"][1], dataset.examples("test")[1]
    messages = load_arrow(str(tmp_path / "d"), "messages", cache_dir=str(tmp_path / "cache"))
    texts = messages["test"][row["start"] : row["end"]]["message"]
    assert parse_messages([orjson.loads(text) for text in texts]) == example.context.messages
    assert (row["step"], row["n_tools"], row["n_calls"], row["n_arguments"]) == (1, 2, 1, 1)


def long_traces(n: int, turns: int) -> Iterator[Trace]:
    """`n` traces of `turns` calls with results of some 300 characters."""
    for i in range(n):
        draw = Random(i)
        messages = [user(" ".join(str(draw.randrange(10**6)) for _ in range(8)))]
        for turn in range(turns):
            made = search(f"{i} {turn}", f"c{turn}")
            result = Message("tool", f"{draw.random()} " * 16, call_id=f"c{turn}", name="search")
            messages += [calls(made), result]
        yield trace(f"t{i}", *messages, says("Done."))


def test_the_size_grows_linearly_with_the_length_of_conversations(tmp_path: Path) -> None:
    """A decision's context is a prefix of its trace's messages, which are stored once."""

    def size(turns: int) -> int:
        manifest, _ = make(long_traces(30, turns), tmp_path / str(turns))
        assert sum(part["examples"] for part in manifest["parts"].values()) == 30 * (turns + 1)
        return sum(map(len, contents(tmp_path / str(turns)).values()))

    sizes = [size(turns) for turns in (10, 20, 40)]
    assert all(after < 2.1 * before for before, after in pairwise(sizes))
    spelled_out = sum(len(orjson.dumps(trace_json(made))) for made in long_traces(30, 40))
    assert sizes[-1] < 3 * spelled_out


def test_examples_of_a_trace_share_their_messages(tmp_path: Path) -> None:
    _, dataset = make(long_traces(30, 5), tmp_path / "d")
    first, second, *_ = dataset.examples("train")[:6]
    assert first.trace_id == second.trace_id
    assert first.context.messages == second.context.messages[:1]
    assert first.context.messages[0] is second.context.messages[0]


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_examples_read_in_any_order_are_the_same(tmp_path: Path, threshold: float | None) -> None:
    """Also where merged duplicates leave gaps between the kept examples of a trace."""
    config = DataConfig(drop_duplicates=threshold)
    again = [
        trace(f"again-{t.id}", user(f"{t.messages[0].content}!"), *t.messages[1:-3], group=t.group)
        for t in long_traces(12, 4)
    ]
    manifest, dataset = make([*many(40), *long_traces(12, 4), *again], tmp_path / "d", config)
    assert (manifest["merged"]["near"] > 0) == (threshold is not None)
    examples = dataset.examples("train")
    in_order = list(examples)
    places = list(range(len(examples)))
    Random(0).shuffle(places)
    assert all(examples[place] == in_order[place] for place in places)


def test_a_part_holds_no_messages_of_another(tmp_path: Path) -> None:
    _, dataset = make(many(60), tmp_path / "d")
    for part in PARTS:
        stored = (tmp_path / "d" / part / "messages.arrow").read_bytes()
        for other in PARTS:
            asked = {e.context.messages[1].content or "" for e in dataset.examples(other)}
            assert all((text.encode() in stored) == (part == other) for text in asked)


def test_what_follows_the_last_kept_decision_is_not_stored(tmp_path: Path) -> None:
    make(many(40), tmp_path / "d")
    stored = b"".join(contents(tmp_path / "d").values())
    assert b"booked" in stored
    assert b"Done, " not in stored


def test_long_messages_are_checked_a_few_at_a_time(tmp_path: Path) -> None:
    """Opening 40 MB of messages takes a few MB: batches are cut by bytes, not by rows."""
    config = DataConfig(split=SplitConfig(train=0.9, validation=0, calibration=0))

    def huge() -> Iterator[Trace]:
        for made in many(40):
            result = Message("tool", "x" * 1_000_000, call_id=f"a{int(made.id[1:])}")
            yield trace(made.id, *made.messages[:3], result, says(f"{made.id}"))

    make(huge(), tmp_path / "d", config)
    tracemalloc.start()
    try:
        load_dataset(tmp_path / "d")
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()


def test_examples_slice_like_a_list(tmp_path: Path) -> None:
    _, dataset = make(many(40), tmp_path / "d")
    examples = dataset.examples("train")
    assert examples[2:5] == [examples[2], examples[3], examples[4]]
    assert examples[-1] == list(examples)[-1]
    with pytest.raises(IndexError):
        examples[len(examples)]


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def spoil(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "manifest.json").unlink(),
        lambda d: (d / "manifest.json").write_text("{"),
        lambda d: (d / "manifest.json").write_text('{"format": 1}'),
        lambda d: (d / "manifest.json").write_text("[]"),
        lambda d: (d / "test" / "examples.arrow").unlink(),
        lambda d: (d / "test" / "messages.arrow").unlink(),
        lambda d: cut(d / "train" / "messages.arrow", 0.6),
        lambda d: spoil(d / "train" / "messages.arrow", b"found", b"f\xffund"),
        lambda d: spoil(d / "train" / "messages.arrow", b"found", b"Found"),
        lambda d: spoil(d / "test" / "examples.arrow", b"search", b"Search"),
        lambda d: cut(d / "train" / "examples.arrow", 0.6),
        lambda d: cut(d / "train" / "examples.arrow", 0),
        lambda d: (d / "test" / "examples.arrow").write_text("not Arrow at all" * 100),
        lambda d: (d / "train").rename(d / "other"),
        lambda d: (d / "catalogues.jsonl").unlink(),
        lambda d: cut(d / "catalogues.jsonl", 0.5),
        lambda d: (d / "catalogues.jsonl").write_text(""),
        lambda d: (d / "train" / "examples.arrow").write_bytes(
            (d / "test" / "examples.arrow").read_bytes()
        ),
        lambda d: (d / "train" / "messages.arrow").write_bytes(
            (d / "test" / "messages.arrow").read_bytes()
        ),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: Any) -> None:
    make(many(40), tmp_path / "d")
    damage(tmp_path / "d")
    with pytest.raises(DatasetError, match="distill build"):
        load_dataset(tmp_path / "d")


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a dataset folder"):
        load_dataset(tmp_path)
