"""Seeing what the pass does to a model: ``tract_fx.explain`` and what it returns, in ``explanation``.

Read in this order: ``fakes`` (a model without values), ``capture`` (its joint graphs before and after the pass),
``words`` (layers and numbers as people write them), ``explanation`` (what is known), ``text`` (how it is printed).
"""
