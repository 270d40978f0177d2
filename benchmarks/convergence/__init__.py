"""Does a network train faster with TrAct, and when not? Experiments on real images, with seeds.

- ``runs``: what one training is, and its name;
- ``experiments``: the lists of runs that answer a question;
- ``sizes``: the same experiments for a CPU and for a GPU;
- ``data``, ``inputs``, ``augmentation``: images, what is planted in them, how they are varied;
- ``networks``, ``patch_norm``, ``methods``: what is trained, and how its first layer is;
- ``training``, ``journal``, ``workers``: one run, its record on disk, many runs;
- ``summary``: what the records say; ``tables``, ``figures``: how that is shown.
"""
