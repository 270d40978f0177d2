"""The backend under its name, as Dynamo loads it for ``torch.compile(model, backend="tract")``.

Loading happens inside of that call, which is the one moment at which the model can be seen on torch 2.11. Newer versions
also ask the backend itself, on every call.
"""

from tract_fx.backend import expect_compiled_model, tract

__all__ = ["tract"]

expect_compiled_model()
