"""A probe as text and as figures."""
