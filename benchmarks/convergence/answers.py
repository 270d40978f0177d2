"""Answers in sentences, with the numbers of the recorded runs: whichever way these go, the sentences are true."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Sequence

from benchmarks.convergence import words
from benchmarks.convergence.comparisons import Found, found
from benchmarks.convergence.experiments import NOISES, ONE_EACH, RATES, SETTINGS
from benchmarks.convergence.inputs import CONTRASTS
from benchmarks.convergence.runs import Run
from benchmarks.convergence.summary import Need, Result, Results, best_known, needs

__all__ = ["ANSWERS", "by_contrast", "whitening_runs"]

Pair = tuple[Result, Result]
Everything = Sequence[Results]

PARTS = (
    ("tract", Run.inputs, "TrAct"),
    ("tract-dataset", Run.inputs, "the gradient of whitening alone"),
    ("whitened-start", Run.inputs, "its start alone"),
    ("whitened", Run.inputs, "both"),
    ("plain", "zca3", "images whitened by a 3x3 filter"),
    ("plain", "zca9", "by a 9x9 filter"),
    ("plain", "zca", "over the whole image"),
    ("frozen", Run.inputs, "a first layer frozen at random filters"),
    ("frozen-eigenvectors", Run.inputs, "at eigenvectors of the patches"),
)
"""Method, inputs and words of the sentence on whitening."""

INSTEAD = (("tract", Run.inputs), ("whitened", Run.inputs), ("plain", "zca9"), ("frozen-eigenvectors", Run.inputs))


def in_short(everything: Everything) -> str:
    """Where TrAct helped, by how much, where not, and what did more."""
    helped, not_helped = [], []
    for title, rows in _settings(everything):
        last = best_known(rows)
        gain = f"{title} {words.pair_difference(last.pairs)} points in {last.epochs} epochs"
        if words.is_gain(last.pairs):
            helped.append(f"{gain}{_sooner(last)}")
        else:
            not_helped.append(gain)
    lines = [f"- **Helped:** {'; '.join(helped)}.\n"] if helped else []
    lines += [f"- **No gain that the seeds show:** {'; '.join(not_helped)}.\n"] if not_helped else []
    if architectures := many(everything):
        lines.append(f"- **Other architectures, untuned:** {architectures}")
    return "".join([*lines, *_counted(everything), *_instead(everything)])


def _sooner(need: Need) -> str:
    """Nothing where no smaller budget was run."""
    if need.is_bound:
        return ""
    if not all(epochs < need.epochs for epochs in need.epochs_needed):
        return " (but not with every seed sooner than plain training)"
    bound = "at most " if any(need.at_most) else ""
    epochs, time = (
        words.ranged([factor * share / need.epochs for share in need.epochs_needed], "{:.2f}")
        for factor in (1.0, need.ratio)
    )
    return f" (plain training's accuracy after {bound}{epochs} of its epochs, {bound}{time} of its processor time)"


def _counted(everything: Everything) -> Iterator[str]:
    """All trainings with TrAct beside the same without, if there are three seeds."""
    kinds = {
        (results.size.name, dataclasses.replace(result.run, seed=0)): results
        for results in everything
        for result in results
        if result.run.method == "tract"
    }
    pairs = [pairs for (_, run), results in kinds.items() if len(pairs := results.pairs(run)) >= 3]
    if pairs:
        gains, losses = sum(map(words.is_gain, pairs)), sum(map(words.is_loss, pairs))
        yield (
            f"- **All comparisons:** of {len(pairs)} with three seeds, in which everything but TrAct is the same, {gains} "
            f"show a gain, {losses} a loss, and {len(pairs) - gains - losses} no difference that three seeds can show.\n"
        )


def _instead(everything: Everything) -> Iterator[str]:
    for results, run in whitening_runs(everything):
        parts = []
        for method, inputs in INSTEAD:
            pairs = results.matched(run, dataclasses.replace(run, method=method, inputs=inputs))
            if pairs:
                parts.append(f"{INSTEAD_TITLES[method, inputs]} {words.pair_difference(pairs)}")
        yield f"- **Instead, {run.epochs} epochs:** over plain training, {words.listed(parts)} points.\n"


INSTEAD_TITLES = {
    ("tract", Run.inputs): "TrAct",
    ("whitened", Run.inputs): "whitened patches",
    ("plain", "zca9"): "images whitened by a fixed 9x9 filter",
    ("frozen-eigenvectors", Run.inputs): "a first layer frozen at the leading eigenvectors of the patches",
}


def speedup(everything: Everything) -> str:
    """A sentence for each setting."""
    sentences = []
    for title, rows in _settings(everything):
        gains = words.listed([f"{words.pair_difference(need.pairs)} at {need.epochs}" for need in rows])
        last = best_known(rows)
        sentences.append(f"{title}: {gains} epochs{_sooner(last)}.\n")
    return "\n".join(sentences)


def time(everything: Everything) -> str:
    """What is left when both sides have the same time."""
    sentences = []
    for title, rows in _settings(everything):
        known = [need for need in rows if not any(map(math.isnan, need.in_time))]
        if known:
            gains = [f"{words.difference(need.plain, need.in_time)} at {need.epochs}" for need in known]
            ratio = f"{100 * (known[0].ratio - 1):+.0f} %"
            sentences.append(f"{title}: an epoch takes {ratio}, and in the time of plain training's epochs the difference "
                             f"is {words.listed(gains)} epochs.\n")  # fmt: skip
    return "\n".join(sentences)


def lam(everything: Everything) -> str:
    """Where the gain is at least half of the best one."""
    sentences = []
    for results in everything:
        for setting in ONE_EACH:
            run = Run(*setting, results.size.budgets[0], "tract", 0)
            pairs = {value: results.pairs(dataclasses.replace(run, lam=value)) for value in results.size.lams}
            gains = {value: words.compared(found).mean for value, found in pairs.items() if found}
            if len(gains) < 3:
                continue
            best = max(gains, key=gains.get)
            half = [value for value, gain in gains.items() if gain >= gains[best] / 2]
            sentences.append(
                f"{words.title_of(results, *setting)}: the mean gain is at least half of the largest for `lam` from "
                f"{min(half):g} to {max(half):g}; the largest is {words.pair_difference(pairs[best])} at {best:g}, at the "
                f"default of {Run.lam:g} it is {words.pair_difference(pairs[Run.lam])}.\n"
            )
    return "\n".join(sentences)


def contrast(everything: Everything) -> str:
    """Gains at the lowest and the highest contrast."""
    sentences = []
    for results in everything:
        for setting in ONE_EACH:
            parts = []
            for noise in NOISES:
                run = Run(*setting, results.size.budgets[0], "tract", 0, inputs="contrast", noise=noise)
                if pairs := results.pairs(run):
                    low, high = (words.difference(*by_contrast(pairs, place)) for place in (0, -1))
                    kind = f"with noise {noise:g}" if noise else "without noise"
                    parts.append(f"{low} points at contrast {CONTRASTS[0]:g} and {high} at {CONTRASTS[-1]:g} {kind}")
            if parts:
                sentences.append(f"{words.title_of(results, *setting)}: {'; '.join(parts)}.\n")
    return "\n".join(sentences)


def sorted_out(question: str) -> Callable[[Everything], str]:
    """Sentences that say what the seeds of a question show, a sentence for each network."""

    def sentences(everything: Everything) -> str:
        items = found(question, everything)
        networks = list(dict.fromkeys(item.network for item in items))
        return "\n".join(f"{network}: {_shown([i for i in items if i.network == network])}.\n" for network in networks)

    return sentences


def _shown(items: Sequence[Found]) -> str:
    several = [item for item in items if len(item.pairs) >= words.FEWEST_SEEDS]
    gains, losses = ([item for item in several if test(item.pairs)] for test in (words.is_gain, words.is_loss))
    kinds = {
        "a gain": gains,
        "a loss": losses,
        "no difference that the seeds show": [item for item in several if item not in (*gains, *losses)],
    }
    parts = [
        f"{kind} with {', '.join(f'{i.comparison.title} ({words.pair_difference(i.pairs)})' for i in found)}"
        for kind, found in kinds.items()
        if found
    ]
    if fewer := len(items) - len(several):
        parts.append(f"{fewer}{' more' if parts else ''} with fewer than three seeds")
    return "; ".join(parts)


def whitening(everything: Everything) -> str:
    """A sentence for each budget: what each part of whitening gains over plain training."""
    sentences = []
    for results, run in whitening_runs(everything):
        gains = []
        for method, inputs, name in PARTS:
            other = dataclasses.replace(run, method=method, inputs=inputs)
            if pairs := results.matched(run, other):
                gains.append(f"{name} {words.pair_difference(pairs)}")
        sentences.append(f"After {run.epochs} epochs, in points over plain training: {', '.join(gains)}.\n")
    return "\n".join(sentences)


def whitening_runs(everything: Everything) -> list[tuple[Results, Run]]:
    """The plain run of each budget at which whitening was taken apart."""
    return [
        (results, Run("resnet", "sgd", results.size.budgets[place], "plain", 0))
        for results in everything
        for place in (0, -1)
        if results.of(Run("resnet", "sgd", results.size.budgets[place], "tract-dataset", 0))
    ]


def many(everything: Everything) -> str:
    """In how many architectures TrAct is better, with a sign test, and by how much."""
    items = found("many", everything)
    # To a tenth of a point, as the table has it: a few images more or less are no win.
    means = [round(100 * words.compared(item.pairs).mean, 1) for item in items]
    if not means:
        return ""
    better, worse = sum(mean > 0 for mean in means), sum(mean < 0 for mean in means)
    level = f", {len(means) - better - worse} level" if better + worse < len(means) else ""
    seeds = min(len(item.pairs) for item in items)
    each = "one seed each" if seeds == 1 else f"{seeds} seeds each"
    spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
    return (
        f"TrAct is better in {better} of {len(means)} architectures and worse in {worse}{level} ({each}; sign test over "
        f"them, p = {sign_test(better, better + worse):.2g}), by {statistics.fmean(means):+.1f}{spread} points on average.\n"
    )


def sign_test(wins: int, of: int) -> float:
    """Probability that a fair coin is at least as one-sided, two-sided."""
    most = max(wins, of - wins)
    return min(1.0, 2 * sum(math.comb(of, count) for count in range(most, of + 1)) / 2**of)


def rates(everything: Everything) -> str:
    """TrAct at the rate chosen for plain training, against plain training at any rate."""
    sentences = []
    for results in everything:
        for setting in SETTINGS:
            run = Run(*setting, results.size.budgets[0], "plain", 0)
            plain, tract = ({rate: results.of(_at(run, side, rate)) for rate in RATES} for side in ("plain", "tract"))
            if not all(plain.values()) or not tract[1.0]:
                continue
            best = max(RATES, key=lambda rate: _mean(plain[rate]))
            pairs = results.matched(_at(run, "plain", best), _at(run, "tract", 1.0))
            gain = (
                f"{words.title_of(results, *setting)}: TrAct at the rate of plain training is "
                f"{words.pair_difference(pairs)} points from plain training at the best of these rates for it, x {best:g}"
            )
            if all(tract.values()):
                gain += f"; the best for TrAct is x {max(RATES, key=lambda rate: _mean(tract[rate])):g}"
            sentences.append(f"{gain}.\n")
    return "\n".join(sentences)


def _at(run: Run, side: str, rate: float) -> Run:
    return dataclasses.replace(run, method=side, rate=rate)


def _mean(results: Sequence[Result]) -> float:
    return statistics.fmean(result.accuracy for result in results)


def by_contrast(pairs: Sequence[Pair], place: int) -> tuple[list[float], list[float]]:
    """Accuracies of both sides on the images of one planted contrast."""
    return [first.by_contrast[place] for first, _ in pairs], [second.by_contrast[place] for _, second in pairs]


def _settings(everything: Everything) -> Iterator[tuple[str, list[Need]]]:
    for results in everything:
        for setting in SETTINGS:
            if rows := needs(results, *setting):
                yield words.title_of(results, *setting), rows


ANSWERS: dict[str, Callable[[Everything], str]] = {
    "in_short": in_short,
    "speedup_answer": speedup,
    "time_answer": time,
    "lambda_answer": lam,
    "contrast_answer": contrast,
    "inputs_answer": sorted_out("inputs"),
    "ablations_answer": sorted_out("ablations"),
    "whitening_answer": whitening,
    "late_answer": sorted_out("late"),
    "habits_answer": sorted_out("habits"),
    "batch_answer": sorted_out("batch"),
    "many_answer": many,
    "vit_answer": sorted_out("vit"),
    "rates_answer": rates,
}
