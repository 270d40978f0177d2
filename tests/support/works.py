"""The table "what works" of the README: one row for each promise, filled in by the tests that carry its mark.

``@works("breaks")`` on a test counts it, and each of its cases, towards a row. ``pytest --what-works=FILE`` writes how many
there were and how many passed; ``python -m benchmarks.report`` makes the table from the committed files.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

PROPERTY = "works"

# Area, and the promise in the words of the table.
FEATURES = {
    "convolutions": (
        "layers",
        "Convolutions in 1, 2 and 3 dimensions: any stride, padding, padding mode, dilation, groups",
    ),
    "transposed": (
        "layers",
        "Transposed convolutions: any stride, padding, output padding, dilation, groups, and latent codes",
    ),
    "products": ("layers", "Linear layers on inputs of any rank; `@`, `einsum`, `bmm`, the weight on either side"),
    "stems": ("layers", "Several first layers: two stems, query/key/value; all are rewritten and named"),
    "named": ("layers", '`layers=["..."]` chooses others'),
    "not first": (
        "layers",
        "After an embedding, a trainable normalisation, or fed by constants: never taken for first",
    ),
    "derived": ("weights", "Weight standardisation, gains, LoRA, fake quantisation: rewritten at the effective weight"),
    "parametrised": ("weights", "`weight_norm`, `spectral_norm`, `torch.nn.utils.parametrize`"),
    "shared": ("weights", "A layer called several times: each call with its own rows"),
    "frozen": ("weights", "Frozen first layers and frozen backbones"),
    "functional": ("weights", "Plain functions, `torch.func.functional_call`, weights that are plain tensors"),
    "autocast": ("precision", "bfloat16 and float16 autocast, inside and outside of the compiled code"),
    "low precision": ("precision", "bfloat16 and float16 modules"),
    "scaler": ("precision", "float16 with `torch.amp.GradScaler`"),
    "float64": ("precision", "float64"),
    "integers": ("precision", "uint8 images that are normalised inside of the model"),
    "layouts": ("precision", "channels-last and non-contiguous inputs"),
    "hostile": (
        "precision",
        "Zeros, constants, duplicated channels, raw pixels, any scale: right, and never a NaN",
    ),
    "dynamic": ("shapes", "Dynamic batch and image size, `mark_dynamic`: one graph for all, the last batch included"),
    "few rows": ("shapes", "One row, empty batches, fewer rows than features, also while dynamic"),
    "breaks": ("graphs", "Graph breaks before, inside and after the first layer"),
    "fullgraph": ("graphs", "`fullgraph=True`, the loss inside of the compiled region"),
    "checkpoint": ("graphs", "Activation checkpointing around the first layer"),
    "accumulation": ("graphs", "Gradient accumulation: the sum over the micro-batches"),
    "adversarial": ("graphs", "Inputs that require grad; their gradient stays the plain one"),
    "compiled autograd": ("graphs", "Compiled autograd"),
    "modes": ("graphs", '`mode="reduce-overhead"` and `"max-autotune"`; your own joint pass still runs'),
    "lam": ("in use", "`lam` changes between steps without a compile; several models and `lam` in one process"),
    "schedules": (
        "in use",
        "`LamScheduler`, `CosineLam`: no compile, and a resumed training goes on with the same `lam`",
    ),
    "eager": (
        "in use",
        "`TrAct(layer)` without a compile: every convolution and linear layer, and what is done with one",
    ),
    "caches": ("in use", "Inductor's and AOTAutograd's caches: a second process hits them and reports the same"),
    "copies": ("in use", "Pickled and deep-copied compiled models still train with TrAct; state dicts unchanged"),
    "inference": ("in use", "`eval()`, `no_grad`, `inference_mode`, models without a first layer"),
    "untouched": ("in use", "Everything else is bitwise that of the plain compile"),
    "errors": ("errors", "What cannot be rewritten is an error that names the layer, the reason and the remedy"),
    "inner gradients": ("errors", "A gradient taken inside of the compiled function is an error"),
    "skipped": ("errors", "A model, or first layer, that Dynamo skips is a warning before the optimiser's first step"),
    "explain": ("inspecting", "`explain`: names, costs and graphs are right, and it leaves nothing behind"),
    "probe": (
        "inspecting",
        "`probe`: each planted fault is reported, and good data is not; every number against float64",
    ),
    "logs": ("inspecting", '`TORCH_LOGS="tract_fx"`, `TORCH_TRACE` and `tlparse`, also from a cache'),
    "command line": ("inspecting", "`tract-fx explain`, `probe`, `doctor`: exit status, suggestions, models by name"),
    "processes": (
        "many processes",
        "DDP, `no_sync`, ZeRO, FSDP2, HSDP: gradients are those of one process with the whole batch",
    ),
    "tensor parallel": (
        "many processes",
        "A first layer sharded over its outputs (`ColwiseParallel`); other shardings of it are an error",
    ),
    "disagreement": (
        "many processes",
        "Processes that do not do the same: an error that names the ranks, never a hang",
    ),
    "trainers": (
        "trainers",
        "timm's training script, Hugging Face Trainer, Lightning, Accelerate, torchrun: gradients, checkpoints, resuming",
    ),
    "random": ("random networks", "Generated networks against the reference: `python -m tests.fuzz`"),
}


def works(feature: str) -> pytest.MarkDecorator:
    """Mark of a test that shows a feature of :data:`FEATURES`."""
    if feature not in FEATURES:
        raise KeyError(f"{feature!r} is no row of the table: {', '.join(FEATURES)}")
    return pytest.mark.works(feature)


@dataclasses.dataclass
class Counts:
    """Tests of one feature."""

    tests: int = 0
    passed: int = 0


class Collector:
    """Counts the outcomes of marked tests and writes them at the end of the session."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts = {feature: Counts() for feature in FEATURES}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes the outcome of a test; under pytest-xdist it comes from another process."""
        if report.when != "call" and not report.failed:
            return
        for name, feature in report.user_properties:
            if name == PROPERTY:
                self.counts[feature].tests += report.when == "call"
                self.counts[feature].passed += report.passed

    def pytest_sessionfinish(self) -> None:
        """Writes the file; rows of which no test ran keep what it has for the same version of torch."""
        version = torch.__version__.partition("+")[0]
        before = json.loads(self.path.read_text()) if self.path.exists() else {}
        kept = {item["promise"]: item for item in before.get("features", ()) if before["torch"] == version}
        features = []
        for feature, (area, promise) in FEATURES.items():
            counts = dataclasses.asdict(self.counts[feature])
            if not counts["tests"] and promise in kept:
                counts = {name: kept[promise][name] for name in counts}
            features.append({"area": area, "promise": promise, **counts})
        content = {"torch": version, "features": features}
        self.path.write_text(json.dumps(content, indent=1) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--what-works", type=Path, metavar="FILE", help="write the counts behind the table of what works")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--what-works")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collector(path.absolute()))


def note(item: pytest.Item) -> None:
    """What a test shows goes into its report."""
    item.user_properties.extend((PROPERTY, mark.args[0]) for mark in item.iter_markers("works"))
