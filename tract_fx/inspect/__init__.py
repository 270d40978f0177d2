"""Seeing what the pass does to a model: ``tract_fx.explain`` and what it returns, in ``explanation``.

Read in this order: ``fake_model`` (a model without values), ``capture`` (its joint graphs before and after the pass),
``formatting`` (layers and numbers as people write them), ``result`` (what is known), ``views`` (how it is shown).
"""
