"""The first ten minutes on a GPU, in one command: ``python -m benchmarks.gpu_first``.

Four parts, each in a process of its own, so that one that crashes or hangs takes nothing else with it:

- ``correctness``: :mod:`tests.gpu`, on photographs and noise, both memory formats, and captured CUDA graphs;
- ``solve``: factorisation and solution alone, eager and captured;
- ``steps``: whole training steps, plain and with TrAct, by CUDA events around blocks of steps that nothing waits for;
- ``profile``: which kernels a step has, and which of them stand behind the operators of this package.

A part appends each JSON line to ``PART.jsonl`` in the folder of results as soon as it has it. What is there, of the same
sources, versions and device, is not measured again, so that the command can be stopped and started as often as needed.
"""
