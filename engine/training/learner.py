"""What learning changes: model, optimizer, scheduler and scaler, saved and restored as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from config import Config, UserError
from engine.device import Runtime
from engine.model import resnet
from engine.training import recipe
from engine.training.compiling import CannotCompile, compile_model
from engine.training.loop import Forward


class Learner:
    """The one stateful object of a training."""

    def __init__(self, model: nn.Module, config: Config, runtime: Runtime) -> None:
        """Moves `model` to the runtime's device and memory format. Raises UserError."""
        self._experiment, self._freeze_epochs = config.experiment, config.model.freeze_epochs
        self.device = runtime.device
        self._epoch = 1  # the last one whose stages the optimizer has
        self.model = model.to(runtime.device).to(memory_format=runtime.memory_format)
        self.scaler = runtime.scaler()
        frozen = resnet.frozen_stages(1, self._freeze_epochs)
        resnet.unfreeze(self.model, frozen)
        resnet.set_train_mode(self.model, frozen)
        self.warnings: list[tuple[str, str]] = []  # code, message
        self.step_model = self._step_model(config, runtime)
        self.optimizer = recipe.new_optimizer(self.model, self._experiment)
        self.scheduler = recipe.new_scheduler(self.optimizer, self._experiment)

    @property
    def is_compiled(self) -> bool:
        """Whether the training steps are."""
        return self.step_model is not self.model

    @property
    def learning_rate(self) -> float:
        """The rate of the next step; all parameter groups have the same."""
        return float(self.optimizer.param_groups[0]["lr"])

    def begin_epoch(self, epoch: int) -> None:
        """Unfreeze what `epoch` (1-based) trains, and set the training mode."""
        frozen = self._unfreeze(epoch)
        resnet.set_train_mode(self.model, frozen)

    def end_epoch(self, val_loss: float) -> None:
        """Let the scheduler see the epoch's validation loss."""
        self.scheduler.step(val_loss)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the training continues; tensors on the device."""
        return {
            "epoch": self._epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
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

    def _step_model(self, config: Config, runtime: Runtime) -> Forward:
        """What a training step calls; evaluation, whose shapes vary, always calls `model`.

        Raises UserError where compiling was asked for and is not possible.
        """
        if not runtime.compile:
            return self.model
        size = config.data.image_size
        try:
            return compile_model(self.model, (config.system.batch_size, 3, size, size), runtime)
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
        new = list(resnet.parameter_groups(self.model, self._experiment.weight_decay, known))
        for group in new:
            self.optimizer.add_param_group({**group, "lr": self.learning_rate})
        if new and self.is_compiled:
            torch.compiler.reset()  # each set of frozen stages has its graphs, and torch keeps 8
        return frozen
