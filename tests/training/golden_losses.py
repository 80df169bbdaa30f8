"""Writes `tests/golden/<kind>.json`: the first losses of each kind's training on the small shop.

python tests/training/golden_losses.py
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # as tests/conftest.py has it
sys.path.insert(0, str(Path(__file__).parents[1]))

from small_shop import (
    GOLDEN_LOSSES,
    attention,
    decoder,
    encoder,
    filling,
    job,
    losses,
    open_encoder,
    rnn,
)
from tiny_models import save_bert, save_llama

from distill.runs import RunDir, write_json
from distill.training import train

GOLDEN = Path(__file__).parents[1] / "golden"

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        configs = {
            "rnn": rnn(),
            "attention": attention(),
            "encoder": encoder(save_bert(folder / "tiny-bert")),
            "open": open_encoder(folder / "tiny-bert"),
            "decoder": decoder(save_llama(folder / "tiny-llama")),
        }
        for kind, config in configs.items():
            run = job(folder / kind)
            train(config, run)
            write_json(GOLDEN / f"{kind}.json", losses(run.run)[:GOLDEN_LOSSES])
        run = job(folder / "filling")
        train(filling(folder / "tiny-bert"), run)
        filler = RunDir(run.run.path, "arguments")
        write_json(GOLDEN / "arguments.json", losses(filler)[:GOLDEN_LOSSES])
