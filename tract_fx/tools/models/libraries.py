"""Models of timm and torchvision, with random weights: nothing is downloaded."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from tract_fx.options import closest
from tract_fx.tools.errors import ModelError
from tract_fx.tools.models.loaded import LoadedModel, Normalisation, Shape, Task, built, built_for, tensor_arguments

__all__ = ["load_timm", "load_torchvision"]


def load_timm(name: str, *, allocate: bool, task: Task | None = None) -> LoadedModel:
    """``timm.create_model(name)``, for a task if there is one, fed as its ``pretrained_cfg`` says.

    Raises:
        ModelError: for a name that timm does not have.
    """
    import timm

    spec = f"timm:{name}"
    if not timm.is_model(name):
        known = [*timm.list_models(), *timm.list_pretrained()]
        raise ModelError(f"{spec}: timm {timm.__version__} has no model {name!r}{closest(name, known)}")
    try:
        model = built(lambda: _timm_model(name, task), allocate=allocate)
    except RuntimeError as error:  # a tag of weights that do not exist
        known = [known for known in timm.list_pretrained() if known.startswith(name.partition(".")[0])]
        raise ModelError(f"{spec}: {str(error).rstrip('.')}{closest(name, known)}") from error
    config = getattr(model, "pretrained_cfg", None) or {}
    shape = tuple(config["input_size"]) if config.get("input_size") else None
    return LoadedModel(spec, model.train(), tensor_arguments(spec, shape), shape, _normalisation(config))


def _timm_model(name: str, task: Task | None) -> Any:
    import timm

    if task is None:
        return timm.create_model(name)
    options: dict[str, Any] = {"num_classes": task.classes}
    if task.shape[0] != 3:
        options["in_chans"] = task.shape[0]
    return built_for(functools.partial(timm.create_model, name, **options), "img_size", task)


def load_torchvision(name: str, *, allocate: bool, task: Task | None = None) -> LoadedModel:
    """``torchvision.models.get_model(name)``, for a task if there is one, fed as the transforms of its weights would.

    Raises:
        ModelError: for a name that torchvision does not have.
    """
    import torchvision
    from torchvision import models

    spec = f"torchvision:{name}"
    if name not in models.list_models():
        near = closest(name, models.list_models())
        raise ModelError(f"{spec}: torchvision {torchvision.__version__} has no model {name!r}{near}")
    # Detection and segmentation would download a backbone.
    known = inspect.signature(models.get_model_builder(name)).parameters
    nothing = {argument: None for argument in ("weights", "weights_backbone") if argument in known}
    make = functools.partial(models.get_model, name, **nothing)
    if task is not None:
        make = functools.partial(built_for, functools.partial(make, num_classes=task.classes), "image_size", task)
    model = built(make, allocate=allocate).train()
    weights = list(models.get_model_weights(name))
    transforms = weights[-1].transforms() if weights else None
    if type(transforms).__name__ in ("ObjectDetection", "OpticalFlow"):

        def refuse(*_: Any) -> Any:
            raise ModelError(
                f"{spec}: takes more than one tensor; make it and its inputs in a function: package.module:NAME"
            )

        return LoadedModel(spec, model, refuse)
    shape = _shape(transforms, weights[-1].meta if weights else {})
    normalisation = _normalisation(vars(transforms)) if transforms else None
    return LoadedModel(spec, model, tensor_arguments(spec, shape), shape, normalisation)


def _shape(transforms: Any, meta: dict[str, Any]) -> Shape | None:
    """Of one image or clip; the transforms of segmentation do not cut, but resize."""
    size = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", None)
    if not size:
        return None
    height, width = (size * 2)[:2] if len(size) == 1 else size
    frames = (meta.get("min_temporal_size", 16),) if type(transforms).__name__ == "VideoClassification" else ()
    return (3, *frames, height, width)


def _normalisation(config: dict[str, Any]) -> Normalisation | None:
    if not config.get("mean") or not config.get("std"):
        return None
    return tuple(map(float, config["mean"])), tuple(map(float, config["std"]))
