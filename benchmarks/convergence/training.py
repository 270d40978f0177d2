"""One run, from where it was left to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from benchmarks.convergence.augmentation import AUGMENTATIONS, crop_flip, erase, mix, randaugment
from benchmarks.convergence.data import Images
from benchmarks.convergence.inputs import CONTRASTS, contrast_groups
from benchmarks.convergence.many_models import MODELS
from benchmarks.convergence.methods import METHODS, FirstLayerGradient, Trainee, network, trainee
from benchmarks.convergence.runs import Run
from benchmarks.convergence.sizes import Size
from benchmarks.convergence.whitening import eigenvector_filters, patch_covariance, whitened_start
from tract_fx.schedules import CosineLam
from tract_fx.tools.errors import ImageError
from tract_fx.tools.training.batches import epoch_seed
from tract_fx.tools.training.journal import Journal
from tract_fx.tools.training.loop import TrainingLoop, make_optimizer

__all__ = ["Training"]

EVALUATION_BATCH = 500
EVALUATIONS = 2
BUILDERS = {name: architecture.build for name, architecture in MODELS.items()}


class Training(TrainingLoop):
    """A run with all that belongs to it.

    Args:
        run: which one.
        size: of everything.
        images: the set; on the device where the run takes place.
        steps: stop after so many, to try out; None trains to the end.

    Raises:
        ImageError: where there are too few images for a step.
    """

    def __init__(self, run: Run, size: Size, images: Images, steps: int | None = None) -> None:
        self.batch = run.batch or size.batch
        if len(images.train) < self.batch:
            raise ImageError(f"{len(images.train)} training images, fewer than the {self.batch} of a batch")
        self.run, self.size, self.images = run, size, images
        self.method = METHODS[run.method]
        self.train_inputs, self.test_inputs = images.inputs(run.inputs, run.noise)
        self.steps_per_epoch = len(images.train) // self.batch
        self.trainee = self._fresh_trainee()
        covariance = self._covariance()
        self._set_start(covariance)
        total = run.epochs * self.steps_per_epoch
        super().__init__(self.trainee.model, self._optimizers(), total, amp=size.bfloat16, warm_up=run.warm_up)
        self.limit = self.total if steps is None else min(steps, self.total)
        self.gradient = None
        if kind := self.method.covariance:
            chosen = covariance if kind == "dataset" else kind
            self.gradient = FirstLayerGradient(self.trainee.first_layer, run.lam, chosen, relative=self.method.relative)
        self.lam = None
        if self.method.rising:
            self.lam = CosineLam(self.trainee.backend, self.total, start=run.lam / 2, end=2 * run.lam)

    def train(self, journal: Journal, tell: Callable[[str], None]) -> None:
        """Train, note every epoch, and go on from the journal's checkpoint where there is one."""
        if (state := journal.resume()) is not None:
            self.load_state_dict(state)
        first, epochs = self.done // self.steps_per_epoch + 1, -(-self.limit // self.steps_per_epoch)
        for epoch in range(first, epochs + 1):
            line = {"epoch": epoch, **self.train_epoch(epoch)}
            if epoch == epochs or epoch % max(1, self.run.epochs // EVALUATIONS) == 0:
                line |= self.evaluate()
            journal.epoch(line, self.checkpoint(epoch))
            accuracy = f", accuracy {line['accuracy']:.1%}" if "accuracy" in line else ""
            tell(f"epoch {epoch} of {epochs}: loss {line['loss']:.3f}{accuracy}")
        journal.finish({"rewritten": self.rewritten(), "steps": self.done})

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Mean loss in nats over the epoch's steps, seconds by the clock and by the processor."""
        generator = Generator().manual_seed(epoch_seed(self.run.seed, epoch))
        trained = self.train_on(self._batches(generator))
        return {"loss": trained.loss, "seconds": trained.seconds, "processor_seconds": trained.processor_seconds}

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any]:
        """Share of test images classified right, with planted contrast also by group."""
        model = self.trainee.model.eval()
        right = []
        for start in range(0, len(self.images.test), EVALUATION_BATCH):
            chosen = slice(start, start + EVALUATION_BATCH)
            x = self._laid_out(self.test_inputs.finish(self.test_inputs.images[chosen]))
            with self.autocast():
                scores = model(x)
            right.append(scores.argmax(1) == self.images.test_labels[chosen])
        right = torch.cat(right).float()
        result: dict[str, Any] = {"accuracy": right.mean().item()}
        if self.run.inputs == "contrast":
            group = contrast_groups(len(right), split=1).to(right.device)
            result["by_contrast"] = [right[group == number].mean().item() for number in range(len(CONTRASTS))]
        return result

    def rewritten(self) -> list[str]:
        """Weights that the pass has rewritten, none where it is off."""
        return sorted({match.weight for match in self.trainee.backend.matches}) if self.method.tract else []

    def checkpoint(self, epoch: int) -> dict[str, Any]:
        """Everything that goes on; randomness needs nothing, it begins anew with each epoch."""
        return {"epoch": epoch, **self.state_dict(), **self._own_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state)
        for name in self._own_state():
            getattr(self, name).load_state_dict(state[name])

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        """One step of the optimisers and of ``lam``; the loss in nats."""
        loss = super().step(images, targets)
        if self.lam:
            self.lam.step()
        return loss

    def _own_state(self) -> dict[str, Any]:
        """Of what only some methods have."""
        return {name: part.state_dict() for name in ("gradient", "lam") if (part := getattr(self, name))}

    def _fresh_trainee(self) -> Trainee:
        run, size = self.run, self.size
        build = BUILDERS.get(run.network) or size.networks[run.network]
        part = self.batch // self.method.parts
        shared = trainee(
            build,
            self.images.classes,
            run.width,
            self.method.wrapper,
            part,
            self.images.train.device.type,
            size.channels_last,
        )
        torch.manual_seed(run.seed)
        fresh, _ = network(build, self.images.classes, run.width, self.method.wrapper)
        shared.model.load_state_dict(fresh.state_dict())
        shared.model.zero_grad()
        shared.backend.lam = run.lam
        return shared

    def _covariance(self) -> Tensor | None:
        """Of all training patches, where the method needs it."""
        needed = self.method.covariance == "dataset" or self.method.start
        return patch_covariance(self.trainee.first_layer, self.train_inputs) if needed else None

    def _set_start(self, covariance: Tensor | None) -> None:
        layer, start = self.trainee.first_layer, self.method.start
        if start == "eigenvectors":
            eigenvector_filters(layer, covariance)
        elif start:
            whitened_start(layer, covariance, self.run.lam, keep_norm=start == "whitened, same norm")

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        run = self.run
        own = self.method.first_optimizer
        apart = own or self.method.frozen or not self.method.first_decay
        first = list(self.trainee.first_layer.parameters()) if apart else []
        rest = [p for p in self.trainee.model.parameters() if all(p is not other for other in first)]
        if not self.method.first_decay:
            rest = [{"params": rest}, {"params": first, "weight_decay": 0.0}]
        groups = [(run.optimizer, rest), *([(own, first)] if own else [])]
        return [
            make_optimizer(kind, parameters, run.rate * self.size.peak_rate(run.network, kind))
            for kind, parameters in groups
        ]

    def _batches(self, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Full batches of one epoch, as the network reads them, with one-hot or mixed targets."""
        kind = AUGMENTATIONS[self.run.augmentation]
        order = torch.randperm(len(self.images.train), generator=generator).to(self.device)
        for chosen in order.split(self.batch)[: self.steps_per_epoch]:
            if self.done == self.limit:
                return
            x = self.train_inputs.images[chosen]
            x = randaugment(x, generator) if kind.randaugment else x
            x = crop_flip(x, generator) if kind.crop_flip else x
            x = self.train_inputs.finish(x)
            x = erase(x, generator) if kind.erasing else x
            targets = nn.functional.one_hot(self.images.train_labels[chosen], self.images.classes).float()
            x, targets = mix(x, targets, generator) if kind.mixup else (x, targets)
            yield self._laid_out(x), targets

    def backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Fill the gradients as the method does; the loss in nats."""
        use_tract = self.method.tract and self.done < self.method.until * self.total
        compiled = self.trainee.tract if use_tract else self.trainee.plain
        parts = self.method.parts
        total = torch.zeros((), device=self.device)
        for x, y in zip(images.chunk(parts), targets.chunk(parts), strict=True):
            with self.autocast():
                loss = nn.functional.cross_entropy(compiled(x), y) / parts
            loss.backward()
            total += loss.detach()
        if self.gradient:
            self.gradient.precondition(images)
        if self.method.clip:
            nn.utils.clip_grad_norm_(self.trainee.model.parameters(), self.method.clip)
        return total

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(
            memory_format=torch.channels_last if self.size.channels_last else torch.contiguous_format
        )
