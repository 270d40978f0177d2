"""What stands between ``torch.compile`` and the passes: one captured graph, compiled and reported."""
