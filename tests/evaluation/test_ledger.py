"""A ledger: what comes back, what a kill leaves, what is tried again, what is refused."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import RouterError
from distill.evaluation.ledger import Ledger

SETTINGS = {"made": "up"}


def row(i: int, **more: Any) -> dict[str, Any]:
    return {"id": f"t{i}", "error": None, **more}


def begun(path: Path, *rows: dict[str, Any], part: str = "a") -> Ledger:
    ledger = Ledger(path, SETTINGS, part)
    for each in rows:
        ledger.add(each)
    return ledger


values = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
rows = st.lists(
    st.tuples(st.text(), st.dictionaries(st.sampled_from(["group", "x", "error"]), values)),
    max_size=4,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: [{"id": name, **more} for name, more in pairs])


@given(rows, st.text())
def test_rows_come_back_as_they_were(tmp_path_factory, made, part: str):
    path = tmp_path_factory.mktemp("ledger") / "tasks.jsonl"
    assert list(begun(path, *made, part=part).rows()) == made
    again = Ledger(path, SETTINGS, part)
    assert list(again.rows()) == made
    assert again.done == {each["id"] for each in made if each.get("error") is None}


@pytest.mark.parametrize("cut", [1, 20, 30])
def test_it_goes_on_after_its_last_whole_line(tmp_path: Path, cut: int):
    path = tmp_path / "tasks.jsonl"
    begun(path, *map(row, range(3)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    again = Ledger(path, SETTINGS, "a")
    assert again.done == {"t0", "t1"}
    again.add(row(2))
    assert path.read_bytes() == whole


def test_half_a_first_line_is_none(tmp_path: Path):
    path = tmp_path / "tasks.jsonl"
    begun(path, row(0))
    whole = path.read_bytes()
    path.write_bytes(b'{"part":"a","settings":{"made":"' + b"x" * 200_000)
    again = Ledger(path, SETTINGS, "a")
    assert again.done == set()
    assert path.read_bytes() == b""
    again.add(row(0))
    assert path.read_bytes() == whole


def test_errors_are_tried_again_and_the_later_row_counts(tmp_path: Path):
    path = tmp_path / "tasks.jsonl"
    ledger = begun(path, row(0, error="broken"), row(1), row(2, error="broken"))
    assert ledger.done == {"t1"}
    Ledger(path, SETTINGS, "a").add(row(0))
    again = Ledger(path, SETTINGS, "a")
    assert again.done == {"t0", "t1"}
    assert list(again.rows()) == [row(0), row(1), row(2, error="broken")]


def test_parts_share_a_file_and_do_not_mix(tmp_path: Path):
    path = tmp_path / "tasks.jsonl"
    begun(path, row(0))
    other = Ledger(path, {"made": "otherwise", "more": 1}, "b")
    other.add(row(1))
    assert Ledger(path, SETTINGS, "a").done == {"t0"}
    before = path.read_bytes()
    with pytest.raises(
        RouterError, match=r"tasks\.jsonl:1: a was begun with other settings \(made, more\)"
    ):
        Ledger(path, other.settings, "a")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{oops", ":1: not JSON"),
        (b"[]", ":1: not a row"),
        (b'{"id":"t0"}', ":1: not a row"),
        (b'{"settings":{"made":"up"}}', ":1: not a row"),
        (b'{"part":"a","id":"t0"}\n', ":1: not a row"),
        (b'{"part":"a","settings":7}\n', ":1: not a row"),
        (b'{"part":"a","settings":{"made":"up"}}\n{"part":"a"}\n', ":2: not a row"),
    ],
)
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes, fault: str):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(content)
    with pytest.raises(RouterError, match=fault):
        Ledger(path, SETTINGS, "a")
    assert path.read_bytes() == content
