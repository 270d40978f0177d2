"""From what stands for ``MODEL`` on the command line to a model."""

from __future__ import annotations

from importlib.util import find_spec

from tract_fx.options import closest
from tract_fx.tools.errors import ModelError
from tract_fx.tools.models.factories import load_factory
from tract_fx.tools.models.hub import load_transformers
from tract_fx.tools.models.libraries import load_timm, load_torchvision
from tract_fx.tools.models.loaded import LoadedModel, Task

__all__ = ["load_model"]

LIBRARIES = {
    "timm": ("timm", load_timm),
    "torchvision": ("torchvision", load_torchvision),
    "hf": ("transformers", load_transformers),
}


def load_model(spec: str, *, allocate: bool = False, task: Task | None = None) -> LoadedModel:
    """Make a model from its name, in training mode and with random weights. This runs the code that the name means.

    Args:
        spec: ``timm:NAME``, ``torchvision:NAME``, ``hf:NAME`` (a model type, a folder or JSON file with a configuration, or
            a name on the Hub), ``package.module:factory`` or ``folder/file.py:factory``.
        allocate: whether the model must hold memory. Otherwise it is made on ``meta``, where a model of any size takes none,
            if its constructor can do that.
        task: classes and images that a classifier is made for; None for the model as it is. A function of the user's is told
            the number of classes only if it has an argument ``num_classes``.

    Raises:
        ModelError: with one sentence that says what is wrong, and what was meant where that can be guessed.
    """
    source, colon, name = spec.partition(":")
    if not colon or not source or not name:
        hint = f"; did you mean timm:{spec} or torchvision:{spec}?" if spec.isidentifier() else ""
        raise ModelError(
            f"{spec!r} names no model: write timm:NAME, torchvision:NAME, hf:NAME, package.module:factory or "
            f"file.py:factory{hint}"
        )
    if source not in LIBRARIES:
        is_missing = not source.endswith(".py") and find_spec(source.partition(".")[0]) is None
        if is_missing and (near := closest(source, LIBRARIES)):
            raise ModelError(f"{spec}: there is no module {source!r}{near}")
        return load_factory(source, name, allocate=allocate, task=task)
    library, load = LIBRARIES[source]
    if find_spec(library) is None:
        raise ModelError(f"{spec}: needs {library}; install with: pip install 'tract-fx[models]'")
    try:
        return load(name, allocate=allocate, task=task)
    except ModelError:
        raise
    except Exception as error:  # whatever a library raises for a model that it has and cannot make
        raise ModelError(f"{spec}: cannot be made: {type(error).__name__}: {error}") from error
