"""A whole training run: checks, frozen networks, run folder, loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed

from ecgan.config import TrainConfig
from ecgan.data import PairDataset
from ecgan.losses import Objective
from ecgan.models.perceptual import PerceptualNetwork, build_perceptual
from ecgan.models.segmenter import LabelGenerator
from ecgan.training.build import (
    Check,
    build_networks,
    build_queue,
    check_config,
    fill_model,
    load_label_generator,
    needs_label_generator,
    open_data,
)
from ecgan.training.checkpoint import find_checkpoint
from ecgan.training.environment import choose_device, describe_run
from ecgan.training.progress import TrainingProgress
from ecgan.training.run_folder import RunFolder, check_free, default_run_folder
from ecgan.training.segmenter import fit_segmenter, read_score
from ecgan.training.trainer import Trainer


def train(cfg: TrainConfig, resume: Path | None = None, check: Check | None = None) -> Path:
    """Trains ECGAN as configured.

    Everything that a user can get wrong is checked before the run folder is made.

    Args:
        cfg: the run; with ``resume`` the configuration of that run, perhaps with more steps.
        resume: run folder to go on with, from its newest checkpoint.
        check: told how many pairs have been checked.

    Returns:
        The run folder.

    Raises:
        ECGANError: a setting, a pair, weights or a checkpoint cannot be used.
    """
    check_config(cfg)
    device = choose_device(cfg.device)
    checkpoint = None
    if resume is not None:
        checkpoint = find_checkpoint(resume)
        folder = checkpoint.parent.parent
    else:
        folder = Path(cfg.out) if cfg.out else default_run_folder(cfg.data, cfg.preset)
        check_free(folder)
    data = open_data(
        cfg.dataset, cfg.data, cfg.size, cfg.seed, check=check, validate=resume is None
    )
    model = fill_model(cfg, data[0].num_classes)
    set_seed(cfg.seed)
    networks = build_networks(model)
    queue = build_queue(cfg.loss, model, device)
    perceptual = None
    if cfg.loss.perceptual:
        perceptual = build_perceptual(cfg.loss.perceptual_network).to(device)
    label_generator, source = None, cfg.segmenter.source
    if needs_label_generator(cfg.loss) and source != "auto":
        label_generator = load_label_generator(source, cfg.segmenter, model.num_classes)

    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=cfg.precision)
    run = RunFolder(folder)
    try:
        if needs_label_generator(cfg.loss) and label_generator is None:
            source = str(run.segmenter)
            label_generator = _own_segmenter(cfg, data, run, model.num_classes, accelerator)
        objective = Objective(
            cfg.loss,
            perceptual,
            None if label_generator is None else label_generator.to(device),
            queue,
        )
        # Again, so that the run does not depend on whether it trained a segmenter.
        set_seed(cfg.seed)
        recorded = dataclasses.replace(cfg, model=model, out="")
        trainer = Trainer(recorded, model, networks, objective, data, run, accelerator)
        if checkpoint is not None:
            trainer.load(checkpoint)
        run.start(trainer.step)
        if accelerator.is_main_process:
            run.write_config(recorded)
            run.write_environment(
                describe_run(
                    accelerator.device,
                    {
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
        trainer.fit()
    finally:
        run.close()
    return folder


def _own_segmenter(
    cfg: TrainConfig,
    data: tuple[PairDataset, PairDataset],
    run: RunFolder,
    num_classes: int,
    accelerator: Accelerator,
) -> LabelGenerator:
    """The segmenter of ``source: auto``, trained on the run's pairs unless it already was."""
    settings = cfg.segmenter
    if accelerator.is_main_process and not (run.segmenter / "config.json").is_file():
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
            device=accelerator.device,
        )
    accelerator.wait_for_everyone()
    return load_label_generator(str(run.segmenter), settings, num_classes)


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
