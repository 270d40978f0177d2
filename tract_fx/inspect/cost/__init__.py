"""What a rewrite costs: operations, memory, and their share of a training step."""

from tract_fx.inspect.cost.layer_cost import LayerCost, Work

__all__ = ["LayerCost", "Work"]  # pickled explanations name them here
