"""Tables of what was found and measured on a GPU; where there is nothing yet they say so."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

__all__ = ["NOT_MEASURED", "TABLES", "gpu_correctness", "gpu_profile", "gpu_solve", "gpu_steps"]

RESULTS = Path(__file__).parents[1] / "results" / "gpu_first"
NOT_MEASURED = "Not measured.\n"
BASE, OURS, AUTHORS = "compiled", "compiled tract-fx", "compiled torch-tract"
# Kernels of which the table of a profile tells.
MOST_KERNELS = 8


def gpu_correctness(folder: Path = RESULTS) -> str:
    """Outcomes of the tests by file."""
    outcomes: dict[tuple[str, str], Counter[str]] = {}
    for record in results(folder, "correctness"):
        if record["outcome"] != "begins":
            file = record["key"].partition("::")[0]
            outcomes.setdefault((record["gpu"], file), Counter())[record["outcome"]] += 1
    rows = [(gpu, f"`{file}`", *(count[name] for name in OUTCOMES)) for (gpu, file), count in outcomes.items()]
    return table(("GPU", "tests", *OUTCOMES), rows) if rows else NOT_MEASURED


def gpu_solve(folder: Path = RESULTS) -> str:
    """Factorisation and solution, eager and captured."""
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for record in results(folder, "solve"):
        cells = rows.setdefault((record["gpu"], record["n"]), {})
        seconds = record.get("seconds")
        if record["key"].endswith("captured"):
            cells["captured"] = f"{1e6 * seconds['operator']:.0f} µs" if seconds else "no: " + short(record["why"])
        else:
            cells |= {name: f"{1e6 * value:.0f} µs" for name, value in seconds.items()}
    ways = ("operator", "library", "kernel", "cholesky_ex", "cholesky_solve", "captured")
    body = [(*key, *(cells.get(way, "-") for way in ways)) for key, cells in rows.items()]
    heads = ("GPU", "n", "operator", "library", "own kernel", "`cholesky_ex`", "`cholesky_solve`", "operator, captured")
    return table(heads, body) if body else NOT_MEASURED


def gpu_steps(folder: Path = RESULTS) -> str:
    """What TrAct adds to whole training steps."""
    rows = []
    for record in results(folder, "steps"):
        layout = ", channels-last" if record["channels_last"] else ""
        about = record["gpu"], record["workload"], record["dtype"] + layout, record["mode"]
        if "problem" in record:
            rows.append((*about, "-", f"failed: {short(record['problem'])}", "-", "-"))
            continue
        sides = record["sides"]
        rows.append(
            (
                *about,
                f"{1e3 * sides[BASE]['seconds']:.2f} ms",
                added(sides[OURS]),
                added(sides[AUTHORS]) if AUTHORS in sides else "-",
                sum(record["captures_skipped"].values()),
            )
        )
    heads = ("GPU", "training step", "precision", "mode", "plain", "TrAct", "authors' module", "captures skipped")
    return table(heads, rows) if rows else NOT_MEASURED


def gpu_profile(folder: Path = RESULTS) -> str:
    """Kernels behind the operators, and those that either side has alone."""
    records = {
        (record["gpu"], record["workload"], record["side"]): record
        for record in results(folder, "profile")
        if "kernels" in record
    }
    rows: list[tuple[object, ...]] = []
    for (gpu, workload, side), record in records.items():
        if side != OURS:
            continue
        for operator, kernels in record["operators"].items():
            rows += [
                (gpu, workload, f"behind `{operator}`", f"`{short(name)}`", f"{time:.0f} µs")
                for name, time in kernels.items()
            ]
        plain = records.get((gpu, workload, BASE))
        if plain is not None:
            rows += [
                (gpu, workload, what, f"`{short(name)}`", f"{time:.0f} µs") for what, name, time in alone(plain, record)
            ]
    return table(("GPU", "training step", "where", "kernel", "time of a step"), rows) if rows else NOT_MEASURED


def alone(plain: dict[str, Any], rewritten: dict[str, Any]) -> Iterable[tuple[str, str, float]]:
    """The longest kernels that only one of the sides has."""
    for what, one, other in (("plain step only", plain, rewritten), ("TrAct step only", rewritten, plain)):
        names = [name for name in one["kernels"] if name not in other["kernels"]]
        yield from ((what, name, one["kernels"][name]) for name in names[:MOST_KERNELS])


def results(folder: Path, part: str) -> list[dict[str, Any]]:
    """The latest record of each key and GPU; those of a dry run are none."""
    path = folder / f"{part}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    real = [record for record in lines if record["device"] == "cuda" and not record["tiny"]]
    return list({(record["gpu"], record["key"]): record for record in real}.values())


def added(side: dict[str, float]) -> str:
    """What a side adds, with its quantiles."""
    middle, low, high = (100 * (side[name] - 1) for name in ("ratio", "ratio_20_percent", "ratio_80_percent"))
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"


def short(text: str) -> str:
    """The beginning of the first line, fit for a cell."""
    line = (text.splitlines() or [""])[0].replace("|", "/").replace("`", "'")
    return line if len(line) <= 80 else line[:77] + "..."


OUTCOMES = ("passed", "failed", "skipped")
TABLES: dict[str, Callable[[], str]] = {
    "gpu_correctness": gpu_correctness,
    "gpu_steps": gpu_steps,
    "gpu_solve": gpu_solve,
    "gpu_profile": gpu_profile,
}
