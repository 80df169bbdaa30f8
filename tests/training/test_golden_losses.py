"""The first losses of every trained kind, pinned; see tests/golden/README.md."""

import json
from pathlib import Path

import pytest
from small_shop import GOLDEN_LOSSES, losses

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("kind", ["rnn", "attention", "encoder", "open", "decoder"])
def test_losses_follow_the_golden_curve(unbroken, kind):
    _, run = unbroken(kind)
    expected = json.loads((GOLDEN / f"{kind}.json").read_text())
    assert len(expected) == GOLDEN_LOSSES
    assert losses(run)[:GOLDEN_LOSSES] == pytest.approx(expected, rel=1e-3), (
        "the loss curve changed: see tests/golden/README.md"
    )
