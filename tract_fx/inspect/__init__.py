"""What the pass did to a model, what it costs, and a page to see it on."""
