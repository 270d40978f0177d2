"""Training of both sides, for the demo, for ``compare`` and for the study of convergence in ``benchmarks``.

Read in this order: ``loop`` (step after step), ``sides`` (a network plain and with TrAct), ``batches``, ``journal`` (what a
run leaves on disk).
"""
