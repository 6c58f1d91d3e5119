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
from engine.data.inputs import normalise
from engine.model import resnet as models
from engine.model import weights


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


def features(network: nn.Module, grey: torch.Tensor, channels: int) -> torch.Tensor:
    """What the first stage gives for images [B, 1, S, S] in 0..1, in the inner part."""
    assert isinstance(network, torchvision.models.ResNet)
    x = network.bn1(network.conv1(normalise(grey, channels)))
    return x[..., 2:-2, 2:-2]


@pytest.mark.parametrize("has", [1, 3])
@pytest.mark.parametrize("wants", [1, 3])
def test_a_stem_of_one_channel_or_three_gives_the_same_features(
    tmp_path: Path, has: int, wants: int
) -> None:
    first = models.build_model(small(grey_input=has == 1), 0.3).eval()
    torch.save(first.state_dict(), tmp_path / "w.pt")
    settings = small(grey_input=wants == 1, weights=str(tmp_path / "w.pt"))
    second = models.build_model(settings, 0.3).eval()
    grey = torch.rand(2, 1, 48, 48)
    torch.testing.assert_close(
        features(second, grey, wants), features(first, grey, has), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("grey_input", [False, True])
def test_torchxrayvisions_weights_see_the_range_they_were_trained_on(
    tmp_path: Path, grey_input: bool
) -> None:
    """Its images span -1024 to 1024, its network has one channel and the prefix `model.`."""
    theirs = models._backbone("resnet18")
    theirs.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    state = {f"model.{key}": value for key, value in theirs.eval().state_dict().items()}
    torch.save(state, tmp_path / "xrv.pt")
    settings = small(grey_input=grey_input, weights=str(tmp_path / "xrv.pt"))
    ours = models.build_model(settings, 0.3).eval()
    grey = torch.rand(2, 1, 48, 48)
    with torch.inference_mode():
        expected = theirs.bn1(theirs.conv1(grey * 2048 - 1024))[..., 2:-2, 2:-2]
        found = features(ours, grey, 1 if grey_input else 3)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=1e-4)
    said = weights.origin(str(tmp_path / "xrv.pt"), "resnet18")
    assert said["source"] == "torchxrayvision ResNet"
    assert len(said["sha256"]) == 64


def test_images_below_32_pixels_get_the_small_stem_and_keep_their_resolution() -> None:
    network = models.build_model(small(), 0.3, image_size=28).eval()
    assert isinstance(network, torchvision.models.ResNet)
    assert network.conv1.stride == (1, 1)
    assert network.maxpool(network.conv1(torch.rand(1, 3, 28, 28))).shape[-2:] == (28, 28)
    assert models.build_model(small(), 0.3, image_size=32).conv1.stride == (2, 2)
    assert models.stem_of(small(stem="small"), 224) == "small"


def test_zero_init_begins_with_blocks_that_change_nothing() -> None:
    network = models.build_model(small(), 0.3, zero_init=True).eval()
    x = torch.rand(1, 64, 8, 8)
    torch.testing.assert_close(network.get_submodule("layer1.1")(x), x)
