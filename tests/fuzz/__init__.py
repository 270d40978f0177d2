"""Random small networks whose first layers are known by construction, run against the reference.

``python -m tests.fuzz --seeds 500`` from the root of the repository. Read in this order: ``recipe`` (a network as text, and
what is known about its values), ``inputs``, ``weights``, ``stems``, ``branches``, ``network`` (how one is put together),
``oracle`` (what its gradients must be), ``training``, ``check`` (the comparison). ``pieces`` stands alone: other networks,
compiled whole and in pieces.
"""
