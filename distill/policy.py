"""Which decisions of a router are acted on locally, and why the others go to the LLM.

A decision is **taken** when it passes every rule below, and else sent **upstream** for the first
that it breaks. Of several calls in one decision each must pass.

1. It calls. A reply's words are the LLM's.
2. Its tools are offered and in `allow`, and none is `sensitive`.
3. Its arguments are filled in and fit the tool's JSON Schema (`distill.validation`).
4. It has a confidence, and one that reaches the threshold: `threshold` where the config names one,
   else that of the promise stored with the router for `alpha` and `delta`. With `per_tool` this is
   the promise for the called tool, in routers that have such promises; where the data supports
   none, nothing is taken. A decision without a confidence is never taken, whatever the threshold.
5. **Provenance.** From the first result of an `untrusted` tool on, strangers may have a say in the
   conversation. A call is then taken only if its tool is `read_only` and each of its values is
   supported by a message that strangers had no part in: any before that result, and after it
   those of user and system alone. Later results and the assistant's own words and calls may repeat
   what the stranger wrote, so they support nothing. How values are looked up, and that those which
   the schema lists need no support, `distill.routers.grounding` says. A result of which it is not
   known what tool returned it is untrusted, if any tool is.

The limits of the last rule: it is about who named a value, not about why. A stranger can still have
a read-only tool called with a value that the user named, and a short value such as `1` is soon
found somewhere. It guards what is done locally, not what the LLM does when it is asked.

A promise is about what a router decides on traffic like its calibration part; the rules about tools
only ever take less. This module knows no model and makes no call.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from distill.config import PolicyConfig
from distill.errors import ConfigError
from distill.routers.confidence import Threshold
from distill.routers.grounding import unsupported
from distill.types import Context, Decision, Message, ToolCall
from distill.validation import check_arguments


class Reason(StrEnum):
    """What became of a decision: taken, or the first rule that it breaks."""

    TAKEN = "taken"
    REPLY = "reply"
    NOT_OFFERED = "tool not offered"
    NOT_ALLOWED = "tool not allowed"
    SENSITIVE = "sensitive tool"
    NOT_FILLED = "arguments not filled in"
    INVALID_ARGUMENTS = "arguments break the tool's schema"
    NO_CONFIDENCE = "no confidence"
    NO_PROMISE = "no promise is supported"
    NOT_CONFIDENT = "confidence below the threshold"
    ACTS_AFTER_UNTRUSTED = "not a read-only tool, after an untrusted result"
    UNTRUSTED_VALUE = "a value that nobody trusted named, after an untrusted result"


@dataclass(frozen=True)
class Verdict:
    """What the policy says of a decision; `tool` is the one that broke the rule, if one did."""

    reason: Reason
    tool: str | None = None

    @property
    def taken(self) -> bool:
        return self.reason is Reason.TAKEN

    def __bool__(self) -> bool:
        # Whoever asks a policy only whether must not take a refusal, an object, for a yes.
        return self.taken


class Policy:
    """A config's rules with a router's thresholds.

    Args:
        config: what the user allows.
        thresholds: the promises of `router.json`; without any, none is supported.

    Raises:
        ConfigError: the router has promises, but none for this `alpha` and `delta`.
    """

    def __init__(self, config: PolicyConfig, thresholds: Sequence[Threshold] = ()) -> None:
        self.config = config
        self._promises: dict[str | None, float | None] = {}
        if config.threshold is not None:
            self._promises = {None: config.threshold}
            return
        self._promises = {
            promise.tool: promise.threshold
            for promise in thresholds
            if math.isclose(promise.alpha, config.alpha)
            and math.isclose(promise.delta, config.delta)
            and (promise.tool is None or config.per_tool)
        }
        if thresholds and not self._promises:
            stored = sorted({(promise.alpha, promise.delta) for promise in thresholds})
            known = ", ".join(f"alpha={alpha:g} delta={delta:g}" for alpha, delta in stored)
            raise ConfigError(
                "policy",
                f"the router has no promise for alpha={config.alpha:g} delta={config.delta:g}",
                f"use one of: {known}; or: distill calibrate RUN --alpha {config.alpha:g}"
                f" --delta {config.delta:g}",
            )

    def __call__(self, decision: Decision, context: Context) -> Verdict:
        """Whether to act on a decision in the context that it was made for."""
        if decision.action == "reply":
            return Verdict(Reason.REPLY)
        for call in decision.calls:
            reason = self._form(call, context)
            if reason is not None:
                return Verdict(reason, call.name)
        for call in decision.calls:
            reason = self._confidence(call, decision.confidence)
            if reason is not None:
                return Verdict(reason, call.name)
        trusted = self._trusted(context.messages)
        if trusted is not None:
            for call in decision.calls:
                reason = self._provenance(call, Context(trusted, context.tools))
                if reason is not None:
                    return Verdict(reason, call.name)
        return Verdict(Reason.TAKEN)

    def sure_of_reply(self, decision: Decision) -> bool:
        """Whether a reply is as certain as a call must be under the promise of all decisions."""
        threshold = self._promises.get(None)
        if decision.action != "reply" or decision.confidence is None or threshold is None:
            return False
        return decision.confidence >= threshold

    def require_known(self, tools: Iterable[str]) -> None:
        """Raise ConfigError where a rule is about a tool that is not among these.

        For programs that know all their tools: a rule with a misspelt name protects nobody.
        """
        known = set(tools)
        for field in ("allow", "sensitive", "untrusted", "read_only"):
            for name in getattr(self.config, field) or ():
                if name not in known:
                    raise ConfigError(
                        f"policy.{field}",
                        f"no tool is called {name!r}",
                        f"the tools are: {', '.join(sorted(known))}",
                    )

    def _form(self, call: ToolCall, context: Context) -> Reason | None:
        """Whether the call may be made at all, and could be."""
        spec = next((tool for tool in context.tools if tool.name == call.name), None)
        if spec is None:
            return Reason.NOT_OFFERED
        if self.config.allow is not None and call.name not in self.config.allow:
            return Reason.NOT_ALLOWED
        if call.name in self.config.sensitive:
            return Reason.SENSITIVE
        if call.arguments is None:
            return Reason.NOT_FILLED
        if check_arguments(call, spec) is not None:
            return Reason.INVALID_ARGUMENTS
        return None

    def _confidence(self, call: ToolCall, confidence: float | None) -> Reason | None:
        if confidence is None:
            return Reason.NO_CONFIDENCE
        of_tools = any(tool is not None for tool in self._promises)
        threshold = self._promises.get(call.name if of_tools else None)
        if threshold is None:
            return Reason.NO_PROMISE
        return None if confidence >= threshold else Reason.NOT_CONFIDENT

    def _provenance(self, call: ToolCall, trusted: Context) -> Reason | None:
        if call.name not in self.config.read_only:
            return Reason.ACTS_AFTER_UNTRUSTED
        (spec,) = (tool for tool in trusted.tools if tool.name == call.name)
        return Reason.UNTRUSTED_VALUE if unsupported(call, spec, trusted) else None

    def _trusted(self, messages: Sequence[Message]) -> tuple[Message, ...] | None:
        """The messages that strangers had no part in; None where they had none in any."""
        if not self.config.untrusted:
            return None
        origins = zip(messages, _origins(messages), strict=True)
        doubtful = {*self.config.untrusted, None}
        first = next(
            (
                i
                for i, (message, tool) in enumerate(origins)
                if message.role == "tool" and tool in doubtful
            ),
            None,
        )
        if first is None:
            return None
        said = (message for message in messages[first:] if message.role in ("user", "system"))
        return (*messages[:first], *said)


def _origins(messages: Sequence[Message]) -> Iterator[str | None]:
    """Of each message the tool that returned it; None where that is not known, or it is no result.

    The call that a result answers to is believed before the name that the result bears.
    """
    called: dict[str, str] = {}
    for message in messages:
        called |= {call.id: call.name for call in message.calls if call.id is not None}
        yield called.get(message.call_id or "", message.name) if message.role == "tool" else None
