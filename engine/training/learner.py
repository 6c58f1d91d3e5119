"""What learning changes: model, optimizer, scheduler and scaler, saved and restored as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from config import Config, UserError
from engine.device import Runtime
from engine.distributed import ALONE, Processes
from engine.model import resnet
from engine.training import recipe
from engine.training.averaging import WeightAverage
from engine.training.compiling import CannotCompile, compile_model
from engine.training.loop import Forward


class Learner:
    """The one stateful object of a training."""

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        runtime: Runtime,
        steps: int = 1,
        positive_share: float = 0.5,
        processes: Processes = ALONE,
    ) -> None:
        """Moves `model` to the runtime's device and memory format. Raises UserError.

        `steps` are the batches of an epoch; `positive_share` is that of the training images.
        """
        self._experiment, self._freeze_epochs = config.experiment, config.model.freeze_epochs
        self.device = runtime.device
        self._processes = processes
        self._recipe, self._steps = config.recipe, steps
        self._epoch = 1  # the last one whose stages the optimizer has
        self.objective = recipe.Objective.of(config, positive_share)
        self._prior_shift = recipe.prior_shift(config.recipe.balance, positive_share)
        self.model = model.to(runtime.device).to(memory_format=runtime.memory_format)
        processes.share_tensors([*self.model.state_dict().values()])
        self.average: WeightAverage | None = None
        if config.recipe.ema:
            self.average = WeightAverage(self.model, config.recipe.ema)
        self.scaler = runtime.scaler()
        frozen = resnet.frozen_stages(1, self._freeze_epochs)
        resnet.unfreeze(self.model, frozen)
        resnet.set_train_mode(self.model, frozen)
        self.warnings: list[tuple[str, str]] = []  # code, message
        compiled = self._compiled(config, runtime)
        self.is_compiled = compiled is not self.model  # the training steps are
        self.step_model = compiled if processes.is_alone else self._exchanging()
        self.optimizer = recipe.new_optimizer(self.model, self._experiment, self._recipe.stage_rate)
        self._keep_rates()
        self.scheduler = recipe.new_scheduler(self.optimizer, self._experiment)

    @property
    def learning_rate(self) -> float:
        """The rate of the head's steps, once a warm-up is over."""
        return max(float(group["full_lr"]) for group in self.optimizer.param_groups)

    def begin_epoch(self, epoch: int, step: int = 0) -> None:
        """Unfreeze what `epoch` (1-based) trains; set mode, and rates for the step after `step`."""
        frozen = self._unfreeze(epoch)
        resnet.set_train_mode(self.model, frozen)
        self._warm_up(step)

    def after_step(self, step: int) -> None:
        """After each optimizer step; `step` are the epoch's batches so far."""
        if self.average is not None:
            self.average.update()
        self._warm_up(step)

    def end_epoch(self, val_loss: float) -> None:
        """Let the scheduler see the epoch's validation loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"]
        self.scheduler.step(val_loss)
        self._keep_rates()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[nn.Module]:
        """Within, the model that is evaluated and kept: averaged, and corrected for balancing."""
        model = self.model if self.average is None else self.average.model
        if not self._prior_shift:
            yield model
            return
        bias = resnet.last_bias(model)
        before = bias.detach().clone()
        try:
            with torch.no_grad():
                bias[1] += self._prior_shift
            yield model
        finally:
            with torch.no_grad():
                bias.copy_(before)

    def kept_weights(self, state: dict[str, Any], shift: float = 0.0) -> dict[str, torch.Tensor]:
        """The state dict of `in_use`, out of what `state_dict` gave; shares its tensors.

        `shift`, of the calibration, is added to the positive logit.
        """
        weights: dict[str, torch.Tensor] = state["model"]
        if self.average is not None:
            weights = state["average"]["weights"]
        if shift := shift + self._prior_shift:
            bias = resnet.last_bias(self.model)
            name = next(n for n, p in self.model.named_parameters() if p is bias)
            shifted = weights[name].detach().clone()
            shifted[1] += shift
            weights = {**weights, name: shifted}
        return weights

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the training continues; tensors on the device."""
        average = {} if self.average is None else {"average": self.average.state_dict()}
        return {
            "epoch": self._epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            **average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`: the parameter groups are made in the order they thawed."""
        for epoch in range(self._epoch + 1, state["epoch"] + 1):
            self._unfreeze(epoch)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"]:  # empty where the run was trained without one, in bf16 or fp32
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for group in self.optimizer.param_groups:  # an older snapshot has only the rate itself
            group.setdefault("full_lr", group["lr"])

    def _keep_rates(self) -> None:
        for group in self.optimizer.param_groups:
            group["full_lr"] = group["lr"]

    def _warm_up(self, step: int) -> None:
        """Set the rates of the next step."""
        done = self._epoch - 1 + step / self._steps
        factor = recipe.warmup_factor(done, self._recipe.warmup_epochs, self._steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * factor

    def hold(self) -> AbstractContextManager[None]:
        """Within, gradients of `step_model` are summed here, not exchanged between processes."""
        if isinstance(self.step_model, DistributedDataParallel):
            return self.step_model.no_sync()
        return contextlib.nullcontext()

    def share_statistics(self) -> None:
        """Give all processes the running statistics of process 0, before an evaluation. Together.

        In training mode BatchNorm does not use them, and each process gathers its own.
        """
        models = [self.model] if self.average is None else [self.model, self.average.model]
        self._processes.share_tensors([b for model in models for b in model.buffers()])

    def _exchanging(self) -> DistributedDataParallel:
        """The model, which exchanges the gradients of what is trained now. Together."""
        return DistributedDataParallel(
            self.model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )

    def _compiled(self, config: Config, runtime: Runtime) -> Forward:
        """What a training step calls; evaluation, whose shapes vary, always calls `model`.

        Raises UserError where compiling was asked for and is not possible.
        """
        if not runtime.compile:
            return self.model
        if not self._processes.is_alone:
            message = "system.compile: the steps of several processes are not compiled"
            self.warnings.append(("not_compiled", message))
            return self.model
        size = config.data.image_size
        try:
            return compile_model(
                self.model,
                (config.system.batch_size, 1 if config.model.grey_input else 3, size, size),
                runtime,
            )
        except CannotCompile as error:
            if config.system.compile == "on":
                raise UserError(
                    f"system.compile=on: torch.compile does not work here ({error}); install a C "
                    "compiler, or set it to auto or off"
                ) from error
            message = (
                f"the model is trained without torch.compile, which does not work here: {error}"
            )
            self.warnings.append(("not_compiled", message))
            return self.model

    def _unfreeze(self, epoch: int) -> tuple[str, ...]:
        """Add what is no longer frozen to the optimizer, at the learning rate of the rest."""
        self._epoch = epoch
        frozen = resnet.frozen_stages(epoch, self._freeze_epochs)
        resnet.unfreeze(self.model, frozen)
        known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        new = list(
            resnet.parameter_groups(
                self.model, self._experiment.weight_decay, known, self._recipe.stage_rate
            )
        )
        rate = self.learning_rate
        for group in new:
            own = rate * group["rate_share"]
            self.optimizer.add_param_group({**group, "lr": own, "full_lr": own})
        if new and not self._processes.is_alone:
            self.step_model = self._exchanging()
        if new and self.is_compiled:
            torch.compiler.reset()  # each set of frozen stages has its graphs, and torch keeps 8
        return frozen
