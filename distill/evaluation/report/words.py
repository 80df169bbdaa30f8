"""What the figures say, in sentences: which router is best, by how much, and how surely.

It reads the report's JSON and knows nothing of how it is shown. A difference is called clear when
its p-value, adjusted by Holm for all pairs, is below 5% and it has the same sign under every seed:
the p-value knows the luck of the test conversations, only the seeds that of split and training.
Limit: this tempers that luck and does not remove it. Where training moves accuracy by 3 points
(standard deviation), of equal routers tested on 60 groups a seed, one seed calls 25% different,
three seeds 15% and five 8% (simulated, before Holm).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.evaluation import formats
from distill.evaluation.intervals import MIN_GROUPS
from distill.evaluation.report import reach
from distill.evaluation.summary import agreement_of

_CLEAR = 0.05
_FEW_GROUPS = 20
_NAMED_PAIRS = 4
_MARGIN = 0.02
"""How much worse, at most, a faster router may be to be recommended. No significant difference is
no evidence of none: the interval's end decides (a non-inferiority margin)."""

PROMISE = (
    "From its threshold on, a router's decisions are to be wrong at most as often as stated, which "
    "the calibration part supports with the stated probability. What is taken, and how much of it "
    "is wrong, was then counted on the test part. “Seeds” says under how many the data supports "
    "a threshold; under the others nothing is taken. Decisions are judged on their arguments where "
    "these are filled in. The promise ends where requests are no longer like the traces."
)
"""What a table of thresholds says, and does not."""

SAVED = (
    "Of 1,000 decisions, each of which was a request to the LLM. A request is saved where the "
    "router's decision is confident enough and is a call with all its arguments: replies, calls "
    "without arguments and all that is not taken still pay the LLM, and this is net of them. "
    "Money leaves out what the router's own machine costs, and prompts that an endpoint keeps in a "
    "cache of its own; time is by medians, less the router's own. What follows from a wrong call "
    "is not in it."
)
"""What a table of savings says, and does not."""

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
    sentences = [f"{_interval(best)} {_agreement(report)}"]
    if rest:
        sentences += [_lead(report), _order(report)]
    sentences += [_promise(report), _fastest(report), reach.recommendation(report)]
    return [sentence for sentence in sentences if sentence]


def measured(router: Mapping[str, Any]) -> str:
    """What a router was measured on: `measured on 432 decisions in 27 groups over 3 seeds`.

    A decision that is tested under several seeds is counted once, and so is one that the teacher
    made several times.
    """
    seeds = len(router["by_seed"])
    return (
        f"measured on {_number(router['n_distinct'], 'distinct decision')} in "
        f"{_number(router['n_groups'], 'group')}{f' over {seeds} seeds' if seeds > 1 else ''}"
    )


def split(entry: Mapping[str, Any]) -> str:
    """One seed's split, `dataset.seeds[]`, in words."""
    whole = "all" if entry["n_measured"] == entry["n_test"] else entry["n_measured"]
    return (
        f"{entry['n_train']} decisions to train, {entry['n_calibration']} to calibrate, "
        f"{entry['n_test']} to test; measured on {whole} of them in "
        f"{_number(entry['n_measured_groups'], 'group')}"
    )


def caveats(report: Report) -> list[str]:
    """What a reader should know before relying on the figures."""
    routers = report["routers"]
    notes = [
        "The teacher's decisions count as right. The figures say how well a router imitates them, "
        "not whether a task ends well.",
    ]
    if agreement_of(report["teacher"]) is not None:
        notes.append(_agreement_note(report["teacher"]))
    few = min(router["n_groups"] for router in routers)
    if few < MIN_GROUPS:
        notes.append(
            f"Only {_number(few, 'group')} {'was' if few == 1 else 'were'} tested: too few to "
            "say how other groups would do, so there are no intervals and no p-values."
        )
    elif few < _FEW_GROUPS:
        notes.append(
            f"Only {few} groups were tested: intervals are wide for that, and more traces would "
            "change the figures."
        )
    if all(len(router["by_seed"]) == 1 for router in routers):
        notes.append(
            "Each router was trained under one seed. Intervals and p-values are about these "
            "trained routers: they cover the choice of test conversations, not the luck of split "
            "and training; more seeds would show it."
        )
    else:
        seeds = max(len(router["by_seed"]) for router in routers)
        notes.append(
            "The intervals cover the choice of test conversations; the luck of split and training "
            "shows in the spread between seeds. A difference is only called clear if every seed "
            f"shows it; {seeds} seeds do so by luck alone in one of {2 ** (seeds - 1)} cases."
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
            "Routers marked “tools only” choose tools without filling in arguments: in their call "
            "accuracy only replies and calls without arguments can be right."
        )
    notes += [_failures(router) for router in routers if router["failed"]["n"]]
    if any(router["kind"] == "endpoint" for router in routers):
        notes.append(
            "The time of a router of kind endpoint is that of its requests, network included and "
            "waits for a rate limit not; answers kept from before count with the time they took."
        )
    if len(_machines(report)) > 1:
        notes.append("Runs were timed on different hardware: compare their speed with care.")
    return notes


def costs(report: Report) -> list[str]:
    """Where the figures of cost come from, and which are missing."""
    cost = report["cost"]
    sentences = [_TOKENS[cost["tokens"]]]
    if cost["prices"] is None:
        sentences.append("No prices were stated, so nothing is said of money.")
    for name, price in (cost["prices"] or {}).items():
        kept = "" if price["cached"] is None else f", {price['cached']:g} for kept prompt tokens"
        sentences.append(
            f"{name}, per million tokens in {cost['currency']}: {price['input']:g} for the "
            f"prompt{kept}, {price['output']:g} for the answer, as stated on {price['date']}."
        )
    sentences += [
        f"No price was stated for {name}: its cost is not known."
        for name in cost["missing_prices"] or []
    ]
    if cost["prices"] is not None and cost["training_per_hour"] is None:
        sentences.append("What training costs an hour was not stated: no break-even is known.")
    for router in report["routers"]:
        spent = router["spent"]
        if spent is not None:
            sentences.append(_spent(router["name"], spent, cost["currency"]))
    return sentences


_TOKENS = {
    "recorded": "Tokens are the means that the teacher's usage in the traces states, shared among "
    "requests by their length; tool definitions have their share of a prompt's bytes.",
    "estimated": "The traces state no usage: tokens are estimated at four bytes of JSON each, and "
    "of answers only calls are counted.",
    None: "How long requests are is not in these runs' predictions, so no tokens are counted: "
    "evaluate them again.",
}


def _spent(name: str, spent: Mapping[str, Any], currency: str | None) -> str:
    if not spent["n"]:
        return f"{name} was asked {spent['requests']} times and never stated its usage."
    money = "" if spent["cost"] is None else f", {formats.money(spent['cost'])} {currency}"
    return (
        f"{name} takes {formats.count(spent['prompt_tokens'])} prompt tokens "
        f"({formats.count(spent['cached_tokens'])} of them kept by its endpoint) and "
        f"{formats.count(spent['output_tokens'])} of answers for 1,000 decisions{money}; usage was "
        f"stated for {spent['n']} of {spent['requests']} requests."
    )


def clear(pair: Mapping[str, Any]) -> bool:
    """Whether a paired difference is statistically clear, and alike under every seed of it."""
    p_value = pair["p_value_holm"]
    return p_value is not None and p_value < _CLEAR and _same_sign(pair)


def verdict(pair: Mapping[str, Any]) -> str:
    """`clear`, or why it is not."""
    if clear(pair):
        return "clear"
    if pair["p_value_holm"] is None:
        return "too few groups"
    return "not told apart" if pair["p_value_holm"] >= _CLEAR else "differs by seed"


def by_seed(pair: Mapping[str, Any]) -> str:
    """The difference under each seed, in points: `+3.1, −0.4`."""
    return ", ".join(formats.points(entry["difference"]) for entry in pair["by_seed"])


def whom(report: Report) -> str:
    """Whom the routers imitate; many teachers by their number."""
    name = report["teacher"]["name"]
    if several(report["teacher"]):
        return f"their {len(name.split(', '))} teachers"
    return f"the teacher {name}" if name else "their teacher"


def teacher(report: Report) -> str:
    """Whose agreement with whom routers are measured against."""
    return "teachers with each other" if several(report["teacher"]) else "teacher with itself"


def several(teacher: Mapping[str, Any]) -> bool:
    """Whether the traces are of several teachers, whose names the dataset joins with commas."""
    return teacher["label_agreement"] is not None and ", " in (teacher["name"] or "")


def machine(hardware: Mapping[str, Any]) -> str:
    """Hardware in words: processor, cores, GPUs."""
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    return f"{hardware['cpu']}, {hardware['cores']} cores, {gpus}"


def _failures(router: Mapping[str, Any]) -> str:
    failed, accuracy = router["failed"], router["tool_accuracy"]["value"]
    reasons = ", ".join(f"{reason} ({n})" for reason, n in failed["reasons"].items())
    return (
        f"{_number(failed['n'], 'decision')} of {router['name']} could not be had: {reasons}. They "
        f"are in none of its figures; counted as wrong, its tool accuracy would be "
        f"{formats.percent(accuracy * (1 - failed['share']))}."
    )


def _machines(report: Report) -> Sequence[Mapping[str, Any]]:
    hardware = report["evaluation"]["hardware"]
    return hardware if isinstance(hardware, list) else [hardware]


def _interval(router: Mapping[str, Any]) -> str:
    figure = router["tool_accuracy"]
    if figure["low"] is None:
        return f"This figure was {measured(router)}: too few groups for an interval."
    return f"The 95% interval of this figure is {formats.interval(figure)}%, {measured(router)}."


def _agreement(report: Report) -> str:
    agreement = agreement_of(report["teacher"])
    if agreement is None:
        return "How often the teacher agrees with itself is not known."
    who = (
        "Two answers of the teachers to the same context"
        if several(report["teacher"])
        else "Two of the teacher's answers to the same context"
    )
    share = report["routers"][0]["share_of_agreement"]
    return (
        f"{who} choose the same tools in {formats.percent(agreement)}; the router's figure is "
        f"{formats.percent(share)} of that."
    )


def _agreement_note(teacher: Mapping[str, Any]) -> str:
    who = (
        "How often two answers to the same context agree, whichever teachers gave them,"
        if several(teacher)
        else "How often the teacher agrees with itself"
    )
    labels = teacher["label_agreement"] is not None
    contexts = teacher["label_agreement_contexts" if labels else "self_agreement_contexts"]
    seen = f" It rests on {contexts} contexts that the traces hold more than once."
    itself = teacher["self_agreement"]
    alone = (
        f" Answers of one and the same teacher agree in {formats.percent(itself)}."
        if several(teacher) and itself is not None
        else ""
    )
    return (
        f"{who} is a mark to measure against, not a bound: a router that always gives the most "
        f"frequent answer can exceed the agreement of two draws.{seen if contexts else ''}{alone}"
    )


def _lead(report: Report) -> str:
    best, second = report["routers"][:2]
    pair = _pair(report, best["name"], second["name"])
    if pair is None:
        return f"{best['name']} and {second['name']} share no test decision, so no lead is known."
    lead = f"The lead of {best['name']} over {second['name']}, the next, is "
    by = f"{formats.points(pair['difference'])} percentage points"
    if pair["low"] is None:
        return f"{lead}{by}, from too few groups to say whether it is more than chance."
    by += f" (95% interval {formats.points(pair['low'])} to {formats.points(pair['high'])})"
    if clear(pair):
        scope = ", under every seed" if len(pair["by_seed"]) > 1 else " for these trained routers"
        return (
            f"{best['name']} leads {second['name']}, the next, by {by}; "
            f"this is statistically clear{scope} (p {_p(pair)})."
        )
    if pair["p_value_holm"] < _CLEAR:
        return (
            f"{lead}{by}, but not under every seed ({by_seed(pair)}): the luck of split and "
            "training may decide which of the two is better."
        )
    return f"{lead}{by}; this may be chance (p {_p(pair)}): the data does not tell the two apart."


def _order(report: Report) -> str:
    if len(report["routers"]) < 3:
        return ""
    pairs = [pair for pair in report["paired"] if pair["metric"] == "tool_accuracy"]
    if not pairs:
        return ""
    unclear = [f"{pair['a']} and {pair['b']}" for pair in pairs if not clear(pair)]
    if not unclear:
        return "The whole order of the routers is statistically clear."
    if len(unclear) == len(pairs):
        return "No two of the routers are told apart."
    if len(unclear) > _NAMED_PAIRS:
        return f"Of {len(pairs)} pairs of routers, {len(unclear)} are not told apart."
    return f"Not told apart: {'; '.join(unclear)}. All other pairs are."


def _promise(report: Report) -> str:
    """The router that takes most under the strictest promise that any router can make."""
    entries = [
        (entry, router["name"])
        for router in report["routers"]
        for entry in router["risk"]
        if entry["supported"] == len(entry["by_seed"])
    ]
    stated = [entry["alpha"] for router in report["routers"] for entry in router["risk"]]
    if not stated:
        return ""
    if not entries:
        return (
            f"No router can promise that at most {formats.percent(max(stated))} of what it takes "
            "is wrong: the calibration part does not support it under every seed."
        )
    strictest = min(entry["alpha"] for entry, _ in entries)
    entry, name = max(
        (pair for pair in entries if pair[0]["alpha"] == strictest),
        key=lambda pair: pair[0]["coverage"]["value"],
    )
    wrong = formats.value(entry["error"]) if entry["error"] else "none"
    return (
        f"With a promise of at most {formats.percent(strictest)} wrong "
        f"({formats.percent(1 - entry['delta'])} sure), {name} takes "
        f"{formats.value(entry['coverage'])} of the test decisions; {wrong} of these are wrong."
    )


def _fastest(report: Report) -> str:
    """The fastest router that is at most the margin worse than the best."""
    best, *rest = report["routers"]
    rivals = {}
    for router in rest:
        pair = _pair(report, best["name"], router["name"])
        if pair is not None and pair["high"] is not None and pair["high"] < _MARGIN:
            rivals[router["name"]] = pair["high"]
    near = [best, *(router for router in rest if router["name"] in rivals)]
    fastest = min(near, key=lambda router: router["latency_ms"]["p50"])
    time = formats.milliseconds(fastest["latency_ms"]["p50"])
    if fastest is best:
        return f"A decision of {best['name']} takes {time} (median, one at a time)."
    return (
        f"Where speed matters, consider {fastest['name']}: at most "
        f"{100 * rivals[fastest['name']]:.1f} points worse (95% interval), and {time} per "
        f"decision against {formats.milliseconds(best['latency_ms']['p50'])} (medians)."
    )


def _pair(report: Report, a: str, b: str) -> Mapping[str, Any] | None:
    found = (
        pair
        for pair in report["paired"]
        if (pair["a"], pair["b"], pair["metric"]) == (a, b, "tool_accuracy")
    )
    return next(found, None)


def _same_sign(pair: Mapping[str, Any]) -> bool:
    differences = [entry["difference"] for entry in pair.get("by_seed", ())]
    return all(d > 0 for d in differences) or all(d < 0 for d in differences)


def _p(pair: Mapping[str, Any]) -> str:
    text = formats.p_value(pair["p_value_holm"])
    return text if text.startswith("<") else f"= {text}"


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
