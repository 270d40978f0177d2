"""The options of the backend: one frozen dataclass, checked once."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from tract_fx import compat
from tract_fx.distributed.groups import check_process_group
from tract_fx.errors import OptionError

__all__ = [
    "DEFAULT_LAM",
    "LAM_VARIABLE",
    "TractOptions",
    "check_count",
    "check_lam",
    "check_layer_names",
    "check_relative",
    "default_lam",
    "variable",
]

DEFAULT_LAM = 0.1

# Options that a dictionary for torch.compile may hold in addition to Inductor's.
OWN = ("lam", "layers", "on_unsupported", "inner", "process_group", "relative")


def variable(option: str) -> str:
    """Name of the environment variable that sets an option where only the backend's name can be given."""
    return f"TRACT_FX_{option.upper()}"


LAM_VARIABLE = variable("lam")

# What an environment variable may hold for an option that is True or False.
FLAGS = {"1": True, "true": True, "0": False, "false": False}

OnUnsupported = Literal["error", "warn", "ignore"]
Inner = Literal["inductor", "aot_eager"]


@dataclasses.dataclass(frozen=True)
class TractOptions:
    """How the backend compiles a model.

    Args:
        lam: the regularisation ``lam`` of ``G (X^T X / r + lam I)^-1``, finite and positive; it has the unit of the
            squared inputs of the layer, unless it is relative. The paper uses 0.1, 0.2 for long and 0.05 for short training
            (section 4).
        layers: ``"first"`` for every layer whose input depends on data alone, or names of modules or parameters.
        on_unsupported: ``"error"``, ``"warn"`` or ``"ignore"``: what happens when a layer should be rewritten and cannot
            be.
        inner: ``"inductor"``, or ``"aot_eager"`` to run the joint graph without generating code.
        mode: as in ``torch.compile``; passed to Inductor.
        options: as in ``torch.compile``; passed to Inductor.
        process_group: the processes that share the covariance: a ``torch.distributed.ProcessGroup``, of which only the
            name is kept, ``"ddp"`` for the group of the DDP or FSDP2 module that is running, or None.
        relative: whether the regularisation is ``lam tr(C) / n``: ``lam`` times the mean eigenvalue of ``C = X^T X / r``,
            for each group of channels.

    Raises:
        OptionError: naming the argument, its value and what is allowed.
    """

    lam: float = DEFAULT_LAM
    layers: str | Sequence[str] = "first"
    on_unsupported: str = "error"
    inner: str = "inductor"
    mode: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    process_group: Any = None
    relative: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", check_lam(self.lam))
        object.__setattr__(self, "layers", _check_layers(self.layers))
        object.__setattr__(self, "options", _check_mapping(self.options))
        object.__setattr__(self, "process_group", check_process_group(self.process_group))
        check_relative(self.relative)
        _check_choice("on_unsupported", self.on_unsupported, get_args(OnUnsupported))
        _check_choice("inner", self.inner, get_args(Inner))
        if self.mode is not None:
            _check_choice("mode", self.mode, compat.list_modes())
        if self.inner == "aot_eager" and (self.options or self.mode not in (None, "default")):
            raise OptionError(
                f"mode={self.mode!r} and options={dict(self.options)!r} are options of Inductor: leave them out with "
                'inner="aot_eager", which generates no code, or use inner="inductor".'
            )
        self.inductor_patches()

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def from_compile_arguments(cls, mode: str | None, options: Mapping[str, Any] | None) -> TractOptions:
        """Options of ``torch.compile(model, backend="tract", mode=mode, options=options)``.

        ``options`` may hold the fields of this class (``layers`` may be a string of comma-separated names); the other
        entries are passed to Inductor. A field that is not given is read from the environment, where its variable is set:
        ``TRACT_FX_LAM``, ``TRACT_FX_LAYERS``, ``TRACT_FX_ON_UNSUPPORTED``, ``TRACT_FX_INNER``,
        ``TRACT_FX_PROCESS_GROUP``, ``TRACT_FX_RELATIVE`` (``1`` or ``0``).

        Raises:
            OptionError: naming the option or the variable, its value and what is allowed.
        """
        given = dict(_check_mapping(options or {}))
        own = {name: given.pop(name) for name in OWN if name in given}
        own.setdefault("lam", default_lam())
        if "layers" in own:
            own["layers"] = _split_names(own["layers"])
        return cls(**{**cls._of_environment(), **own}, mode=mode, options=given)

    @classmethod
    def _of_environment(cls) -> dict[str, Any]:
        """The options, except ``lam``, that are set by environment variables."""
        texts = {name: os.environ.get(variable(name), "").strip() for name in OWN if name != "lam"}
        read = {"layers": _split_names, "relative": lambda text: FLAGS.get(text.lower(), text)}
        found = {name: read.get(name, str)(text) for name, text in texts.items() if text}
        for name, value in found.items():
            try:
                fields: dict[str, Any] = {name: value}
                cls(**fields)
            except OptionError as error:
                raise OptionError(f"The environment variable {variable(name)}: {error}") from None
        return found

    def with_compile_arguments(self, mode: str | None, options: Mapping[str, Any] | None) -> TractOptions:
        """These options, combined with the ``mode`` and ``options`` that ``torch.compile`` got together with the backend.

        Raises:
            OptionError: when ``options`` has an option of the backend, ``mode`` contradicts that of the backend, or Inductor
                does not know an option.
        """
        options = _check_mapping(options or {})
        if own := sorted(set(options) & set(self.field_names())):
            raise OptionError(
                f"torch.compile(options=...) has {', '.join(own)}: give it to tract_backend(...) instead, "
                "which fixes it for the backend object."
            )
        if mode is not None and self.mode is not None and mode != self.mode:
            raise OptionError(
                f"mode={mode!r} in torch.compile and mode={self.mode!r} in tract_backend contradict each other: "
                "give one of them."
            )
        return dataclasses.replace(self, mode=mode or self.mode, options={**self.options, **options})

    def inductor_patches(self) -> dict[str, Any]:
        """The entries of Inductor's configuration that ``mode`` and ``options`` set.

        Raises:
            OptionError: naming an option that Inductor does not know, or whose value it does not accept.
        """
        for key, value in self.options.items():
            try:
                compat.inductor_patches(None, {key: value})
            except RuntimeError as error:
                raise OptionError(_option_message(key, value, error)) from None
        return compat.inductor_patches(self.mode, dict(self.options))


def default_lam() -> float:
    """The default of ``lam``: the value of the environment variable ``TRACT_FX_LAM`` if it is set, otherwise 0.1.

    Raises:
        OptionError: when the variable holds anything but a positive number.
    """
    text = os.environ.get(LAM_VARIABLE)
    if text is None or not text.strip():
        return DEFAULT_LAM
    try:
        return check_lam(float(text))
    except ValueError:
        raise OptionError(f"The environment variable {LAM_VARIABLE}={text!r} is not a positive number.") from None


def check_lam(lam: object, name: str = "lam") -> float:
    """``lam`` as a float.

    Args:
        lam: any object.
        name: of the argument.

    Raises:
        OptionError: naming the argument, unless it is a finite positive real number.
    """
    if isinstance(lam, bool) or not isinstance(lam, numbers.Real):
        raise OptionError(f"{name}={lam!r} is a {type(lam).__name__}: it must be a positive number, such as 0.1.")
    try:
        value = float(lam)
    except OverflowError:  # an integer or a fraction, whose digits may be too many to be printed
        raise OptionError(f"{name} is too large for a float: it must be a positive number, such as 0.1.") from None
    if not (math.isfinite(value) and value > 0):
        raise OptionError(f"{name}={lam!r} is not allowed: it must be finite and greater than zero, such as 0.1.")
    return value


def check_relative(relative: object) -> bool:
    """``relative`` itself.

    Raises:
        OptionError: unless it is True or False.
    """
    if not isinstance(relative, bool):
        raise OptionError(f"relative={relative!r} is not allowed: it must be True or False.")
    return relative


def check_count(value: object, name: str, least: int) -> int:
    """A whole number as an int.

    Args:
        value: any object.
        name: of the argument.
        least: the smallest number that is allowed.

    Raises:
        OptionError: naming the argument, unless it is a whole number from ``least`` up.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise OptionError(f"{name}={value!r} is not allowed: it must be a whole number from {least} up.")
    return int(value)


def closest(name: str, known: Iterable[str]) -> str:
    """``", did you mean 'a' or 'b'?"``, or an empty string when nothing in ``known`` is close."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _split_names(layers: Any) -> Any:
    """Split names that were given as one comma-separated string, as on a command line."""
    if not isinstance(layers, str) or layers == "first":
        return layers
    return tuple(name.strip() for name in layers.split(","))


def check_layer_names(layers: object) -> tuple[str, ...]:
    """Names of layers as a tuple.

    Raises:
        OptionError: unless ``layers`` is an iterable with at least one string, and strings only.
    """
    if isinstance(layers, str) or not isinstance(layers, Iterable) or hasattr(layers, "__array__"):
        found = repr(layers) if isinstance(layers, (str, int, float, type(None))) else f"<{type(layers).__name__}>"
        raise OptionError(
            f'layers={found} is not allowed: use "first", or a list of names such as ["conv1"] or '
            '["patch_embed.proj.weight"].'
        )
    names = tuple(layers)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise OptionError(f"layers={layers!r} is not allowed: it must hold at least one name, and only strings.")
    return names


def _check_layers(layers: object) -> str | tuple[str, ...]:
    return "first" if isinstance(layers, str) and layers == "first" else check_layer_names(layers)


def _check_mapping(options: object) -> Mapping[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise OptionError(f"options={options!r} is not allowed: it must be a dictionary with strings as keys.")
    return dict(options)


def _check_choice(argument: str, value: object, allowed: Iterable[str]) -> None:
    allowed = tuple(allowed)
    if not isinstance(value, str) or value not in allowed:
        hint = closest(value, allowed) if isinstance(value, str) else ""
        raise OptionError(f"{argument}={value!r} is not allowed: it must be one of {', '.join(allowed)}{hint}")


def _option_message(key: str, value: object, error: RuntimeError) -> str:
    if "Unexpected optimization option" not in str(error):
        return f"options[{key!r}]={value!r} is not allowed: {error}"
    known = [*TractOptions.field_names(), *compat.inductor_config.get_config_copy()]
    return f"options has {key!r}, which is an option of neither tract-fx nor Inductor{closest(key, known)}"
