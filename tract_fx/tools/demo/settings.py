"""What one demo run was asked to do."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DemoSettings:
    """The command line of one run; what is None is chosen by `session.resolved`.

    Attributes:
        data: folder or archive of images; None for scikit-learn's digits.
        models: which of `models.RECIPES` to train.
        epochs: passes over the training set.
        lam: TrAct's regularisation, positive.
        seed: of the split, the initial weights and the batches.
        batch_size: images per step; both sides see the same batches.
        input: shape that `data` is resized to, `(channels, size, size)` or `(size, size)`.
        limit: images in total, balanced over the classes; 0 takes all.
        device: torch device name.
        threads: processor threads for torch; None leaves one of its usual number free.
        out: folder for the pictures and `results.json`.
        inner: what compiles both sides: `inductor`, or `aot_eager` to generate no code; None takes `inductor` where
            it can work.
    """

    data: Path | None
    models: tuple[str, ...]
    epochs: int
    lam: float
    seed: int
    batch_size: int
    input: tuple[int, ...] | None
    limit: int
    device: str | None
    threads: int | None
    out: Path
    inner: str | None
