"""``tract_fx.probe``: whether data suit TrAct and a ``lam``, measured on real batches."""
