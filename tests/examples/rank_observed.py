"""What ``torchrun`` starts in the place of the example: a run, another one that resumes, and files with all their steps."""

from __future__ import annotations

import dataclasses
import os
import sys

import torch

from tests.examples.observed import load, observe


def main(folder: str, port: str, *arguments: str) -> None:
    example = load("torchrun_ddp")
    first = observe(example, [*arguments, "--steps", "2"])
    # A second launch would have a store of its own; gloo does not find its way in one that has been used.
    os.environ.update(MASTER_PORT=port, TORCHELASTIC_USE_AGENT_STORE="False")
    runs = [first, observe(example, [*arguments, "--steps", "3", "--resume"])]
    steps = [[dataclasses.asdict(step) for step in run.steps] for run in runs]
    torch.save(steps, f"{folder}/{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
