"""Templates and assets of self-contained HTML pages; they lie in the folder ``assets`` of the package of a page."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

__all__ = ["asset", "template"]

ASSETS = "assets"


@functools.cache
def template(package: str, name: str) -> Any:
    """A template that escapes what it is given and refuses names that it is not."""
    environment = Environment(
        loader=PackageLoader(package, ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


@functools.cache
def asset(package: str, name: str) -> Markup:
    """A style sheet or a script, to be put into a page as it is."""
    return Markup(resources.files(package).joinpath(ASSETS, name).read_text(encoding="utf-8"))
