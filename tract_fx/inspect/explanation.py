"""What the pass does to a model: the layers it rewrites, their cost, and why it does not rewrite the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.fx import GraphModule

from tract_fx.environment import environment
from tract_fx.inspect.capture import Capture, capture
from tract_fx.inspect.cost.flops import step_flops
from tract_fx.inspect.cost.layer_cost import layer_cost
from tract_fx.inspect.formatting import describe_layer, summarize
from tract_fx.inspect.nodes import LayerNodes
from tract_fx.inspect.result import ExplainedGraph, ExplainedLayer, ExplanationResult
from tract_fx.inspect.views.page import render_frame, render_html
from tract_fx.inspect.views.text import as_text, report
from tract_fx.options import DEFAULT_LAM, TractOptions
from tract_fx.passes.first_layer import Match

__all__ = ["ExplainedGraph", "ExplainedLayer", "Explanation", "explain"]


def explain(
    model: Callable[..., Any],
    *args: Any,
    lam: float = DEFAULT_LAM,
    layers: str | Sequence[str] = "first",
    backward_of: Callable[[Any], Any] | None = None,
    dynamic: bool | None = None,
    relative: bool = False,
    **kwargs: Any,
) -> Explanation:
    """Report which layers of a model TrAct rewrites and at what cost, without training or generating code.

    The joint graphs are traced on fake tensors: a model of any size takes little memory, may be on ``meta``, and is not
    changed: its gradients, its buffers and what ``torch.compile`` has compiled for it stay. If its Python code reads values
    of tensors, a copy with values runs instead, and the explanation has a note about it. A plain function is not copied, so
    its side effects on Python objects happen.

    The mode (training or evaluation), autocast and ``torch._dynamo.mark_dynamic`` have the same effect as in a compilation.

    Args:
        model: a module or function; also what ``torch.compile`` returned.
        *args: positional arguments of one call, tensors of the shapes and dtypes of real batches.
        lam: regularisation, as in ``tract_backend``; no finding depends on it.
        layers: as in ``tract_backend``.
        backward_of: selects the tensors of the model's output that the loss uses, such as ``lambda output: output.logits``;
            by default every output that requires a gradient.
        dynamic: as in ``torch.compile``: if True, sizes are symbols, also in the costs.
        relative: as in ``tract_backend``.
        **kwargs: keyword arguments of the call.

    Raises:
        OptionError: for a ``lam``, ``layers`` or ``relative`` that is not allowed.
        UnknownLayerError: for a name in ``layers`` that the model does not have.
        CaptureError: when the model cannot be traced.
    """
    options = TractOptions(lam=lam, layers=layers, on_unsupported="ignore", relative=relative)
    captured = capture(model, args, kwargs, options, describe=_explain, backward_of=backward_of, dynamic=dynamic)
    return Explanation(
        model_name=_name(model),
        lam=options.lam,
        graphs=tuple(ExplainedGraph.of(number, graph) for number, graph in enumerate(captured.graphs)),
        notes=_notes(captured),
        environment=environment(),
        relative=options.relative,
    )


class Explanation(ExplanationResult):
    """The result of :func:`explain`: ``print`` it, or write a page with :meth:`to_html`."""

    def to_html(self, path: str | Path) -> Path:
        """Write a self-contained HTML page.

        Args:
            path: of the file, which is overwritten if it exists.

        Returns:
            ``path``.
        """
        path = Path(path)
        path.write_text(render_html(self), encoding="utf-8")
        return path

    def __str__(self) -> str:
        return as_text(self)

    def __rich_console__(self, console: Any, options: Any) -> Any:
        yield from report(self)

    def _repr_html_(self) -> str:
        return render_frame(self)


def _explain(match: Match, graph: GraphModule) -> dict[str, Any]:
    cost = layer_cost(match, step_flops(graph.graph))
    return {"description": describe_layer(match), "cost": cost, "nodes": LayerNodes.of(match)}


def _notes(captured: Capture) -> tuple[str, ...]:
    notes = []
    if captured.on_values is not None:
        notes.append(
            f"A copy of the model ran on real tensors, because its code needs their values: {captured.on_values}"
        )
    if not captured.graphs:
        notes.append(
            "Dynamo skips the frames of this model, so no backend sees it, and its layers train with their plain gradients."
        )
    notes.extend(f"Dynamo does not trace all of it: {summarize(reason)}" for reason in captured.untraced)
    return tuple(dict.fromkeys(notes))


def _name(model: Callable[..., Any]) -> str:
    if isinstance(model, nn.Module):
        return type(getattr(model, "_orig_mod", model)).__name__
    return getattr(model, "__qualname__", type(model).__name__)
