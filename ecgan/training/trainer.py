"""The training loop: one generator step, one discriminator step, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from ecgan.config import ModelConfig, TrainConfig
from ecgan.data import PairDataset
from ecgan.errors import ECGANError
from ecgan.losses import Objective
from ecgan.models import Layout
from ecgan.training.build import (
    CollateWithLayout,
    Networks,
    build_optimizers,
    classes_to_json,
    make_layout,
)
from ecgan.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from ecgan.training.meter import Meter
from ecgan.training.progress import TrainingProgress, memory_gib
from ecgan.training.run_folder import RunFolder
from ecgan.training.sampler import StepSampler
from ecgan.training.schedule import learning_rates, total_steps
from ecgan.training.settings import to_yaml
from ecgan.training.sheet import draw_sheet, sample_columns
from ecgan.training.step import Batch, TrainingStep

_SAMPLES = 4


class NonFiniteLossError(ECGANError):
    """A loss became infinite or NaN."""


class Trainer:
    """Trains G (with the image encoder, where there is one) against D.

    What a step does depends only on the weights, the optimisers, the random generators and the
    step number, all of which a checkpoint holds: a resumed run goes on exactly.

    Args:
        cfg: the run.
        model: the networks' settings, filled in from the data set.
        networks: freshly initialised networks.
        objective: all losses.
        data: training and validation pairs.
        run: where results go.
        accelerator: device, autocast, loss scaling and processes.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        model: ModelConfig,
        networks: Networks,
        objective: Objective,
        data: tuple[PairDataset, PairDataset],
        run: RunFolder,
        accelerator: Accelerator,
    ) -> None:
        self.cfg = cfg
        self.model = model
        self.networks = networks
        self.objective = objective
        self.train_set, self.val_set = data
        self.run = run
        self.accelerator = accelerator
        self.step = 0
        self.total = total_steps(
            cfg.optim, len(self.train_set), cfg.batch_size * accelerator.num_processes
        )
        encoder = networks.encoder
        g_optimizer, d_optimizer = build_optimizers(cfg.optim, networks)
        # The loader is not prepared: StepSampler shards the batches itself, so that they resume.
        self.generator, self.discriminator = accelerator.prepare(
            networks.generator, networks.discriminator
        )
        self.encoder = accelerator.prepare(encoder) if encoder is not None else None
        self.g_optimizer, self.d_optimizer = accelerator.prepare(g_optimizer, d_optimizer)
        self.training_step = TrainingStep(
            cfg.optim,
            networks,
            (self.generator, self.discriminator, self.encoder),
            objective,
            (self.g_optimizer, self.d_optimizer),
            autocast=accelerator.autocast,
            backward=accelerator.backward,
            check=self._check_finite,
        )

    def fit(self) -> None:
        """Runs all remaining steps, with logs, samples and checkpoints on the way and at the end.

        Raises:
            NonFiniteLossError: a loss is infinite or NaN; the weights before that step are kept.
        """
        cfg, main = self.cfg, self.accelerator.is_main_process
        meter = Meter(cfg.batch_size * self.accelerator.num_processes, self.run.seconds)
        with TrainingProgress(self.total, self.step, quiet=not main) as progress:
            if self.step >= self.total:
                progress.say(f"all {self.total} steps are done; --steps takes a larger number")
            for batch in self._batches():
                rates = learning_rates(cfg.optim, self.step, self.total)
                meter.add(self.train_step(batch, rates))
                self.step += 1
                progress.advance(self.step)
                last = self.step == self.total
                if not main:
                    continue
                if last or self.step % cfg.log_every == 0:
                    row = meter.row(self.step, rates, memory_gib(self.accelerator.device))
                    self.run.log(row)
                    progress.report(
                        self.step, meter.losses, row["images_per_second"], row["memory_gib"]
                    )
                    meter.reset()
                if last or self.step % cfg.sample_every == 0:
                    self.sample()
                if last or self.step % cfg.save_every == 0:
                    self.save()

    def train_step(self, batch: Batch, rates: tuple[float, float]) -> dict[str, Tensor]:
        """One update of G and one of D.

        Args:
            batch: pairs on the device, with their ``layout``.
            rates: learning rates of G and D.

        Returns:
            Every weighted loss term, those of D prefixed with ``d_``.
        """
        return self.training_step(batch, batch["layout"], rates, self.step)

    def sample(self) -> None:
        """Writes a sample sheet of fixed validation pairs."""
        count = min(_SAMPLES, len(self.val_set))
        chosen = [index * len(self.val_set) // count for index in range(count)]
        batch = self._to_device(default_collate([self.val_set[index] for index in chosen]))
        generator = self.networks.generator
        # A generator of its own: sampling must not change what training draws next.
        random = torch.Generator().manual_seed(self.cfg.seed)
        z = generator.sample_style(count, generator=random)
        generator.eval()
        with torch.no_grad(), self.accelerator.autocast():
            out = generator(
                make_layout(batch, self.model), None if z is None else z.to(self._device)
            )
        generator.train()
        self.run.save_sample(
            draw_sheet(sample_columns(out, batch, self.val_set.palette)), self.step
        )

    def save(self) -> None:
        """Writes a checkpoint."""
        save_checkpoint(self.run.checkpoints, self._state(), keep=self.cfg.keep)

    def load(self, checkpoint: Any) -> None:
        """Goes on from a checkpoint.

        Raises:
            CheckpointError: it is incomplete or made for another configuration.
        """
        self.step = load_checkpoint(checkpoint, self._state())

    def _check_finite(self, terms: Mapping[str, Tensor], total: Tensor, network: str) -> None:
        if not torch.isfinite(total):
            wrong = {k: v.item() for k, v in terms.items() if not torch.isfinite(v)}
            named = ", ".join(f"{name} is {value}" for name, value in wrong.items())
            raise NonFiniteLossError(
                f"training stopped at step {self.step + 1}: the {network}'s loss {named or 'sum'} "
                "(not a finite number); a lower --optim.lr or --precision no may help"
            )

    def _batches(self) -> Iterator[Batch]:
        cfg = self.cfg
        sampler = StepSampler(
            len(self.train_set),
            cfg.batch_size,
            self.total,
            seed=cfg.seed,
            start=self.step,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        loader = DataLoader(
            self.train_set,
            batch_sampler=sampler,
            num_workers=cfg.dataset.workers,
            collate_fn=CollateWithLayout(self.model),
            pin_memory=self._device.type == "cuda",
            # Else the loader would draw its base seed from the generator that training uses.
            generator=torch.Generator(),
        )
        for batch in loader:
            yield self._to_device(batch)

    def _to_device(self, batch: Batch) -> Batch:
        return {
            key: value.to(self._device, non_blocking=True)
            if isinstance(value, Tensor | Layout)
            else value
            for key, value in batch.items()
        }

    def _state(self) -> TrainingState:
        queue = self.objective.queue
        return TrainingState(
            networks=self.networks.items() | ({} if queue is None else {"contrast_queue": queue}),
            optimizers={
                "generator_optimizer": self.g_optimizer,
                "discriminator_optimizer": self.d_optimizer,
            },
            scaler=self.accelerator.scaler,
            step=self.step,
            files={
                "config.yaml": to_yaml(self.cfg),
                "classes.json": classes_to_json(self.train_set.source.classes),
            },
        )

    @property
    def _device(self) -> torch.device:
        return self.accelerator.device
