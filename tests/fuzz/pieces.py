"""The same random network compiled whole and in pieces: every way must give the gradients of the reference.

A network is a stem, or two, or one stem that sees two views, then blocks and a head; what reads data directly is known by
construction. A way says what is compiled, where graphs break, what is checkpointed, and which calls come in which order.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.support.oracle import closed_forms
from tests.support.parts import tract_warnings
from tract_fx import tract_backend

from .check import FuzzError

__all__ = ["Net", "Way", "check_pieces", "draw_ways"]

LAM = 0.1
BATCH = 7
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
# A gradient that is zero but for rounding (a bias in front of a norm) is compared on the scale of the largest one.
FLOOR = 1e-3


class Stem(nn.Module):
    """A layer that reads data; ``(batch, *, channels)`` tokens or ``(batch, channels, *spatial)``."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "patch":
            self.layer: nn.Module = nn.Conv2d(3, width, 4, stride=4)
        elif kind in CONVOLUTIONS:
            self.layer = CONVOLUTIONS[kind](3, width, 3, padding=1)
        else:
            self.layer = nn.Linear(6, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y.flatten(2).transpose(1, 2) if self.kind == "patch" else y


class FrameStem(Stem):
    """Reads one frame after another; ``state`` reads what it has itself computed, and zeros first."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__(kind, width)
        self.state = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        state, states = x.new_zeros(len(x), self.state.in_features), []
        for frame in x.unbind(1):
            state = torch.tanh(self.layer(frame) + self.state(state))
            states.append(state)
        return torch.stack(states, 1)


class Cell(nn.Module):
    """A cell of one layer, which reads data alone in its first step: no first layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.both = nn.Linear(6 + width, width)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), self.both.out_features)
        for frame in x.unbind(1):
            state = torch.tanh(self.both(torch.cat([frame, state], 1)))
        return state[:, None]


class Residual(nn.Module):
    """``x + f(layer(norm(x)))``, with any of its parts left out."""

    def __init__(self, net: Net, width: int, rng: random.Random) -> None:
        super().__init__()
        spatial = net.kind in CONVOLUTIONS
        norms = (lambda: nn.GroupNorm(2, width)) if spatial else (lambda: nn.LayerNorm(width))
        self.norm = norms() if rng.random() < 0.5 else nn.Identity()
        self.layer = CONVOLUTIONS[net.kind](width, width, 3, padding=1) if spatial else nn.Linear(width, width)
        self.activation = rng.choice((torch.tanh, torch.relu, nn.functional.gelu, torch.sigmoid))
        self.skips = rng.random() < 0.7

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.layer(self.norm(x)))
        return x + y if self.skips else y


class Activation(nn.Module):
    """A norm and an activation without a product."""

    def __init__(self, net: Net, width: int, rng: random.Random) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width) if net.kind in CONVOLUTIONS else nn.LayerNorm(width)
        self.activation = rng.choice((torch.tanh, nn.functional.silu))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(x))


class Recurrent(nn.Module):
    """A recurrent cell over the positions of a signal that a network has computed."""

    def __init__(self, net: Net, width: int, rng: random.Random) -> None:
        super().__init__()
        self.spatial = net.kind in CONVOLUTIONS
        self.cell = rng.choice((nn.GRUCell, nn.RNNCell))(width, width)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(2).transpose(1, 2)[:, :3] if self.spatial else x
        state = torch.zeros_like(frames[:, 0])
        for frame in frames.unbind(1):
            state = self.cell(frame, state)
        return x + (state.reshape(*state.shape, *[1] * (x.dim() - 2)) if self.spatial else state[:, None])


class Timed(nn.Module):
    """Adds an embedding of a time step that is drawn here."""

    def __init__(self, net: Net, width: int, rng: random.Random) -> None:
        super().__init__()
        self.spatial, self.time = net.kind in CONVOLUTIONS, nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        time = torch.randint(0, 100, (len(x),)).to(x.dtype)
        angles = time[:, None] * torch.exp(-torch.arange(4, dtype=x.dtype))
        shift = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        return x + (shift.reshape(*shift.shape, *[1] * (x.dim() - 2)) if self.spatial else shift[:, None])


class Time(nn.Module):
    """An embedding of a time step, which has one number for each sample: no first layer beside a signal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(8, width)

    def forward(self, time: Tensor) -> Tensor:
        angles = time[:, None] * torch.exp(-torch.arange(4, dtype=time.dtype))
        return self.layer(torch.cat([angles.sin(), angles.cos()], 1))


CONVOLUTIONS = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d}
SHAPES = {"conv1d": (3, 9), "conv2d": (3, 6, 5), "patch": (3, 8, 8), "linear": (4, 6), "frames": (3, 6)}
BLOCKS = (Residual, Residual, Residual, Activation, Recurrent, Timed)


class Net(nn.Module):
    """A random network.

    Attributes:
        kind: of the stem.
        first: names of the modules that are first layers.
        dtype: of parameters and data.
        breaks: whether the graph breaks between blocks.
        reentrant: the kind of checkpointing; None for none.
        with_stem: whether the stem is checkpointed too.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng, self.seed = random.Random(seed), seed
        torch.manual_seed(seed)
        self.kind, width = rng.choice(sorted(SHAPES)), rng.choice((4, 6))
        make = FrameStem if self.kind == "frames" else Stem
        self.stem, self.first = make(self.kind, width), ["stem.layer"]
        self.form = rng.choice(("one", "one", "two", "siamese"))
        if self.form == "two":
            self.other = make(self.kind, width)
            self.first.append("other.layer")
        self.cell = Cell(width) if self.kind in ("linear", "frames") and rng.random() < 0.4 else None
        self.time = Time(width) if rng.random() < 0.3 else None
        self.time_first = rng.random() < 0.5
        self.blocks = nn.ModuleList(rng.choice(BLOCKS)(self, width, rng) for _ in range(rng.randint(2, 4)))
        self.head = nn.Linear(width, 3)
        self.dtype = rng.choice((torch.float32, torch.float32, torch.float64))
        self.breaks, self.with_stem = False, False
        self.reentrant: bool | None = None
        self.to(self.dtype)

    def pieces(self) -> list[nn.Module]:
        """Everything between data and head that can be compiled or checkpointed by itself, stems first."""
        optional = (getattr(self, "other", None), self.cell, self.time)
        return [self.stem, *(piece for piece in optional if piece), *self.blocks]

    def forward(self, x: Tensor) -> Tensor:
        shift = self._shift(x) if self.time_first else None
        h = self._call(self.stem, x, checkpoints=self.with_stem)
        if self.form != "one":
            second = self.stem if self.form == "siamese" else self.other
            h = h * self._call(second, x.flip(-1) * 0.5, checkpoints=self.with_stem)
        if self.cell is not None:
            h = h + self._call(self.cell, x, checkpoints=self.with_stem)
        shift = shift if self.time_first else self._shift(x)
        h = h if shift is None else h + shift
        for block in self.blocks:
            h = self._call(block, h)
        return self.head(h.flatten(2).mean(2) if self.kind in CONVOLUTIONS else h.mean(1))

    def _shift(self, x: Tensor) -> Tensor | None:
        if self.time is None:
            return None
        time = torch.randint(0, 100, (len(x),)).to(x.dtype)
        shift = self._call(self.time, time, checkpoints=self.with_stem and not self.reentrant)
        return shift.reshape(*shift.shape, *[1] * (x.dim() - 2)) if self.kind in CONVOLUTIONS else shift[:, None]

    def _call(self, piece: nn.Module, x: Tensor, *, checkpoints: bool = True) -> Tensor:
        if self.breaks:
            torch._dynamo.graph_break()
        if self.reentrant is None or not checkpoints:
            return piece(x)
        return checkpoint(piece, x, use_reentrant=self.reentrant)


class Wrapper(nn.Module):
    """A model around the network, as training frameworks have."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@dataclasses.dataclass(frozen=True)
class Way:
    """How a network is compiled and called.

    Attributes:
        compiled: ``"whole"``, ``"breaks"``, ``"blocks"`` or ``"blocks, stem eager"``.
        checkpointing: ``"none"``, ``"non-reentrant"`` or ``"reentrant"``.
        with_stem: whether that includes the stems.
        wrapped: whether the network is a part of another model.
        calls: of these, in this order: ``"train"``, ``"perturbed"`` (with a perturbation that requires grad), ``"eval"``.
    """

    compiled: str
    checkpointing: str = "none"
    with_stem: bool = False
    wrapped: bool = False
    calls: tuple[str, ...] = ("train",)

    def excluded(self) -> str | None:
        """Why PyTorch itself cannot do it."""
        if self.checkpointing == "reentrant" and self.with_stem and "train" in self.calls:
            return "reentrant checkpointing computes no gradient if no input of the function requires one"
        return None


CALLS = (
    ("train",),
    ("train", "eval", "train"),
    ("eval", "train"),
    ("perturbed",),
    ("train", "perturbed"),
    ("perturbed", "train"),
    ("eval", "perturbed", "eval", "train"),
)


def draw_ways(seed: int, count: int) -> list[Way]:
    """Ways for a seed, in turn with every kind of compilation."""
    rng = random.Random(f"ways {seed}")
    ways: list[Way] = []
    kinds = ["whole", "blocks", "breaks", "blocks, stem eager"]
    while len(ways) < count:
        way = Way(
            kinds[(seed + len(ways)) % len(kinds)],
            rng.choice(("none", "non-reentrant", "reentrant")),
            rng.random() < 0.4,
            rng.random() < 0.3,
            rng.choice(CALLS),
        )
        if way.excluded() is None and way not in ways:
            ways.append(way)
    return ways


def check_pieces(seed: int, count: int = 4) -> None:
    """Run a seed's network in some ways.

    Raises:
        FuzzError: naming everything that is not as it must be.
    """
    problems = []
    for way in draw_ways(seed, count):
        try:
            found = _problems(seed, way)
        except Exception as failure:
            found = [f"{type(failure).__name__}: {str(failure)[:400]}"]
        problems += [f"- {way}\n  {problem}" for problem in found]
    if problems:
        raise FuzzError("\n".join([f"pieces of seed {seed}:", *problems, str(Net(seed))]))


def loss(output: Tensor) -> Tensor:
    """Differs from element to element and from sample to sample."""
    return (output.sin() * torch.linspace(0.5, 2, output.numel(), dtype=output.dtype).view_as(output)).mean()


def _problems(seed: int, way: Way) -> list[str]:
    torch._dynamo.reset()
    net = Net(seed)
    generator = torch.Generator().manual_seed(seed)
    x, delta = (torch.randn(BATCH, *SHAPES[net.kind], generator=generator).to(net.dtype) for _ in range(2))
    plain = way.compiled == "blocks, stem eager"
    expected = {
        "train": _oracle(net, x, () if plain else net.first),
        "perturbed": _oracle(net, x + 0.1 * delta, () if plain else net.first),
    }
    backend = tract_backend(LAM, inner="aot_eager")
    # With breaks, one frame is compiled for every piece.
    with torch._dynamo.config.patch(recompile_limit=64), tract_warnings() as said:
        problems = _run(way, net, _compile(way, net, backend), x, 0.1 * delta, expected)
    found, wanted = {match.weight for match in backend.matches}, _names(way, net)
    # Dynamo runs the code of one stem for the other where it sees no difference; gradients show that both are rewritten.
    complete = found == wanted if way.compiled == "whole" else bool(found) == bool(wanted)
    if not complete or not found <= wanted:
        problems.append(f"matches are {sorted(found)}, first layers are {sorted(wanted)}")
    # A graph of its own in which data reach a cell alone has no first layer, and says why.
    alone = net.cell is not None and way.compiled in ("blocks", "breaks")
    if bool(said) != (plain or alone) or (alone and not all("(a recurrent cell)" in message for message in said)):
        problems.append(f"warnings are {said}")
    return problems


def _names(way: Way, net: Net) -> set[str]:
    """Names of the weights of the first layers in the ``state_dict`` of the model: what is compiled, or holds all blocks."""
    if way.compiled == "blocks, stem eager":
        return set()
    wrapper = "net." if way.wrapped and way.compiled != "blocks" else ""
    return {f"{wrapper}{name}.weight" for name in net.first}


def _compile(way: Way, net: Net, backend: object) -> Callable[[Tensor], Tensor]:
    model = Wrapper(net) if way.wrapped else net
    net.breaks, net.with_stem = way.compiled == "breaks", way.with_stem
    net.reentrant = None if way.checkpointing == "none" else way.checkpointing == "reentrant"
    if way.compiled in ("whole", "breaks"):
        return torch.compile(model, backend=backend)
    for piece in net.blocks if way.compiled == "blocks, stem eager" else net.pieces():
        piece.compile(backend=backend)
    return model


def _run(
    way: Way,
    net: Net,
    call: Callable[[Tensor], Tensor],
    x: Tensor,
    delta: Tensor,
    expected: dict[str, dict[str, Tensor]],
) -> list[str]:
    problems = []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)  # a step looks for what was not rewritten
    for number, kind in enumerate(way.calls):
        torch.manual_seed(net.seed)
        if kind == "eval":
            with torch.no_grad():
                call(x)
            continue
        leaf = delta.clone().requires_grad_()
        optimizer.zero_grad()
        loss(call(x if kind == "train" else x + leaf)).backward()
        found = {name: parameter.grad for name, parameter in net.named_parameters()}
        if kind == "perturbed":
            found["<data>"] = leaf.grad
        wrong = _errors(found, expected[kind], TOLERANCE[net.dtype])
        if wrong:
            wrong = _errors(found, expected[kind], _rounding(net, x if kind == "train" else x + delta), wrong)
        problems += [f"call {number}: gradient of {name}: error {size:.1e}" for name, size in wrong.items()]
        optimizer.step()
    return problems


def _errors(
    found: Mapping[str, Tensor | None],
    expected: Mapping[str, Tensor],
    allowed: float | Mapping[str, float],
    names: Collection[str] | None = None,
) -> dict[str, float]:
    """The relative errors that are larger than allowed, of the gradients named or of all; infinity where one is missing."""
    largest = max(wanted.norm() for wanted in expected.values())
    errors = {}
    for name in found if names is None else names:
        gradient, wanted = found[name], expected[name]
        difference = torch.inf if gradient is None else (gradient.double() - wanted).norm()
        size = float(difference / max(wanted.norm(), FLOOR * largest))
        if not size <= (allowed if isinstance(allowed, float) else allowed[name]):
            errors[name] = size
    return errors


def _rounding(net: Net, x: Tensor) -> dict[str, float]:
    """Twice the errors that the plain gradients have in the network's own precision, without a compiler."""
    gradients = []
    for dtype in (net.dtype, torch.float64):
        twin = copy.deepcopy(net).to(dtype)
        twin.breaks = False
        gradients.append(_gradients(twin, x.detach().to(dtype)))
    return {name: 2 * size for name, size in _errors(*gradients, allowed=-1.0).items()}


def _gradients(net: Net, x: Tensor, first: Sequence[str] = ()) -> dict[str, Tensor]:
    """Gradients of the parameters and of the data, eagerly, with the random numbers of the network's seed.

    Those of the layers in ``first`` are in closed form, summed over their calls.
    """
    data = x.clone().requires_grad_()

    def step() -> Tensor:
        torch.manual_seed(net.seed)
        return loss(net(data))

    closed = closed_forms(net, first, step, LAM)
    plain = {name: parameter.grad for name, parameter in net.named_parameters()}
    return plain | {f"{name}.weight": gradient for name, gradient in closed.items()} | {"<data>": data.grad}


def _oracle(net: Net, x: Tensor, first: Sequence[str]) -> dict[str, Tensor]:
    """All gradients in float64, without a compiler."""
    return _gradients(copy.deepcopy(net).double(), x.double(), first)
