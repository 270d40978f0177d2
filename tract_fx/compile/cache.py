"""How a second process gets the findings of a compile without running the pass.

On a hit in AOTAutograd's cache no pass runs. The findings of a compile are therefore stored next to the cache, under a key
of everything that determines them and is known before the joint graph exists. A record holds a random token that is part of
the pass's own cache key. So a cached graph can be found only through the record that was written with it, and a missing
record causes a compile, never a graph without findings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

import torch

from tract_fx.compat import cache_dir
from tract_fx.compile.captured import Captured
from tract_fx.compile.lam_input import LamInput
from tract_fx.records import GraphRecord
from tract_fx.source_hash import source_hash

__all__ = ["RecordStore", "fingerprint"]

log = logging.getLogger(__name__)


def fingerprint(captured: Captured, lam: LamInput) -> tuple[Any, ...]:
    """Everything that determines the findings: source code, options, the graph, its inputs, names, and autograd's state."""
    stacks = [list(node.meta.get("nn_module_stack", {}).values())[-1:] for node in captured.gm.graph.nodes]
    return (
        source_hash(),
        torch.__version__,
        captured.settings.layers,
        captured.settings.on_unsupported,
        captured.settings.relative,
        captured.groups,
        lam,
        captured.naming,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        tuple(
            (item.name, item.role.value, item.differentiated_inside, item.parts, item.jagged, item.beside_signal)
            for item in captured.inputs
        ),
        tuple(map(_metadata, captured.example_inputs)),
        captured.gm.print_readable(print_output=False),
        repr(stacks),
    )


def _metadata(example: Any) -> tuple[Any, ...]:
    if not isinstance(example, torch.Tensor):
        return (type(example).__name__, str(example))
    strides = str(example.stride()) if example.layout is torch.strided else ""
    return (str(example.dtype), str(example.device), str(example.shape), strides, example.requires_grad)


class RecordStore:
    """The record of one compile in Inductor's cache folder.

    Args:
        key: everything that determines the findings; its ``repr`` is hashed.

    Attributes:
        path: the file.
        token: part of the cache key of the pass; random where there is no record.
        record: the findings; None where there is no record, or none that can be read.
    """

    def __init__(self, key: tuple[Any, ...]) -> None:
        digest = hashlib.sha256(repr(key).encode()).hexdigest()
        self.path = Path(cache_dir()) / "tract_fx" / digest[:2] / f"{digest}.json"
        self.token, self.record = self._load()

    def save(self, record: GraphRecord) -> None:
        """Write the record. If the folder cannot be written, the next process compiles again; no result becomes wrong."""
        content = json.dumps({"token": self.token, "record": record.to_json()})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
            Path(temporary).replace(self.path)
        except OSError as error:
            log.warning(
                "The findings of a compile could not be stored, so the next process will compile again: %s", error
            )

    def _load(self) -> tuple[str, GraphRecord | None]:
        try:
            data = json.loads(self.path.read_text())
            return data["token"], GraphRecord.from_json(data["record"])
        except (OSError, ValueError, KeyError, TypeError):
            return secrets.token_hex(16), None
