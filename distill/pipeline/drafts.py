"""What decisions of a run depend on, so that a killed step goes on with its own and no others."""

from pathlib import Path

from distill.evaluation.predictions import Draft
from distill.routers.folder import fingerprint
from distill.runs import RunDir, read_json


def draft_of(path: Path, run: RunDir, max_examples: int | None) -> Draft:
    """The draft of a file with a whole run's decisions on one part of its dataset."""
    return Draft(
        path,
        {
            "dataset": read_json(run.manifest)["dataset"]["hash"],
            "router": fingerprint(run.router),
            "max_examples": max_examples,
        },
    )
