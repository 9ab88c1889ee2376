"""Large pictures are stored smaller: which, how, and that networks then see the same."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import encode, noise
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from nst.cli import dispatch
from nst.config import compose_config
from nst.data.images import decode, shorter_side
from nst.data.shards import ShardSet, TarReader
from nst.data.storing import shrink
from nst.data.transforms import CenterView
from nst.errors import NstError
from tests.sharding import sharded


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels (H, W, 3) as smooth as a photograph's, with some grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(float)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def lying(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photograph(300, 400), "JPEG", quality=95, exif=exif.tobytes())


FILES = {
    "train/a/large.jpg": encode(photograph(300, 400), "JPEG", quality=95),
    "train/a/tall.jpg": encode(photograph(900, 120), "JPEG", quality=95),
    "train/a/turned.jpg": lying(6),
    "train/a/narrow.jpg": encode(photograph(1000, 64), "JPEG"),  # its shorter side is small enough
    "train/b/small.jpg": encode(noise(40, 50), "JPEG"),
    "train/b/same.png": encode(noise(64, 64), "PNG"),
    "train/b/drawing.png": encode(noise(128, 256), "PNG"),
    "train/b/web.webp": encode(photograph(200, 200), "WEBP"),
    "train/b/misnamed.png": encode(photograph(200, 300), "JPEG", quality=95),
}
LARGE = {name for name, data in FILES.items() if min(decode(data).shape[:2]) > 64}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def stored(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Extension and bytes of every labeled picture by its file's name."""
    shards = ShardSet.open(folder / "labeled")
    found = {}
    for number in range(len(shards.shards)):
        for key, files in TarReader(shards.path(number)):
            (extension,) = set(files) - {"cls"}
            (name,) = (name for name in FILES if Path(name).stem in key)
            found[name] = (extension, files[extension])
    return found


def test_larger_pictures_are_stored_smaller_and_others_keep_their_bytes(pictures: Path, tmp_path: Path) -> None:
    result = sharded(pictures, tmp_path / "shards", "data.stored_size=64", "data.test_samples=0")
    found = stored(tmp_path / "shards")
    assert found.keys() == FILES.keys()
    for name, (extension, data) in found.items():
        if name not in LARGE:
            assert data == FILES[name], name
            continue
        before = Image.open(pictures / name)
        assert extension == ("png" if before.format == "PNG" else "jpg"), name
        width, height = ImageOps.exif_transpose(before).size
        scale = 64 / min(height, width)
        assert decode(data).shape == (round(height * scale), round(width * scale), 3), name
        expected = shrink(decode(FILES[name]), 64).astype(float)
        worst = 0 if before.format == "PNG" else 3  # of 255, on average: what JPEG costs
        assert np.abs(decode(data) - expected).mean() <= worst, name
    assert f"{len(LARGE)} pictures are stored smaller, 64 px on the shorter side (data.stored_size)" in result["notes"]


def test_a_picture_whose_header_does_not_say_its_size_is_stored_smaller_too(tmp_path: Path) -> None:
    words = PngInfo()
    words.add_text("words", "a" * 2_000_000, zip=True)  # more than Pillow opens
    data = encode(noise(128, 256), "PNG", pnginfo=words)
    assert shorter_side(data) is None
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "x.png").write_bytes(data)
    result = sharded(tmp_path / "pictures", tmp_path / "shards", "data.stored_size=64", "data.test_samples=0")
    assert "2 pictures are stored smaller" in " ".join(result["notes"])


def test_turned_pictures_are_stored_upright(pictures: Path, tmp_path: Path) -> None:
    sharded(pictures, tmp_path / "shards", "data.stored_size=64", "data.test_samples=0")
    _, data = stored(tmp_path / "shards")["train/a/turned.jpg"]
    upright = shrink(decode(FILES["train/a/turned.jpg"]), 64)
    assert np.abs(decode(data, upright=False).astype(float) - upright).mean() < 3


@pytest.mark.parametrize("data", ["folder", "csv", "tar"])
def test_own_pictures_are_stored_for_networks_of_up_to_480_px_and_data_sets_as_they_are(data: str) -> None:
    assert compose_config([f"data={data}", "stage=shard", "data.source.root=x"]).data.stored_size == 480 + 32
    assert compose_config(["data=imagenet", "stage=shard"]).data.stored_size is None


def test_without_a_size_every_picture_keeps_its_bytes(pictures: Path, tmp_path: Path) -> None:
    result = sharded(pictures, tmp_path / "shards", "data.stored_size=null", "data.test_samples=0")
    assert {name: data for name, (_, data) in stored(tmp_path / "shards").items()} == FILES
    assert "stored smaller" not in " ".join(result.get("notes", []))


def test_shards_of_one_size_are_not_those_of_another(pictures: Path, tmp_path: Path) -> None:
    common = ["data=folder", f"data.source.root={pictures}", f"data.root={tmp_path / 'shards'}", "data.test_samples=0"]
    index = tmp_path / "shards/labeled/index.json"
    for _ in range(2):
        dispatch(["shard", *common, "data.stored_size=64"])
        first = index.read_bytes()
    with pytest.raises(NstError, match="stored_size"):
        dispatch(["shard", *common, "data.stored_size=100"])
    # a training reads the shards as they are
    with pytest.raises(NstError, match=r"data\.stored_size"):
        dispatch(["train", *common, "data.stored_size=100", f"run_dir={tmp_path / 'run'}"])
    assert index.read_bytes() == first


def test_finished_shards_stay_as_they_are_whatever_the_recipe_says_now(pictures: Path, tmp_path: Path) -> None:
    """Those of before there was a size, and of another one; a size that is typed is another matter."""
    common = ["shard", "data=folder", f"data.source.root={pictures}", f"data.root={tmp_path}/a", "data.test_samples=0"]
    for size in ("null", "64"):
        dispatch([*common, f"data.stored_size={size}", "overwrite=true"])
        before = stored(tmp_path / "a")
        dispatch(common)  # by the default of data=folder: 512
        assert stored(tmp_path / "a") == before
        with pytest.raises(NstError, match=r"data\.stored_size: (64|null) before, 512 now"):
            dispatch([*common, "data.stored_size=512"])
    made = (tmp_path / "a/started.json").read_bytes()
    dispatch([*common, "overwrite=true"])  # as nst iterate does for the sake of its own directory
    assert (tmp_path / "a/started.json").read_bytes() == made
    assert stored(tmp_path / "a") == before
    dispatch([*common, "overwrite=true", "data.stored_size=512"])
    assert {name: data for name, (_, data) in stored(tmp_path / "a").items()} == FILES, "none is larger than 512 px"


def test_a_network_sees_the_same_of_a_picture_that_is_stored_smaller() -> None:
    """To 1 of 255 on average: a prediction for the file and a label from its shard agree."""
    view = CenterView(64, resize="antialias")
    for seed in range(5):
        pixels = photograph(1500, 2000, seed)
        seen = [view(image).astype(float) for image in (pixels, shrink(pixels, 192))]
        assert np.abs(seen[0] - seen[1]).mean() < 1


def test_pictures_that_nobody_has_examined_and_that_do_not_decode_keep_their_bytes(tmp_path: Path) -> None:
    files = {"a/large.jpg": FILES["train/a/large.jpg"][:2000], "b/large.png": FILES["train/b/drawing.png"][:-900],
             "b/same.png": b"no picture"}  # fmt: skip
    for name, data in files.items():
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).write_bytes(data)
    options = ["data.stored_size=64", "data.test_samples=0", "shard.check_images=false"]
    result = sharded(tmp_path / "pictures", tmp_path / "shards", *options)
    shards = ShardSet.open(tmp_path / "shards" / "labeled")
    kept = [next(iter(set(content.values()) & set(files.values()))) for _, content in TarReader(shards.path(0))]
    assert sorted(kept) == sorted(files.values())
    assert "stored smaller" not in " ".join(result.get("notes", []))
