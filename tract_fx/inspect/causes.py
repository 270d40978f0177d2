"""What went wrong in a model's own code, in one line, without what PyTorch wraps around it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from tract_fx.errors import TractError

__all__ = ["first_cause", "in_words", "quiet"]


def first_cause(error: BaseException) -> BaseException:
    """What went wrong first, without what Dynamo and AOTAutograd wrap around it."""
    while (inner := getattr(error, "inner_exception", None) or error.__cause__ or error.__context__) is not None:
        if isinstance(error, TractError):
            return error
        error = inner
    return error


def in_words(error: BaseException) -> str:
    """The class of an error and the first line of its message."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {first}"


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Disable a logger: what it would say, traceback included, is reported in other words."""
    logger = logging.getLogger(name)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
