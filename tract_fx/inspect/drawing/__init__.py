"""Pictures of the neighbourhood of a rewrite."""
