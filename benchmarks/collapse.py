"""Modality collapse: what keeps RGB out of a latent shared with depth and labels, and what remedies bring.

    python benchmarks/collapse.py --out DIR [--only ARM ...] [--seeds 0 1 2] [--samples 45000]
                                  [--network patch] [--threads 1] [--json FILE] [--figure FILE]

Every arm trains on the same rooms at 64 px in the same order, with the same network and budget, and is
scored in every direction; on the way, on 300 test rooms after every tenth of the budget.
DIR gets the rooms and one JSON file per training; what is there is not trained again.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib
import torch
from quality_table import GIVEN, METRICS, summarise
from rooms_training import Setting, System, keep, measure, read_results, rooms, score, triptych
from torch import Tensor, nn

from pipeline.config.model import Model
from pipeline.config.objective import DepthLikelihood, Objective, RgbLikelihood
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.models.autoencoder import SharedLatentAutoencoder

Network = Literal["patch", "residual", "plain"]

WATCHED = 300
"""Test rooms scored on the way."""

ARMS = {
    "everything shared": System(Model(private={})),
    "RGB alone": System(Model(private={}), absent={"depth": 1.0, "seg": 1.0}),
    "48 shared latents": System(Model(private={}, latent=48)),
    "16 private RGB latents": System(Model()),
    "16 of every modality": System(Model(private={"rgb": 16, "depth": 16, "seg": 16})),
    "balanced gradients": System(Model(private={})),
    "RGB weighs 10": System(Model(private={}), Objective(rgb=RgbLikelihood(weight=10.0))),
    "scales above .1": System(
        Model(private={}),
        Objective(rgb=RgbLikelihood(scale_floor=0.1), depth=DepthLikelihood(scale_floor=0.1)),
    ),
    "beta .1": System(Model(private={}), Objective(beta=0.1)),
    "MVTCAE": System(Model(private={}, fusion="mvtcae")),
    "MVTCAE, 16 private": System(Model(fusion="mvtcae")),
    "PoE, sub-sampled terms": System(Model(private={}, fusion="poe", subsets="subsampled")),
    "MMVAE+": System(Model(private={"rgb": 16, "depth": 16, "seg": 16}, fusion="mmvaeplus")),
    "half of depth and labels absent": System(Model(), absent={"depth": 0.5, "seg": 0.5}),
}
"""What is tried. Names of files, too."""

BALANCED = "balanced gradients"
BALANCE_DECAY = 0.9


class BalancedGradients:
    """Gives the modalities' gradients at the shared latent equal norms: the mean of what they were.

    The remedy of impartial optimisation in its simplest form: decoders keep their own gradients; only what
    reaches the encoders is scaled. Norms are averaged over updates.

    Source: Javaloy, Meghdadi & Valera 2022 (arXiv:2206.04496), after Chen et al. 2018, GradNorm
        (arXiv:1711.02257), without its learned rates.
    """

    def __init__(self, model: SharedLatentAutoencoder) -> None:
        self._norms: dict[str, float] = {}
        for name, decoder in model.decoders.items():
            decoder.register_forward_pre_hook(self._watch(name))

    def _watch(self, name: str) -> Any:
        def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            latent, *rest = inputs
            if not latent.requires_grad:
                return inputs
            seen = latent.view_as(latent)
            seen.register_hook(lambda gradient: self._scaled(name, gradient))
            return (seen, *rest)

        return before

    def _scaled(self, name: str, gradient: Tensor) -> Tensor:
        norm, before = float(gradient.norm()), self._norms.get(name)
        self._norms[name] = norm if before is None else BALANCE_DECAY * before + (1.0 - BALANCE_DECAY) * norm
        mean = sum(self._norms.values()) / len(self._norms)
        return gradient * (mean / max(self._norms[name], 1e-12))


def main() -> None:
    """Train what is missing, print the table, draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=45_000)
    parser.add_argument("--rooms", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--network", choices=get_args(Network), default="patch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setting = Setting(arguments.samples, arguments.rooms, arguments.batch, arguments.learning_rate)
    out = arguments.out / arguments.network
    read_results(out, setting)
    for seed in arguments.seeds:
        for arm in arguments.only:
            file = out / f"{file_name(arm)}-seed{seed}.json"
            if not file.exists():
                result = run(arm, arguments.network, setting, seed, arguments.out)
                keep(file, result)
                print(f"{file.stem}: {result['train_cpu_s']:.0f} CPU-s", flush=True)
    results = [result for result in read_results(out, setting) if "failed" not in result]
    rows = in_order(summarise(results))
    print("\n".join(table(rows)))
    if arguments.json:
        arguments.json.write_text(json.dumps({"setting": asdict(setting), "rows": rows}, indent=1))
    if arguments.figure:
        draw(results, arguments.figure)


def run(arm: str, network: Network, setting: Setting, seed: int, out: Path) -> dict[str, Any]:
    """Train an arm and score it, also on the way."""
    system = ARMS[arm]
    changes = {"network": network, "norm": "none"} if network == "plain" else {"network": network}
    system = System(system.model.model_copy(update=changes), system.objective, system.absent)
    dataset = ShardedDataset(rooms(out, setting.rooms, system.absent))
    prepare = BalancedGradients if arm == BALANCED else lambda model: None
    trainee = triptych(system, setting, dataset.info, seed, prepare)
    way: dict[int, dict[str, dict[str, float]]] = {}

    def watch(samples_seen: int) -> None:
        tenth = setting.samples // 10
        if samples_seen // tenth > (samples_seen - setting.batch) // tenth:
            way[samples_seen] = score(trainee, dataset, WATCHED)

    found = measure(trainee, dataset, setting.train(), seed, watch)
    dataset.close()
    named = {"system": arm, "scale": None, "seed": seed}
    return {**asdict(setting), **named, **found, "way": way}


def file_name(arm: str) -> str:
    """An arm's name without what file names had better not have."""
    return "".join(letter if letter.isalnum() else "-" for letter in arm)


def in_order(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As in ARMS."""
    return sorted(rows, key=lambda row: list(ARMS).index(row["system"]))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table: everything given, RGB alone, and what labels alone say of depth."""
    columns = [(given, metric) for given in (GIVEN[0], GIVEN[1]) for metric in METRICS]
    heads = [f"{'all' if len(given) > 1 else given[0]} -> {METRICS[metric]}" for given, metric in columns]
    lines = [f"| | {' | '.join(heads)} | seeds |", f"|{'---|' * (len(heads) + 2)}"]
    for row in rows:
        cells = [
            _cell(metric, row["cells"][f"{'+'.join(given)}/{metric}"])
            if learned(row["system"], metric)
            else "—"
            for given, metric in columns
        ]
        lines.append(f"| {row['system']} | {' | '.join(cells)} | {row['seeds']} |")
    return lines


def learned(arm: str, metric: str) -> bool:
    """Whether an arm's training samples have what a metric is about."""
    return ARMS[arm].absent.get(metric.partition("_")[0], 0.0) < 1.0


def _cell(metric: str, cell: dict[str, float]) -> str:
    digits = {"rgb_psnr_db": 1, "depth_absrel": 4, "seg_miou": 3}[metric]
    mean, spread = cell["mean"], cell["std"]
    return f"{mean:.{digits}f}" + ("" if spread != spread else f" ± {spread:.{digits}f}")


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """RGB given everything and depth given RGB, against samples seen: an arm a line, the mean over seeds."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    shown = (("rgb+depth+seg", "rgb_psnr_db"), ("rgb", "depth_absrel"))
    titles = (
        "RGB from everything, PSNR in dB (higher is better)",
        "depth from RGB, absrel (lower is better)",
    )
    colours = plt.get_cmap("tab20")
    for (given, metric), title, axis in zip(shown, titles, axes, strict=True):
        for number, arm in enumerate(ARMS):
            runs = [result["way"] for result in results if result["system"] == arm]
            if not runs or not learned(arm, metric):
                continue
            at = sorted(map(int, runs[0]))
            mean = [sum(run[str(x)][given][metric] for run in runs) / len(runs) for x in at]
            axis.plot([x / 1000 for x in at], mean, color=colours(number), marker="o", ms=3, label=arm)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("thousand samples seen")
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_yscale("log")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
