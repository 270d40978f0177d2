"""What ``torchrun`` starts in the place of the example: a run, another one that resumes, and files with all their steps."""

from __future__ import annotations

import dataclasses
import os
import sys

import torch

from tests.examples.observed import load, observe


def main(folder: str, *arguments: str) -> None:
    example = load("torchrun_ddp")
    runs = [observe(example, [*arguments, "--steps", "2"]), observe(example, [*arguments, "--steps", "3", "--resume"])]
    steps = [[dataclasses.asdict(step) for step in run.steps] for run in runs]
    torch.save(steps, f"{folder}/{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
