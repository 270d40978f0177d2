"""Does a network train faster with TrAct, and when not? Experiments on real images, with seeds.

- ``runs``: what one training is, and its name;
- ``experiments``, ``comparisons``: the lists of runs that answer a question, and which of them are compared;
- ``sizes``: the same experiments for a CPU and for a GPU;
- ``data``, ``inputs``, ``augmentation``: images, what is planted in them, how they are varied;
- ``networks``, ``many_models``, ``patch_norm``, ``whitening``, ``methods``: what is trained, and how its first layer is;
- ``training``, ``workers``: one run with its record on disk, many runs;
- ``summary``, ``coverage``: what the records say, and which runs are missing;
- ``answers``, ``tables``, ``figures``, ``words``: how that is shown.
"""
