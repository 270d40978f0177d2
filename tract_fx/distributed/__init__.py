"""Covariances shared by several processes."""
