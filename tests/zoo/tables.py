"""All rows of all tables."""

from __future__ import annotations

import torch

from . import table_diffusion, table_timm, table_torchvision, table_transformers
from .case import Case

TABLES = (table_timm, table_torchvision, table_transformers, table_diffusion)


def all_cases() -> list[Case]:
    """Every model of the zoo that the installed torch can compile."""
    installed = tuple(map(int, torch.__version__.split(".")[:2]))
    return [case for table in TABLES for case in table.cases() if case.needs_torch <= installed]


def case_of(identifier: str) -> Case:
    """The row with this id."""
    (case,) = (case for case in all_cases() if case.id == identifier)
    return case
