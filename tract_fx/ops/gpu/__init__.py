"""Gram matrices on a GPU."""
