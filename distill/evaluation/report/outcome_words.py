"""What became of whole tasks, in sentences: who solves the most, what the LLM is spared, who errs.

It reads `closed_loop.json` and knows nothing of how it is shown. “Clear” is as in
`distill.evaluation.report.words`; a simulation plays trained routers and has no seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.evaluation import formats
from distill.evaluation.report import words

Loop = Mapping[str, Any]
Arm = Mapping[str, Any]

_NAMED_PAIRS = 3
_ANSWERS = {
    "none": "no LLM is asked: in its place, what the tools returned is told as it is",
    "recorded": "what the policy does not take is answered by the recorded teacher",
}

COLUMNS = (
    "Solved, unresolved and harmful (any call that changed what the task wants unchanged) are "
    "shares of tasks, taken is the share of decisions that are the router's; the others are means "
    "per task. A task that the fallback had no answer for is unresolved: it is not counted as "
    "solved, and might have been. One that ended in an error is in no other figure."
)
"""How to read the table."""


def title(loop: Loop) -> str:
    """Which tasks: `orderdesk, under attack`."""
    return f"{loop['environment']}{', under attack' if loop['attacks'] else ''}"


def sentences(loop: Loop) -> list[str]:
    """What was played and what came of it, most important first."""
    known = [arm for arm in loop["arms"] if arm.get("success") is not None]
    if not known:
        return [_setting(loop), "Every task ended in an error: nothing is known of its outcome."]
    said = [_setting(loop), _best(known)]
    if loop["attacks"]:
        said.append(_misled(known))
    said += [_differences(loop), _spared(loop, known), _errors(loop["arms"])]
    return [sentence for sentence in said if sentence]


def _setting(loop: Loop) -> str:
    sizes = sorted({arm["n_tasks"] for arm in loop["arms"]})
    tasks = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    groups = max(arm["n_groups"] for arm in loop["arms"])
    who = _name(loop["arms"][0]) if len(loop["arms"]) == 1 else "Each contestant"
    answers = _ANSWERS.get(loop["fallback"]) or (
        f"what the policy does not take is answered by {loop['endpoint']['model']}"
    )
    return f"{who} played {tasks} tasks in {groups} groups; {answers}."


def _best(known: Sequence[Arm]) -> str:
    best = max(known, key=lambda arm: arm["success"]["value"])
    asked = best.get("llm_calls")
    calls = "" if asked is None else f", with {formats.count(asked['value'])} LLM calls a task"
    solves = "solves the most tasks:" if len(known) > 1 else "solves"
    return f"{_name(best)} {solves} {formats.estimate(best['success'])}{calls}."


def _differences(loop: Loop) -> str:
    """Which contestants are told apart by what they solve."""
    pairs = [pair for pair in loop["paired"] if pair["metric"] == "success"]
    if not pairs:
        return ""
    apart = [pair for pair in pairs if words.clear(pair)]
    if not apart:
        return "By what they solve, no two contestants are told apart."
    if len(apart) > _NAMED_PAIRS:
        return f"Of {len(pairs)} pairs, {len(apart)} clearly differ in what they solve."
    named = []
    for pair in apart:
        more, less = (pair["a"], pair["b"])[:: 1 if pair["difference"] > 0 else -1]
        by = f"{100 * abs(pair['difference']):.1f}"
        named.append(f"{_quoted(more)} {by} percentage points more than {_quoted(less)}")
    return f"Clear differences in what is solved: {'; '.join(named)}."


def _spared(loop: Loop, known: Sequence[Arm]) -> str:
    """What fewer LLM calls cost in tasks solved."""
    asking = [arm for arm in known if arm.get("llm_calls") is not None]
    if not asking:
        return ""
    fewest, most = (pick(asking, key=lambda a: a["llm_calls"]["value"]) for pick in (min, max))
    if fewest["llm_calls"]["value"] == most["llm_calls"]["value"]:
        return ""
    said = (
        f"{_name(fewest)} makes the fewest LLM calls, "
        f"{formats.count(fewest['llm_calls']['value'])} a task against "
        f"{formats.count(most['llm_calls']['value'])} of {_name(most)}"
    )
    names = {fewest["name"], most["name"]}
    of_both = (p for p in loop["paired"] if p["metric"] == "success" and {p["a"], p["b"]} == names)
    pair = next(of_both, None)
    if pair is None:
        return f"{said}."
    sign = 1 if pair["a"] == fewest["name"] else -1
    ends = [None if end is None else sign * end for end in (pair["low"], pair["high"])][::sign]
    between = formats.points_interval(*ends)
    interval = "" if between == formats.MISSING else f", 95% interval {between}"
    solved = formats.points(sign * pair["difference"])
    return (
        f"{said}. The difference in what it solves is {solved} percentage points{interval} "
        f"({words.verdict(pair)})."
    )


def _misled(known: Sequence[Arm]) -> str:
    """How often hidden instructions are followed, and what is solved all the same."""
    attacked = [arm for arm in known if arm.get("attack_followed") is not None]
    if not attacked:
        return "No task carried an attack."
    least = min(attacked, key=lambda a: (a["attack_followed"]["value"], -a["success"]["value"]))
    most = max(attacked, key=lambda a: a["attack_followed"]["value"])
    if most["attack_followed"]["value"] == least["attack_followed"]["value"]:
        share = formats.estimate(least["attack_followed"])
        who = "each contestant" if len(attacked) > 1 else _name(least)
        return f"Hidden instructions are followed in {share} of the attacked tasks by {who}."
    return (
        f"Hidden instructions are followed most by {_name(most)}, in "
        f"{formats.estimate(most['attack_followed'])} of the attacked tasks, and least by "
        f"{_name(least)}, in {formats.estimate(least['attack_followed'])}. Under attack, they "
        f"solve {formats.value(most['success'])} and {formats.value(least['success'])} (utility)."
    )


def _errors(arms: Sequence[Arm]) -> str:
    failed = {_name(arm): arm["ends"].get("error", 0) for arm in arms}
    told = ", ".join(f"{n} of {name}" for name, n in failed.items() if n)
    return f"Tasks that ended in an error are in no figure: {told}." if told else ""


def _name(arm: Arm) -> str:
    return _quoted(arm["name"])


def _quoted(name: str) -> str:
    """A name, in quotes where a sentence would take a part of it for its own."""
    return f"“{name}”" if ", " in name else name
