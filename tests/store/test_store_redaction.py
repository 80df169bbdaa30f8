"""What a config names never reaches the disk, and everything else does as it was."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_values import values
from hypothesis import given, settings
from hypothesis import strategies as st
from record_values import TOOL, answer, ask, record, result, switches, user

from distill.config import StoreConfig
from distill.store import Store
from distill.store.redact import REDACTED, Redaction
from distill.types import Decision, ToolCall

NAMES = ["email", "Größe", 'odd"key']


@pytest.fixture(scope="module")
def folder_and_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Store]]:
    folder = tmp_path_factory.mktemp("store")
    store = Store(StoreConfig(url=f"sqlite:///{folder}/gateway.db", redact=NAMES))
    yield folder, store
    store.close()


def nested(secret: Any) -> st.SearchStrategy[Any]:
    """JSON with the secret under a redacted key somewhere, in texts that are JSON, too."""
    keys = st.sampled_from([spelling for name in NAMES for spelling in (name, name.upper())])
    hidden = st.builds(lambda key: {key: secret}, keys)
    text = st.builds(
        lambda value, ascii_: json.dumps(value, ensure_ascii=ascii_), hidden, st.booleans()
    )
    return st.recursive(
        hidden | text,
        lambda inner: (
            st.lists(inner | values, min_size=1, max_size=3)
            | st.dictionaries(st.text(max_size=5), inner, min_size=1, max_size=2)
            | st.builds(json.dumps, inner)
        ),
        max_leaves=4,
    )


@settings(max_examples=40)
@given(data=st.data(), number=st.integers(10**12, 10**13))
def test_no_redacted_value_is_in_the_files(folder_and_store, data, number):
    folder, store = folder_and_store
    secret = f"secret-{number}"
    place = nested(secret)
    value = data.draw(place)
    arguments = {"to": value, "email": secret}
    calls = switches("c", **arguments)
    item = record(
        id=f"{number:032x}",
        decision=Decision("call", (ToolCall("switch", arguments),)),
        request=ask(user("Off."), calls, result("c", json.dumps(data.draw(place))))
        | {"metadata": data.draw(place)},
        response=answer(calls),
    )
    asyncio.run(store.put(item))
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    assert secret.encode() not in content
    found = store.get(item.id)
    assert found is not None
    assert found.decision is not None
    assert found.decision.calls[0].arguments["email"] == REDACTED
    json.loads(found.response["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])


@given(value=st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_without_such_a_key_nothing_changes(value):
    redaction = Redaction(["a key that hypothesis does not make"])
    text = json.dumps(value, indent=1)
    message = result("c", text)
    body = {"messages": [message], "x": [value], "y": text}
    assert redaction.request(body) == body
    assert redaction.value(body) == body


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"email": "ann@', False),
        ("{'email': 'ann@example.com'}", False),
        ('{"email": "ann"}\n{"email": "ben"}', False),
        ('{"a": "{\\"email\\": \\"ann', False),
        ('[{"gr\\u00f6\\u00dfe": 3', False),
        ("{email: ann}", False),
        ('{"a": {"email": "ann"}, "a": 1}', False),
        ("[ERROR] no such address", True),
        ("{'emails': 3}", True),
        ("Nothing found.", True),
    ],
)
def test_text_that_begins_like_json_and_names_such_a_key_is_left_out(text, kept):
    redacted = Redaction(NAMES).value(result("c", text))["content"]
    assert (redacted == text) == kept
    assert "ann" not in redacted


def test_arguments_that_cannot_be_read_are_left_out():
    call = {"function": {"name": "send", "arguments": 'to: ann, {"x'}}
    assert Redaction(NAMES).value(call) == {"function": {"name": "send", "arguments": REDACTED}}
    assert Redaction([]).value(call) == call


def test_a_tools_name_is_no_persons_name():
    body = ask(
        {"role": "user", "name": "Ann", "content": "Off."},
        switches("c", name="Ann"),
        result("c", '{"name": "Ann"}') | {"name": "switch"},
    )
    body["tool_choice"] = {"type": "function", "function": {"name": "switch"}}
    redacted = Redaction(["name"]).request(body)
    said, called, returned = redacted["messages"]
    assert said["name"] == REDACTED
    assert called["tool_calls"][0]["function"]["name"] == "switch"
    assert returned["name"] == "switch"
    assert "Ann" not in json.dumps(redacted)
    assert redacted["tools"] == [TOOL]
    assert redacted["tool_choice"] == body["tool_choice"]
    assert list(redacted) == list(body)


def test_all_arguments_may_be_left_out(sqlite_url, open_store):
    store = open_store(sqlite_url, redact=["arguments"])
    asyncio.run(store.put(record(0)))
    (found,) = store.records()
    assert found.decision.calls == (ToolCall("switch", None),)
    function = found.response["choices"][0]["message"]["tool_calls"][0]["function"]
    assert function == {"name": "switch", "arguments": REDACTED}


def test_a_definition_stays_unless_it_is_named_itself():
    schema = {"type": "object", "properties": {"email": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "send", "parameters": schema}}
    assert Redaction(["email"]).request({"tools": [tool]}) == {"tools": [tool]}
    assert Redaction(["tools"]).request({"tools": [tool]}) == {"tools": REDACTED}


def test_the_record_that_is_put_is_left_as_it_is(sqlite_url, open_store):
    store = open_store(sqlite_url, redact=["on", "content"])
    item = record(0)
    before = json.dumps([item.request, item.response])
    asyncio.run(store.put(item))
    assert json.dumps([item.request, item.response]) == before
    assert item == record(0)
