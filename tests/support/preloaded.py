"""What a process has done before others are forked from it, see :mod:`support.forked`; nothing is compiled with it."""

import gc

import torch._inductor.compile_fx  # noqa: F401
from torch._inductor.codecache import torch_key
from torch._inductor.cpu_vec_isa import pick_vec_isa

import tract_fx.backend  # noqa: F401
from tract_fx.compat import can_generate_code

torch_key()  # a hash of PyTorch's own files, a part of every key
if can_generate_code("cpu"):
    pick_vec_isa()  # compiles a program for each instruction set of the processor
gc.collect()
gc.freeze()
