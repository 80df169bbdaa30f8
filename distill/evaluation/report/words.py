"""What the figures say, in sentences: which router is best, by how much, and how surely.

It reads the report's JSON and knows nothing of how it is shown. A difference is called clear when
its p-value, adjusted by Holm for all pairs, is below 5%.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.evaluation.report import formats

_CLEAR = 0.05
_FEW_GROUPS = 30
_NAMED_PAIRS = 4

Report = Mapping[str, Any]


def title(report: Report) -> str:
    """The one line to remember."""
    best = report["routers"][0]
    return (
        f"{best['name']} makes the teacher's choice of tools in "
        f"{formats.value(best['tool_accuracy'])} of unseen decisions"
    )


def findings(report: Report) -> list[str]:
    """The result in a few sentences, most important first."""
    best, *rest = report["routers"]
    sentences = [
        f"The 95% interval of this figure is {formats.interval(best['tool_accuracy'])}%, "
        f"from {best['n_examples']} distinct decisions in {best['n_groups']} groups. "
        f"{_ceiling(report)}"
    ]
    if rest:
        sentences += [_lead(report), _order(report)]
    sentences.append(_fastest(report))
    return [sentence for sentence in sentences if sentence]


def caveats(report: Report) -> list[str]:
    """What a reader should know before relying on the figures."""
    routers = report["routers"]
    notes = [
        "The teacher's decisions count as right. The figures say how well a router imitates them, "
        "not whether a task ends well.",
    ]
    if report["teacher"]["self_agreement"] is not None:
        contexts = report["teacher"]["self_agreement_contexts"]
        seen = (
            f" It rests on {contexts} contexts that the traces hold more than once."
            if contexts
            else ""
        )
        notes.append(
            "The ceiling is how often two of the teacher's answers to one context agree. It is a "
            "mark to measure against and no hard limit: always giving the teacher's most frequent "
            f"answer can exceed it.{seen}"
        )
    few = min(router["n_groups"] for router in routers)
    if few < _FEW_GROUPS:
        notes.append(
            f"Only {few} groups were tested: intervals from so few are too narrow, and more "
            "traces would change the figures."
        )
    if all(len(router["by_seed"]) == 1 for router in routers):
        notes.append(
            "Each router was trained under one seed. The intervals cover the choice of test "
            "conversations, not the luck of split and training; more seeds would show it."
        )
    else:
        notes.append(
            "The intervals cover the choice of test conversations; the luck of split and training "
            "shows in the spread between seeds."
        )
    if len({tuple(entry["seed"] for entry in router["by_seed"]) for router in routers}) > 1:
        notes.append(
            "Not all routers have the same seeds: their own figures are over different test parts. "
            "The paired differences use common decisions only."
        )
    if len(routers) > 1:
        notes.append(
            "The best router is named after looking at the test part, so where several are close "
            "its own figure flatters it slightly."
        )
    if not all(router["fills_arguments"] for router in routers):
        notes.append(
            "Routers marked “tools only” choose tools without filling in arguments; their "
            "call accuracy counts right replies only."
        )
    if len(_machines(report)) > 1:
        notes.append("Runs were timed on different hardware: compare their speed with care.")
    return notes


def clear(pair: Mapping[str, Any]) -> bool:
    """Whether a paired difference is statistically clear."""
    return bool(pair["p_value_holm"] < _CLEAR)


def machine(hardware: Mapping[str, Any]) -> str:
    """Hardware in words: processor, cores, GPUs."""
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    return f"{hardware['cpu']}, {hardware['cores']} cores, {gpus}"


def _machines(report: Report) -> Sequence[Mapping[str, Any]]:
    hardware = report["evaluation"]["hardware"]
    return hardware if isinstance(hardware, list) else [hardware]


def _ceiling(report: Report) -> str:
    agreement = report["teacher"]["self_agreement"]
    if agreement is None:
        return "How often the teacher agrees with itself is not known, so there is no ceiling."
    share = report["routers"][0]["share_of_ceiling"]
    return (
        f"The teacher agrees with itself in {formats.percent(agreement)}, the ceiling for "
        f"imitation; the router reaches {formats.percent(share)} of it."
    )


def _lead(report: Report) -> str:
    best, second = report["routers"][:2]
    pair = _pair(report, best["name"], second["name"])
    if pair is None:
        return f"{best['name']} and {second['name']} share no test decision, so no lead is known."
    by = (
        f"{formats.points(pair['difference'])} percentage points "
        f"(95% interval {formats.points(pair['low'])} to {formats.points(pair['high'])})"
    )
    if clear(pair):
        return (
            f"{best['name']} leads {second['name']}, the next, by {by}; "
            f"this is statistically clear (p {_p(pair)})."
        )
    return (
        f"The lead of {best['name']} over {second['name']}, the next, is {by}; "
        f"this may be chance (p {_p(pair)}): the data does not tell the two apart."
    )


def _order(report: Report) -> str:
    if len(report["routers"]) < 3:
        return ""
    pairs = [pair for pair in report["paired"] if pair["metric"] == "tool_accuracy"]
    unclear = [f"{pair['a']} and {pair['b']}" for pair in pairs if not clear(pair)]
    if not unclear:
        return "The whole order of the routers is statistically clear."
    if len(unclear) > _NAMED_PAIRS:
        return f"Of {len(pairs)} pairs of routers, {len(unclear)} are not told apart statistically."
    return f"Not told apart statistically: {'; '.join(unclear)}. All other pairs are."


def _fastest(report: Report) -> str:
    """The fastest router that is not clearly worse than the best."""
    best, *rest = report["routers"]
    rivals = []
    for router in rest:
        pair = _pair(report, best["name"], router["name"])
        if pair is not None and not clear(pair):
            rivals.append(router)
    fastest = min([best, *rivals], key=lambda router: router["latency_ms"]["p50"])
    time = formats.milliseconds(fastest["latency_ms"]["p50"])
    if fastest is best:
        return f"A decision of {best['name']} takes {time} (median, one at a time)."
    return (
        f"Where speed matters, consider {fastest['name']}: not clearly worse, and {time} per "
        f"decision against {formats.milliseconds(best['latency_ms']['p50'])} (medians)."
    )


def _pair(report: Report, a: str, b: str) -> Mapping[str, Any] | None:
    found = (
        pair
        for pair in report["paired"]
        if (pair["a"], pair["b"], pair["metric"]) == (a, b, "tool_accuracy")
    )
    return next(found, None)


def _p(pair: Mapping[str, Any]) -> str:
    text = formats.p_value(pair["p_value_holm"])
    return text if text.startswith("<") else f"= {text}"
