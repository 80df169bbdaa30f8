"""Traces in, dataset out: verified decision points, deduplicated, split by group.

`build` writes a dataset folder, `load_dataset` opens one. Nothing here knows a router.
"""

from distill.dataset.build import build
from distill.dataset.folder import Dataset, load_dataset

__all__ = ["Dataset", "build", "load_dataset"]
