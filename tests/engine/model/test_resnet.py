"""The classifier: head, weights and freezing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from config import UserError
from config.schema import Model
from engine.model import resnet as models


def small(**changes: object) -> Model:
    return Model(**{"backbone": "resnet18", "weights": "none", **changes})  # type: ignore[arg-type]


def test_logits_are_two_for_each_image() -> None:
    network = models.build_model(small(head_sizes=(16, 8)), dropout_rate=0.3)
    assert network.eval()(torch.zeros(3, 3, 64, 64)).shape == (3, 2)
    linears = [m for m in network.fc if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linears] == [16, 8, 2]
    assert [m.p for m in network.fc if isinstance(m, nn.Dropout)] == [0.3, 0.3]


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="resnet50"):
        models.build_model(small(backbone="resnet51"), 0.3)


def test_own_weights_are_loaded_with_the_head(tmp_path: Path) -> None:
    first = models.build_model(small(), 0.3)
    torch.save({"model": first.state_dict()}, tmp_path / "w.pt")
    second = models.build_model(small(weights=str(tmp_path / "w.pt")), 0.3)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


def test_foreign_weights_give_the_backbone_and_leave_the_head(tmp_path: Path) -> None:
    foreign = models._backbone("resnet18")
    state = {f"module.{key}": value for key, value in foreign.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    network = models.build_model(small(weights=str(tmp_path / "w.pt")), 0.3)
    assert torch.equal(network.conv1.weight, foreign.conv1.weight)
    assert network.fc[-1].out_features == 2


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    torch.save(models._backbone("resnet34").state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="does not fit"):
        models.build_model(small(backbone="resnet50", weights=str(tmp_path / "w.pt")), 0.3)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_weights_that_would_execute_code_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": Bomb()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="cannot be loaded"):
        models.build_model(small(weights=str(tmp_path / "w.pt")), 0.3)
    assert "executed" not in capsys.readouterr().out


def test_a_foreign_pickle_in_the_hub_cache_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights("resnet18").DEFAULT.url
    file = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save({"conv1.weight": Bomb()}, file)
    with pytest.raises(UserError, match="delete it") as caught:
        models.build_model(small(weights="imagenet"), 0.3)
    assert str(file) in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pt"):
        models.build_model(small(weights=str(tmp_path / "nowhere.pt")), 0.3)


def test_imagenet_weights_that_cannot_be_fetched_name_both_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A closed local port stands for a machine without network.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        models.build_model(small(weights="imagenet"), 0.3)
    assert time.monotonic() - began < 30
    message = str(caught.value)
    assert "model.weights=none" in message
    assert "model.weights=PATH" in message
    assert "\n" not in message


def test_the_last_blocks_are_unfrozen_first() -> None:
    stages = [models.frozen_stages(epoch, 2) for epoch in range(1, 9)]
    assert stages[0] == stages[1] == ("layer4", "layer3", "layer2", "layer1", "conv1", "bn1")
    assert stages[2] == ("layer3", "layer2", "layer1", "conv1", "bn1")
    assert stages[5] == ("conv1", "bn1")
    assert stages[6] == stages[7] == ()
    assert models.frozen_stages(1, 0) == ()


def test_what_is_frozen_keeps_its_batchnorm_and_has_no_gradient() -> None:
    network = models.build_model(small(), 0.0)
    frozen = models.frozen_stages(1, 1)
    models.unfreeze(network, frozen)
    models.set_train_mode(network, frozen)
    before = network.bn1.running_mean.clone()
    network(torch.rand(4, 3, 64, 64)).sum().backward()
    assert torch.equal(network.bn1.running_mean, before)
    assert network.conv1.weight.grad is None
    assert network.fc[0].weight.grad is not None


def test_the_optimizer_holds_each_trainable_parameter_once_as_stages_are_unfrozen() -> None:
    network = models.build_model(small(), 0.0)
    known: set[int] = set()
    for epoch in range(1, 8):
        models.unfreeze(network, models.frozen_stages(epoch, 1))
        for group in models.parameter_groups(network, 0.1, known):
            ids = {id(p) for p in group["params"]}
            assert not ids & known
            known |= ids
            assert all((p.ndim >= 2) == (group["weight_decay"] == 0.1) for p in group["params"])
        assert known == {id(p) for p in network.parameters() if p.requires_grad}
    assert known == {id(p) for p in network.parameters()}
