"""The module that Dynamo loads for ``torch.compile(model, backend="tract")``.

Dynamo loads it inside that call, which on torch 2.11 is the only moment when the model can be registered. Newer versions
also call the backend's own hook, each time the name is looked up. The reason for registering it is in
:mod:`tract_fx.process_state`.
"""

from tract_fx.backend import expect_compiled_model, tract

__all__ = ["tract"]

expect_compiled_model()
