"""``tract_fx.probe``: run some batches through a copy of a model, and evaluate what its first layers saw."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tract_fx import compat
from tract_fx.backend import TractBackend
from tract_fx.errors import OptionError, ProbeError, TractError
from tract_fx.inspect.causes import first_cause, in_words, quiet
from tract_fx.options import DEFAULT_LAM, TractOptions, check_count, check_lam
from tract_fx.probing.backend import LayerObservers, ObservedLayer, isolated_compile
from tract_fx.probing.batches import Batch, tensors_in
from tract_fx.probing.channels import constant_channels, duplicated_channels
from tract_fx.probing.diagnosis import diagnose
from tract_fx.probing.isolation import copied, preserve_rng_state
from tract_fx.probing.losses import GIVEN, default_loss
from tract_fx.probing.observer import LARGEST_POOLED, StreamingObserver
from tract_fx.probing.probes import Probe
from tract_fx.probing.result import GridPoint, LayerProbe, ValueSummary, mean_of
from tract_fx.probing.spectrum import condition, degrees_of_freedom, effective_rank, relative_to_mean
from tract_fx.probing.unit import unit_of_lam

__all__ = ["DEFAULT_GRID", "probe"]

# Decades around the paper's 0.05, 0.1 and 0.2.
DEFAULT_GRID = (1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 1.0, 10.0, 100.0)

Loss = Callable[[Any, Any], Tensor]


def probe(
    model: nn.Module,
    loader: Iterable[Any],
    lam: float = DEFAULT_LAM,
    *,
    batches: int = 8,
    loss: Loss | None = None,
    layers: str | Sequence[str] = "first",
    grid: Sequence[float] | None = None,
    relative: bool = False,
) -> Probe:
    """Check data and ``lam`` for TrAct: run real batches through a copy of the model, forward and backward.

    The layers are those that the backend would rewrite, found by its own pass, and what is measured are the values that it
    would compute with. The model runs compiled, without code generation, as a copy, in the mode (training or not) and under
    the autocast that it is in; it, its buffers and gradients, random numbers, and what ``torch.compile`` has made of it stay
    as they are. ``batches`` items are taken from the loader; a loader that is an iterator advances by as many. Hooks that
    are registered on the model's modules run.

    Memory is that of one training step, of the covariance ``(groups, n, n)`` in float64 - where ``n`` is above 4096 that of
    one batch's ``(r, r)`` - and of a copy of one batch; it does not grow with ``batches``.

    Args:
        model: a module; also what ``torch.compile`` or ``DistributedDataParallel`` returned.
        loader: yields tensors, pairs of inputs and labels, or dictionaries of keyword arguments (Hugging Face).
        lam: as in ``tract_backend``.
        batches: how many to take, at most.
        loss: is given the output and the item of the loader, on the model's device. By default the model's own
            ``output.loss``; else cross-entropy for integer labels ``(b,)`` and logits ``(b, k)``; else a fixed random
            linear functional of the output. Only cosines and what is kept of the gradient depend on it.
        layers: as in ``tract_backend``.
        grid: other ``lam`` to compare with; by default 1e-4 to 100.
        relative: as in ``tract_backend``, for ``lam`` and ``grid``. ``LayerProbe.unit_of_lam`` says whether a relative or an
            absolute ``lam`` suits the data.

    Raises:
        OptionError: for an argument that is not allowed.
        UnknownLayerError: for a name in ``layers`` that the model does not have.
        ProbeError: when the model is no module or does not accept a batch, the loader is empty or yields something
            else, or no first layer got a gradient; the message says why.
    """
    options = TractOptions(lam=lam, layers=layers, on_unsupported="ignore", inner="aot_eager", relative=relative)
    lams = _grid(options.lam, DEFAULT_GRID if grid is None else grid)
    batches = check_count(batches, "batches", 1)
    if loss is not None and not callable(loss):
        raise OptionError(f"loss={loss!r} is not allowed: it must be a function of the output and the loader's item.")
    if not isinstance(loader, Iterable):
        raise OptionError(f"loader={loader!r} is not allowed: it must yield batches, such as a DataLoader or a list.")
    observers = LayerObservers(lams, relative=options.relative)
    backend = TractBackend(options, observers.compile_graph, trains=False)
    with preserve_rng_state(loader), torch.inference_mode(False), torch.enable_grad(), copied(model) as twin:
        norms, loss_words = _run(twin, loader, backend, observers, batches, loss)
    if not norms:
        raise ProbeError("The loader yields no batch.")
    seen = [layer for layer in observers.layers.values() if layer.observer.calls]
    if not seen:
        raise ProbeError(_nothing_seen(backend, observers))
    probes = tuple(_probe_of(layer, options.lam, _examples(loader)) for layer in seen)
    rejections = tuple(dict.fromkeys(backend.rejections))
    return Probe(probes, rejections, options.lam, len(norms), loss_words, options.relative, norms)


def _grid(lam: float, grid: Sequence[float]) -> tuple[float, ...]:
    try:
        others = [check_lam(item) for item in grid]
    except TypeError:
        raise OptionError(f"grid={grid!r} is not allowed: it must be a list of positive numbers.") from None
    return tuple(sorted({lam, *others}))


def _run(
    model: nn.Module,
    loader: Iterable[Any],
    backend: TractBackend,
    observers: LayerObservers,
    batches: int,
    loss: Loss | None,
) -> tuple[tuple[float, ...], str]:
    """Run the batches; returns the norm of all gradients of each, and what was differentiated."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    words: dict[str, None] = {}
    norms: list[float] = []
    with isolated_compile(model, backend) as compiled:
        for count, item in enumerate(itertools.islice(loader, batches), 1):
            batch = Batch.of(item, device)
            observers.expect(batch.samples)
            with _explained(count, batch):
                output = compiled(*batch.args, **batch.kwargs)
                value, kind = (
                    default_loss(output, batch) if loss is None else (_checked(loss(output, batch.item)), GIVEN)
                )
                value.backward()
            words[kind] = None
            norms.append(_norm_of_gradients(model))
            model.zero_grad(set_to_none=True)
    return tuple(norms), "; ".join(words)


def _norm_of_gradients(model: nn.Module) -> float:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return sum(gradient.to_dense().double().square().sum().item() for gradient in gradients) ** 0.5


@contextlib.contextmanager
def _explained(number: int, batch: Batch) -> Iterator[None]:
    try:
        with quiet("torch._subclasses.fake_tensor"):
            yield
    except (TractError, compat.BackendCompilerFailed):  # of the backend; said elsewhere
        raise
    except Exception as error:  # whatever the user's own classes raise
        shapes = ", ".join(
            f"{str(item.dtype).removeprefix('torch.')} of {'x'.join(map(str, item.shape))}"
            for item in tensors_in((batch.args, batch.kwargs))
        )
        raise ProbeError(
            f"The model and its loss cannot be run on batch {number} ({shapes}): {in_words(first_cause(error))}"
        ) from error


def _checked(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ProbeError(f"loss must return a tensor with one element that requires a gradient; it returned {found}.")
    return value.reshape(())


def _nothing_seen(backend: TractBackend, observers: LayerObservers) -> str:
    if observers.layers:
        names = ", ".join(layer.layer or layer.weights[0] for layer in observers.layers.values())
        return f"The first layer ({names}) got no gradient: the loss does not depend on it. Give another one, loss=..."
    if backend.rejections:
        return "\n".join(["TrAct finds no layer to rewrite.", *map(str, dict.fromkeys(backend.rejections))])
    return (
        "TrAct finds no layer to rewrite: Dynamo compiled no graph with a first layer that trains. tract_fx.explain(model, "
        'input) says more, and TORCH_LOGS="graph_breaks" shows what Dynamo skips.'
    )


def _examples(loader: Iterable[Any]) -> int | None:
    """How many examples the loader has in all; None where it does not say so."""
    dataset = getattr(loader, "dataset", None)
    with contextlib.suppress(TypeError, NotImplementedError):  # of an iterable dataset, or a number that is no number
        if dataset is not None:
            return len(dataset)
        if isinstance(loader, (list, tuple)):
            return sum(Batch.of(item, torch.device("meta")).samples for item in loader)
    return None


def _probe_of(layer: ObservedLayer, lam: float, examples: int | None) -> LayerProbe:
    observer = layer.observer
    pooled = observer.pooled()
    empty = torch.zeros(0, 0, dtype=torch.float64)
    eigenvalues = empty if pooled is None else pooled.eigenvalues
    known = eigenvalues.numel() > 0
    in_unit = relative_to_mean(eigenvalues, layer.features) if observer.relative else eigenvalues
    number = observer.lams.index(lam)
    probed = LayerProbe(
        layer=layer.layer,
        weights=layer.weights,
        description=layer.description,
        geometry=dataclasses.replace(observer.geometry, groups=len(observer.weight)),
        features=layer.features,
        rows=tuple(observer.rows),
        lam=lam,
        eigenvalues=eigenvalues,
        eigenvectors=empty if pooled is None else pooled.eigenvectors,
        of_one_batch=pooled is not None and pooled.of_one_batch,
        condition=_condition(eigenvalues, layer.features, 0.0) if known else float("nan"),
        condition_with_lam=_condition(in_unit, layer.features, lam) if known else float("nan"),
        effective_rank=effective_rank(eigenvalues) if known else float("nan"),
        mean_offset=_mean_offset(observer, eigenvalues) if known else float("nan"),
        grid=_grid_points(observer, in_unit),
        cosines=tuple(item.cosines[number] for item in observer.passes),
        values=_values_of(observer) if known else None,
        filters=observer.weight.cpu(),
        bad_inputs=observer.bad_inputs,
        bad_gradients=observer.bad_gradients,
        zero_gradients=observer.zero_gradients,
        relative=observer.relative,
        others=tuple((item.other[number], item.plain) for item in observer.agreements),
        examples=examples,
        norms=tuple(item.norm for item in observer.passes),
        new_norms=tuple(item.norm * item.grown[number] for item in observer.passes),
        raised=max((item.raised[number] for item in observer.passes), default=0.0) or None,
        mean_eigenvalues=tuple(item.mean_eigenvalue for item in observer.passes),
    )
    return dataclasses.replace(probed, warnings=diagnose(probed), unit_of_lam=unit_of_lam(probed))


def _condition(eigenvalues: Tensor, features: int, lam: float) -> float:
    """Of all ``n`` eigenvalues: those of one batch's kernel are fewer, and the others zero."""
    missing = features - eigenvalues.shape[1]
    return condition(torch.nn.functional.pad(eigenvalues, (0, missing)) if missing > 0 else eigenvalues, lam)


def _mean_offset(observer: StreamingObserver, eigenvalues: Tensor) -> float:
    trace = eigenvalues.sum().item()
    return min(1.0, observer.mean.square().sum().item() / trace) if trace > 0 else 0.0


def _grid_points(observer: StreamingObserver, eigenvalues: Tensor) -> tuple[GridPoint, ...]:
    return tuple(
        GridPoint(
            lam,
            cosine=mean_of([item.cosines[index] for item in observer.passes]),
            kept=mean_of([item.kept[index] for item in observer.passes]),
            reshaped=mean_of([item.reshaped[index] for item in observer.passes]),
            degrees_of_freedom=degrees_of_freedom(eigenvalues, lam) if eigenvalues.numel() else 0.0,
            grown=mean_of([item.grown[index] for item in observer.passes]),
            own=mean_of([item.own[index] for item in observer.agreements]),
            other=mean_of([item.other[index] for item in observer.agreements]),
        )
        for index, lam in enumerate(observer.lams)
    )


def _values_of(observer: StreamingObserver) -> ValueSummary:
    values = observer.values
    mean, std = values.mean.cpu(), values.std.cpu()
    minimum, maximum = values.minimum.cpu(), values.maximum.cpu()
    dead = constant_channels(std, minimum, maximum)
    products = None if values.cross is None else values.cross.cpu() / values.count
    moments = None
    if products is None and not observer.geometry.kernel_size and len(mean) <= LARGEST_POOLED:
        moments = observer.second_moments()
    if moments is not None and len(moments) == 1:
        products = moments[0]
    return ValueSummary(
        mean=mean,
        std=std,
        minimum=minimum,
        maximum=maximum,
        samples=values.samples,
        constant=values.constant / values.samples,
        near_constant=values.near_constant / values.samples,
        contrast=values.contrast,
        dead=dead,
        duplicates=() if products is None else duplicated_channels(mean, std, products),
        zero_one=tuple(index for index in values.zero_one.nonzero().flatten().tolist() if index not in dead),
    )
