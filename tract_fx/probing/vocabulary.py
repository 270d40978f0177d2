"""How data are spoken of: a table has features and examples, a signal channels, an image pixels."""

from __future__ import annotations

import dataclasses

from tract_fx.ops.patches import PatchGeometry

__all__ = ["Words", "words_for"]


@dataclasses.dataclass(frozen=True)
class Words:
    """What the parts of a layer's input are called.

    Attributes:
        channel: one of the things that have a mean and a standard deviation of their own.
        samples: the loader's examples.
        low_contrast: what inputs with hardly any variation within a sample are.
        blank: where samples without any variation come from.
    """

    channel: str
    samples: str
    low_contrast: str
    blank: str


TABLE = Words("feature", "examples", "the features hardly vary", "missing records")
SIGNAL = Words("channel", "signals", "the signals are very quiet", "silence, missing recordings and dead sensors")
IMAGE = Words("channel", "images", "contrast is very low", "unreadable files, blank pages and black frames")
VOLUME = Words("channel", "volumes", "contrast is very low", "unreadable files, empty volumes and black clips")

# By the number of dimensions of a kernel; a product has none.
WORDS = (TABLE, SIGNAL, IMAGE, VOLUME)


def words_for(geometry: PatchGeometry) -> Words:
    """The words for what a layer with this geometry sees."""
    return WORDS[len(geometry.kernel_size)]
