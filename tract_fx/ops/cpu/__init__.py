"""Gram matrices on a CPU."""
