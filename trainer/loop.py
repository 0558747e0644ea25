"""`transformers.Trainer` over our steps: it keeps optimizer, schedule, checkpoints, devices and trackers.

One item of our loader is one optimizer step, already cut into forward passes, so gradients are accumulated here and the
Trainer's own accumulation stays at 1. The loss of a step is the mean over all its trained tokens, however they are
spread over passes and processes.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from generator.store import DatabaseError
from trainer.dataset import DataUnfit, Step, Steps
from trainer.flops import ModelCost, peak_flops, utilisation


class Diverged(Exception):
    """The loss is no number any more; the message says what to try."""


class StepTrainer(Trainer):
    """Trains on `Steps`.

    Args:
        steps: of the run.
        evaluation: rows held out, or None.
        cost: of the model's arithmetic.
        workers: processes that read ahead.
        arguments: of `Trainer`.
    """

    def __init__(
        self, steps: Steps, evaluation: Steps | None, *, cost: ModelCost, workers: int, **arguments: Any
    ) -> None:
        super().__init__(train_dataset=steps, **arguments)
        self.model_accepts_loss_kwargs = True  # found out by `trainer.probe`; some classes with images deny it
        self.evaluation = evaluation
        self.cost = cost
        self.workers = workers
        self.tokens = 0
        """Trained on in this session, by all processes."""
        self.slots = 0
        """Of the session's steps, see `Step`; `tokens` / `slots` is the packing fill."""
        self.seconds = 0.0
        """Of this session, evaluation and checkpoints left out."""
        self._since_log = _Interval()

    # What Trainer calls

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One optimizer step an item; Trainer's own resume skips items by number."""
        return cast("Steps", self.train_dataset).loader(self.workers)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Step], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """The next step, and how many trained tokens its loss is the mean of."""
        self._since_log.go_on()
        try:
            step = next(epoch_iterator)
        except (DataUnfit, DatabaseError) as error:
            # A loader's worker hands its error on as a traceback in words; the last line is the error's own.
            raise type(error)(re.sub(r"(?s).*\n\S+(?:Unfit|Error): ", "", str(error).strip())) from None
        return [step], torch.tensor(step["trained_tokens"], device=device)

    def training_step(
        self, model: torch.nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward passes of one step; gradients meet the other processes' in the last one."""
        step = cast("Step", inputs)
        *others, last = step["micro_batches"]
        loss = torch.zeros((), device=self.args.device)
        for micro_batch in others:
            with self.accelerator.no_sync(model):
                loss += super().training_step(model, micro_batch, num_items_in_batch)
        loss += super().training_step(model, last, num_items_in_batch)
        self._since_log.add(step)
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Of one step, for `total_flos`; this process's part of it."""
        return int(_flops(self.cost, inputs) / self.args.world_size)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean loss over the trained tokens of the rows held out."""
        assert self.evaluation is not None
        self._since_log.pause()
        loss = torch.zeros((), dtype=torch.float64, device=self.args.device)
        tokens = 0
        self.model.eval()  # type: ignore[union-attr]
        with torch.no_grad():
            for step in self.evaluation.loader():
                count = torch.tensor(step["trained_tokens"], device=self.args.device)
                tokens += step["trained_tokens"]
                for micro_batch in step["micro_batches"]:
                    batch = self._prepare_inputs(micro_batch)
                    outputs = self.model_wrapped(**batch, num_items_in_batch=count)
                    loss += outputs.loss.double() * count
        if self.args.world_size > 1:
            loss = self.accelerator.reduce(loss, reduction="sum")
        metrics = {"eval_loss": loss.item() / tokens}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, while the clock stands still."""
        self._since_log.pause()
        super()._save_checkpoint(model, trial)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to a step's loss how fast it was, how full its passes were and, on a GPU, what it made of it."""
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise Diverged(
                    f"the loss is {logs['loss']} at step {self.state.global_step}; lower [train] learning_rate, set "
                    'max_grad_norm = 1.0, or use precision = "bf16-mixed"'
                )
            interval = self._since_log
            interval.pause()
            self.tokens += interval.tokens
            self.slots += interval.slots
            self.seconds += interval.seconds
            if interval.seconds > 0:
                logs["tokens_per_second"] = interval.tokens / interval.seconds
                logs["packing_fill"] = interval.tokens / interval.slots
                logs |= self._device_metrics(interval)
            self._since_log = _Interval()
        super().log(logs, start_time)

    def _device_metrics(self, interval: _Interval) -> dict[str, float]:
        if self.args.device.type != "cuda":
            return {}
        metrics = {"peak_memory_bytes": float(torch.cuda.max_memory_allocated())}
        torch.cuda.reset_peak_memory_stats()
        peak = peak_flops(torch.cuda.get_device_name())
        if peak is not None:
            flops = sum(_flops(self.cost, step) for step in interval.steps)
            metrics["mfu"] = utilisation(flops, interval.seconds, peak, self.args.world_size)
        return metrics


def _flops(cost: ModelCost, step: Any) -> float:
    return cost.training_flops(
        tokens=step["tokens"], trained_tokens=step["trained_tokens"], squared_lengths=step["squared_lengths"]
    )


class _Interval:
    """Steps since the last log, and the time that they took."""

    def __init__(self) -> None:
        self.tokens = 0
        self.slots = 0
        self.seconds = 0.0
        self.steps: list[dict[str, int]] = []
        self._started: float | None = None

    def go_on(self) -> None:
        if self._started is None:
            self._started = time.perf_counter()

    def pause(self) -> None:
        if self._started is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - self._started
            self._started = None

    def add(self, step: Step) -> None:
        self.tokens += step["tokens"]
        self.slots += step["slots"]
        # Without the tensors: they would keep a whole interval's passes in memory.
        self.steps.append({key: step[key] for key in ("tokens", "trained_tokens", "squared_lengths")})


class EpochEnds(TrainerCallback):
    """Checkpoints every `save_steps` optimizer steps, or at the end of each epoch; evaluates at the end of each epoch.

    The last step is always logged.

    Trainer takes our whole run for one epoch, because a step may hold the end of one epoch and the start of the next.
    """

    def __init__(self, *, rows: int, batch_size: int, save_steps: int, evaluates: bool) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.save_steps = save_steps
        self.evaluates = evaluates

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log as often as this session is asked to: a checkpoint brings the number of the one that wrote it."""
        state.logging_steps = int(args.logging_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for what is due after this step."""
        step, last = state.global_step, state.global_step >= state.max_steps
        epoch_ends = step * self.batch_size // self.rows > (step - 1) * self.batch_size // self.rows
        due = step % self.save_steps == 0 if self.save_steps else epoch_ends
        control.should_save = due and not last  # the finished model is saved beside the checkpoints anyway
        control.should_evaluate = self.evaluates and (epoch_ends or last)
        control.should_log |= last
        return control


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Leave progress and messages to us while a run goes on."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
