"""Names of a model's parameters are those of its ``state_dict``."""

import torch
from torch import nn

from tract_fx.compile.model_names import modules_of, parameters_of


def test_every_name_of_a_shared_module_is_there_even_where_a_class_hides_them() -> None:
    class Hiding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(2, 2)
            self.two = self.one

        def named_parameters(self, prefix: str = "") -> list:
            return []

        def named_modules(self) -> list:
            return []

    model = Hiding()
    assert [name for name, _ in parameters_of(model)] == list(model.state_dict())
    assert [name for name, _ in modules_of(model)] == ["", "one", "two"]


def test_parts_that_wrappers_add_are_left_out() -> None:
    model = nn.Sequential(torch.compile(nn.Linear(2, 2, bias=False)))
    sharded = nn.Module()
    sharded._fsdp_wrapped_module = model
    assert [name for name, _ in parameters_of(model)] == ["0.weight"]
    assert [name for name, _ in parameters_of(sharded)] == ["0.weight"]
    assert [name for name, _ in parameters_of(nn.ModuleDict({"my_orig_mod": nn.Linear(2, 2)}))] == [
        "my_orig_mod.weight",
        "my_orig_mod.bias",
    ]
