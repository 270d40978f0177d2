"""Seeing what the pass does to a model: :func:`explain` and what it returns.

Read in this order: ``fakes`` (a model without values), ``capture`` (its joint graphs before and after the pass),
``words`` (layers and numbers as people write them), ``explanation`` (what is known), ``text`` (how it is printed).
"""

from tract_fx.inspect.explanation import ExplainedGraph, ExplainedLayer, Explanation, explain

__all__ = ["ExplainedGraph", "ExplainedLayer", "Explanation", "explain"]
