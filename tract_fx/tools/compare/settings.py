"""What one comparison was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tract_fx.tools.training.sides import PLAIN, TRACT, Side

__all__ = ["CompareSettings"]


@dataclass(frozen=True)
class CompareSettings:
    """The command line of one comparison; what is None is chosen.

    Attributes:
        model: its name, as `tools.models.loading.load_model` takes it.
        data: folder or archive of images in class folders.
        out: folder for the files of the runs, the picture and `results.json`.
        minutes: time for everything, from the start on; None for no limit.
        epochs: passes over the training images; None for as many as fit into the time.
        seeds: how many, counted up from `seed`.
        seed: of the first initial weights and batches.
        lams: TrAct's regularisation; several are a sweep.
        optimizer: `sgd` or `adam`.
        rate: peak learning rate; None for `training.loop.PEAK_RATES`.
        batch_size: images per step.
        input: shape of an image for the model.
        limit: images in total, balanced over the classes; 0 takes all.
        amp: train and test under bfloat16 autocast.
        device, threads, inner: where and by what the training runs, see `training.machine`.
    """

    model: str
    data: Path
    out: Path
    minutes: float | None = 10.0
    epochs: int | None = None
    seeds: int = 4
    seed: int = 0
    lams: tuple[float, ...] = (0.1,)
    optimizer: str = "adam"
    rate: float | None = None
    batch_size: int = 64
    input: tuple[int, ...] | None = None
    limit: int = 10_000
    amp: bool = False
    device: str | None = None
    threads: int | None = None
    inner: str | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """Plain training and TrAct, once for each ``lam``."""
        lams = tuple(dict.fromkeys(self.lams))
        names = [TRACT] if len(lams) == 1 else [f"{TRACT}, lam {lam:g}" for lam in lams]
        return (Side(PLAIN, None), *map(Side, names, lams))

    @property
    def all_seeds(self) -> range:
        """Every seed."""
        return range(self.seed, self.seed + self.seeds)
