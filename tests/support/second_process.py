"""Trains one step in a process of its own and prints, as JSON, what the caches and the backend say about it."""

import json
import sys
import warnings

import torch
from torch import nn
from torch._dynamo.utils import counters

import tract_fx
from support.oracle import error, squared, tract_gradients


def main(backend_name: str, lam: float, model_name: str, evaluate: bool = False) -> dict[str, object]:
    torch.manual_seed(0)
    stem, x = {
        "conv": (nn.Conv2d(3, 4, 3), torch.randn(5, 3, 9, 8)),
        "linear": (nn.Linear(6, 4), torch.randn(9, 6)),
        "embedding": (nn.Embedding(9, 4), torch.randint(0, 9, (5, 7))),
    }[model_name]
    model = nn.Sequential(stem, nn.Tanh())
    backend = "inductor" if backend_name == "plain" else tract_fx.tract_backend(lam)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", tract_fx.TractWarning)
        compiled = torch.compile(model, backend=backend)
        squared(compiled(x)).backward()
        if evaluate:
            with torch.no_grad():
                compiled(x)
    result = {
        "caches": {
            "aot": [counters["aot_autograd"][f"autograd_cache_{event}"] for event in ("hit", "miss", "bypass")],
            "fx": [counters["inductor"][f"fxgraph_cache_{event}"] for event in ("hit", "miss", "bypass")],
        },
        "matches": [str(match) for match in getattr(backend, "matches", ())],
        "rejections": [str(rejection) for rejection in getattr(backend, "rejections", ())],
        "warnings": [str(item.message) for item in caught if issubclass(item.category, tract_fx.TractWarning)],
    }
    if model_name != "embedding":
        result["error"] = error(model[0].weight.grad, tract_gradients(model, [x], ["0"], lam)["0"])
    return result


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], float(sys.argv[2]), sys.argv[3])))
