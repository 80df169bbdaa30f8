"""The arms of the history experiment: what the LLM that words the reply is shown of tool calls.

`own`: it called the tools itself, as recorded. `handed`: it is given what they returned as a user's
text. `synthetic`: a router called them, and it sees the calls as though it had made them
(`distill.history`). A request whose reply is to be words need not offer tools, so each history can
be had with and without them: that tells what the history does from what the tools' definitions do.
Knows no model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from distill.config import ArmName
from distill.history import as_if_called, handed
from distill.types import Context, Message

_HISTORIES: dict[str, Callable[[tuple[Message, ...]], tuple[Message, ...]]] = {
    "own": tuple,
    "handed": handed,
    "synthetic": as_if_called,
}


@dataclass(frozen=True)
class Arm:
    """One way to show the LLM a conversation; `tools`: whether the request offers them."""

    name: str
    history: str
    tools: bool

    def shown(self, recorded: Context) -> Context:
        """What the LLM is shown of a recorded conversation."""
        messages = _HISTORIES[self.history](recorded.messages)
        return Context(messages, recorded.tools if self.tools else ())


ARMS: dict[ArmName, Arm] = {
    "own": Arm("own", "own", tools=True),
    "own-no-tools": Arm("own-no-tools", "own", tools=False),
    "handed": Arm("handed", "handed", tools=False),
    "handed-with-tools": Arm("handed-with-tools", "handed", tools=True),
    "synthetic": Arm("synthetic", "synthetic", tools=True),
    "synthetic-no-tools": Arm("synthetic-no-tools", "synthetic", tools=False),
}
"""Each arm by name; a plain name is how the history would be used."""
