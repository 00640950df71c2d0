"""A whole training run: checks, frozen networks, run folder, loop."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate.utils import set_seed

from ecgan.config import TrainConfig
from ecgan.data import Fault, PairDataset, write_faults
from ecgan.data.faults import skipped
from ecgan.errors import ConfigError, Stopped
from ecgan.losses import Objective
from ecgan.models.perceptual import PerceptualNetwork, build_perceptual
from ecgan.models.segmenter import LabelGenerator
from ecgan.training.build import (
    Check,
    build_networks,
    build_queue,
    check_config,
    fill_model,
    freeze_unreached,
    load_label_generator,
    needs_label_generator,
    open_data,
)
from ecgan.training.checkpoint import newest_sound, verify
from ecgan.training.checkpoint_folder import find_checkpoint, is_run
from ecgan.training.environment import choose_device, describe_run
from ecgan.training.preemption import StopRequests
from ecgan.training.processes import Processes, may_restart
from ecgan.training.progress import TrainingProgress
from ecgan.training.run_folder import RunFolder, check_free, default_run_folder
from ecgan.training.segmenter import fit_segmenter, read_score
from ecgan.training.trainer import Trainer


def train(cfg: TrainConfig, resume: Path | None = None, check: Check | None = None) -> Path:
    """Trains ECGAN as configured.

    Everything that a user can get wrong is checked before the run folder is made. Under torchrun
    every process calls this. SIGTERM, SIGUSR1 and Ctrl-C end the training after the step at hand,
    with a checkpoint.

    Args:
        cfg: the run; with ``resume`` the configuration of that run, perhaps with more steps.
        resume: run folder to go on with, from its newest undamaged checkpoint, or a checkpoint.
        check: told how many pairs have been checked.

    Returns:
        The run folder.

    Raises:
        ECGANError: a setting, a pair, weights or a checkpoint cannot be used.
        Stopped: a signal asked for it.
    """
    check_config(cfg)
    device = choose_device(cfg.device)
    with StopRequests() as stop:
        processes = Processes(device.type, cfg.timeout * 60)
        try:
            folder = _train(cfg, resume, check if processes.main else None, processes, stop)
        except Stopped:
            processes.close()
            raise
        # After an error there is no order to leave in: the others may be waiting for this process.
        processes.close()
        return folder


def _train(
    cfg: TrainConfig,
    resume: Path | None,
    check: Check | None,
    processes: Processes,
    stop: StopRequests,
) -> Path:
    device = processes.device
    folder, checkpoint = processes.from_main(lambda: _where(cfg, resume))
    faults: list[Fault] = []
    data = _open_data(cfg, check, processes, resume is None, faults.extend)
    model = fill_model(cfg, data[0].num_classes)
    set_seed(cfg.seed)
    shared = model.norm == "syncbatch" and processes.count > 1
    alone = shared and device.type == "cpu"  # torch has SyncBatchNorm for GPUs only
    networks = build_networks(dataclasses.replace(model, norm="batch") if alone else model)
    freeze_unreached(networks, cfg.loss)
    queue = build_queue(cfg.loss, model, device)
    perceptual = None
    if cfg.loss.perceptual:
        perceptual = build_perceptual(cfg.loss.perceptual_network).to(device)
    label_generator, source = None, cfg.segmenter.source
    if needs_label_generator(cfg.loss) and source != "auto":
        label_generator = load_label_generator(source, cfg.segmenter, model.num_classes)

    recorded = dataclasses.replace(cfg, model=model, out="")
    run = RunFolder(folder)
    try:
        if processes.main:
            run.begin(recorded)
            if alone:
                run.event(0, "model.norm is syncbatch: on CPUs each process takes its own batch's")
            if faults:
                _tell_faults(faults, data, run)
        if needs_label_generator(cfg.loss) and label_generator is None:
            source = str(run.segmenter)
            label_generator = _own_segmenter(cfg, data, run, model.num_classes, processes)
        objective = Objective(
            cfg.loss,
            perceptual,
            None if label_generator is None else label_generator.to(device),
            queue,
        )
        trainer = Trainer(recorded, model, networks, objective, data, run, processes)
        # Again, so that the run does not depend on whether it trained a segmenter; and apart, so
        # that processes draw different styles and pixels.
        set_seed(cfg.seed, device_specific=True)
        if checkpoint is not None:
            trainer.load(checkpoint)
        if processes.main:
            run.write_config(recorded)
            run.start(trainer.step)
            run.write_environment(
                describe_run(
                    device,
                    {
                        "processes": processes.count,
                        "data": _describe_data(data),
                        "perceptual": _describe_perceptual(perceptual),
                        "segmenter": label_generator
                        and {"source": source, **read_score(Path(source))},
                        "parameters": {
                            name: sum(p.numel() for p in network.parameters())
                            for name, network in networks.items().items()
                        },
                        "steps": trainer.total,
                    },
                )
            )
        stop.idle = False
        trainer.fit(stop)
    finally:
        run.close()
    return folder


def _where(cfg: TrainConfig, resume: Path | None) -> tuple[Path, Path | None]:
    """The run folder, and the checkpoint to go on from, if any."""
    if resume is None:
        if may_restart() and not cfg.out:
            raise ConfigError(
                "torchrun may start this run again, which then has to find its checkpoints: "
                "give --out"
            )
        folder = Path(cfg.out) if cfg.out else default_run_folder(cfg.data, cfg.preset)
        check_free(folder)
        return folder, None
    if (resume / "state.json").is_file():
        verify(resume)
        return resume.parent.parent, resume
    if not is_run(resume):
        find_checkpoint(resume)  # says what is missing
    checkpoint, problems = newest_sound(resume)
    for problem in problems:
        print(f"ecgan: {problem}; going on from the one before it", file=sys.stderr)
    return resume, checkpoint


def _open_data(
    cfg: TrainConfig,
    check: Check | None,
    processes: Processes,
    validate: bool,
    report: Callable[[list[Fault]], None],
) -> tuple[PairDataset, PairDataset]:
    """Data sets; the first process checks the pairs before the others open them."""
    if processes.main:
        data = open_data(
            cfg.dataset,
            cfg.data,
            cfg.size,
            cfg.seed,
            check=check,
            validate=validate,
            report=report,
        )
    processes.wait()
    if not processes.main:
        data = open_data(cfg.dataset, cfg.data, cfg.size, cfg.seed, validate=False)
    return data


def _own_segmenter(
    cfg: TrainConfig,
    data: tuple[PairDataset, PairDataset],
    run: RunFolder,
    num_classes: int,
    processes: Processes,
) -> LabelGenerator:
    """The segmenter of ``source: auto``, trained on the run's pairs unless it already was."""
    settings = cfg.segmenter
    if processes.main and not (run.segmenter / "config.json").is_file():
        TrainingProgress(settings.steps).say(
            f"label generator: training a small SegFormer on {data[0].name} first "
            f"({settings.steps} steps); segmenter.source takes a pretrained one instead"
        )
        fit_segmenter(
            data,
            run.segmenter,
            steps=settings.steps,
            batch_size=settings.batch_size,
            lr=settings.lr,
            seed=cfg.seed,
            device=processes.device,
        )
    processes.wait()
    return load_label_generator(str(run.segmenter), settings, num_classes)


def _tell_faults(
    faults: Sequence[Fault], data: tuple[PairDataset, PairDataset], run: RunFolder
) -> None:
    """Says what ``dataset.faults: skip`` will do, and lists the faults in the run folder."""
    limit = data[0].cfg.check or sys.maxsize
    checked = sum(min(limit, len(part)) for part in data)
    run.event(0, f"{skipped(faults, checked)}; faults.csv lists them")
    with contextlib.suppress(OSError):
        write_faults(run.path / "faults.csv", faults)


def _describe_data(data: tuple[PairDataset, PairDataset]) -> dict[str, object]:
    train_set, val_set = data
    return {
        "name": train_set.name,
        "classes": train_set.num_classes,
        "training_pairs": len(train_set),
        "validation_pairs": len(val_set),
    }


def _describe_perceptual(network: PerceptualNetwork | None) -> dict[str, object] | None:
    return None if network is None else {"name": network.name, "sha256": network.weights}
