"""Passes over AOTAutograd's joint graph; installed as ``tract_fx.passes``.

They know FX graphs and the operators they insert, and nothing of users, files or terminals. Read in this order:
``joint_graph`` (what the inputs are), ``dependence`` (what a value is made of), ``calls`` (convolutions and matrix products
in one form), ``batch`` (which entries of a batched product share a weight), ``first_layer`` (which calls count),
``obstacles`` (why one cannot be rewritten), ``weight_gradient`` (where their gradient is), ``rewrite`` (the only file that
changes a graph), ``tract_pass`` (the pass that Inductor runs).
"""

if __name__ == "passes":
    raise ImportError("Import tract_fx.passes: as 'passes' the same files would be loaded a second time.")
