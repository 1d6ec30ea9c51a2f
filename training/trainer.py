"""The training loop: train -> train_epoch -> train_step.

A step: batch -> leaf logits (L, B, K) -> loss -> optimizer. Nothing in it waits for the device; losses are added up
there and fetched for the log and for saves only, which also make sure that the numbers are still finite. The loop stops
between two steps, for a signal or the time limit, and what it has saved by then continues to the same weights as if it
had not stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn

from model_core.build import build_model
from model_core.grouped import HierarchicalEnsemble
from model_core.spec import ModelSpec
from training.averaging import SETTLED, new_average
from training.config import TrainConfig
from training.data import ImageDataset
from training.errors import ConfigError, DataError, DivergedError
from training.evaluation import leaf_logits, prefix_accuracies
from training.initial import remarks, start_from
from training.losses import prefix_sizes
from training.mixing import mixed
from training.optimizer import sgd
from training.progress import LogRow, Progress
from training.randomness import MIXING, MODEL, generator, mixed_seed
from training.run_state import STATE_FILE, Position, RunState, Unlogged, check_data, data_card, trained_model
from training.schedule import learning_rate
from training.step import Computation, StepLoss
from training.teacher import load_teacher

__all__ = ["RunOptions", "Trainer", "new_run"]

EVALUATED = 0.25
"""Held-out images that are evaluated for each training image at most: with few of these not after every epoch, and at
the end in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is carried out; nothing here changes the weights."""

    out: Path
    save_seconds: float = 300.0
    """Longest time between two saves; there is one after each epoch too."""
    log_steps: int = 25
    """Steps of an epoch between two rows of the log; there is one after each epoch too."""
    max_seconds: float | None = None
    stop_requested: Callable[[], bool] = lambda: False
    """Asked after every step, for signals."""
    clock: Callable[[], float] = time.monotonic


def new_run(config: TrainConfig, spec: ModelSpec, data: ImageDataset) -> RunState:
    """The state before the first step: initial weights drawn from the seed, or those of another run or a package.

    Raises:
        ConfigError: the other one is of another network.
        CheckpointError, PackageError: there is no other one, or it cannot be read.
    """
    torch.manual_seed(mixed_seed(config.seed, MODEL))
    model = build_model(spec)
    if config.initial is not None:
        source = trained_model(config.initial)
        assert config.held_out is not None
        for remark in remarks(source, class_names=data.class_names, held_out=config.held_out):
            print(f"hne-train: --initial {config.initial}: {remark}", file=sys.stderr)
        start_from(model, source.model, same_classes=source.class_names == data.class_names)
    return RunState(config=config, data=data_card(data), position=Position(), model=model, momentum={})


class Trainer:
    """Continues a run from its state, new or loaded.

    Raises:
        RunError: the data is not what the run was started with.
        ConfigError: less than one batch of training images.
    """

    def __init__(self, state: RunState, data: ImageDataset, options: RunOptions, device: torch.device) -> None:
        config = state.config
        check_data(data, state.data, where=options.out)
        assert config.batch_size is not None
        assert config.epochs is not None
        self.config, self.data, self.options, self.device = config, data, options, device
        self._bf16 = config.precision == "bf16"
        self.epochs, self.batch_size = config.epochs, config.batch_size
        self.steps_per_epoch = state.steps_per_epoch
        if not self.steps_per_epoch:
            raise ConfigError(f"--batch-size {self.batch_size}: there are only {len(data.train)} training images")
        self.position = state.position
        self.model: HierarchicalEnsemble = state.model.to(device).to(memory_format=torch.channels_last)
        teacher = load_teacher(config, self.model.spec, state.data, device)
        self.loss = StepLoss(self.model, config, device, Computation.chosen(config, self.model, device), teacher)
        self.optimizer = sgd(self.model, config, prefix_sizes(self.model.tree.leaves, config.prefixes))
        for name, parameter in self.model.named_parameters():
            if name in state.momentum:
                # Laid out like the parameter, as the optimizer itself would.
                buffer = torch.empty_like(parameter).copy_(state.momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        steps = self.epochs * self.steps_per_epoch
        self.average = new_average(self.model, ema=config.ema, swa=config.swa, steps=steps, stored=state.average)
        self._loss_sum = torch.tensor(state.unlogged.loss_sum, device=device)
        self._loss_steps, self._logged = state.unlogged.steps, state.unlogged.seconds
        self._begun = self._moved = self._saved = options.clock()

    def train(self) -> bool:
        """Train to the end, or until stopped, one step at least; saved in either case.

        Returns:
            Whether the run is complete.

        Raises:
            DivergedError: the weights or the losses are no finite numbers any more.
            DataError: an image cannot be read.
        """
        self._begun = self._saved = self.options.clock()
        done = self.position.epoch * self.steps_per_epoch + self.position.step
        with Progress(
            self.options.out,
            images=self.epochs * self.steps_per_epoch * self.batch_size,
            done=done * self.batch_size,
            step=done,
            leaves=self.model.tree.leaves,
        ) as progress:
            if progress.logged == done:  # the row was written after the save
                self._start_row()
            elif self.position.step == 0 and self._loss_steps:  # it could not be written any more
                self._log_epoch(progress)
            while self.position.epoch < self.epochs:
                self.train_epoch(progress)
                if self._must_stop():
                    break
        return self.position.epoch == self.epochs

    def train_epoch(self, progress: Progress) -> None:
        """Train from the current position to the end of its epoch, save and log it; or until stopped."""
        epoch, start = self.position.epoch, self.position.step
        batches = self.data.train.training_batches(self.batch_size, seed=self.config.seed, epoch=epoch, start=start)
        self.model.train()
        self._moved = self.options.clock()
        for step, (images, labels) in enumerate(self._kept(batches), start):
            self.train_step(images, labels)
            progress.advance(len(labels))
            if step + 1 == self.steps_per_epoch:
                break
            self._move_to(epoch, step + 1)
            if (step + 1) % self.options.log_steps == 0:
                self._log(progress)
            if self._must_stop():
                self.save()
                return
            if self.options.clock() - self._saved >= self.options.save_seconds:
                self.save()
        self._move_to(epoch + 1, 0)
        self.save()  # first: a held-out image may be unreadable
        self._log_epoch(progress)

    def _kept(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches; where one cannot be read, what was learnt from those before is saved first."""
        start = self.position
        try:
            yield from batches
        except DataError:
            if self.position != start:
                with suppress(DivergedError):  # there is nothing to save, and the image is what can be mended
                    self.save()
            raise

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """One step of stochastic gradient descent, at the current position."""
        config, (epoch, step, _) = self.config, self.position
        torch.manual_seed(mixed_seed(config.seed, MODEL, epoch, step))  # for blocks that draw, such as dropout
        rate = self._learning_rate(epoch, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate / group["weight"]
        draws = generator(config.seed, MIXING, epoch, step)
        classes = self.model.spec.classes
        images, targets = mixed(images, labels, how=config.mix, share=config.mix_share, classes=classes, draws=draws)
        self.optimizer.zero_grad()  # before the loss, whose graphs may use the memory of the last gradients again
        loss = self.loss(images, targets)
        torch.autograd.backward(loss)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(epoch * self.steps_per_epoch + step)
        self._loss_sum += loss.detach()
        self._loss_steps += 1

    def save(self) -> None:
        """Write the run's state to disk.

        Raises:
            DivergedError: its numbers are not finite; the state that was saved before stays.
        """
        self._check_finite()
        self._settle()
        parameters = dict(self.model.named_parameters())
        momentum = {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in parameters.items()
            if parameter in self.optimizer.state
        }
        state = RunState(
            config=self.config,
            data=data_card(self.data),
            position=self.position,
            model=self.model,
            momentum=momentum,
            average={} if self.average is None else self.average.model.state_dict(),
            unlogged=Unlogged(self._loss_sum.item(), self._loss_steps, self._logged),
        )
        state.save(self.options.out)
        self._saved = self.options.clock()

    def _learning_rate(self, epoch: int, step: int) -> float:
        """In the middle of a step, so that neither the first nor the last is wasted at zero."""
        return learning_rate(
            epoch + (step + 0.5) / self.steps_per_epoch,
            peak=self.config.lr,
            epochs=self.epochs,
            warmup_epochs=self.config.warmup_epochs,
            swa=self.config.swa,
            swa_lr=self.config.swa_lr,
        )

    def _settle(self) -> None:
        """Give an even average, which may be the result from now on, the statistics of its own weights, over training
        images; where these cannot be read it keeps those of the steps."""
        epoch, step, _ = self.position
        if self.average is None or not self.average.is_even_after(epoch * self.steps_per_epoch + step):
            return
        batches = self.data.train.training_batches(self.batch_size, seed=self.config.seed, epoch=max(epoch - 1, 0))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16), suppress(DataError):
            self.average.settle(images for images, _ in islice(batches, SETTLED))

    def _move_to(self, epoch: int, step: int) -> None:
        now = self.options.clock()
        self.position = Position(epoch, step, self.position.seconds + now - self._moved)
        self._moved = now

    def _must_stop(self) -> bool:
        limit = self.options.max_seconds
        late = limit is not None and self.options.clock() - self._begun >= limit
        return late or self.options.stop_requested()

    def _check_finite(self) -> None:
        """Waits for the device, so only where that is waited for anyway."""
        numbers = [self._loss_sum, *(x for x in self.model.state_dict().values() if x.is_floating_point())]
        if nn.utils.get_total_norm(numbers, torch.inf).isfinite():  # the largest of all
            return
        out, done = self.options.out, self.position.epoch * self.steps_per_epoch + self.position.step
        kept = "the last sound state is kept" if (out / STATE_FILE).exists() else "nothing was saved"
        raise DivergedError(
            f"{out}: diverged by step {done}, its numbers are not finite; {kept}; start anew with a lower --lr"
        )

    def _log_epoch(self, progress: Progress) -> None:
        """Write the row of an epoch's end, with accuracies on the held-out images unless these are many for it."""
        every = ceil(len(self.data.held_out) / (EVALUATED * len(self.data.train)))
        if self.position.epoch % every and self.position.epoch < self.epochs:
            self._log(progress)
            return
        result = self.model if self.average is None else self.average.model
        self._log(progress, accuracies=prefix_accuracies(*leaf_logits(result, self.data.held_out, bf16=self._bf16)))

    def _log(self, progress: Progress, accuracies: Sequence[float] | None = None) -> None:
        """Write a row of the log. It and a save are all that waits for the device."""
        self._check_finite()
        epoch, step, seconds = self.position
        done = epoch * self.steps_per_epoch + step
        images = self._loss_steps * self.batch_size
        progress.record(
            LogRow(
                step=done,
                epoch=epoch + step / self.steps_per_epoch,
                seconds=seconds,
                lr=self._learning_rate(*divmod(done - 1, self.steps_per_epoch)),
                images_per_second=images / (seconds - self._logged),
                loss=self._loss_sum.item() / self._loss_steps,
                accuracy_1=accuracies[0] if accuracies else None,
                accuracy_full=accuracies[-1] if accuracies else None,
            )
        )
        self._start_row()

    def _start_row(self) -> None:
        """Begin to gather what the log's next row will tell."""
        self._loss_sum.zero_()
        self._loss_steps, self._logged = 0, self.position.seconds
