"""Train the model on a dataset; continue where an interrupted attempt left off."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.config.model import Model
from pipeline.config.objective import ImageAdversary, Objective
from pipeline.config.system import posterior_kind
from pipeline.config.training import Train
from pipeline.data.batch import Batch
from pipeline.data.loader.batches import training_batches
from pipeline.data.loader.corrupt import CorruptionProcess
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.durable import write_json
from pipeline.errors import InputError
from pipeline.models.autoencoder import SharedLatentAutoencoder, build_autoencoder
from pipeline.models.networks import refuse_batch_norm
from pipeline.models.pretrained import save_pretrained
from pipeline.objectives.perceptual import PerceptualNetwork, load_perceptual
from pipeline.orchestration.distributed import Processes, connect, native_bf16
from pipeline.orchestration.stage import Context, Manifest, World
from pipeline.training import history
from pipeline.training.checkpoint import TrainingState, resume
from pipeline.training.checkpoint_files import Keep
from pipeline.training.checkpoint_sharded import Writers
from pipeline.training.failures import explained
from pipeline.training.loop import NOT_NOW, Cadence, optimise
from pipeline.training.saving import Saver, Saving
from pipeline.training.sharding import is_sharded, whole_weights
from pipeline.training.update import Rules, make_update, start
from pipeline.training.validation import (
    ROWS,
    Chunk,
    is_validated,
    own_chunks,
    validate,
    validation_rows,
)

HISTORY = "history.jsonl"
CHECKPOINTS = "checkpoints"
HARDWARE = "hardware.json"
"""What `auto` in the config meant on the machine that training began on."""
VALIDATION_SPLITS = ("val", "test")
"""Where the samples come from that the best model is chosen on: the first that is there."""


@dataclass(frozen=True)
class TrainInputs:
    """The three parts of the config that decide what is trained."""

    model: Model
    objective: Objective
    train: Train


def run(config: TrainInputs, context: Context) -> Manifest:
    """Train, writing `model.safetensors`, `model.json`, `history.jsonl` and `checkpoints/`.

    Raises:
        InputError: If the dataset, the number of processes or what an interrupted attempt left does
            not fit.
        Interrupted: If asked to stop; everything is saved then.
    """
    _refuse_indivisible(config.train, context.world)
    passes = _decoder_passes(config.model, config.objective)
    refuse_batch_norm(config.model, processes=context.world.size, passes=passes)
    dataset = ShardedDataset(context.inputs["dataset"])
    with connect(context.world, config.train.device) as processes:
        model = build_autoencoder(config.model, config.objective, dataset.info, context.seed)
        state = _begin(model, config, context, processes)
        resume(
            context.directory / CHECKPOINTS,
            state,
            context.progress.say,
            processes.peers(),
            is_main=context.world.is_main,
        )
        samples_before, started_s = state.samples_seen, time.monotonic()
        _train(config, context, processes, dataset, state)
        elapsed_s = time.monotonic() - started_s
        average = _whole_average(state, config, dataset, context)
        if not context.world.is_main:
            return Manifest()
        save_pretrained(context.directory, average, config.model, config.objective, dataset.info)
    last = history.read_lines(context.directory / HISTORY)[-1]
    return Manifest(
        metrics={name: float(value) for name, value in last.items()},
        headline=("loss", "samples_seen"),
        outputs={"model": "model.safetensors", "description": "model.json", "history": HISTORY},
        timing={"train_s": elapsed_s, "samples_per_s": (state.samples_seen - samples_before) / elapsed_s},
    )


def _begin(
    model: SharedLatentAutoencoder, config: TrainInputs, context: Context, processes: Processes
) -> TrainingState:
    """A new training where the processes compute, divided among them if the config says so."""
    divided = config.train.sharding == "full"
    if divided and context.world.size == 1:
        context.progress.say("train.sharding: full has nothing to divide in one process; see --nproc")
    if not divided:
        model = model.to(processes.device)  # otherwise each goes to its device in its turn, in parts
    state = start(
        model,
        config.objective,
        config.train,
        context.seed,
        processes.divide if divided else lambda whole: None,
    )
    state.model.to(processes.device)
    state.average.to(processes.device)
    state.discriminators.to(processes.device)
    return state


def _whole_average(
    state: TrainingState, config: TrainInputs, dataset: ShardedDataset, context: Context
) -> SharedLatentAutoencoder:
    """The averaged model in one piece, in the first process; all of them have to ask."""
    if not is_sharded(state.average):
        return state.average
    weights = whole_weights(state.average)
    whole = build_autoencoder(config.model, config.objective, dataset.info, context.seed)
    if context.world.is_main:
        whole.load_state_dict(weights)
    return whole


def _train(
    config: TrainInputs,
    context: Context,
    processes: Processes,
    dataset: ShardedDataset,
    state: TrainingState,
) -> None:
    """Hand everything to the loop: the update, the data from where it stopped, and what to do on the way."""
    train, world, lines = config.train, context.world, context.directory / HISTORY
    rules = Rules(
        model=config.model,
        objective=config.objective,
        train=train,
        seed=context.seed,
        bf16=_bf16(train.precision, context.directory, processes),
        rank=world.rank,
        world_size=world.size,
        dataset_size=dataset.length("train"),
    )
    if world.is_main:
        history.truncate(lines, state.samples_seen)
    recorder = history.Recorder(lines)
    chunks = _chunks(dataset, rules, processes.device)
    own = own_chunks(chunks, world.rank, world.size)

    def log(samples_seen: int, values: dict[str, float]) -> None:
        if world.is_main:
            recorder.append(samples_seen, values)

    context.progress.start("training", train.samples, "samples", done=min(state.samples_seen, train.samples))
    batches = training_batches(
        dataset,
        "train",
        seed=context.seed,
        global_batch=train.batch,
        samples_seen=state.samples_seen,
        world_rank=world.rank,
        world_size=world.size,
        loading=train.loading,
        augment=train.augment,
        corruption=config.objective.corruption,
        mix=train.mix,
        say=context.progress.say,
    )
    update = make_update(
        state,
        processes.wrap(state.model),
        rules,
        processes.peers(),
        {name: processes.wrap(player) for name, player in state.discriminators.items()},
        perceptual=_perceptual(config.objective, processes),
    )
    with (
        closing(batches),
        closing(_saving(context, processes, train, recorder, state)) as saving,
        explained(state, train),
    ):
        optimise(
            state,
            update,
            (batch.to(processes.device) for batch in batches),
            Cadence(
                train.samples,
                train.batch,
                train.log_samples,
                train.checkpoint_samples,
                train.milestone_samples,
            ),
            log=log,
            validate=lambda: validate(state, rules, own, processes.sum) if chunks else NOT_NOW,
            consult=lambda due: saving.consult(due, stop=context.stop_requested()),
            save=lambda last: saving.save(state, last=last),
            advance=lambda values: context.progress.advance(train.batch, f"loss {values['loss']:.0f}"),
        )
    context.progress.finish()


def _saving(
    context: Context,
    processes: Processes,
    train: Train,
    recorder: history.Recorder,
    state: TrainingState,
) -> Saving:
    """The thread that writes checkpoints: in the main process alone, or where weights are divided in each."""
    is_main, divided = processes.world.is_main, is_sharded(state.model)
    if not is_main and not divided:
        return Saving(None, processes.peers(), processes.device)
    saver = Saver(
        context.directory / CHECKPOINTS,
        Keep(train.keep_checkpoints, train.milestone_samples),
        minutes=train.checkpoint_minutes,
        before_write=recorder.sync,
        say=context.progress.say,
        writers=Writers.meet(is_main=is_main) if divided else None,
    )
    return Saving(saver, processes.peers(), processes.device, follows=not is_main, divided=divided)


def _chunks(dataset: ShardedDataset, rules: Rules, device: torch.device) -> list[Chunk]:
    """The samples that the best model is chosen on, in parts; none for a system without a loss on samples."""
    wanted = rules.train.validation_samples
    split = next((name for name in VALIDATION_SPLITS if dataset.length(name)), None)
    if split is None or not wanted or not is_validated(rules):
        return []
    rows = validation_rows(dataset.length(split), wanted)
    corruption = rules.objective.corruption
    process = (
        CorruptionProcess(rules.seed, len(dataset.info.class_names), **corruption.model_dump())
        if corruption.any
        else None
    )

    def loader(number: int) -> Callable[[], Batch]:
        part = rows[number * ROWS : (number + 1) * ROWS]
        return lambda: dataset.packed(split, part, process).to(device)

    count = -(-len(rows) // ROWS)
    return [Chunk(number, loader(number)) for number in range(count)]


def _refuse_indivisible(train: Train, world: World) -> None:
    """Refuse micro-batches of unequal size.

    Raises:
        InputError: If the batch cannot be divided among processes and micro-batches.
    """
    parts = world.size * train.accumulation
    if train.batch % parts:
        raise InputError(
            f"train.batch: {train.batch} cannot be divided into {parts} equal parts (processes: "
            f"{world.size}, train.accumulation: {train.accumulation}); use "
            f"{train.batch + -train.batch % parts}, or another number of either"
        )


def _decoder_passes(model: Model, objective: Objective) -> int:
    """How often an update decodes: reconstructions, draws from the prior for the adversary, or both."""
    adversary = objective.adversary
    generates = isinstance(adversary, ImageAdversary) and adversary.fakes != "reconstructions"
    return int(generates) + int(posterior_kind(model, objective) != "none")


def _perceptual(objective: Objective, processes: Processes) -> PerceptualNetwork | None:
    """The network of the perceptual term, where the processes compute; None without such a term."""
    section = objective.rgb.perceptual
    return load_perceptual(section.network).to(processes.device) if section else None


def _bf16(precision: str, directory: Path, processes: Processes) -> bool:
    """Whether to use bfloat16: what training began with, or else what the config and machine say.

    Raises:
        InputError: If training began in bf16 elsewhere and this machine lacks it.
    """
    kept = directory / HARDWARE
    native = not processes.any(not native_bf16(processes.device))
    resolved = precision if precision != "auto" else ("bf16" if native else "fp32")
    begun = _begun_in(kept, processes)
    if begun:
        if begun == "bf16" and precision == "auto" and not native:
            raise InputError(
                f"{kept}: training began in bf16, which this machine does not compute natively; "
                "continue where it began, or train anew with --force train"
            )
        return bool(begun == "bf16")
    if processes.world.is_main:
        write_json(kept, {"precision": resolved})
    return resolved == "bf16"


def _begun_in(kept: Path, processes: Processes) -> str:
    """The precision that the first process finds noted, the same answer in all; empty if it finds none."""
    found = json.loads(kept.read_text())["precision"] if processes.world.is_main and kept.exists() else ""
    if processes.any(found == "bf16"):
        return "bf16"
    return "fp32" if processes.any(found == "fp32") else ""
