"""The tables of the README and of the pages in docs/, made from the committed results.

python -m benchmarks.report            # write them there
python -m benchmarks.report --check    # exit status 1 where a page is out of date
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.convergence.tables import TABLES as CONVERGENCE
from benchmarks.gpu_first.tables import TABLES as GPU
from benchmarks.markdown import table
from benchmarks.paired import difference
from tract_fx.probing.harm import FITTED

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"


def main() -> int:
    """Bring every page up to date, or check whether all are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    stale = 0
    for page, parts in pages().items():
        before = page.read_text()
        after = updated(before, parts)
        stale |= before != after
        if not arguments.check:
            page.write_text(after)
    return int(stale) if arguments.check else 0


def updated(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """``text`` with every marked part replaced by the one that the results give."""
    for name, render in parts.items():
        marked = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not marked.search(text):
            raise ValueError(f"no place for the table {name!r}")
        content = render()
        text = marked.sub(lambda found, content=content: found[1] + content + found[2], text)
    return text


def pages() -> dict[Path, dict[str, Callable[[], str]]]:
    """Every page with the parts that are made."""
    outputs = {path.stem: functools.partial(output, path) for path in sorted((RESULTS / "tutorial").glob("*.txt"))}
    docs = ROOT / "docs"
    return {
        README: {"explain": outputs["explain"], **_some(CONVERGENCE, "convergence_readme")},
        docs / "guide" / "inspecting.md": {"explain": outputs["explain"]},
        docs / "guide" / "odd-loss.md": outputs,
        docs / "guide" / "where-it-harms.md": _some(TABLES, "harm", "harm_check"),
        docs / "reference" / "what-works.md": _some(TABLES, "what_works", "fuzz"),
        docs / "reference" / "models.md": _some(TABLES, "zoo"),
        docs / "reference" / "libraries.md": _some(TABLES, "libraries"),
        docs / "results" / "convergence.md": {
            **{name: part for name, part in CONVERGENCE.items() if name != "convergence_readme"},
            **_some(TABLES, "correlated", "correlated_answer", "demo"),
        },
        docs / "results" / "cost.md": _some(TABLES, "throughput", "gram", "solve", "first_step", "run_time_checks"),
        docs / "results" / "gpu.md": GPU,
        docs / "results" / "numerics.md": _some(TABLES, "precision", "raw_pixels"),
    }


def _some(tables: Mapping[str, Callable[[], str]], *names: str) -> dict[str, Callable[[], str]]:
    return {name: tables[name] for name in names}


def output(path: Path) -> str:
    """A command with what it printed."""
    return f"```console\n{path.read_text()}```\n"


def raw_pixels() -> str:
    """Errors on unstandardised pixels."""
    rows = [
        (
            record["case"],
            record["patch"],
            record["n"],
            number(record["error_float32"]),
            number(record["error_product"]),
        )
        for record in lines("raw_pixels.jsonl")
    ]
    heads = ("images", "patch / stride", "n", "float32 throughout", "float64, but for `G` in float32")
    return table(heads, rows)


def harm_check() -> str:
    """The same on data on which the bounds were not chosen, with the difference paired by seeds."""
    rows = []
    for record in lines("harm_check.jsonl"):
        plain, tract, *suggested = record["accuracy"].values()
        mean, spread = difference(plain, tract)
        rows.append(
            (
                record["case"],
                f"{record['n']:,}",
                f"{record['examples']:,}",
                f"{statistics.fmean(plain):.1f}",
                f"{mean:+.1f} ± {spread:.1f}",
                "" if not suggested else _difference(plain, suggested[0], record["suggested"]),
                f"{record['own']:.2f}",
                _share_of_plain(record),
                record["seen"],
                "told" if record["told"] else "",
            )
        )
    heads = (
        "data",
        "features",
        "examples",
        "plain, %",
        "TrAct",
        "suggested lam",
        "own",
        "other / plain",
        "seen",
        "probe",
    )
    return table(heads, rows)


def _difference(plain: list[float], tract: list[float], lam: float) -> str:
    mean, spread = difference(plain, tract)
    return f"{mean:+.1f} ± {spread:.1f} (lam {lam:g})"


def _share_of_plain(record: dict[str, Any]) -> str:
    """What the step does on another batch, as a share of plain training's; nothing where it does not fit its own batch."""
    return f"{record['other'] / record['other_plain']:.2f}" if record["own"] >= FITTED else ""


def harm() -> str:
    """Accuracies of plain training and TrAct, and what probe says before it."""
    rows = []
    for record in lines("harm.jsonl"):
        accuracies = record["accuracy"]
        other = [lam for lam in accuracies if lam not in ("None", "0.1")]
        suggested = f"{_with_spread(accuracies[other[0]])} (lam {float(other[0]):g})" if other else ""
        rows.append(
            (
                record["case"],
                f"{record['n']:,}",
                f"{record['examples']:,}",
                _with_spread(accuracies["None"]),
                _with_spread(accuracies["0.1"]),
                suggested,
                f"{record['own']:.2f}",
                _share_of_plain(record),
                "told" if record["told"] else "",
            )
        )
    heads = (
        "data",
        "features",
        "examples",
        "plain, %",
        "lam 0.1, %",
        "suggested, %",
        "own batch",
        "other / plain",
        "probe",
    )
    return table(heads, rows)


def correlated() -> str:
    """Accuracies in training and testing, and where the weights move, by ``lam``."""
    rows = [
        (
            "plain" if record["lam"] is None else f"lam {record['lam']:g}",
            f"{record['rate']:g}",
            *(_spread(record[name]) for name in ("train", "test")),
            _spread([100 * value for value in record["outside"]]),
        )
        for record in lines("correlated.jsonl")
    ]
    return table(("first layer", "rate", "training, %", "test, %", "move outside, %"), rows)


def correlated_answer() -> str:
    """One sentence on why."""
    records = lines("correlated.jsonl")
    plain, low, high = (next(r for r in records if r["lam"] == lam) for lam in (None, 0.1, records[-1]["lam"]))
    moves = [_spread([100 * value for value in record["outside"]]) for record in (low, plain)]
    return (
        f"With `lam` 0.1 the test accuracy is {_spread(low['test'])} % and the training accuracy {_spread(low['train'])} %, "
        f"against {_spread(plain['test'])} % and {_spread(plain['train'])} % for plain training; {moves[0]} % of the "
        f"layer's squared move, and with plain training {moves[1]} %, goes where the inputs hardly vary; with `lam` "
        f"{high['lam']:g} the test accuracy is {_spread(high['test'])} % ({len(plain['test'])} seeds).\n"
    )


def _spread(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


def _with_spread(pair: list[float]) -> str:
    return f"{pair[0]:.1f} ± {pair[1]:.1f}"


def run_time_checks() -> str:
    """What the comparisons at run time add to a step."""
    rows = [
        (
            record["workload"],
            record["batch"],
            f"{1e3 * record['seconds']:.0f} ms",
            f"{1e6 * record['difference_seconds']:+,.0f} µs",
            added(record),
            f"{100 * (record['fastest_ratio'] - 1):+.1f} %",
        )
        for record in lines("run_time_checks.jsonl")
    ]
    return table(("training step", "batch", "without comparisons", "difference", "ratio", "fastest steps"), rows)


def precision() -> str:
    """Errors on photographs by precision, and what mixed precision itself costs."""
    rows = [
        (
            record["layer"],
            record["precision"],
            record["torch"].partition("+")[0],
            *(number(error) for error in record["error"].values()),
            number(record["plain_whole"]),
            number(record["new_whole"]),
        )
        for record in lines("precision.jsonl")
    ]
    ranges = "standardised", "-1..1", "0..1", "0..255"
    heads = ("layer", "precision", "torch", *ranges, "plain, whole model", "new, whole model")
    return table(heads, rows)


def throughput() -> str:
    """Ratios of whole training steps to the compiled plain one."""
    sides = ("eager", "eager torch-tract", "compiled torch-tract", "compiled tract-fx")
    rows = [
        (
            record["workload"],
            record["batch"],
            f"{1000 * record['sides']['compiled']['seconds']:,.0f} ms",
            *(added(record["sides"].get(side)) for side in sides),
        )
        for record in lines("throughput.jsonl")
    ]
    return table(("training step", "batch", "compiled, plain", *sides), rows)


def added(side: dict[str, float] | None) -> str:
    """What a side adds, with its quantiles."""
    if side is None:
        return "-"
    low, high = (percent(side[name]).removesuffix(" %") for name in ("ratio_20_percent", "ratio_80_percent"))
    return f"{percent(side['ratio'])} ({low} to {high})"


def gram() -> str:
    """The operator alone, its time and memory as ratios to patches in memory times themselves."""
    rows = []
    for record in lines("gram.jsonl"):
        seconds, naive = record["gram_seconds"][0], record["unfold_float32_seconds"][0]
        extra = record["extra_bytes"]
        rows.append(
            (
                record["case"],
                record["batch"],
                f"{record['rows']:,} x {record['features']}",
                f"{1e3 * seconds:.1f} ms",
                f"{naive / seconds:.1f}",
                f"{record['unfold_float64_seconds'][0] / seconds:.1f}",
                f"{extra['gram'] / 2**20:.1f} MiB",
                f"{extra['unfold_float32'] / extra['gram']:.1f}",
            )
        )
    heads = ("layer", "batch", "rows x features", "operator", "float32 unfold, time", "float64 unfold, time")
    return table((*heads, "extra memory", "float32 unfold, memory"), rows)


def first_step() -> str:
    """Compile time and memory: the plain compile, and what the others take beside it."""
    rows = []
    for record in lines("first_step.jsonl"):
        plain, *others = record["sides"]
        cells = (
            f"{percent(record['compile_ratio'][side])}, {record['sides'][side]['peak_mib']:,.0f} MiB" for side in others
        )
        base = record["sides"][plain]
        rows.append(
            (
                record["workload"],
                record["batch"],
                f"{base['compile_seconds']:.0f} s, {base['peak_mib']:,.0f} MiB",
                *cells,
            )
        )
    return table(("training step", "batch", "compiled, plain", "compiled tract-fx", "compiled torch-tract"), rows)


def solve() -> str:
    """Ways to solve: time and error."""
    ways = ("cholesky_float64", "cholesky_float32", "refined", "conjugate_gradients", "newton_schulz")
    rows = []
    for record in lines("solve.jsonl"):
        cells = (f"{1e3 * record['ways'][way]['seconds']:.2f} ms" for way in ways[:1])
        others = (
            f"{1e3 * record['ways'][way]['seconds']:.2f} ms, {number(record['ways'][way]['error'])}" for way in ways[1:]
        )
        rows.append((record["n"], record["scale"], *cells, *others))
    return table(("n", "images", *(way.replace("_", " ") for way in ways)), rows)


def demo() -> str:
    """Final accuracies of the demo runs."""
    rows = []
    for path in sorted(RESULTS.glob("demo_*/results.json")):
        record = json.loads(path.read_text())
        images = f"{record['images']['name']}, {record['images']['train']:,}"
        for name, pair in record["models"].items():
            rows.append((images, NETWORKS[name], *demo_cells(pair)))
    return table(
        ("training images", "network", "plain", "TrAct", "difference", "TrAct has plain's final accuracy"), rows
    )


def demo_cells(pair: dict[str, Any]) -> Iterable[str]:
    """Final accuracies of both sides, their difference with its noise, and the epoch at which TrAct caught up."""
    for side in ("plain", "TrAct"):
        yield f"{100 * pair['runs'][side]['epochs'][-1]['test_accuracy']:.1f} %"
    comparison = pair["comparison"]
    yield f"{100 * comparison['difference']:+.1f} ± {100 * comparison['noise']:.1f}"
    epochs = len(pair["runs"]["plain"]["epochs"])
    reached = comparison["reached"]
    yield f"not in {epochs} epochs" if reached is None else f"in epoch {reached} of {epochs}"


def what_works() -> str:
    """Promises and the tests that show them, on each version of torch."""
    versions = [json.loads(path.read_text()) for path in sorted((RESULTS / "what_works").glob("*.json"))]
    rows = [
        (features[0]["area"], features[0]["promise"], *(passed(item["passed"], item["tests"]) for item in features))
        for features in zip(*(version["features"] for version in versions), strict=True)
    ]
    return table(("", "what", *(f"torch {version['torch']}" for version in versions)), rows)


def fuzz() -> str:
    """Random networks by how they were compiled and on which version: how many, and how many were wrong."""
    totals: dict[tuple[str, str], list[int]] = {}
    for record in lines("fuzz.jsonl"):
        kind = "in pieces" if record["fuzz"].startswith("pieces") else "whole"
        total = totals.setdefault((kind, record["torch"].partition("+")[0]), [0, 0])
        total[0] += record["seeds"]
        total[1] += len(record["failed"])
    rows = [(kind, version, *total) for (kind, version), total in sorted(totals.items())]
    return table(("compiled", "torch", "networks", "wrong"), rows)


def zoo() -> str:
    """Real models by family: what was found against what their sources say."""
    record = json.loads((RESULTS / "zoo.json").read_text())
    outcomes = ("matched right", "correctly empty", "matched wrong", "rejected")
    totals: dict[str, Counter[str]] = {}
    for name, family in record["families"].items():  # timm's and torchvision's have one for each module
        totals.setdefault(name.rpartition(".")[0] or name, Counter()).update(family["totals"])
    totals["all"] = Counter(record["totals"])
    rows = [(name, part["models"], *(part[outcome] for outcome in outcomes)) for name, part in totals.items()]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return table(("family", "models", *outcomes), rows) + f"\n{versions}\n"


def libraries() -> str:
    """Other libraries: what was tried, in which order, and the error of the first layer's gradient on either side."""
    record = json.loads((RESULTS / "libraries.json").read_text())
    rows = [
        (
            f"{case['library']} {case['version']}",
            case["use"],
            case["order"],
            *(
                number(case["errors"][side]) if side in case["errors"] else f"no: {case['without']}"
                for side in ("layer", "backend")
            ),
        )
        for case in sorted(record["cases"].values(), key=lambda case: case["library"])
    ]
    heads = ("library", "what works", "when TrAct is applied", "error, `TrAct(layer)`", "error, backend")
    return table(heads, rows) + f"\nPyTorch {record['torch']}\n"


def passed(count: int, of: int) -> str:
    """How many of some tests passed, in a word where it is all of them."""
    return f"{count} test{'s' * (count > 1)}" if count == of > 0 else f"**{count} of {of}**"


NETWORKS = {"resnet": "ResNet", "vit": "ViT"}
TABLES: dict[str, Callable[[], str]] = {
    "raw_pixels": raw_pixels,
    "correlated": correlated,
    "correlated_answer": correlated_answer,
    "harm": harm,
    "harm_check": harm_check,
    "precision": precision,
    "throughput": throughput,
    "first_step": first_step,
    "run_time_checks": run_time_checks,
    "gram": gram,
    "solve": solve,
    "demo": demo,
    "what_works": what_works,
    "fuzz": fuzz,
    "zoo": zoo,
    "libraries": libraries,
}


def lines(name: str) -> list[dict[str, Any]]:
    """Records of a file of JSON lines."""
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


def number(value: float | None) -> str:
    """Two significant digits; what is not finite is stored as None."""
    if value is None:
        return "NaN"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def percent(ratio: float) -> str:
    """A ratio of times as what it adds."""
    return f"{100 * (ratio - 1):+.1f} %"


if __name__ == "__main__":
    sys.exit(main())
