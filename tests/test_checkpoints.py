"""Network files: what is written reads back, timm's files fit, and every mistake is named."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_networks import TINY, random_images, timm_b0, trained_tiny

from nst.atomic import sha256_file, write_json
from nst.errors import NstError
from nst.models import checkpoints
from nst.models.checkpoints import (
    NetworkInfo,
    import_weights,
    load_network,
    read_info,
    read_weights,
    recognize,
    save_network,
)
from nst.models.efficientnet import ARCHITECTURES, build
from nst.models.located import locate, locate_ours

CLASSES = tuple(f"class {i}" for i in range(10))
INFO = NetworkInfo(TINY, CLASSES, image_size=24, train_size=16, extra={"top1": 0.875})


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    """A network file as `save_network` writes it."""
    path = tmp_path_factory.mktemp("saved") / "teacher.safetensors"
    save_network(path, trained_tiny().state_dict(), INFO)
    return path.read_bytes()


# --- our own files ------------------------------------------------------------------------------------------


def test_a_network_reads_back_as_it_was(tmp_path):
    network, path = trained_tiny(), tmp_path / "teacher.safetensors"
    digest = save_network(path, network.state_dict(), INFO)
    loaded, info = load_network(path)
    assert info == INFO == read_info(path)
    assert digest == sha256_file(path)
    assert not loaded.training
    state = network.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(loaded(random_images(16)), network(random_images(16)))


def test_the_variant_and_its_dropout_survive(tmp_path, saved):
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(saved)
    loaded, _ = load_network(path)
    assert loaded.architecture == TINY
    assert loaded.dropout.rate == 0.1
    # strides leave no trace in the weights; the file knows them
    assert loaded.forward_features(random_images(32)).shape[-1] == 4


def test_the_same_network_gives_the_same_bytes(tmp_path):
    state = trained_tiny().state_dict()
    shuffled = dict(reversed(state.items()))
    images_last = {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in state.items()
    }
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    digests = [save_network(file, s, INFO) for file, s in zip(files, (state, shuffled, images_last), strict=True)]
    assert len(set(digests)) == 1
    assert files[0].read_bytes() == files[1].read_bytes()
    other = save_network(tmp_path / "other.safetensors", trained_tiny(seed=1).state_dict(), INFO)
    assert other != digests[0]


def test_the_file_says_what_it_is_to_any_reader(saved):
    length = int.from_bytes(saved[:8], "little")
    metadata = json.loads(saved[8 : 8 + length])["__metadata__"]
    assert metadata.keys() == {"nst"}
    record = json.loads(metadata["nst"])
    assert record["format"] == 1
    assert record["num_classes"] == 10
    assert record["classes"] == list(CLASSES)
    assert (record["image_size"], record["train_size"]) == (24, 16)
    assert record["architecture"]["width"] == 0.35
    assert record["extra"] == {"top1": 0.875}


def test_saving_leaves_nothing_but_the_file(tmp_path):
    save_network(tmp_path / "new" / "teacher.safetensors", trained_tiny().state_dict(), INFO)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["teacher.safetensors"]


def test_weights_that_could_not_be_read_back_are_not_written(tmp_path):
    path, state = tmp_path / "teacher.safetensors", trained_tiny().state_dict()
    nine = NetworkInfo(TINY, CLASSES[:9], 16, 16)
    with pytest.raises(NstError, match=r"another number of classes(.|\n)*10(.|\n)*9"):
        save_network(path, state, nine)
    with pytest.raises(NstError, match="weights of another network"):
        save_network(path, {f"network.{name}": value for name, value in state.items()}, INFO)
    assert not path.exists()


def test_a_failed_write_keeps_the_old_file_and_says_why(tmp_path, monkeypatch):
    path = tmp_path / "teacher.safetensors"
    digest = save_network(path, trained_tiny().state_dict(), INFO)

    def full_disk(tensors, filename, metadata):
        Path(filename).write_bytes(b"half a fi")
        raise checkpoints.safetensors.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full_disk)
    with pytest.raises(NstError, match=r"cannot write .*\n.*No space left"):
        save_network(path, trained_tiny(seed=1).state_dict(), INFO)
    assert sha256_file(path) == digest
    assert [file.name for file in tmp_path.iterdir()] == ["teacher.safetensors"]


# --- timm's files -------------------------------------------------------------------------------------------


def test_timms_weights_give_the_same_outputs_in_ours(tmp_path):
    theirs = timm_b0()
    for suffix, write in ((".safetensors", save_file), (".pth", torch.save)):
        path = tmp_path / f"b0{suffix}"
        write(theirs.state_dict(), path)
        network = build(ARCHITECTURES["efficientnet_b0"], 10).eval()
        import_weights(network, path)
        assert torch.equal(network(random_images(65)), theirs(random_images(65)))


def test_our_weights_give_the_same_outputs_in_timms(tmp_path):
    torch.manual_seed(3)
    ours = build(ARCHITECTURES["efficientnet_b0"], 10)
    ours(random_images(64))
    info = NetworkInfo(ARCHITECTURES["efficientnet_b0"], CLASSES, 224, 224)
    save_network(tmp_path / "b0.safetensors", ours.state_dict(), info)
    theirs = timm.create_model("tf_efficientnet_b0", num_classes=10)
    theirs.load_state_dict(load_file(tmp_path / "b0.safetensors"), strict=True)
    assert torch.equal(ours.eval()(random_images(65)), theirs.eval()(random_images(65)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_recognized_by_its_weights(name):
    with torch.device("meta"):
        state = build(ARCHITECTURES[name], 3).state_dict()
    assert recognize(state) == ARCHITECTURES[name]


def test_strangers_are_not_recognized():
    assert recognize(trained_tiny().state_dict()) is None
    assert recognize({"fc.weight": torch.zeros(2, 2)}) is None


# --- mistakes -----------------------------------------------------------------------------------------------


def test_a_missing_file_names_those_nearby(tmp_path, saved):
    (tmp_path / "gen1.safetensors").write_bytes(saved)
    for read in (read_info, load_network):
        with pytest.raises(NstError, match=r"gen0\.safetensors is not there(.|\n)*gen1\.safetensors"):
            read(tmp_path / "gen0.safetensors")
    with pytest.raises(NstError, match=r"is a folder(.|\n)*gen1\.safetensors"):
        load_network(tmp_path)
    with pytest.raises(NstError, match="nearby: none"):
        read_info(tmp_path / "elsewhere" / "gen0.safetensors")


@pytest.mark.parametrize("size", [0, 5, 500, -1])
def test_a_truncated_file_is_named(tmp_path, saved, size):
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(saved[:size])
    for read in (read_info, load_network, lambda p: import_weights(trained_tiny(), p)):
        with pytest.raises(NstError, match=r"not a whole network file\n.*bytes"):
            read(path)


def test_a_pth_file_that_is_none_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    for content in (b"", b"not a checkpoint", b"PK\x03\x04 half a zip"):
        path.write_bytes(content)
        with pytest.raises(NstError, match="not a whole network file"):
            import_weights(trained_tiny(), path)
    torch.save({"epoch": 3, "optimizer": [1, 2]}, path)
    with pytest.raises(NstError, match="something else than named tensors"):
        import_weights(trained_tiny(), path)
    torch.save({"state_dict": trained_tiny().state_dict()}, path)
    import_weights(trained_tiny(seed=1), path)


def onnx(path: Path) -> None:
    path.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.0.0:\x8a\x01")


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"picture")


@pytest.mark.parametrize("name", ["x.pth", "x.bin", "x.safetensors", "x"])
@pytest.mark.parametrize(
    ("write", "says"),
    [
        (onnx, "an ONNX file"),
        (lambda path: Image.new("RGB", (4, 4)).save(path, "PNG"), "a PNG picture"),
        (lambda path: path.write_text("<!doctype html>"), "a web page"),
        (zipped, "a zip archive"),
        (lambda path: path.write_bytes(pickle.dumps({"x": Path("y")})), ""),
        (lambda path: path.write_bytes(b"words"), ""),
    ],
)
def test_a_file_of_something_else_is_told_in_our_words(tmp_path, name, write, says):
    path = tmp_path / name
    write(path)
    match = rf"is no file of weights\n  got:   {says}" if says else "not a whole network file"
    for read in [read_weights, *([locate, locate_ours] if says else [])]:
        with pytest.raises(NstError, match=match) as told:
            read(path)
        assert not re.search(r"weights_only|torch\.load|WeightsUnpickler|nst export|Error", str(told.value))


def test_what_lies_beside_a_network_is_told_from_it(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    write_json(folder / "trained.json", {"trained": {}, "weights_sha256": "0"})
    torch.save({"state_dict": {}, "loops": {}}, folder / "trained_last.ckpt")
    (tmp_path / "run" / "started.json").write_text("{}")
    with pytest.raises(NstError, match=r"trained\.json is no file of weights\n  got:   a JSON file"):
        locate_ours(folder / "trained.json")
    with pytest.raises(NstError, match=r"is the state of a training, not its network[\s\S]*finished: .*run$"):
        locate_ours(folder / "trained_last.ckpt")


def test_code_in_a_pth_file_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"conv_stem.weight": Bomb()}, tmp_path / "weights.pth")
    with pytest.raises(NstError, match="not a whole network file"):
        import_weights(trained_tiny(), tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_network_are_named_with_both_architectures(tmp_path):
    theirs = timm_b0()
    save_file(theirs.state_dict(), tmp_path / "b0.safetensors")
    with torch.device("meta"):
        b3 = build(ARCHITECTURES["efficientnet_b3"], 10)
    with pytest.raises(NstError) as caught:
        import_weights(b3, tmp_path / "b0.safetensors")
    message = str(caught.value)
    assert "efficientnet_b0: stem 32, 16 blocks, head 1280" in message
    assert "efficientnet_b3: stem 40, 26 blocks, head 1536" in message
    assert "conv_stem.weight: (32, 3, 3, 3), expected (40, 3, 3, 3)" in message
    assert "more" in message


def test_a_file_that_does_not_say_what_it_is_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(trained_tiny().state_dict(), path)
    with pytest.raises(NstError, match="does not say of which network"):
        load_network(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format":2}', '{"format":1,"num_classes":3}'])
def test_a_description_of_another_version_is_refused(tmp_path, text):
    path = tmp_path / "teacher.safetensors"
    save_file(trained_tiny().state_dict(), path, metadata={"nst": text})
    with pytest.raises(NstError, match=r"this version does not know(.|\n)*format 1"):
        read_info(path)
