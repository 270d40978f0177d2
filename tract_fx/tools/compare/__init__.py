"""The ``tract-fx compare`` command: whether TrAct helps a model on images, plain training and TrAct side by side.

Read in this order: ``settings``, ``subject`` (the model and its images), ``plan`` (what fits into the time), ``session``,
``verdict`` (what the runs say), ``report`` and ``figures``.
"""
