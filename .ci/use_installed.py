"""Uses an installed tract-fx as a reader of the README would: one training step, the entry point, the command line."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import tract_fx

HERE = Path(__file__).parent
LAM = 0.1


def step(backend: object) -> None:
    """One step through generated code; the gradient is that of the closed form."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), torch.randn(9, 6)
    plain = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    plain.load_state_dict(model.state_dict())
    plain(x).square().sum().backward()
    torch.compile(model, backend=backend)(x).square().sum().backward()
    covariance = x.double().T @ x.double() / len(x)
    expected = torch.linalg.solve(covariance + LAM * torch.eye(6), plain[0].weight.grad.double(), left=False)
    torch.testing.assert_close(model[0].weight.grad.double(), expected, rtol=1e-4, atol=1e-5)
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def command(*arguments: str) -> None:
    """``tract-fx`` from the environment of this interpreter."""
    subprocess.run([Path(sys.executable).parent / "tract-fx", *arguments], check=True, stdout=subprocess.DEVNULL)


assert Path(tract_fx.__file__).is_relative_to(sys.prefix), f"not the installed package: {tract_fx.__file__}"
step(tract_fx.tract_backend(LAM))
torch._dynamo.reset()
step("tract")  # known by the entry point alone
(HERE / "some_model.py").write_text("from torch import nn\n\nmodel = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh())\n")
command("explain", "some_model:model", "--input", "3x32x32", "--html", "page.html")
assert "<html" in (HERE / "page.html").read_text(encoding="utf-8")
command("demo", "--help")
print("the installed wheel works:", tract_fx.__file__)
