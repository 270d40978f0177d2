"""What is compared: a model for the classes of an image set, and the images as it reads them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import interpolate

from tract_fx.inspect.causes import first_cause, in_words
from tract_fx.tools.compare.settings import CompareSettings
from tract_fx.tools.errors import CompareError, ToolError
from tract_fx.tools.images.arrays import ImageSet, TrainingData, channel_statistics, load_images
from tract_fx.tools.images.loader import expected_shape
from tract_fx.tools.models.loaded import Shape, Task
from tract_fx.tools.models.loading import load_model
from tract_fx.tools.training.console import say
from tract_fx.tools.training.loop import class_scores

__all__ = ["Subject", "for_training", "read_subject"]

SPLIT_SEED = 0
"""Of the choice of images and of the test images, which are the same for every seed of the training."""
RESIZED_AT_ONCE = 512


class Subject:
    """A model and its images.

    Args:
        name: of the model.
        images: the set.
        shape: of an image for the model.
        device: of the training.

    Attributes:
        model: on the device; its weights are nobody's, see `weights`.
        data: the images on the device.
        shape: as given.

    Raises:
        ToolError: when the model cannot be made for these images, or returns no score for each class.
    """

    def __init__(self, name: str, images: ImageSet, shape: Shape, device: str) -> None:
        self.name, self.images, self.shape = name, images, shape
        self.data = for_training(images, shape, torch.device(device))
        self._task = Task(len(images.classes), shape)
        self._device = device
        self.model = self._made()
        self._given = copy.deepcopy(self.model.state_dict())
        self._check_scores()

    def weights(self, seed: int) -> Mapping[str, Any]:
        """Fresh initial weights; a module that was there already keeps those that it came with."""
        torch.manual_seed(seed)
        made = self._made()
        return self._given if made is self.model else made.state_dict()

    def _made(self) -> torch.nn.Module:
        return load_model(self.name, allocate=True, task=self._task).model.to(self._device).train()

    @torch.no_grad()
    def _check_scores(self) -> None:
        images = self.data.finish(self.data.train_images[:2])
        shape = "x".join(map(str, self.shape))
        try:
            count = class_scores(self.model(images)).shape[1]
        except ToolError as error:
            raise CompareError(f"{self.name}: {error}") from error
        except Exception as error:
            raise CompareError(
                f"{self.name}: cannot be run on images of {shape}: {in_words(first_cause(error))}"
            ) from error
        classes = self._task.classes
        if count != classes:
            raise CompareError(
                f"{self.name}: returns {count} scores, but the images are of {classes} classes; let its function take "
                "num_classes, or make it for that number"
            )


def read_subject(settings: CompareSettings, device: str, console: Console) -> Subject:
    """The images, and the model for them; a wrong name of a model is found out before the images are read.

    Raises:
        ToolError: when either is not there, or they do not fit together.
    """
    shape = expected_shape(load_model(settings.model), settings.input)
    say(console, f"Reading {settings.data}")
    console.file.flush()
    images = load_images(settings.data, max(shape[1:]), settings.limit, SPLIT_SEED)
    return Subject(settings.model, images, shape, device)


def for_training(images: ImageSet, shape: Shape, device: torch.device) -> TrainingData:
    """8-bit images of a shape, which become numbers of mean 0 and variance 1 in each channel when a batch is made."""
    channels, height, width = shape
    train, test = (_reshaped(part, channels, (height, width)) for part in (images.train_images, images.test_images))
    mean, std = (value.to(device) for value in channel_statistics(train))

    def finish(stored: Tensor) -> Tensor:
        return ((stored - mean) / std).expand(-1, channels, -1, -1).contiguous()

    labels = images.train_labels.to(device), images.test_labels.to(device)
    return TrainingData(train.to(device), labels[0], test.to(device), labels[1], finish)


def _reshaped(images: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """uint8 images of a size; of one channel if the model, or the images, have no colour."""
    if images.shape[-2:] != size:
        parts = (
            interpolate(part.float(), size, mode="bilinear", antialias=True) for part in images.split(RESIZED_AT_ONCE)
        )
        images = torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])
    if channels == 1 and images.shape[1] != 1:
        images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
    return images
