"""Weights from a file into a model, without running code that the file might hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tract_fx.options import closest
from tract_fx.tools.errors import CheckpointError
from tract_fx.wording import listed

__all__ = ["load_checkpoint"]

# Under which trainers keep the weights beside the state of the optimiser, and what wrappers put in front of names.
ENTRIES = ("state_dict", "model_state_dict", "model", "module", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")

NAMED = 3


def load_checkpoint(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Copy the weights of a file into a model; those that the file lacks, or has in another shape, stay as they are.

    Args:
        model: it is changed in place.
        path: what ``torch.save`` wrote of a ``state_dict``, or of a dictionary that holds one, or a ``.safetensors`` file.

    Returns:
        What was left as it is or not used, one sentence each.

    Raises:
        CheckpointError: when the file cannot be read, holds more than tensors and plain values, or fits no weight.
    """
    weights = _unwrapped(_tensors_of(_read(path), path), model)
    own = model.state_dict()
    fitting = {name: item for name, item in weights.items() if name in own and own[name].shape == item.shape}
    if not fitting:
        found, wanted = next(iter(weights)), next(iter(own), "nothing")
        raise CheckpointError(
            f"--checkpoint {path}: none of its {len(weights)} weights fits the model: it has {found!r}"
            f"{closest(found, own)}, where the model has {wanted!r}"
        )
    model.load_state_dict(fitting, strict=False)
    kept = [name for name in own if name not in fitting]
    shapes = [name for name in kept if name in weights]
    unused = [name for name in weights if name not in own]
    parts = (
        (shapes, "in another shape there and stay as they were made"),
        ([name for name in kept if name not in weights], "not there and stay as they were made"),
        (unused, "there, and not in the model"),
    )
    return tuple(f"--checkpoint {path}: {_named(names)} {what}" for names, what in parts if names)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"--checkpoint {path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise CheckpointError(
            f"--checkpoint {path}: needs safetensors; install with: pip install safetensors"
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"--checkpoint {path}: holds more than tensors and plain values, or is damaged, and is not loaded: that would "
            "run code from the file. Save the state_dict alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # of a damaged file, whatever its format
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"--checkpoint {path}: cannot be read: {reason}") from error


def _tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for entry in ENTRIES:
            if isinstance(content.get(entry), Mapping):
                content = content[entry]
                break
        tensors = {str(name): item for name, item in content.items() if isinstance(item, Tensor)}
        if tensors:
            return tensors
    raise CheckpointError(f"--checkpoint {path}: holds no state_dict: it is a {type(content).__name__} without tensors")


def _unwrapped(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Without the prefixes that all names have and the model's have not."""
    own = model.state_dict()
    stripped = True
    while stripped and not any(name in own for name in weights):
        stripped = False
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in weights):
                weights = {name.removeprefix(prefix): item for name, item in weights.items()}
                stripped = True
                break
    return weights


def _named(names: list[str]) -> str:
    return f"{listed(names, NAMED)} {'is' if len(names) == 1 else 'are'}"
