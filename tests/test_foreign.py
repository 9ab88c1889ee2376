"""Networks of timm's that are evaluated as they are: files and folders that the tests make, and names."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import save_file
from tiny_networks import random_images, timm_b0
from torchvision.transforms.functional import normalize as torchvision_normalize

from nst.data.transforms import CenterView
from nst.data.views import clean_view
from nst.errors import NstError
from nst.models import released
from nst.models.efficientnet import EfficientNet, normalize
from nst.models.foreign import open_any, weights_digest
from nst.models.timm_architecture import require_timm_name
from nst.settings.data import Framing, Pictures
from tests.helpers import noise

CLASSES = tuple(f"class {i}" for i in range(10))
CONFIG = {
    "input_size": [3, 64, 64],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.5, 0.25, 0.2],
    "crop_pct": 0.95,
    "crop_mode": "center",
    "interpolation": "bilinear",
}


def theirs(name: str = "test_resnet", classes: int = 10) -> torch.nn.Module:
    """A small network of timm's with random weights and statistics."""
    torch.manual_seed(3)
    network = timm.create_model(name, num_classes=classes)
    network(torch.randn(4, 3, 64, 64))
    return network.eval()


def hub_folder(folder: Path, network: torch.nn.Module, name: str, **changes: Any) -> Path:
    """Weights and config.json as the hub lays them out."""
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    document = {"architecture": name, "num_classes": 10, "pretrained_cfg": {**CONFIG, **changes}}
    (folder / "config.json").write_text(json.dumps(document))
    return folder


def logits_of_timm(network: torch.nn.Module, images: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """What timm itself would compute of images (B, 3, H, W) of 0 to 255."""
    return network(torchvision_normalize(images / 255, config["mean"], config["std"]))


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050"])
def test_another_family_gets_images_in_its_own_normalisation(tmp_path: Path, name: str) -> None:
    network = theirs(name)
    folder = hub_folder(tmp_path / "hub", network, name)
    images = 255 * torch.rand(3, 3, 64, 64)
    expected = logits_of_timm(network, images, CONFIG)
    for source in (folder, str(folder), folder / "model.safetensors"):
        found, info = open_any(source, CLASSES)
        assert not found.training
        torch.testing.assert_close(found(normalize(images)), expected, atol=1e-4, rtol=1e-4)
        assert (info.classes, info.image_size) == (CLASSES, 64)


def test_crop_and_interpolation_are_those_of_the_networks_own_configuration(tmp_path: Path) -> None:
    network = theirs()
    _, info = open_any(hub_folder(tmp_path / "a", network, "test_resnet"), CLASSES)
    assert info.framing == Framing("center", "bilinear", 64 / 67)  # timm: resize to floor(64 / 0.95), crop 64
    _, info = open_any(hub_folder(tmp_path / "b", network, "test_resnet", interpolation="bicubic", crop_pct=1.0,
                                  crop_mode="squash"), CLASSES)  # fmt: skip
    assert info.framing == Framing("squash", "antialias", 1.0)
    for change, said in (({"interpolation": "hamming"}, "bicubic, bilinear"), ({"crop_mode": "border"}, "squash")):
        with pytest.raises(NstError, match=said):
            open_any(hub_folder(tmp_path / str(change), network, "test_resnet", **change), CLASSES)


@pytest.mark.parametrize(("crop", "kept"), [("center", 0.875), ("center", 1.0), ("squash", 1.0)])
@pytest.mark.parametrize("resize", ["antialias", "bilinear"])
def test_a_framed_photograph_is_nearly_what_timm_makes_of_it(crop: str, kept: float, resize: str) -> None:
    from timm.data import create_transform

    size = 56
    interpolation = {"antialias": "bicubic", "bilinear": "bilinear"}[resize]
    smooth = Image.fromarray(noise(8, 12)).resize((540, 360), Image.Resampling.BICUBIC)
    transform = create_transform((3, size, size), crop_pct=kept, crop_mode=crop, interpolation=interpolation,
                                 mean=(0, 0, 0), std=(1, 1, 1))  # fmt: skip
    expected = 255 * transform(smooth).permute(1, 2, 0).numpy()
    found = clean_view(size, Pictures(), Framing(crop, resize, kept))(np.asarray(smooth))
    assert np.abs(found - expected).mean() < 1.5
    other = CenterView(size, crop="squash" if crop == "center" else "center", kept=kept)(np.asarray(smooth))
    assert np.abs(other - expected).mean() > 5  # so the measure tells crops apart


def test_the_size_and_crop_of_a_networks_tests_go_before_those_of_its_training(tmp_path: Path) -> None:
    """As timm's own validation: 95 % at 64 px for learning, all of it at 96 px for tests."""
    tested = {"test_input_size": [3, 96, 96], "test_crop_pct": 1.0}
    _, info = open_any(hub_folder(tmp_path / "hub", theirs(), "test_resnet", **tested), CLASSES)
    assert info.image_size == 96
    assert info.framing == Framing("center", "bilinear", 1.0)


def test_small_pictures_are_shown_whole_whatever_the_framing() -> None:
    assert clean_view(32, Pictures(small=True), Framing("center", "bilinear", 0.5)) == CenterView(32, crop="none")


def test_released_noisy_students_stay_our_networks_with_the_papers_framing(tmp_path: Path) -> None:
    network = timm_b0()
    save_file(network.state_dict(), tmp_path / "b0.safetensors")
    torch.save(network.state_dict(), tmp_path / "b0.pth")
    standard = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_size": [3, 224, 224]}
    folder = hub_folder(tmp_path / "hub", network, "tf_efficientnet_b0", **standard)
    for source in (tmp_path / "b0.safetensors", tmp_path / "b0.pth", folder):
        found, info = open_any(source, CLASSES)
        assert isinstance(found, EfficientNet)
        assert (info.image_size, info.framing) == (224, None)
        assert torch.equal(found(random_images(64)), network(random_images(64)))


def test_efficientnets_of_another_normalisation_are_evaluated_in_theirs(tmp_path: Path) -> None:
    network = timm_b0()
    folder = hub_folder(tmp_path / "hub", network, "tf_efficientnet_b0")
    images = 255 * torch.rand(2, 3, 64, 64)
    found, _ = open_any(folder, CLASSES)
    torch.testing.assert_close(found(normalize(images)), logits_of_timm(network, images, CONFIG), atol=1e-3, rtol=1e-3)


def test_the_digest_tells_weights_and_their_use_apart(tmp_path: Path) -> None:
    network = theirs()
    folders = [
        hub_folder(tmp_path / "a", network, "test_resnet"),
        hub_folder(tmp_path / "b", network, "test_resnet", mean=[0.5, 0.5, 0.5]),
        hub_folder(tmp_path / "c", theirs(), "test_resnet"),
    ]
    digests = [weights_digest(folder) for folder in folders]
    assert digests[0] == digests[2] == weights_digest(tmp_path / "a" / "model.safetensors")
    assert digests[0] != digests[1]


def test_files_that_do_not_fit_their_configuration_are_explained(tmp_path: Path) -> None:
    network = theirs()
    with pytest.raises(NstError, match=r"does not hold the weights of test_vit with 10 classes"):
        open_any(hub_folder(tmp_path / "other", network, "test_vit"), CLASSES)
    with pytest.raises(NstError, match=r"does not hold the weights of test_resnet with 7 classes"):
        open_any(hub_folder(tmp_path / "seven", network, "test_resnet"), CLASSES[:7])
    with pytest.raises(NstError, match=r"names no network of timm's"):
        open_any(hub_folder(tmp_path / "unknown", network, "no_such"), CLASSES)
    broken = hub_folder(tmp_path / "broken", network, "test_resnet")
    (broken / "config.json").write_text('{"architecture": "test_resnet", "pretrained_cfg": {"mean": [0, 0, 0]}}')
    with pytest.raises(NstError, match=r"not timm's config\.json(.|\n)*std"):
        open_any(broken, CLASSES)


def test_a_lone_file_of_another_family_is_told_what_it_lacks(tmp_path: Path) -> None:
    save_file(theirs().state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(NstError, match=r"no network we know(.|\n)*config\.json"):
        open_any(tmp_path / "resnet.safetensors", CLASSES)


def test_a_hub_folder_without_names_warns_and_is_refused_for_numbered_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub_folder(tmp_path / "hub", theirs(classes=12), "test_resnet")
    open_any(folder, tuple("abcdefghijkl"))
    assert "its 12 outputs are taken for the data's classes" in " ".join(capsys.readouterr().out.split())
    classes = sorted(map(str, range(12)))
    with pytest.raises(NstError, match="does not say which class each of its outputs stands for"):
        open_any(folder, classes)
    document = json.loads((folder / "config.json").read_text())
    before = weights_digest(folder)
    (folder / "config.json").write_text(json.dumps(document | {"label_names": list(map(str, range(12)))}))
    assert open_any(folder, classes)[1].classes == tuple(classes)
    assert weights_digest(folder) != before
    assert "warning" not in capsys.readouterr().out


# ---- names -----------------------------------------------------------------------------------------------------


def test_a_name_brings_timms_own_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    network = theirs("resnet10t")
    network.pretrained_cfg = {**CONFIG, "input_size": (3, 176, 176)}
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: network)
    found, info = open_any("resnet10t.c3_in1k", CLASSES)
    assert info.image_size == 176
    assert info.framing == Framing("center", "bilinear", 176 / 185)
    images = 255 * torch.rand(2, 3, 64, 64)
    expected = logits_of_timm(network, images, CONFIG)
    torch.testing.assert_close(found(normalize(images)), expected, atol=1e-4, rtol=1e-4)
    assert weights_digest("resnet10t.c3_in1k") != weights_digest("resnet14t.c3_in1k")


@pytest.mark.parametrize("name", ["resnet10t.c3_in1k", "tf_efficientnet_b0.ns_jft_in1k"])
def test_a_name_without_network_or_cache_fails_at_once_in_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(released, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refuses)
    said = rf"^cannot download {name}\n  got:   .*does not answer.*\n  next:  .*hf download"
    with pytest.raises(NstError, match=said):
        open_any(name, CLASSES)
    assert capfd.readouterr().err == ""  # no tries of the hub's client


def test_what_was_downloaded_before_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    network = theirs()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: network)
    monkeypatch.setattr(released, "_hub_answers", lambda: pytest.fail("asked the hub"))
    assert released.download("resnet10t.c3_in1k") is network


def test_the_hub_is_asked_for_what_was_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = theirs()
    offline = []

    def created(name: str, pretrained: bool) -> torch.nn.Module:
        offline.append(constants.HF_HUB_OFFLINE)
        if constants.HF_HUB_OFFLINE:
            raise LocalEntryNotFoundError("not in the cache")
        return network

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(timm, "create_model", created)
    monkeypatch.setattr(released, "_hub_answers", lambda: True)
    assert released.download("resnet10t.c3_in1k") is network
    assert offline == [True, False]


def test_the_beginning_of_a_name_is_answered_with_names_that_begin_so() -> None:
    with pytest.raises(NstError, match=r"did you mean 'vit_tiny_patch16_224', 'vit_tiny_\w+' or 'vit_tiny_\w+'\?"):
        require_timm_name("vit_tiny")


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(NstError, match=r"did you mean 'resnet10t\.c3_in1k'"):
        open_any("resnet10t.c3_in", CLASSES)
    with pytest.raises(NstError, match="there is no network at"):
        open_any("entirely_elsewhere", CLASSES)
