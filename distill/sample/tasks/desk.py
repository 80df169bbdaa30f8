"""`orderdesk` as an environment: each written conversation is a task.

The user says what the script says, whatever is answered. A task is solved when

- the shop ends up changed as the script says (`changes`) and not otherwise. Numbers that the shop
  itself gives to new rows do not count, nor does the wording of a ticket's subject; of an order's
  note its numbers do; and
- the facts of the author's replies were told (`distill.sample.tasks.facts`).

A call is **wrong** when the author does not make it in this conversation, or not so often: another
tool, or other arguments but for free text. It is **harmful** when it is wrong and changes the shop
otherwise than the script wants. So a router that finds another good path makes wrong calls, and yet
solves the task.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from distill.chat import canonical
from distill.environment import Score, Task
from distill.sample import desk
from distill.sample.replay import (
    SOURCE,
    SYSTEM_PROMPT,
    Conversation,
    groups,
    load_conversations,
    run,
)
from distill.sample.shop import KEYS, diff, open_shop, shop_state
from distill.sample.tasks.facts import required, told_of
from distill.types import Message, ToolCall, ToolSpec

READ_ONLY = (
    *("find_customer", "get_customer", "list_orders", "get_order", "track_shipment"),
    *("check_stock", "search_products", "search_help"),
)
"""The tools that change nothing in the shop."""

_FREE_TEXT = {"query", "subject", "text"}
_MOST_REASON = 200


class OrderDesk:
    """The conversations as tasks.

    Args:
        held_out: the group of each trace (`orderdesk/ID`) that makes a task; None: all of them, by
            the sample's own groups.
    """

    tools: Sequence[ToolSpec] = desk.TOOLS

    def __init__(self, held_out: Mapping[str, str] | None = None) -> None:
        scripts = load_conversations()
        own = groups(scripts)
        traces = {f"{SOURCE}/{script.id}": script for script in scripts}
        chosen = {trace: own[script.id] for trace, script in traces.items()}
        chosen = chosen if held_out is None else dict(held_out)
        self.groups = {trace: chosen[trace] for trace in traces if trace in chosen}
        self._scripts = traces
        self._ran: tuple[str, Sequence[Message]] = ("", ())

    def tasks(self) -> list[Task]:
        return [
            Task(trace, group, users(self._scripts[trace]), SYSTEM_PROMPT)
            for trace, group in self.groups.items()
        ]

    def script(self, task: Task) -> Conversation:
        """The conversation that a task is made of."""
        return self._scripts[task.id]

    def reset(self, task: Task) -> None:
        script = self.script(task)
        self._expected = _entries(script.changes)
        self._facts = required(self.record(task))
        self._unmade = Counter(_spelled(name, arguments) for name, arguments in made(script))
        self._wrong = self._harmful = 0
        self._shop = open_shop()
        self._before = self._now = shop_state(self._shop)

    def execute(self, call: ToolCall) -> str:
        spelled = _spelled(call.name, call.arguments or {})
        wanted = self._unmade[spelled] > 0
        self._unmade[spelled] -= wanted
        self._wrong += not wanted
        writes = self._shop.total_changes
        result = desk.call(self._shop, call)
        if self._shop.total_changes > writes:
            before, self._now = self._now, shop_state(self._shop)
            unexpected = _entries(diff(before, self._now)) - self._expected
            self._harmful += bool(unexpected) and not wanted
        return orjson.dumps(result).decode()

    def score(self, words: Sequence[str]) -> Score:
        changed = _entries(diff(self._before, self._now))
        told = told_of(self._facts, "\n".join(words))
        reasons = [f"not done: {entry}" for entry in (self._expected - changed).elements()]
        reasons += [f"not wanted: {entry}" for entry in (changed - self._expected).elements()]
        reasons += [f"not told: {fact}" for fact in self._facts if fact not in told]
        short = tuple(reason[:_MOST_REASON] for reason in reasons)
        return Score(not reasons, short, self._wrong, self._harmful)

    def record(self, task: Task) -> Sequence[Message]:
        script = self.script(task)
        if self._ran[0] != script.id:
            self._ran = (script.id, run(script)[0].messages)
        return self._ran[1]


def users(script: Conversation) -> tuple[str, ...]:
    """What the customer of a script says, turn by turn."""
    return (script.user, *(turn.user for turn in script.turns if turn.user is not None))


def made(script: Conversation) -> list[tuple[str, dict[str, Any]]]:
    """Name and arguments of each call that the author of a script makes."""
    return [pair for turn in script.turns for pair in turn.chosen]


def _spelled(name: str, arguments: Mapping[str, Any]) -> bytes:
    """A call but for its free text; 10 and 10.0 are one amount."""
    kept = {key: value for key, value in arguments.items() if key not in _FREE_TEXT}
    return canonical([name, kept])


def _entries(changes: Mapping[str, object]) -> Counter[str]:
    """What changed, a new row without the number that the shop gave it, free text aside."""
    found: Counter[str] = Counter()
    for place, value in changes.items():
        table = place.partition(".")[0]
        entry: object = [place, value]
        if isinstance(value, Mapping):
            row = {key: item for key, item in value.items() if key not in KEYS[table]}
            row.pop("subject", None)
            if "text" in row:
                row["text"] = re.findall(r"\d+", str(row["text"]))
            entry = [table, row]
        found[canonical(entry).decode()] += 1
    return found
