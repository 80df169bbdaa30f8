"""Written conversations of `orderdesk` and their execution into traces.

A script holds what people say and what the assistant decides; every tool result comes from
running the call on a fresh shop. `python -m distill.sample.replay` prints the counts, with
file names also the conversations; conversations/README.md describes the format.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distill.sample.desk import TOOLS, call, problem
from distill.sample.shop import SHOP_NAME, TODAY, diff, open_shop, shop_state
from distill.types import Message, Outcome, ToolCall, Trace

CONVERSATIONS = Path(__file__).with_name("conversations")
SOURCE = "orderdesk"
# The author of the scripts is the language model that wrote this project, so that is the
# teacher here: no recorded traffic, and no other model, stands behind the decisions.
TEACHER = "conversation author"

SYSTEM_PROMPT = f"""\
You are the support assistant of {SHOP_NAME}, a web shop for kitchen goods, prices in euros. \
Today is {TODAY}.
Look things up before you answer and never guess a number; ask when order, item or customer \
is unclear. Act only on what the customer asks for.
Cancelling and address changes are possible until an order is shipped. Returns: 30 days after \
delivery, food only if damaged or wrong. Lost or damaged: replace if in stock, else refund. \
Refunds above 100.00 and corrected invoices: billing ticket. Warranty and safety: quality \
ticket. Lost or misdelivered parcels we cannot settle: logistics ticket. For questions on rules \
or care search the help pages. Off topic: decline kindly."""

Arguments = dict[str, Any]
Calls = Annotated[dict[str, Arguments], Field(min_length=1, max_length=1)]


class ReplayError(ValueError):
    """A script that cannot be read, does not fit the tools or changes the shop otherwise."""


class Turn(BaseModel):
    """One step: `call` or `calls` or `reply` or `user`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    call: Calls | None = None
    calls: Annotated[list[Calls], Field(min_length=2)] | None = None
    reply: Annotated[str, Field(min_length=1)] | None = None
    user: Annotated[str, Field(min_length=1)] | None = None
    depends: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> "Turn":
        if sum(part is not None for part in (self.call, self.calls, self.reply, self.user)) != 1:
            raise ValueError("a turn is exactly one of call, calls, reply and user")
        if self.depends and self.user is not None:
            raise ValueError("depends belongs to a decision, not to a user turn")
        return self

    @property
    def chosen(self) -> list[tuple[str, Arguments]]:
        """Name and arguments of each call; empty for replies and user turns."""
        calls = [self.call] if self.call is not None else self.calls or []
        return [pair for single in calls for pair in single.items()]


class Conversation(BaseModel):
    """One script, as the YAML files hold it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    user: Annotated[str, Field(min_length=1)]
    turns: Annotated[list[Turn], Field(min_length=1)]
    changes: dict[str, Any] = {}

    @model_validator(mode="after")
    def _order(self) -> "Conversation":
        asked, known = True, False
        for number, turn in enumerate(self.turns, start=1):
            if (turn.user is None) != asked:
                raise ValueError(f"turn {number}: a reply and a user turn must take turns")
            if turn.depends and not known:
                raise ValueError(f"turn {number}: depends, but nothing was returned before it")
            known = known or bool(turn.chosen)
            asked = turn.reply is None
        if asked:
            raise ValueError("the last turn must be a reply")
        return self


def load_conversations(paths: Iterable[Path] | None = None) -> list[Conversation]:
    """All conversations of the files (default: the packaged ones), in order."""
    if paths is None:
        paths = sorted(CONVERSATIONS.glob("*.yaml"))
    loaded: dict[str, Conversation] = {}
    for path in paths:
        try:
            entries = yaml.load(_read(path), Loader=_Loader)
        except yaml.YAMLError as error:
            raise ReplayError(f"{path.name}: {' '.join(str(error).split())}") from error
        if not isinstance(entries, list):
            raise ReplayError(f"{path.name}: not a list of conversations")
        for number, entry in enumerate(entries, start=1):
            name = entry.get("id", f"number {number}") if isinstance(entry, dict) else number
            try:
                conversation = Conversation.model_validate(entry)
            except ValidationError as error:
                raise ReplayError(f"{path.name}: {name}: {_explain(error)}") from error
            if conversation.id in loaded:
                raise ReplayError(f"{path.name}: {name}: this id is already used")
            loaded[conversation.id] = conversation
    return list(loaded.values())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        why = f"{error.strerror}; name a file of scripts, such as {CONVERSATIONS / 'first.yaml'}"
        raise ReplayError(f"{path}: {why}") from error
    except UnicodeDecodeError as error:
        raise ReplayError(f"{path}: not UTF-8 text; save it as UTF-8") from error


class _Loader(yaml.SafeLoader):
    """Dates stay text, because the shop and JSON hold them as text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class declares it
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _explain(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, part['loc'])) or 'conversation'}: {part['msg']}"
        for part in error.errors()
    )


def run(conversation: Conversation) -> tuple[Trace, dict[str, object]]:
    """Execute a script on a fresh shop: its trace, and what it changed."""
    conn = open_shop()
    before = shop_state(conn)
    messages = [Message("system", SYSTEM_PROMPT), Message("user", conversation.user)]
    count = 0
    for turn in conversation.turns:
        if turn.user is not None:
            messages.append(Message("user", turn.user))
        elif turn.reply is not None:
            messages.append(Message("assistant", turn.reply))
        else:
            calls = tuple(
                ToolCall(name, arguments, id=f"call_{number}")
                for number, (name, arguments) in enumerate(turn.chosen, start=count + 1)
            )
            count += len(calls)
            messages.append(Message("assistant", calls=calls))
            for chosen in calls:
                wrong = problem(chosen)
                if wrong is not None:
                    raise ReplayError(f"{conversation.id}: {chosen.name}: {wrong}")
                content = _json(call(conn, chosen))
                messages.append(Message("tool", content, call_id=chosen.id, name=chosen.name))
    changes = diff(before, shop_state(conn))
    conn.close()
    trace = Trace(
        id=f"{SOURCE}/{conversation.id}",
        group=conversation.id,
        teacher=TEACHER,
        source=SOURCE,
        tools=TOOLS,
        messages=tuple(messages),
        outcome=Outcome(success=True),
    )
    return trace, changes


def replay(conversation: Conversation) -> Trace:
    """The trace of a script; raises ReplayError if the shop changed otherwise than it says."""
    trace, changes = run(conversation)
    if changes != conversation.changes:
        raise ReplayError(
            f"{conversation.id}: expected changes {_json(conversation.changes)},"
            f" but the calls made {_json(changes)}"
        )
    return trace


_FREE_TEXT = ("query", "subject", "text")


def groups(conversations: Iterable[Conversation]) -> dict[str, str]:
    """Which group each script's trace belongs to, by the script's id.

    That is its own id, unless an earlier script makes the same calls: then it is that one's. Two
    scripts may tell different stories and still leave a router the same decisions to make, about
    the same orders. A split between them would examine it on what it was trained on.
    """
    first: dict[str, str] = {}
    return {one.id: first.setdefault(_case(one), one.id) for one in conversations}


def _case(conversation: Conversation) -> str:
    """The calls of a script, in any order and spelling, with free text in any words."""
    calls = [pair for turn in conversation.turns for pair in turn.chosen]
    if not calls:
        return conversation.id
    said = {key for _, arguments in calls for key in arguments}
    # Free text is one of many good wordings. Where calls hold nothing else, such as two searches,
    # it is all there is to tell them apart.
    compared = said.difference(_FREE_TEXT) or said
    spelled = [
        [
            name,
            *(f"{key}={_spelled(arguments[key])}" for key in sorted(compared & arguments.keys())),
        ]
        for name, arguments in calls
    ]
    return _json(sorted(spelled))


def _spelled(value: object) -> str:
    # 10 and 10.0 are one amount, 040-628 and 040 628 one phone.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(float(value))
    return _plain(value)


def traces() -> Iterator[Trace]:
    """The traces of all packaged conversations, those that make the same calls in one group."""
    conversations = load_conversations()
    group = groups(conversations)
    for conversation in conversations:
        yield replace(replay(conversation), group=group[conversation.id])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def composition(conversations: Sequence[Conversation]) -> dict[str, Any]:
    """Counts over scripts: decision points, shares of kinds, use of each tool."""
    turns = [turn for one in conversations for turn in one.turns if turn.user is None]
    total = max(len(turns), 1)
    used = Counter(name for turn in turns for name, _ in turn.chosen)
    return {
        "conversations": len(conversations),
        "decision_points": len(turns),
        "replies": sum(turn.reply is not None for turn in turns) / total,
        "parallel": sum(len(turn.chosen) > 1 for turn in turns) / total,
        "depends": sum(turn.depends for turn in turns) / total,
        "tools": {spec.name: used[spec.name] for spec in TOOLS},
    }


_ID_ARGUMENTS = ("order_id", "customer_id", "sku")


def lint(conversation: Conversation, trace: Trace) -> list[str]:
    """Doubts about a script: numbers from nowhere, and `depends` that seems forgotten."""
    said, returned = "", ""
    decisions = (turn for turn in conversation.turns if turn.user is None)
    doubts = []
    for message in trace.messages:
        if message.role == "user":
            said += _plain(message.content) + " "
        elif message.role == "tool":
            returned += _plain(message.content) + " "
        elif message.role == "assistant":
            turn = next(decisions)
            for chosen in message.calls:
                for name, value in (chosen.arguments or {}).items():
                    if name not in _ID_ARGUMENTS or _plain(value) in said:
                        continue
                    where = f"{chosen.id} {chosen.name}: {name} {value}"
                    if _plain(value) not in returned:
                        doubts.append(f"{where} was never mentioned")
                    elif not turn.depends:
                        doubts.append(f"{where} comes from a result: depends: true is missing")
    return doubts


def _plain(value: object) -> str:
    # People write "ket 204" and "#1042" for KET-204 and 1042.
    return re.sub(r"[\s#-]+", "", str(value)).lower()


def _show(conversation: Conversation) -> str:
    trace, changes = run(conversation)
    lines = [f"=== {conversation.id}"]
    for message in trace.messages[1:]:
        for chosen in message.calls:
            lines.append(f"  -> {chosen.name} {_json(chosen.arguments)}")
        if message.role == "tool":
            mark = "  !! " if (message.content or "").startswith('{"error"') else "  <- "
            lines.append(f"{mark}{message.name} {message.content}")
        elif message.content is not None:
            lines.append(f"{message.role.upper()}: {message.content}")
    lines += [f"  WARNING {doubt}" for doubt in lint(conversation, trace)]
    if changes != conversation.changes:
        lines.append("  MISMATCH, the calls made:")
        lines.append(_changes_yaml(changes) if changes else "  (no changes)")
    return "\n".join(lines)


def _changes_yaml(changes: dict[str, object]) -> str:
    text = yaml.safe_dump(
        {"changes": changes},
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=10_000,
    )
    # A flat mapping is written in one line, which is what a script wants to hold.
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())


def _add_changes(path: Path) -> int:
    """Append `changes` to the scripts of a file that change the shop and name no changes."""
    text = _read(path)
    blocks = re.split(r"^(?=- id:)", text, flags=re.MULTILINE)
    conversations = load_conversations([path])
    added = 0
    for number, conversation in enumerate(conversations, start=len(blocks) - len(conversations)):
        changes = {} if conversation.changes else run(conversation)[1]
        if changes:
            body = blocks[number].rstrip("\n")
            gap = blocks[number][len(body) :]
            blocks[number] = f"{body}\n{_changes_yaml(changes)}{gap}"
            added += 1
    path.write_text("".join(blocks), encoding="utf-8")
    return added


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line for people who write conversations."""
    parser = argparse.ArgumentParser(prog="python -m distill.sample.replay", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="scripts to print in full")
    parser.add_argument("--id", help="print only this conversation")
    parser.add_argument("--fix", action="store_true", help="add missing changes to the files")
    options = parser.parse_args(arguments)
    try:
        for path in options.files if options.fix else ():
            print(f"{path.name}: changes added to {_add_changes(path)} conversations")
        conversations = load_conversations(options.files or None)
        if options.id and options.id not in {one.id for one in conversations}:
            parser.error(f"--id {options.id}: no such conversation; give an id of the files read")
        failed = 0
        for conversation in conversations:
            if options.id in (None, conversation.id):
                shown = _show(conversation)
                doubtful = "\n  MISMATCH" in shown or "\n  WARNING" in shown
                failed += doubtful
                if options.files or options.id or doubtful:
                    print(shown, end="\n\n")
    except ReplayError as error:
        print(f"ERROR {error}", file=sys.stderr)
        return 2
    for name, value in composition(conversations).items():
        print(f"{name}: {f'{value:.1%}' if isinstance(value, float) else value}")
    alike = Counter(groups(conversations).values())
    print(f"groups: {len(alike)}, of them {sum(n > 1 for n in alike.values())} of several")
    print(f"to look at: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
