"""`tract-fx doctor`: what is printed, and the exit status."""

from __future__ import annotations

import json

import pytest

from support.works import works
from tract_fx import cli
from tract_fx.tools.doctor import checkup as module
from tract_fx.tools.doctor import elsewhere
from tract_fx.tools.doctor.result import Check, Checkup, State

pytestmark = works("command line")

LIMITED = Check("C++ compiler", State.LIMITED, "none", "Install one.")
BROKEN = Check("a step", State.BROKEN, "first gradient off by 1e+00")


def found(*checks: Check) -> Checkup:
    return Checkup({"python": "3.11", "triton": None}, ("cpu: A Processor: model 7, 2 cores",), checks)


@pytest.mark.parametrize(("checks", "status"), [((LIMITED,), 0), ((LIMITED, BROKEN), 1)])
def test_what_is_broken_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checks: tuple[Check, ...], status: int
) -> None:
    monkeypatch.setattr(module, "checkup", lambda step: found(*checks))
    monkeypatch.setattr(elsewhere, "StepElsewhere", lambda inner, device: None)
    assert cli.main(["doctor"]) == status
    printed = capsys.readouterr().out
    for text in ("python", "3.11", "not installed", "A Processor: model 7, 2 cores", "limited", "Install one."):
        assert text in printed
    assert ("TrAct works here." in printed) == (status == 0)
    assert cli.main(["doctor", "--json"]) == status
    read = json.loads(capsys.readouterr().out)
    assert read == found(*checks).to_dict()
    assert [check["state"] for check in read["checks"]] == [check.state.value for check in checks]
