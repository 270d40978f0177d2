"""Models by name: what stands behind ``MODEL`` on the command line.

Read in this order: ``loaded`` (a model and how to call it), ``libraries`` (timm and torchvision), ``hub`` (transformers),
``factories`` (a function of the user's), ``loading`` (which of them a name means).
"""
