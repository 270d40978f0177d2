"""TrAct without ``torch.compile``: layers that compute the gradient of their weight by themselves."""
