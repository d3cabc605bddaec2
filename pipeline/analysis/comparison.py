"""Systems side by side: what each run measured, its mean and spread over seeds, and what is missing, why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from pipeline.config import Config
from pipeline.config.system import has_likelihood, posterior_kind
from pipeline.data.modality import MODALITIES

Better = Literal["higher", "lower", "one", "half", "neither"]
"""Which values of a quantity are good; `one` and `half`: those near 1 and 1/2."""

TRAIN_SECONDS, TRAIN_RATE = "train/seconds", "train/samples_per_s"
SEED_SPREAD = "stability/seed_spread_pct"

FEWEST_SCENES = 50
"""That evaluation compares as a set."""

STANDARD_ERRORS = 2.0
"""Systems that differ by less are not told apart."""

NAMES = {"rgb": "RGB", "depth": "depth", "seg": "seg"}
FIDELITY: dict[str, tuple[str, str, Better]] = {
    "rgb": ("rgb_psnr_db", "RGB PSNR (dB)", "higher"),
    "depth": ("depth_absrel", "depth absrel", "lower"),
    "seg": ("seg_miou", "seg mIoU", "higher"),
}
GENERATED: tuple[tuple[str, str, Better], ...] = (
    ("sharpness", "sharpness", "one"),
    ("fd_encoder", "FD encoder", "lower"),
    ("fd_pca", "FD PCA", "lower"),
    ("kid", "KID", "lower"),
    ("density", "density", "higher"),
    ("coverage", "coverage", "higher"),
    ("memorisation", "memorisation", "half"),
)


@dataclass(frozen=True)
class Quantity:
    """One column of the comparison.

    Attributes:
        metric: Its name in a run's metrics.
        title: Stands above the column.
        better: Which values are good.
        reference: A metric that says what to hold it against; empty: none.
        reference_title: What that is.
    """

    metric: str
    title: str
    better: Better
    reference: str = ""
    reference_title: str = ""


@dataclass(frozen=True)
class Question:
    """What people ask, and the quantities that answer it."""

    title: str
    quantities: tuple[Quantity, ...]


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        system: Which system.
        seed: Its seed.
        run: Its name.
        config: All it depends on.
        metrics: Name to number; empty where nothing was measured.
        failure: Why it has no result; empty if it has.
    """

    system: str
    seed: int
    run: str
    config: Config
    metrics: Mapping[str, float]
    failure: str = ""


@dataclass(frozen=True)
class Summary:
    """One metric of one system over its seeds.

    Attributes:
        mean: Of the seeds that have it.
        spread: Their standard deviation (n - 1); None for a single one.
        values: By seed.
    """

    mean: float
    spread: float | None
    values: Mapping[int, float]

    @property
    def variance_of_mean(self) -> float:
        """Square of the standard error; 0 where it is not known."""
        return 0.0 if self.spread is None else self.spread**2 / len(self.values)


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes:
        name: Of the comparison.
        entries: Every run, system by system.
        systems: In the order they were asked for.
        summaries: By system, then metric.
        questions: What is asked of the data's modalities.
    """

    name: str
    entries: tuple[Entry, ...]
    systems: tuple[str, ...]
    summaries: Mapping[str, Mapping[str, Summary]]
    questions: tuple[Question, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds."""
        return tuple(sorted({entry.seed for entry in self.entries}))

    def of(self, system: str) -> list[Entry]:
        """The runs of a system."""
        return [entry for entry in self.entries if entry.system == system]

    def summary(self, system: str, metric: str) -> Summary | None:
        """Mean and spread, or None where nothing was measured."""
        return self.summaries[system].get(metric)

    def reference(self, quantity: Quantity) -> float | None:
        """The mean over all runs of what a quantity is held against."""
        values = [e.metrics[quantity.reference] for e in self.entries if quantity.reference in e.metrics]
        return fmean(values) if values else None


def compare_systems(name: str, entries: Sequence[Entry]) -> Comparison:
    """Put runs side by side.

    Args:
        name: Of the comparison.
        entries: Every run, in any order; the first of each system decides the order of systems.
    """
    systems = tuple(dict.fromkeys(entry.system for entry in entries))
    grouped = {system: [entry for entry in entries if entry.system == system] for system in systems}
    questions = _questions(_modalities(entries))
    summaries = {system: _summarise(runs) for system, runs in grouped.items()}
    for system, spread in seed_spread(summaries, questions).items():
        if not any(entry.failure for entry in grouped[system]):
            summaries[system][SEED_SPREAD] = Summary(spread, None, {})
    ordered = tuple(entry for runs in grouped.values() for entry in sorted(runs, key=lambda e: e.seed))
    return Comparison(name, ordered, systems, summaries, questions)


def seed_spread(
    summaries: Mapping[str, Mapping[str, Summary]], questions: Sequence[Question]
) -> dict[str, float]:
    """How much of the difference between systems a change of seed alone makes, in percent, per system.

    For each quality: standard deviation over seeds / (largest - smallest mean of any system). Their mean
    over the qualities that the system and another one have; what a run costs is not a quality.
    """
    shares: dict[str, list[float]] = {system: [] for system in summaries}
    for quantity in (quantity for question in questions for quantity in question.quantities):
        found = {
            name: metrics[quantity.metric]
            for name, metrics in summaries.items()
            if quantity.metric in metrics
        }
        means = [summary.mean for summary in found.values()]
        if quantity.better == "neither" or quantity.metric == SEED_SPREAD or len(means) < 2:
            continue
        extent = max(means) - min(means)
        for name, summary in found.items():
            if extent > 0.0 and summary.spread is not None:
                shares[name].append(summary.spread / extent)
    return {name: 100.0 * fmean(parts) for name, parts in shares.items() if parts}


def leaders(comparison: Comparison, quantity: Quantity) -> frozenset[str]:
    """The systems that are not worse than the best by more than two standard errors of the difference."""
    found = {
        system: summary
        for system in comparison.systems
        if (summary := comparison.summary(system, quantity.metric)) is not None
    }
    if quantity.better == "neither" or len(found) < 2:
        return frozenset()
    badness = {system: _badness(summary.mean, quantity.better) for system, summary in found.items()}
    best = min(badness, key=lambda system: badness[system])

    def is_led(system: str) -> bool:
        error = math.sqrt(found[system].variance_of_mean + found[best].variance_of_mean)
        return badness[system] - badness[best] <= STANDARD_ERRORS * error

    return frozenset(system for system in found if is_led(system))


def missing_reason(comparison: Comparison, system: str, quantity: Quantity) -> str:
    """Why a system has no number for a quantity."""
    runs = comparison.of(system)
    if failures := [entry.failure for entry in runs if entry.failure]:
        if len(failures) == len(runs):
            return f"no run has a result ({failures[0]})"
    config = runs[0].config
    if quantity.metric == SEED_SPREAD:
        return (
            "no seed spread, since not every seed has a result"
            if failures
            else "no seed spread with one system or seed"
        )
    if quantity.metric.endswith("/nll_nats"):
        return _no_likelihood(config)
    if quantity.metric.startswith("prior/"):
        if config.evaluate.generated < FEWEST_SCENES:
            return f"evaluate.generated is {config.evaluate.generated}, too few to compare sets"
        return "too few complete test or training scenes to compare sets"
    if quantity.metric == TRAIN_RATE or quantity.metric == TRAIN_SECONDS:
        return "nothing was left to train when it was last started, so nothing was timed"
    return "nothing in the test split to measure it on"


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """What `comparison.json` holds: every metric of every run, flat; mean and spread of every system."""
    return {
        "name": comparison.name,
        "seeds": list(comparison.seeds),
        "runs": {
            entry.run: {
                "system": entry.system,
                "seed": entry.seed,
                "failure": entry.failure,
                "metrics": dict(sorted(entry.metrics.items())),
            }
            for entry in comparison.entries
        },
        "systems": {
            system: {
                "mean": {name: summary.mean for name, summary in sorted(metrics.items())},
                "spread": {
                    name: summary.spread
                    for name, summary in sorted(metrics.items())
                    if summary.spread is not None
                },
                "missing": {
                    quantity.metric: missing_reason(comparison, system, quantity)
                    for question in comparison.questions
                    for quantity in question.quantities
                    if quantity.metric not in metrics
                },
            }
            for system, metrics in comparison.summaries.items()
        },
    }


def _summarise(runs: Sequence[Entry]) -> dict[str, Summary]:
    names = dict.fromkeys(name for entry in runs for name in entry.metrics)
    found: dict[str, Summary] = {}
    for name in names:
        values = {entry.seed: entry.metrics[name] for entry in runs if name in entry.metrics}
        numbers = list(values.values())
        found[name] = Summary(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None, values)
    return found


def _modalities(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Of the data, as the names of metrics tell."""
    given = {name.partition("/")[0] for entry in entries for name in entry.metrics}
    seen = {part for name in given for part in name.split("+")}
    return tuple(name for name in MODALITIES if name in seen)


def _questions(modalities: tuple[str, ...]) -> tuple[Question, ...]:
    everything = "+".join(modalities)
    generated = tuple(
        Quantity(f"prior/{name}", title, better, f"real/{name}", "real scenes")
        for name, title, better in GENERATED
    )
    asked = [Question("Generated scenes", generated)]
    if modalities:
        asked.append(Question("Reconstructed from everything", _fidelity(everything, modalities)))
    if len(modalities) > 1:
        asked.append(
            Question(f"Inferred from {NAMES[modalities[0]]} alone", _fidelity(modalities[0], modalities[1:]))
        )
    rest = (
        Quantity(f"{everything}/nll_nats", "NLL (nats)", "lower"),
        Quantity(SEED_SPREAD, "seed spread (%)", "lower"),
        Quantity(TRAIN_SECONDS, "training (s)", "neither"),
        Quantity(TRAIN_RATE, "samples/s", "neither"),
    )
    return (*asked, Question("Likelihood, stability, cost", rest if modalities else rest[1:]))


def _fidelity(given: str, modalities: Sequence[str]) -> tuple[Quantity, ...]:
    return tuple(
        Quantity(f"{given}/{name}", title, better, f"constant/{name}", "constant scene")
        for name, title, better in (FIDELITY[modality] for modality in modalities)
    )


def _badness(mean: float, better: Better) -> float:
    match better:
        case "higher":
            return -mean
        case "one":
            return abs(mean - 1.0)
        case "half":
            return abs(mean - 0.5)
        case _:
            return mean


def _no_likelihood(config: Config) -> str:
    posterior = posterior_kind(config.model, config.objective)
    if has_likelihood(config.model, config.objective):
        return "evaluate.nll_samples is 0" if not config.evaluate.nll_samples else "no row has every modality"
    if config.objective.rgb.density == "bce" and posterior == "gaussian":
        return "no likelihood: cross-entropy of RGB is no density"
    return {
        "none": "no likelihood: a generator alone gives no density of scenes",
        "deterministic": "no likelihood: codes are points, which have no density",
        "implicit": "no estimate of the likelihood: the posterior can be drawn from but has no density",
        "gaussian": "no likelihood: the regulariser is no bound of one",
    }[posterior]
