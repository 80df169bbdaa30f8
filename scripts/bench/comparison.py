"""What the comparisons with peers share: their command line, and the table that they end with."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from machine import describe
from table import Table

from distill.runs import hardware


def parser(doc: str | None, routers: Sequence[str]) -> argparse.ArgumentParser:
    """The options of a comparison with these routers."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("job", type=Path, help="a job's folder: datasets and evaluated runs")
    made.add_argument("--routers", nargs="+", choices=routers, default=routers)
    made.add_argument("--seeds", nargs="+", type=int, default=[0])
    made.add_argument("--base", default="packaged:minilm", help="the peers' untuned base model")
    made.add_argument("--samples", type=int, default=40, help="decisions timed one at a time")
    made.add_argument("--output", type=Path, help="also write the figures here, as JSON")
    return made


@contextmanager
def comparing(args: argparse.Namespace) -> Iterator[Table]:
    """A table to fill, printed and written at the end; the encoder comes first."""
    machine = hardware()
    print(f"{describe(machine)}, {torch.get_num_threads()} threads", flush=True)
    table = Table("encoder", args.samples)
    yield table
    table.print()
    if args.output is not None:
        table.write(args.output, machine)
