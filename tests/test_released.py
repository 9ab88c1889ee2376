"""Released weights: timm's files and names become our networks, and what does not fit is named."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_networks import TINY, random_images, timm_b0, trained_tiny

from nst.atomic import sha256_file, write_json
from nst.errors import NstError
from nst.models.checkpoints import NetworkInfo, save_network
from nst.models.efficientnet import ARCHITECTURES
from nst.models.labels import assume_order
from nst.models.released import load_timm, open_network, released_config, released_names, weights_digest
from nst.robustness.classes import imagenet_wnids

CLASSES = tuple(f"class {i}" for i in range(10))


def test_released_files_without_batch_counters_fit(tmp_path):
    theirs = timm_b0()
    state = {name: v for name, v in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert len(state) < len(theirs.state_dict())
    save_file(state, tmp_path / "b0.safetensors")
    network, _ = load_timm(tmp_path / "b0.safetensors", CLASSES)
    assert torch.equal(network(random_images(64)), theirs(random_images(64)))


def test_load_timm_finds_architecture_and_size_by_itself(tmp_path):
    theirs = timm_b0()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    network, info = load_timm(tmp_path / "model.safetensors", CLASSES)
    assert info.architecture == ARCHITECTURES["efficientnet_b0"]
    assert (info.image_size, info.train_size, info.classes) == (224, 224, CLASSES)
    assert not network.training
    config = {"architecture": "tf_efficientnet_b0", "pretrained_cfg": {"input_size": [3, 475, 475]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_network(tmp_path, CLASSES)[1].image_size == 475  # a folder, as the hub lays it out


def test_load_timm_by_name_takes_that_networks_size_and_weights(monkeypatch):
    theirs = timm_b0()
    asked = []

    def released(name, pretrained):
        asked.append((name, pretrained))
        return theirs

    monkeypatch.setattr(timm, "create_model", released)
    network, info = load_timm("tf_efficientnet_b0.ns_jft_in1k", CLASSES)
    assert asked == [("tf_efficientnet_b0.ns_jft_in1k", True)]
    assert info.image_size == 224
    assert info.extra == {"imported_from": "tf_efficientnet_b0.ns_jft_in1k"}
    assert torch.equal(network(random_images(64)), theirs(random_images(64)))


def test_every_released_noisy_student_is_offered():
    names = {name for name in released_names() if ".ns_jft" in name}
    expected = {f"tf_efficientnet_b{n}.ns_jft_in1k" for n in range(8)}
    assert names == expected | {"tf_efficientnet_l2.ns_jft_in1k", "tf_efficientnet_l2.ns_jft_in1k_475"}
    assert released_config("tf_efficientnet_l2.ns_jft_in1k_475")["input_size"] == (3, 475, 475)


def test_networks_of_another_normalisation_are_refused(tmp_path):
    with pytest.raises(NstError, match=r"normalised(.|\n)*0\.5"):
        load_timm("tf_efficientnet_b0.ap_in1k", CLASSES)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}')
    with pytest.raises(NstError, match=r"normalised(.|\n)*0\.5"):
        load_timm(tmp_path / "model.safetensors", CLASSES)


def lone_file(folder, classes):
    """timm's .pth.tar of so many classes, which says that the third is seen everywhere."""
    theirs = timm.create_model("tf_efficientnet_b0", num_classes=classes).eval()
    with torch.no_grad():
        theirs.classifier.weight.zero_()
        theirs.classifier.bias.copy_(torch.eye(classes)[2])
    torch.save({"state_dict": theirs.state_dict()}, folder / "best.pth.tar")
    return folder / "best.pth.tar"


def test_numbered_classes_are_not_taken_to_be_in_the_order_of_their_names(tmp_path):
    """A folder 0 to 11 is sorted as 0, 1, 10, 11, 2, and by timm as 0, 1, 2."""
    classes = sorted(map(str, range(12)))
    path = lone_file(tmp_path, 12)
    with pytest.raises(NstError, match="does not say which class each of its outputs stands for") as caught:
        load_timm(path, classes)
    assert "0, 1, 10, 11, 2 ... by name and 0, 1, 2, 3, 4 ... by number" in str(caught.value)
    assert f'{{"label_names": ["<class of output 0>", ...]}} into {tmp_path / "config.json"}' in str(caught.value.next)
    before = weights_digest(path)
    (tmp_path / "config.json").write_text(json.dumps({"label_names": [str(number) for number in range(12)]}))
    network, info = load_timm(path, classes)  # the advice, followed
    assert info.classes[int(network(random_images(64)).argmax(1)[0])] == "2"
    assert weights_digest(path) != before, "answers under other names are others"


def test_an_order_of_classes_that_nobody_has_told_is_said(tmp_path, capsys):
    path = lone_file(tmp_path, 12)
    load_timm(path, sorted("abcdefghijkl"))
    said = " ".join(capsys.readouterr().out.split())
    assert f"warning: {path} names no classes; its 12 outputs are taken for" in said
    assert "in their order: a, b, c, d, e ...; if it is another: write" in said
    (tmp_path / "config.json").write_text(json.dumps({"label_names": list("abcdefghijkl")}))
    load_timm(path, sorted("abcdefghijkl"))
    assert "warning" not in capsys.readouterr().out
    assume_order("x", "x", imagenet_wnids())
    assert "warning" not in capsys.readouterr().out
    with pytest.raises(NstError, match="hf download timm/x --local-dir <folder>"):
        assume_order("x", "x", sorted(map(str, range(1000))))


def test_another_number_of_classes_is_named(tmp_path):
    theirs = timm_b0()
    save_file(theirs.state_dict(), tmp_path / "b0.safetensors")
    with pytest.raises(NstError, match=r"another number of classes\n  got:   10\n  valid: 7"):
        load_timm(tmp_path / "b0.safetensors", CLASSES[:7])


def test_a_network_that_is_not_recognized_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(trained_tiny().state_dict(), path)
    with pytest.raises(NstError, match=r"unknown: stem 16(.|\n)*efficientnet_b0"):
        load_timm(path, CLASSES)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(NstError, match=r"did you mean 'tf_efficientnet_b7\.ns_jft_in1k'"):
        open_network("tf_efficientnet_b7.ns_jft_in1", CLASSES)
    with pytest.raises(NstError, match=r"there is no network at nowhere/b7\.pth"):
        open_network("nowhere/b7.pth", CLASSES)


def test_a_failed_download_is_explained(monkeypatch):
    def offline(name, pretrained):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(NstError, match=r"cannot download(.|\n)*no route to host"):
        load_timm("tf_efficientnet_b7.ns_jft_in1k", CLASSES)


# ---- one door for all weights


def test_open_network_takes_a_run_a_file_of_ours_and_a_file_of_timms(tmp_path):
    ours = trained_tiny()
    names = tuple("abcdefghij")
    run = tmp_path / "run"
    save_network(run / "checkpoints" / "trained.safetensors", ours.state_dict(), NetworkInfo(TINY, names, 24, 16))
    write_json(run / "started.json", {"stage": "train"})
    with pytest.raises(NstError, match="has not finished"):
        open_network(run, CLASSES)
    kept = "checkpoints/trained.safetensors"
    write_json(run / "result.json", {"weights": kept, "weights_sha256": sha256_file(run / kept)})
    (run / "DONE").touch()
    for source in (run, str(run / "checkpoints" / "trained.safetensors")):
        network, info = open_network(source, CLASSES)
        assert (info.classes, info.image_size) == (names, 24)
        assert torch.equal(network(random_images(16)), ours(random_images(16)))
        assert weights_digest(source) == sha256_file(run / "checkpoints" / "trained.safetensors")

    theirs = timm_b0()
    (tmp_path / "hub").mkdir()
    save_file(theirs.state_dict(), tmp_path / "hub" / "model.safetensors")
    torch.save(theirs.state_dict(), tmp_path / "b0.pth")
    for source in (tmp_path / "hub", tmp_path / "hub" / "model.safetensors", tmp_path / "b0.pth"):
        network, info = open_network(source, CLASSES)
        assert info.classes == CLASSES
        assert not network.training
        assert torch.equal(network(random_images(64)), theirs(random_images(64)))
    assert weights_digest(tmp_path / "hub") == sha256_file(tmp_path / "hub" / "model.safetensors")


def test_open_network_takes_timms_name(monkeypatch):
    theirs = timm_b0()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    network, info = open_network("tf_efficientnet_b0.ns_jft_in1k", CLASSES)
    assert info.extra == {"imported_from": "tf_efficientnet_b0.ns_jft_in1k"}
    assert torch.equal(network(random_images(64)), theirs(random_images(64)))
    digests = {weights_digest(f"tf_efficientnet_b{n}.ns_jft_in1k") for n in range(3)}
    assert len(digests) == 3


def test_open_network_explains_what_is_neither(tmp_path):
    with pytest.raises(NstError, match=r"did you mean 'tf_efficientnet_b7\.ns_jft_in1k'"):
        open_network("tf_efficientnet_b7.ns_jft_in1", CLASSES)
    with pytest.raises(NstError, match="there is no network at"):
        open_network(tmp_path / "nowhere", CLASSES)
