"""The names of a dataset's four parts, in the order in which the shares cut [0, 1)."""

from typing import Literal

Part = Literal["train", "validation", "calibration", "test"]

PARTS: tuple[Part, ...] = ("train", "validation", "calibration", "test")
