"""What ``TORCH_LOGS`` prints and ``TORCH_TRACE`` records of a compile.

``TORCH_LOGS="tract_fx"`` prints one line for each graph, and ``TORCH_LOGS="+tract_fx"`` also the joint graph as code before
and after the rewrite. ``TORCH_TRACE`` names a folder to which the same is written as files, which ``tlparse`` shows together
with those of PyTorch. Code is generated only if one of them is set, because that takes seconds for a large graph.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Iterator

from torch.fx import Graph

from tract_fx.compat import trace_artifact
from tract_fx.records import GraphRecord

__all__ = ["AFTER", "BEFORE", "FINDINGS", "log_findings", "showing"]

log = logging.getLogger(__name__)

BEFORE, AFTER, FINDINGS = "tract_before_joint_graph", "tract_after_joint_graph", "tract_findings"

CACHED = (
    "none: the compiled graph came from the cache, and no joint graph was traced; "
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 forces a recompile"
)
UNCHANGED = "none: the joint graph was not changed"


@contextlib.contextmanager
def showing(graph: Graph) -> Iterator[None]:
    """Log a joint graph before and after the changes that are made to it inside the context."""
    _show(BEFORE, graph)
    yield
    _show(AFTER, graph)


def log_findings(record: GraphRecord, *, traced: bool, repeated: bool = False) -> None:
    """Log the findings of one graph, in the same words whether the pass ran or not.

    Args:
        record: the findings.
        traced: whether the pass ran; False on a cache hit.
        repeated: whether the same line was logged for an earlier graph; it is then one for debugging.
    """
    log.log(logging.DEBUG if repeated else logging.INFO, "%s", record)
    graphs = f"{BEFORE}, {AFTER}" if record.matches else UNCHANGED
    if not traced:
        graphs = CACHED
        log.debug("joint graphs: %s", graphs)
    trace_artifact(FINDINGS, "json", lambda: json.dumps(record.to_json() | {"joint_graphs": graphs}, indent=1))


def _show(name: str, graph: Graph) -> None:
    code = functools.cache(lambda: _code(graph))
    trace_artifact(name, "string", code)
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s\n%s", name, code())


def _code(graph: Graph) -> str:
    """Python code with dtypes, shapes, strides and devices."""
    return graph.python_code("self", verbose=True, include_stride=True, include_device=True).src.strip()
