"""What learning changes: model, optimizer, scheduler and scaler, saved and restored as a whole."""

from __future__ import annotations

from typing import Any

from torch import nn

from config import Config
from engine.device import Runtime
from engine.model import resnet
from engine.training import recipe


class Learner:
    """The one stateful object of a training."""

    def __init__(self, model: nn.Module, config: Config, runtime: Runtime) -> None:
        """Moves `model` to the runtime's device and memory format."""
        self._experiment, self._freeze_epochs = config.experiment, config.model.freeze_epochs
        self._epoch = 1  # the last one whose stages the optimizer has
        self.model = model.to(runtime.device).to(memory_format=runtime.memory_format)
        if runtime.compile:
            self.model.compile()
        self.scaler = runtime.scaler()
        resnet.unfreeze(self.model, resnet.frozen_stages(1, self._freeze_epochs))
        self.optimizer = recipe.new_optimizer(self.model, self._experiment)
        self.scheduler = recipe.new_scheduler(self.optimizer, self._experiment)

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

    def _unfreeze(self, epoch: int) -> tuple[str, ...]:
        """Add what is no longer frozen to the optimizer, at the learning rate of the rest."""
        self._epoch = epoch
        frozen = resnet.frozen_stages(epoch, self._freeze_epochs)
        resnet.unfreeze(self.model, frozen)
        known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for group in resnet.parameter_groups(self.model, self._experiment.weight_decay, known):
            self.optimizer.add_param_group({**group, "lr": self.learning_rate})
        return frozen
