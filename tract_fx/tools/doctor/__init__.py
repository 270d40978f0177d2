"""Whether TrAct works on this machine: ``self_check`` trains one step, ``checkup`` looks at everything around it."""
