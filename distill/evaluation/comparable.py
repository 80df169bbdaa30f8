"""Whether runs may stand in one comparison: what must be the same is, and no run comes twice.

It reads the runs' configs, manifests and example ids, and knows nothing of figures.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from distill import config as configs
from distill.errors import InputError
from distill.evaluation.summary import Measured
from distill.runs import RunDir


class _Claim(NamedTuple):
    """What a run says of something (`about`) that every run which speaks of it must say alike."""

    about: Hashable
    value: Any
    fault: str
    """Completed by the path of the run that says otherwise."""
    cure: str


def require_comparable(runs: Sequence[tuple[RunDir, Measured]]) -> None:
    """Refuse runs that do not belong together.

    The same traces and data config throughout; under one seed the same dataset and the same
    examples measured; under one router name the same kind and router config.

    Raises:
        InputError: two runs differ in one of these, or one comes twice; it names both.
        ConfigError: a run's config.yaml is missing or damaged.
    """
    seen: dict[tuple[str, int], RunDir] = {}
    for run, measured in runs:
        name = (measured.router, measured.seed)
        if name in seen:
            raise InputError(
                run.path,
                f"router {name[0]!r} with seed {name[1]} is also in {seen[name].path}",
                "name one of them",
            )
        seen[name] = run
    said: dict[Hashable, tuple[RunDir, Any]] = {}
    for run, measured in runs:
        for claim in _claims(run, measured):
            other, value = said.setdefault(claim.about, (run, claim.value))
            if value != claim.value:
                raise InputError(run.path, f"{claim.fault} {other.path}", claim.cure)


def _claims(run: RunDir, measured: Measured) -> Iterator[_Claim]:
    manifest, seed, router = measured.manifest, measured.seed, measured.router
    config = configs.load(run.config)
    yield _Claim(
        "source",
        manifest["dataset"].get("source"),
        "its dataset is not made from the traces of",
        "compare runs on the same traces",
    )
    # Where the traces lie is left out: the source's hash says whether they are the same.
    data = config.data.model_dump(mode="json", exclude={"traces"})
    for key, value in data.items():
        yield _Claim(
            ("data", key),
            value,
            f"its config's data.{key} is not that of",
            "compare runs with the same data settings",
        )
    yield _Claim(
        ("dataset", seed),
        manifest["dataset"]["hash"],
        f"its dataset under seed {seed} is not that of",
        "compare runs of the same dataset",
    )
    yield _Claim(
        ("examples", seed),
        frozenset(p.id for p in measured.predictions),
        f"the examples measured under seed {seed} are not those of",
        "evaluate both with the same evaluation.max_examples",
    )
    yield _Claim(
        ("kind", router),
        manifest["kind"],
        f"router {router!r} is of kind {manifest['kind']!r}, which it is not in",
        "give different routers different names",
    )
    settings = config.routers.get(router)
    for key, value in (settings.model_dump(mode="json") if settings else {}).items():
        yield _Claim(
            ("router", router, key),
            value,
            f"routers.{router}.{key} is not that of",
            "give differently trained routers different names",
        )
