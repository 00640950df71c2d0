"""The training loop: steps, logs, samples, checkpoints, and what may come between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from ecgan.config import ModelConfig, TrainConfig
from ecgan.data import PairDataset
from ecgan.errors import CheckpointError, Stopped
from ecgan.losses import Objective
from ecgan.models import Generator, Layout
from ecgan.training.average import GeneratorAverage
from ecgan.training.build import (
    CollateWithLayout,
    Networks,
    build_optimizers,
    classes_to_json,
    make_layout,
)
from ecgan.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from ecgan.training.checkpoint_folder import list_checkpoints, prune, remove
from ecgan.training.guard import Guard, NonFiniteLossError
from ecgan.training.loading import batches_of, leave_signals_to_main
from ecgan.training.meter import Meter
from ecgan.training.precision import Precision
from ecgan.training.preemption import StopRequests
from ecgan.training.processes import Processes
from ecgan.training.progress import TrainingProgress, memory_gib
from ecgan.training.rng import rng_state
from ecgan.training.run_folder import RunFolder
from ecgan.training.sampler import StepSampler
from ecgan.training.schedule import learning_rates, total_samples, total_steps
from ecgan.training.settings import to_yaml
from ecgan.training.sheet import draw_sheet, sample_columns
from ecgan.training.step import Batch, Outcome, TrainingStep

_SAMPLES = 4


class Trainer:
    """Trains G (with the image encoder, where there is one) against D.

    What a step does depends only on what a checkpoint holds (weights, optimisers, scales, random
    generators, queue, position in the data): a resumed run goes on exactly.

    Args:
        cfg: the run.
        model: the networks' settings, filled in from the data set.
        networks: freshly initialised networks.
        objective: all losses.
        data: training and validation pairs.
        run: where results go.
        processes: device and processes.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        model: ModelConfig,
        networks: Networks,
        objective: Objective,
        data: tuple[PairDataset, PairDataset],
        run: RunFolder,
        processes: Processes,
    ) -> None:
        self.cfg = cfg
        self.model = model
        self.networks = networks
        self.objective = objective
        self.train_set, self.val_set = data
        self.run = run
        self.processes = processes
        self.step = 0
        self.samples = 0
        """Pairs drawn by all processes."""
        self.replaced = 0
        """Faulty pairs that this process has met, each time that they were drawn."""
        self._faulty: set[str] = set()
        modules = networks.items()
        for network in modules.values():
            network.to(processes.device)
            if cfg.channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = (
            GeneratorAverage(networks.generator, cfg.optim.ema) if cfg.optim.ema else None
        )
        self.optimizers = build_optimizers(cfg.optim, networks)
        if cfg.compile:
            for network in modules.values():
                network.compile()
        self.precision = Precision(cfg.precision, processes.device.type)
        watched = [*modules.values()] + ([objective.queue] if objective.queue else [])
        self.guard = Guard(watched, cfg.max_bad_steps, processes)
        encoder = networks.encoder
        self.training_step = TrainingStep(
            cfg.optim,
            networks,
            (
                processes.wrap(networks.generator),
                processes.wrap(networks.discriminator),
                None if encoder is None else processes.wrap(encoder),
            ),
            objective,
            self.optimizers,
            precision=self.precision,
            guard=self.guard,
            reached=processes.check_reached,
        )

    @property
    def total(self) -> int:
        """Steps at which the run ends."""
        return total_steps(
            self.cfg.optim, len(self.train_set), self._step_samples, self.step, self.samples
        )

    def fit(self, stop: StopRequests | None = None) -> None:
        """Runs all remaining steps, with logs, samples and checkpoints on the way and at the end.

        Args:
            stop: requests to stop; after one the run is saved and ``Stopped`` raised.

        Raises:
            NonFiniteLossError: too many steps in a row were not finite; the weights are those of
                the last good one, the newest checkpoint is kept and bad-step.json tells more.
            CheckpointError: the last checkpoint cannot be written.
            Stopped: as asked for by ``stop``.
        """
        cfg, total = self.cfg, self.total
        meter = Meter(self._step_samples, self.run.seconds, self.processes)
        with TrainingProgress(total, self.step, quiet=not self.processes.main) as progress:
            self.run.say = progress.say
            if self.step >= total:
                progress.say(f"all {total} steps are done; --steps takes a larger number")
            for batches in self._batches(total):
                rates = self._rates(total)
                outcome = self.train_step(batches, rates)
                self._settle(outcome, batches, rates)
                if not outcome.skipped:
                    meter.add(outcome.terms)
                progress.advance(self.step)
                last = self.step == total
                if last or self.step % cfg.log_every == 0:
                    row = meter.row(self.step, rates, memory_gib(self.processes.device))
                    row["skipped"] = self.guard.skipped
                    row["replaced"] = self.replaced
                    if self.processes.main:
                        self.run.log(row)
                        progress.report(self.step, row, meter.names)
                    meter.reset()
                asked = self.processes.any(bool(stop and stop.name))
                saves = last or asked or self.step % cfg.save_every == 0
                samples = last or self.step % cfg.sample_every == 0
                if self.average is not None and (saves or samples):
                    self.average.reestimate(self._some_layouts(), self.processes)
                if samples and self.processes.main:
                    self.sample()
                if saves:
                    self.save(final=last or asked)
                if asked and not last:
                    self._stop(stop)

    def train_step(self, batches: Sequence[Batch], rates: tuple[float, float]) -> Outcome:
        """One update of G and one of D.

        Args:
            batches: pairs on the device, with their ``layout``; as many as optim.accumulate.
            rates: learning rates of G and D.
        """
        outcome = self.training_step(batches, rates, self.step)
        self.step += 1
        self.samples += self._step_samples
        if self.average is not None and not outcome.skipped:
            self.average.update(self.networks.generator)
        return outcome

    def sample(self) -> None:
        """Writes a sample sheet of fixed validation pairs."""
        count = min(_SAMPLES, len(self.val_set))
        chosen = [index * len(self.val_set) // count for index in range(count)]
        batch = self._to_device(default_collate([self.val_set[index] for index in chosen]))
        generator = self._shown
        # A generator of its own: sampling must not change what training draws next.
        random = torch.Generator().manual_seed(self.cfg.seed)
        z = generator.sample_style(count, generator=random)
        generator.eval()
        with torch.no_grad(), self.precision.autocast():
            out = generator(
                make_layout(batch, self.model),
                None if z is None else z.to(self.processes.device),
            )
        self.networks.generator.train()
        self.run.save_sample(
            draw_sheet(sample_columns(out, batch, self.val_set.palette)), self.step
        )

    def save(self, final: bool = False) -> None:
        """Writes a checkpoint; where that fails, says so and, but at the end, goes on.

        Every process must call this. Where the disk is full, older checkpoints but the newest make
        room.

        Args:
            final: whether there is no later chance.

        Raises:
            CheckpointError: ``final``, and it cannot be written.
        """
        state = self._state(self.processes.gather(rng_state()))
        if not self.processes.main:
            return
        folder, cfg = self.run.checkpoints, self.cfg
        while True:
            try:
                save_checkpoint(folder, state, self.step)
                prune(folder, cfg.keep, cfg.keep_gib * 2**30)
                return
            except OSError as error:
                kept = list_checkpoints(folder)
                reason = error.strerror or str(error)
            try:
                if len(kept) < 2:
                    break
                remove(kept[0])
            except OSError:
                break
        newest = f"the newest is {kept[-1].name}" if kept else "there is none"
        text = f"the checkpoint of step {self.step} cannot be written ({reason}); {newest}"
        if final:
            raise CheckpointError(f"{text}, in {folder}")
        self.run.event(self.step, f"{text}; training goes on")

    def load(self, checkpoint: Path) -> None:
        """Goes on from a checkpoint.

        Raises:
            CheckpointError: it is damaged or made for another configuration.
        """
        state = self._state([])
        load_checkpoint(checkpoint, state)
        values = state.values
        try:
            self.step, self.samples = int(values["step"]), int(values["samples"])
            self.guard.skipped, self.guard.in_row = int(values["skipped"]), int(values["in_row"])
            self.precision.load_state_dict(values["scalers"])
            if self.average is not None:
                self.average.updates = int(values["average_updates"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{checkpoint / 'state.json'} is broken: {error}") from None

    def _settle(
        self, outcome: Outcome, batches: Sequence[Batch], rates: tuple[float, float]
    ) -> None:
        """Counts bad steps and replaced pairs, and tells of them."""
        try:
            message = self.guard.settle(outcome.skipped, self.step)
        except NonFiniteLossError as error:
            if self.processes.main:
                more = {"learning_rates": rates, "loss_scales": self.precision.scales}
                self.run.save_report(self.guard.report(self.step, more))
                self.run.event(self.step, str(error), "error")
                raise NonFiniteLossError(
                    f"{error}; {self.run.path / 'bad-step.json'} holds its numbers"
                ) from None
            raise
        if message and self.processes.main:
            self.run.event(self.step, message)
        for name in (name for batch in batches for name in batch.get("replaced", ()) if name):
            self.replaced += 1
            if name not in self._faulty:
                self._faulty.add(name)
                self.run.event(self.step, f"pair {name} cannot be used: another takes its place")

    def _stop(self, stop: StopRequests | None) -> None:
        names = [name for name in self.processes.gather(stop.name if stop else "") if name]
        text = (
            f"stopped by {names[0]} after step {self.step}, which is saved; "
            f"go on with --resume {self.run.path}"
        )
        if self.processes.main:
            self.run.event(self.step, text, "info")
        raise Stopped(names[0], text)

    def _rates(self, total: int) -> tuple[float, float]:
        optim = self.cfg.optim
        if optim.steps:
            return learning_rates(optim, self.step, total)
        return learning_rates(optim, self.samples, total_samples(optim, len(self.train_set)))

    def _batches(self, total: int) -> Iterator[list[Batch]]:
        """The batches of each remaining step, on the device."""
        accumulate = self.cfg.optim.accumulate
        loader = self._loader((total - self.step) * accumulate, self.samples)
        stream = (self._to_device(batch) for batch in batches_of(loader))
        while batches := list(islice(stream, accumulate)):
            yield batches

    def _some_layouts(self) -> Iterator[Layout]:
        """The same batches of the training set each time, for batch statistics."""
        for batch in self._loader(self.cfg.optim.ema_batches, 0, workers=0):
            layout: Layout = self._to_device(batch)["layout"]
            yield layout

    def _loader(
        self, batches: int, start: int, workers: int | None = None
    ) -> DataLoader[dict[str, Any]]:
        cfg = self.cfg
        return DataLoader(
            self.train_set,
            batch_sampler=StepSampler(
                len(self.train_set),
                cfg.batch_size,
                batches,
                seed=cfg.seed,
                start=start,
                rank=self.processes.rank,
                world=self.processes.count,
            ),
            num_workers=cfg.dataset.workers if workers is None else workers,
            collate_fn=CollateWithLayout(self.model),
            pin_memory=self.processes.device.type == "cuda",
            worker_init_fn=leave_signals_to_main,
            # Else the loader would draw its base seed from the generator that training uses.
            generator=torch.Generator(),
        )

    def _to_device(self, batch: Batch) -> Batch:
        moved: Batch = {
            key: value.to(self.processes.device, non_blocking=True)
            if isinstance(value, Tensor | Layout)
            else value
            for key, value in batch.items()
        }
        if self.cfg.channels_last:
            for key in ("image", "edge"):
                moved[key] = moved[key].contiguous(memory_format=torch.channels_last)
        return moved

    def _state(self, rng: Sequence[dict[str, Tensor]]) -> TrainingState:
        networks: dict[str, torch.nn.Module] = dict(self.networks.items())
        values: dict[str, Any] = {
            "step": self.step,
            "samples": self.samples,
            "skipped": self.guard.skipped,
            "in_row": self.guard.in_row,
            "scalers": self.precision.state_dict(),
        }
        if self.objective.queue is not None:
            networks["contrast_queue"] = self.objective.queue
        if self.average is not None:
            networks["generator_ema"] = self.average.module
            values["average_updates"] = self.average.updates
        return TrainingState(
            networks=networks,
            optimizers={
                "generator_optimizer": self.optimizers[0],
                "discriminator_optimizer": self.optimizers[1],
            },
            rng=rng,
            rank=self.processes.rank,
            values=values,
            files={
                "config.yaml": to_yaml(self.cfg),
                "classes.json": classes_to_json(self.train_set.source.classes),
            },
        )

    @property
    def _shown(self) -> Generator:
        """The generator that samples come from."""
        return self.networks.generator if self.average is None else self.average.module

    @property
    def _step_samples(self) -> int:
        """Pairs that a step draws on all processes."""
        return self.cfg.batch_size * self.cfg.optim.accumulate * self.processes.count
