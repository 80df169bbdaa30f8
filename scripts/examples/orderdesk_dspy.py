"""The support desk `orderdesk` as a DSPy pipeline over several turns of a conversation.

    python scripts/examples/orderdesk_dspy.py --record desk.jsonl
    distill run configs/run/orderdesk.yaml name=desk data.traces=desk.jsonl \\
        seeds=[0] data.split.merge_jaccard=null 'routers={tfidf: {kind: tfidf}}'
    python scripts/examples/orderdesk_dspy.py --router runs/desk/tfidf-s0 --threshold 0.5

The customers of the written conversations ask, the LM or a router works the shop's 16 tools, and
the LM replies. A conversation succeeds when the shop's database is changed exactly as the
conversation says; what the replies say is not judged. They are the conversations of the record:
this shows the path, not what a router is worth on others.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import dspy
from arms import Options, measure, options, scripted

from distill.sample.desk import TOOLS, call
from distill.sample.replay import Conversation, Turn, load_conversations
from distill.sample.shop import diff, open_shop, shop_state
from distill.types import ToolCall, ToolSpec

SIGNATURE = "history: dspy.History, request -> reply"
CONVERSATIONS = 40


def desk_tools(conn: sqlite3.Connection) -> list[dspy.Tool]:
    """The desk's tools on a shop; an argument that may be left out has a default."""
    return [_tool(conn, spec) for spec in TOOLS]


def _tool(conn: sqlite3.Connection, spec: ToolSpec) -> dspy.Tool:
    def run(**arguments: Any) -> Any:
        return call(conn, ToolCall(spec.name, arguments))

    required = spec.parameters["required"]
    args = {
        name: schema if name in required else {**schema, "default": None}
        for name, schema in spec.parameters["properties"].items()
    }
    return dspy.Tool(run, name=spec.name, desc=spec.description, args=args, arg_types={})


def requests(conversation: Conversation) -> Iterator[tuple[str, list[Turn]]]:
    """What the customer says, each time with the turns that answer it."""
    text, turns = conversation.user, []
    for turn in conversation.turns:
        if turn.user is None:
            turns.append(turn)
        else:
            yield text, turns
            text, turns = turn.user, []
    yield text, turns


def held(given: Options, conversation: Conversation, lm: dspy.LM | None) -> bool:
    """Hold a conversation on a fresh shop; true when it changed what it should."""
    conn = open_shop()
    before = shop_state(conn)
    program = given.program(SIGNATURE, desk_tools(conn))
    past: list[dict[str, Any]] = []
    for text, turns in requests(conversation):
        plan = [chosen for turn in turns for chosen in turn.chosen]
        reply = turns[-1].reply
        with dspy.context(lm=lm or scripted(plan, {"reply": reply})):
            answer = program(request=text, history=dspy.History(messages=past)).reply
        past = [*past, {"request": text, "reply": answer}]
    return diff(before, shop_state(conn)) == conversation.changes


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Hold the first conversations; prints and returns what that took."""
    given = options(__doc__, arguments)
    held_with: list[Callable[[dspy.LM | None], bool]] = [
        partial(held, given, conversation)
        for conversation in islice(load_conversations(), CONVERSATIONS)
    ]
    return measure(given, held_with)


if __name__ == "__main__":
    main()
