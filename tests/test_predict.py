"""`nst predict` and `nst.load`: every kind of input, odd names, broken files, kills, sorting, the contact sheet."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import add_file, encode, noise
from PIL import Image

import nst
from nst.atomic import sha256_file, write_json
from nst.by_hand import TABLES
from nst.config import compose_config, job_from
from nst.data import asked, files, inputs
from nst.data.asked import to_ask
from nst.data.image_list import listed_paths
from nst.data.prediction_files import PredictionFiles
from nst.data.predictions import PredictionMetadata
from nst.data.shards import index_tars
from nst.data.sorting import class_folders
from nst.data.sources import open_source
from nst.data.transforms import CenterView
from nst.data.views import SideBySide
from nst.errors import NstError, UsageError
from nst.flags import flags_as_options
from nst.models.checkpoints import NetworkInfo, load_network, save_network
from nst.models.efficientnet import Architecture, build, normalize
from nst.report.sheet import shared_out, spread
from nst.runs import Run
from nst.settings.job import PredictJob
from nst.stages import predict
from nst.stages.label import ShardsToLabel
from nst.training.ensemble import Ensemble, seen_by
from nst.training.label_engines import LightningEngine

TINY = Architecture(0.35, 0.5, train_size=16, test_size=16, dropout=0.1, small_images=True, name="tiny")
CLASSES = ("ant", "bee/wasp", "[red] cat", "dog")
EXACT = "predict.precision=32-true"  # networks of noise have no margin for bf16
ROOT = Path(__file__).parent.parent


def network_file(path: Path, seed: int = 0, classes: tuple[str, ...] = CLASSES, size: int = 16) -> Path:
    """A network with an opinion: its classes differ from picture to picture."""
    torch.manual_seed(seed)
    network = build(TINY, len(classes))
    seen = normalize(torch.stack([torch.from_numpy(picture(n, 16, 16)).permute(2, 0, 1) for n in range(64)]))
    for _ in range(20):
        network(seen)
    network.eval()
    head = network.classifier
    head.bias.data.zero_()
    logits = network(seen).detach()
    head.weight.data.mul_(2 / logits.std(0)[:, None])
    head.bias.data.sub_(2 * logits.mean(0) / logits.std(0))
    info = NetworkInfo(TINY, classes, size, 16, extra={"pictures": {"small": True}})
    save_network(path, network.state_dict(), info)
    return path


def run_of(folder: Path, network: Path) -> Path:
    """A finished training's directory, as far as its weights are concerned."""
    weights = folder / "checkpoints" / "trained.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(network.read_bytes())
    about = {"stage": "train", "weights": "checkpoints/trained.safetensors", "weights_sha256": sha256_file(weights)}
    write_json(folder / "result.json", about)
    (folder / "DONE").write_text("done")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network_file(tmp_path_factory.mktemp("network") / "tiny.safetensors")


def picture(number: int, height: int = 24, width: int = 20) -> np.ndarray:
    """Of one colour with some noise, so that networks can tell them apart."""
    colour = np.random.default_rng(number).integers(0, 256, 3)
    return (noise(height, width, number) // 4 + colour * 3 // 4).astype(np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """12 pictures and what lies about in folders of people."""
    folder = tmp_path / "my photos [2024] = 'a', b"
    (folder / "sub folder" / "deep").mkdir(parents=True)
    for number in range(9):
        (folder / f"{number}.jpg").write_bytes(encode(picture(number), "JPEG"))
    (folder / "sub folder" / "one.PNG").write_bytes(encode(picture(20), "PNG"))
    (folder / "sub folder" / "deep" / "moving.gif").write_bytes(encode(picture(21), "GIF"))
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).write_bytes(encode(picture(22), "JPEG"))
    (folder / "cut.jpg").write_bytes(encode(noise(200, 200), "JPEG")[:5000])
    (folder / "words.jpg").write_text("these are words")
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".DS_Store").write_text("hidden")
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "around").symlink_to(".")
    return folder


def ask(network: Path | list[Path], place: Path | str, folder: Path, *options: str) -> dict:
    """`nst predict` in this process."""
    checkpoint = f"[{','.join(map(str, network))}]" if isinstance(network, list) else str(network)
    typed = [
        f"model.checkpoint={checkpoint}",
        f"input={place}",
        "trainer.workers=0",
        EXACT,
        f"run_dir={folder}",
        *options,
    ]
    overrides = flags_as_options("predict", typed)
    cfg = compose_config([*overrides, "stage=predict"])
    cfg.overrides = overrides
    return predict.main(cfg)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def expected(network: Path, pixels: np.ndarray) -> torch.Tensor:
    """Probabilities (C,) by the network itself."""
    loaded, _ = load_network(network)
    seen = CenterView(16, crop="none")(pixels)
    with torch.inference_mode():
        return loaded(normalize(torch.from_numpy(seen.copy()).permute(2, 0, 1)[None])).softmax(1)[0]


# ---- a folder


def test_every_picture_of_a_folder_gets_its_answer_and_every_other_file_its_reason(network, photos, tmp_path):
    result = ask(network, photos, tmp_path / "out")
    answers = {row["path"]: row for row in rows(tmp_path / "out" / "predictions.csv")}
    names = [f"{number}.jpg" for number in range(9)]
    names += ["sub folder/one.PNG", "sub folder/deep/moving.gif", r"caf\xe9.jpg"]
    assert set(answers) == {f"{photos}/{name}" for name in names}, "each once, whatever the link leads to"
    assert len({row["class"] for row in answers.values()}) > 1
    for number in range(9):
        pixels = np.asarray(Image.open(photos / f"{number}.jpg").convert("RGB"))
        probs = expected(network, pixels)
        row = answers[f"{photos}/{number}.jpg"]
        ranked = probs.argsort(descending=True).tolist()
        assert row["class"] == CLASSES[ranked[0]]
        assert float(row["confidence"]) == pytest.approx(float(probs[ranked[0]]), abs=2e-3)
        assert float(row["confidence_2"]) == pytest.approx(float(probs[ranked[1]]), abs=2e-3)
        assert "class_3" in row
        assert "class_4" not in row
    reasons = {row["path"]: row["reason"] for row in rows(tmp_path / "out" / "unreadable.csv")}
    assert set(reasons) == {
        f"{photos}/{name}" for name in ("cut.jpg", "words.jpg", "empty.png", "notes.txt", "gone.jpg")
    }
    assert "remature end" in reasons[f"{photos}/cut.jpg"]
    assert reasons[f"{photos}/empty.png"] == "empty file"
    assert "No such file" in reasons[f"{photos}/gone.jpg"]
    assert ".txt" in reasons[f"{photos}/notes.txt"]
    assert result["predicted"] == 12
    assert result["unreadable"] == 5
    assert sum(result["by_class"].values()) == 12


def test_the_parquet_file_says_the_same(network, photos, tmp_path):
    ask(network, photos, tmp_path / "out", "--top", "2")
    table = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    found = rows(tmp_path / "out" / "predictions.csv")
    assert list(table[0]) == ["path", "class", "confidence", "class_2", "confidence_2"] == list(found[0])
    for ours, theirs in zip(table, found, strict=True):
        assert {name: f"{value:.4f}" if "confidence" in name else value for name, value in ours.items()} == theirs


def test_a_picture_that_exif_turns_is_shown_upright(network, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    plain, turned = tmp_path / "plain.png", tmp_path / "turned.png"
    pixels = picture(3, 40, 20)
    plain.write_bytes(encode(np.rot90(pixels, -1), "PNG"))
    turned.write_bytes(encode(Image.fromarray(pixels), "PNG", exif=exif))
    for place in (turned, Image.open(turned)):
        one, other = nst.load(network).predict([plain, place])
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)


# ---- other inputs


def archive(path: Path, mode: str) -> Path:
    with tarfile.open(path, mode) as tar:
        for number in range(5):
            add_file(tar, f"in/{number}.jpg", encode(picture(number), "JPEG"))
        add_file(tar, "in/readme.txt", b"text")
    return path


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(5):
            file.writestr(f"in/{number}.jpg", encode(picture(number), "JPEG"))
    return path


def shards(folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number in range(5):
            add_file(tar, f"{number}.jpg", encode(picture(number), "JPEG"))
        add_file(tar, "9.jpg", b"broken")
    index_tars(folder)
    return folder


def listed(path: Path) -> Path:
    lines = ["note,path"]
    for number in range(5):
        (path.parent / f"{number},x.jpg").write_bytes(encode(picture(number), "JPEG"))
        lines.append(f'seen,"{number},x.jpg"')
    path.write_text("\n".join([*lines, "never,missing.jpg"]) + "\n")
    return path


def lines(path: Path) -> Path:
    listed(path)
    path.write_text("".join(f"{number},x.jpg\r\n" for number in range(5)) + "\nmissing.jpg\n")
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "tar": lambda folder: archive(folder / "p.tar", "w"),
    "tar.gz": lambda folder: archive(folder / "p.tgz", "w:gz"),
    "zip": lambda folder: zipped(folder / "p.zip"),
    "shards": lambda folder: shards(folder / "set"),
    "list": lambda folder: listed(folder / "list.csv"),
    "list in a text file": lambda folder: listed(folder / "list.txt"),
    "lines": lambda folder: lines(folder / "list.txt"),
    "lines of a list": lambda folder: lines(folder / "list.LST"),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_all_kinds_of_inputs_give_the_same_answers(kind, network, tmp_path):
    place = KINDS[kind](tmp_path)
    ask(network, place, tmp_path / "out", "trainer.workers=2")
    found = rows(tmp_path / "out" / "predictions.csv")
    assert len(found) == 5
    for number, row in enumerate(found):
        assert re.search(rf"\b{number}(,x)?(\.jpg)?$", row["path"]), row
        probs = expected(network, np.asarray(Image.open(io.BytesIO(encode(picture(number), "JPEG")))))
        assert row["class"] == CLASSES[int(probs.argmax())]
        assert float(row["confidence"]) == pytest.approx(float(probs.max()), abs=2e-3)
    reasons = rows(tmp_path / "out" / "unreadable.csv")
    assert [row["reason"] for row in reasons] == {
        "shards": ["not an image of a known format"],
        **{each: ["No such file or directory"] for each in KINDS if each.startswith("li")},
        "tar": ["no picture (.txt)"], "tar.gz": ["no picture (.txt)"],
    }.get(kind, [])  # fmt: skip


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "shards"])
def test_predictions_of_an_archive_are_labels_for_its_pictures(kind, network, tmp_path, monkeypatch):
    """The table as it was written, by the name of the archive that was typed and by another one."""
    monkeypatch.chdir(tmp_path)
    place = KINDS[kind](tmp_path)
    for number, typed in enumerate((place, place.relative_to(tmp_path))):
        ask(network, typed, tmp_path / f"out{number}")
        table = tmp_path / f"out{number}" / "predictions.csv"
        source = open_source("csv", root=table, pictures=place)
        answers = {row["path"].rsplit("/", 1)[-1].removesuffix(".jpg"): row["class"] for row in rows(table)}
        samples = {sample.image: source.classes[sample.label] for sample in source}
        assert samples == {encode(picture(each), "JPEG"): answers[str(each)] for each in range(5)}


def test_of_pictures_in_shards_around_the_named_place_their_place_is_told(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    ask(network, shards(tmp_path / "made" / "unlabeled"), tmp_path / "out")
    with pytest.raises(NstError, match=r"data\.source\.pictures=\S*made/unlabeled$"):
        open_source("csv", root=tmp_path / "out" / "predictions.csv", pictures=tmp_path / "made")


def test_one_picture_is_an_input(network, tmp_path):
    (tmp_path / "a.webp").write_bytes(encode(picture(1), "WEBP"))
    ask(network, tmp_path / "a.webp", tmp_path / "out")
    assert [row["path"] for row in rows(tmp_path / "out" / "predictions.csv")] == [str(tmp_path / "a.webp")]


def test_predictions_csv_is_a_list_too_with_names_that_are_no_utf8(network, photos, tmp_path):
    ask(network, photos, tmp_path / "out")
    ask(network, tmp_path / "out" / "predictions.csv", tmp_path / "again")
    before, again = (rows(tmp_path / name / "predictions.csv") for name in ("out", "again"))
    # another batch size: another rounding
    assert [(row["path"], row["class"]) for row in before] == [(row["path"], row["class"]) for row in again]
    paths, names = listed_paths(tmp_path / "out" / "predictions.csv")
    _text(tmp_path / "semicolons.csv", "class;path\na;x.jpg\nb;y;z.jpg\n")
    assert listed_paths(tmp_path / "semicolons.csv")[1] == ["x.jpg", "y"], "parted as data=csv parts columns"
    _text(tmp_path / "plain.csv", "x;y.jpg\n")
    _text(tmp_path / "lines.txt", "a\u2028b.jpg\r\nc\x0bd.jpg\n\n")
    assert listed_paths(tmp_path / "lines.txt")[1] == ["a\u2028b.jpg", "c\x0bd.jpg"]
    assert listed_paths(tmp_path / "plain.csv")[1] == ["x;y.jpg"], "a list without a heading has paths alone"
    assert all(path.exists() for path in paths)
    assert any(r"\xe9" in name for name in names)


def test_lists_have_remarks_addresses_of_files_and_no_headings_in_words_that_are_not_known(tmp_path):
    for name in ("a b.jpg", "#1.jpg", "é.jpg"):
        (tmp_path / name).touch()
    addresses = "\n".join((tmp_path / name).as_uri() for name in ("a b.jpg", "é.jpg"))
    paths, names = listed_paths(_text(tmp_path / "list.txt", f"# holidays\n#1.jpg\n{addresses}\n"))
    assert [path.name for path in paths] == ["#1.jpg", "a b.jpg", "é.jpg"]
    assert all(path.exists() for path in paths)
    assert len(names) == 3
    for name, text in (
        ("a.csv", "Bild;Notiz\na b.jpg;gut\n"),
        ("b.csv", "Bild\na b.jpg\n"),
        ("c.txt", "Bild,N\nx.jpg,1\n"),
    ):
        with pytest.raises(NstError, match=r"no column is known to name the pictures[\s\S]*got:   Bild"):
            listed_paths(_text(tmp_path / name, text))
    assert listed_paths(_text(tmp_path / "a.csv", "Notiz;file_name\ngut;a b.jpg\n"))[1] == ["a b.jpg"]
    assert listed_paths(_text(tmp_path / "d.csv", '"File"\n"x, y.jpg"\n'))[1] == ["x, y.jpg"]
    for line in ("IMG_1.heic", "old/picture", "https://example.org/a?size=2"):  # one that cannot be read, of several
        assert len(listed_paths(_text(tmp_path / "d.csv", f"{line}\nb.jpg\n"))[0]) == 2
    with pytest.raises(NstError, match="no column is known"):
        listed_paths(_text(tmp_path / "d.csv", "name,photo\nrose,b.jpg\n"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "nothing", "there is nothing at"),
        (lambda folder: folder, "holds no pictures"),
        (lambda folder: _text(folder / "list.csv", "path\n"), "lists no pictures"),
        (lambda folder: _text(folder / "list.txt", "path\n"), "lists no pictures"),
        (lambda folder: _text(folder / "list.csv", "\n"), r"list\.csv is empty"),
        (lambda folder: _text(folder / "list.txt", ""), r"list\.txt is empty"),
        (lambda folder: _text(folder / "a.jpg", "words"), "no picture could be read"),
        (lambda folder: _text(folder / "a.tar", "words"), "no picture could be read"),
    ],
)
def test_inputs_without_a_picture_are_refused_in_words(make, says, network, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(NstError, match=says):
        ask(network, make(inner), tmp_path / "out")
    assert not (tmp_path / "out" / "DONE").exists()


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_folders_that_would_be_read_and_written_are_kept_apart(network, photos, tmp_path):
    with pytest.raises(NstError, match=r"predict\.sort_into lies in input"):
        ask(network, photos, tmp_path / "out", f"--sort-into={photos / 'sorted'}")
    with pytest.raises(NstError, match=r"predict\.output lies in input"):
        ask(network, photos, photos / "out")


def test_the_answers_lie_in_the_run_that_gave_them_unless_another_place_is_named(network, photos, tmp_path):
    run = run_of(tmp_path / "run", network)
    overrides = flags_as_options("predict", [f"model.checkpoint={run}", f"input={photos}"])
    for more, place in (
        ([], run / "predict" / "my_photos__2024_____a___b"),  # as long as no other input has it
        ([f"run_dir={tmp_path / 'there'}"], tmp_path / "there"),
        ([f"predict.output={tmp_path / 'here'}"], tmp_path / "here"),
    ):
        cfg = compose_config([*overrides, *more, "stage=predict"])
        cfg.overrides = [*overrides, *more]
        assert predict.output_folder(job_from(PredictJob, cfg)) == place


# ---- parts, kills, changed options


class Killed(Exception):
    pass


@pytest.fixture
def parts_of_12(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (inputs, asked):
        monkeypatch.setattr(module, "PART", 12)


def forty(folder: Path) -> Path:
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.png").write_bytes(encode(picture(number), "PNG"))
    return folder


@pytest.fixture
def kills_after_a_part(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
    """`kills_after_a_part(times, *arguments)` asks so often, killed after a part each time; what was still to do."""
    label = LightningEngine.label

    def asked(times: int, *arguments: Any) -> list[list[int]]:
        numbers = []

        def killed_after_one(self: LightningEngine, job: ShardsToLabel, todo: list[int]) -> None:
            numbers.append(list(todo))
            label(self, job, todo[:1])
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(LightningEngine, "label", killed_after_one)
            for _ in range(times):
                with pytest.raises(Killed):
                    ask(*arguments)
        return numbers

    return asked


def test_a_killed_run_goes_on_at_the_first_part_that_is_missing_and_ends_with_the_same_bytes(
    network, tmp_path, parts_of_12, kills_after_a_part
):
    folder = forty(tmp_path / "photos")
    options = ("predict.batch_size=3", f"--sort-into={tmp_path / 'sorted'}")
    ask(network, folder, tmp_path / "whole", *options)
    numbers = kills_after_a_part(2, network, folder, tmp_path / "killed", *options)
    ask(network, folder, tmp_path / "killed", *options)
    assert numbers == [[0, 1, 2, 3], [0, 1, 2]], "what is left, of four parts of ten"
    names = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*") if path.is_file())
    same = [name for name in names if name.suffix in (".csv", ".parquet") or name.parts[0] == "parts"]
    assert len(same) >= 12
    for name in same:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_a_killed_run_goes_on_with_another_batch_size(network, tmp_path, parts_of_12, kills_after_a_part):
    folder = forty(tmp_path / "photos")
    kills_after_a_part(1, network, folder, tmp_path / "killed", "predict.batch_size=256")
    first = tmp_path / "killed" / "parts" / "000000.parquet"
    before = first.stat().st_mtime_ns
    ask(network, folder, tmp_path / "killed", "predict.batch_size=3")
    assert first.stat().st_mtime_ns == before
    ask(network, folder, tmp_path / "whole")
    one, other = (rows(tmp_path / name / "predictions.csv") for name in ("killed", "whole"))
    assert [(row["path"], row["class"]) for row in one] == [(row["path"], row["class"]) for row in other]
    assert len(one) == 40


@pytest.mark.parametrize(
    ("samples", "part", "at_most", "batch"),
    [(1, 1, 256, 1), (100, 100, 256, 100), (100, 100, 32, 25), (1500, 750, 256, 250), (1025, 513, 9999, 513),
     (27_000, 1000, 256, 250)],
)  # fmt: skip
def test_parts_are_equal_and_batches_hardly_padded(samples, part, at_most, batch, network, tmp_path):
    found = inputs.NumberedPictures(names := [str(n) for n in range(samples)], lambda number: b"", (), lambda: names)
    metadata = PredictionMetadata("", CLASSES, 16, "", "")
    shown, todo = to_ask(PredictionFiles(tmp_path, metadata, keep=0.0), found, lambda value: value)
    sizes = [shard.samples for shard in shown.shards]
    assert sizes[0] == part
    assert sum(sizes) == samples == shown.samples
    assert todo == [*range(len(sizes))]
    assert shown.batch_size(at_most) == batch


def test_pictures_are_read_for_their_digest_by_the_first_rank_alone(monkeypatch: pytest.MonkeyPatch):
    def opened(*names: str, contents: Callable[[], Any]) -> inputs.NumberedPictures:
        return inputs.NumberedPictures(list(names), lambda number: b"", (), contents)

    said: list[Any] = []
    first, alone = opened("a", "b", contents=lambda: ["x", "y"]), opened("a", "b", contents=lambda: ["x", "y"])
    first.agree(lambda value: said.append(value) or value)
    assert first.digest == alone.digest
    monkeypatch.setenv("RANK", "1")
    other = opened("a", "b", contents=lambda: pytest.fail("read again"))
    other.agree(lambda value: said[0] if value is None else pytest.fail("its own"))
    assert other.digest == alone.digest
    with pytest.raises(NstError, match="sees other pictures than rank 0"):
        opened("a", "c", contents=list).agree(lambda value: said[0])


def test_other_tables_are_made_without_asking_the_network_again(network, photos, tmp_path, monkeypatch):
    ask(network, photos, tmp_path / "out")
    found = rows(tmp_path / "out" / "predictions.csv")
    monkeypatch.setattr(LightningEngine, "label", lambda *_: pytest.fail("asked again"))
    line = sorted(float(row["confidence"]) for row in found)[6]
    result = ask(network, photos, tmp_path / "out", "--top", "1", "--min-confidence", str(line + 5e-5))
    sure, unsure = (rows(tmp_path / "out" / f"{name}.csv") for name in ("predictions", "unsure"))
    assert {row["path"] for row in [*sure, *unsure]} == {row["path"] for row in found}
    assert all(float(row["confidence"]) >= line for row in sure)
    assert all(float(row["confidence"]) <= line + 1e-4 for row in unsure)
    assert unsure
    assert list(sure[0]) == ["path", "class", "confidence"]
    assert result["unsure"] == len(unsure)


def test_a_table_that_a_person_has_changed_is_not_written_over(network, photos, tmp_path):
    ask(network, photos, tmp_path / "out")
    table = tmp_path / "out" / "predictions.csv"
    table.write_text(table.read_text().replace("ant", "corrected"))
    ask(network, photos, tmp_path / "out")
    with pytest.raises(NstError, match="has been changed since nst wrote it"):
        ask(network, photos, tmp_path / "out", "--top", "1")
    assert "corrected" in table.read_text()


def test_of_a_folder_that_has_changed_only_the_new_pictures_are_asked_about(
    network, photos, tmp_path, asked_about, capsys
):
    out, whole = tmp_path / "out", tmp_path / "whole"
    ask(network, photos, out)
    assert asked_about.pop() == 15
    (photos / "new.png").write_bytes(encode(picture(90), "PNG"))
    (photos / "twin.png").write_bytes((photos / "new.png").read_bytes())
    (photos / "0.jpg").rename(photos / "sub folder" / "moved.jpg")
    (photos / "1.jpg").unlink()
    (photos / "2.jpg").write_bytes(encode(picture(91), "JPEG"))
    capsys.readouterr()
    result = ask(network, photos, out)
    assert result["predicted"] == 13
    assert asked_about.pop() == 2, "new.png, 2.jpg"
    told = capsys.readouterr().out
    numbers = re.search(
        r"^(\d+) pictures of .*, 2 to be asked about, (\d+) other files: unreadable\.csv, 4 classes", told
    )
    assert numbers
    assert sum(map(int, numbers.groups())) == 13 + result["unsure"] + result["unreadable"]
    ask(network, photos, whole)
    for name in TABLES[:1] + TABLES[2:]:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    ask(network, photos, out)
    assert asked_about == [15], "of `whole`, where twin.png is new.png"


def test_a_table_that_a_person_has_changed_stays_also_where_pictures_came(network, photos, tmp_path, asked_about):
    ask(network, photos, tmp_path / "out")
    table = tmp_path / "out" / "predictions.csv"
    table.write_text(table.read_text().replace("ant", "corrected"))
    (photos / "new.png").write_bytes(encode(picture(90), "PNG"))
    with pytest.raises(NstError, match=r"predictions\.csv has been changed since nst wrote it") as caught:
        ask(network, photos, tmp_path / "out")
    assert len(asked_about) == 1
    subprocess.run(re.search(r"mv \S+ \S+(?=,)", str(caught.value))[0], shell=True, check=True, cwd=tmp_path)
    assert ask(network, photos, tmp_path / "out")["predicted"] == 13
    assert "corrected" in (tmp_path / "predictions.mine.csv").read_text()


@pytest.fixture
def asked_about(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many pictures the network was asked, a number each time."""
    label, found = LightningEngine.label, []

    def counted(self: LightningEngine, job: ShardsToLabel, todo: list[int]) -> None:
        found.append(job.unlabeled.samples)
        label(self, job, todo)

    monkeypatch.setattr(LightningEngine, "label", counted)
    return found


def test_inputs_of_one_name_and_ensembles_have_folders_of_their_own(network, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_of(tmp_path / "run", network)
    other = tmp_path / "other" / photos.name
    other.mkdir(parents=True)
    (other / "a.png").write_bytes(encode(picture(1), "PNG"))

    def folder(checkpoint: object, place: Path) -> Path:
        overrides = flags_as_options("predict", [f"model.checkpoint={checkpoint}", f"input={place}"])
        cfg = compose_config([*overrides, "stage=predict"])
        cfg.overrides = overrides
        return predict.output_folder(job_from(PredictJob, cfg))

    first = folder(run, photos)
    ask(run, photos, first)
    second = folder(run, other)
    assert second != first == folder(run, photos.relative_to(tmp_path))
    ask(run, other, second)
    assert (folder(run, photos), folder(run, other)) == (first, second)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(network.read_bytes())
    ways = [network, copy, f"[{network},{copy}]", f"[{copy},{run}]", run]
    assert len({folder(way, place) for way in ways for place in (photos, other)}) == 10
    with pytest.raises(NstError, match=r"input: .* before, .* now"):
        ask(run, other, first)


def pair(kind: str, folder: Path, first: int, second: int) -> Path:
    """Two pictures of one size and date, as an input of this kind."""
    folder.mkdir(exist_ok=True)
    place = folder if kind == "folder" else folder / {"list": "list.csv", "picture": "a.bmp"}.get(kind, f"p.{kind}")
    for name, number in (("a.bmp", first), ("b.bmp", second)):
        (folder / name).write_bytes(encode(picture(number), "BMP"))
    if kind == "list":
        place.write_text(f"path\na.bmp\n{folder / 'b.bmp'}\nmissing.bmp\n.\n")
    elif kind == "tar":
        with tarfile.open(place, "w") as tar:
            for name in ("a.bmp", "b.bmp"):
                add_file(tar, name, (folder / name).read_bytes())
    elif kind == "zip":
        with zipfile.ZipFile(place, "w") as file:
            for name in ("a.bmp", "b.bmp"):
                file.writestr(zipfile.ZipInfo(name), (folder / name).read_bytes())
    for path in folder.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return place


@pytest.mark.parametrize("kind", ["folder", "list", "picture", "tar", "zip"])
def test_pictures_are_known_by_their_content_and_not_by_their_dates(kind, network, tmp_path, monkeypatch):
    place = pair(kind, tmp_path / "photos", 1, 2)
    ask(network, place, tmp_path / "out")
    before = rows(tmp_path / "out" / "predictions.csv")
    for path in (tmp_path / "photos").iterdir():
        path.touch()
    with monkeypatch.context() as patched:
        patched.setattr(LightningEngine, "label", lambda *_: pytest.fail("asked again"))
        ask(network, place, tmp_path / "out")
    pair(kind, tmp_path / "photos", 2, 1)
    ask(network, place, tmp_path / "out")
    assert rows(tmp_path / "out" / "predictions.csv") != before


def test_pictures_that_have_not_changed_are_not_read_again_to_be_known(network, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "KEPT_BYTES", 1)
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ask(network, photos, tmp_path / "out")
    monkeypatch.setattr(files, "_hash_file", lambda *_: pytest.fail("read again"))
    ask(network, photos, tmp_path / "out")


def test_python_does_not_read_pictures_twice(network, photos, monkeypatch):
    monkeypatch.setattr(files, "_hash_file", lambda *_: pytest.fail("nobody asks what they are"))
    (photos / "cut.jpg").unlink()
    for name in ("words.jpg", "empty.png", "gone.jpg"):
        (photos / name).unlink()
    assert len(nst.load(network).predict(photos)) == 12


@pytest.fixture
def corrected(network, photos, tmp_path, monkeypatch) -> Path:
    """A table in whose first line a person has put the right class, and then another picture."""
    monkeypatch.chdir(tmp_path)
    ask(network, photos, tmp_path / "out")
    table = tmp_path / "out" / "predictions.csv"
    table.write_text(table.read_text().replace("ant", "corrected"))
    (photos / "new.png").write_bytes(encode(picture(90), "PNG"))
    return table


def test_a_table_that_a_person_has_changed_is_not_deleted(network, photos, tmp_path, corrected):
    text = corrected.read_text()
    other = "predict.views=all"  # a run of its own
    for overwrite in (False, True):
        with pytest.raises(NstError, match=r"move predictions\.csv away, which is not as nst wrote it") as caught:
            ask(network, photos, tmp_path / "out", other, f"overwrite={str(overwrite).lower()}")
        assert corrected.read_text() == text
    advice = shlex.join(["mv", str(corrected), "predictions.mine.csv"])
    assert f"\n         {advice}" in str(caught.value)
    # the advice, followed, twice
    subprocess.run(advice, shell=True, check=True, cwd=tmp_path)
    assert ask(network, photos, tmp_path / "out", other, "overwrite=true")["predicted"] == 13
    corrected.write_text("path,class\n")
    with pytest.raises(NstError, match=r"predictions\.mine1\.csv"):
        ask(network, photos, tmp_path / "out", other, "--top", "1")
    assert (tmp_path / "predictions.mine.csv").read_text() == text


def test_a_table_whose_note_is_gone_is_not_deleted(network, photos, tmp_path, corrected):
    for damage in ("half", None):
        (tmp_path / "out" / "result.json").write_text(damage) if damage else (tmp_path / "out" / "result.json").unlink()
        with pytest.raises(NstError, match=r"move predictions\.csv, unreadable\.csv, unsure\.csv away"):
            ask(network, photos, tmp_path / "out", "predict.views=all", "overwrite=true")
        assert "corrected" in corrected.read_text()


def test_a_table_in_the_run_that_made_it_stays_when_that_is_overwritten(network, photos, tmp_path):
    outer = tmp_path / "gen1"
    with Run(outer, "train", {"seed": 0}) as made:
        made.finish({})
    for name in ("a", "b"):
        ask(network, photos, outer / "predict" / name)
    (outer / "predict" / "a" / "unsure.csv").write_text("path,class\n0.jpg,ant\n")
    with pytest.raises(NstError, match=r"got:   predict/a/unsure\.csv"):
        Run(outer, "train", {"seed": 1}, overwrite=True).__enter__()
    (outer / "predict" / "a" / "unsure.csv").unlink()
    with Run(outer, "train", {"seed": 1}, overwrite=True):
        assert not (outer / "predict").exists()


@pytest.mark.parametrize("what", [None, 3, io.StringIO("a\nb")])
def test_what_is_no_picture_is_told_with_what_is_taken(what: Any, network):
    for given in (what, [what]):
        with pytest.raises(NstError, match=rf"this is no picture[\s\S]*got: .*{type(what).__name__}[\s\S]*a PIL image"):
            nst.load(network).predict(given)


@pytest.mark.parametrize("what", [None, 3, [], [3], np.zeros((2, 2))])
def test_what_is_no_network_is_told_with_what_is_taken(what: Any):
    with pytest.raises(NstError, match=r"nst.load needs a network[\s\S]*run directory or network file, or a list"):
        nst.load(what)


# ---- sorting


def test_sorting_makes_links_replaces_nothing_and_moves_its_own(network, photos, tmp_path):
    target = tmp_path / "sorted"
    ask(network, photos, tmp_path / "out")
    found = {row["path"]: row["class"] for row in rows(tmp_path / "out" / "predictions.csv")}
    folder = {"bee/wasp": "bee_wasp", "[red] cat": "[red] cat"}
    first = f"{photos}/3.jpg"
    mine = target / folder.get(found[first], found[first]) / "3.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    result = ask(network, photos, tmp_path / "out", "--sort-into", str(target))
    assert result["sorted"] == 12
    assert mine.read_text() == "mine"
    assert (mine.parent / "3~2.jpg").readlink() == Path(first)
    links = {path: path.readlink() for path in target.rglob("*") if path.is_symlink()}
    assert len(links) == 12
    assert all(link.exists() for link in links), "also of names that are no UTF-8"
    for link, file in links.items():
        says = found[str(file).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")]
        assert link.parent.name == folder.get(says, says)
    assert any(link.name == "sub folder-deep-moving.gif" for link in links)
    ask(network, photos, tmp_path / "out", "--sort-into", str(target))
    assert {path: path.readlink() for path in target.rglob("*") if path.is_symlink()} == links
    other = network_file(tmp_path / "other.safetensors", seed=5)
    ask(other, photos, tmp_path / "other", "--sort-into", str(target))
    moved = {path.readlink(): path for path in target.rglob("*") if path.is_symlink()}
    assert len(moved) == len([path for path in target.rglob("*") if path.is_symlink()]) == 12
    assert set(moved.values()) != set(links)
    assert mine.read_text() == "mine"


def test_sorted_copies_of_an_archive_go_where_the_picture_is_of_another_class_or_gone(network, tmp_path):
    place, target = tmp_path / "p.tar", tmp_path / "sorted"

    def pack(*numbers: int) -> None:
        with tarfile.open(place, "w") as tar:
            for number in numbers:
                add_file(tar, f"{number}.jpg", encode(picture(number), "JPEG"))

    def copies() -> dict[str, str]:
        return {path.name: path.parent.name for path in target.rglob("*.jpg")}

    pack(*range(8))
    ask(network, place, tmp_path / "out", "--sort-into", str(target))
    before = copies()
    mine = target / before["0.jpg"] / "mine.jpg"
    mine.write_text("mine")
    edited = target / before["7.jpg"] / "7.jpg"
    edited.write_bytes(edited.read_bytes() + b"edited")
    pack(*range(1, 8))
    ask(network_file(tmp_path / "other.safetensors", seed=5), place, tmp_path / "other", "--sort-into", str(target))
    after = copies()
    assert edited.read_bytes().endswith(b"edited"), "it is a person's now"
    assert set(after) - {"7~2.jpg"} == {*(f"{number}.jpg" for number in range(1, 8)), "mine.jpg"}
    assert len(list(target.rglob("*.jpg"))) == 9
    assert {name: after[name] for name in before if name in after} != {n: before[n] for n in before if n in after}
    result = ask(network, place, tmp_path / "again")
    assert "sorted" not in result


def test_a_table_that_was_moved_away_is_written_again(network, photos, tmp_path, asked_about):
    out = tmp_path / "out"
    ask(network, photos, out, "--sort-into", str(tmp_path / "sorted"))
    tables = {name: (out / name).read_bytes() for name in ("predictions.csv", "sheet.html", "unsure.csv")}
    for name in tables:
        (out / name).rename(tmp_path / name)
        assert "sorted" not in ask(network, photos, out)
        assert (out / name).exists()
        if name != "sheet.html":  # which tells the command
            assert (out / name).read_bytes() == tables[name]
    (out / "unsure.csv").write_text("path,class\n")
    assert "unsure.csv" not in predict.summary_line(ask(network, photos, out), out), "nobody is unsure"
    assert asked_about == [15]


def test_sorting_into_a_file_is_refused_before_anything_is_computed(network, photos, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("mine")
    monkeypatch.setattr(LightningEngine, "label", lambda *_: pytest.fail("it computed"))
    for place in ("a file", "a file/below it"):
        with pytest.raises(UsageError, match=r"cannot be sorted into .*[\s\S]*got: .*a file, which is no folder"):
            ask(network, photos, tmp_path / "out", "--sort-into", str(tmp_path / place))
    assert not (tmp_path / "out").exists()


def test_sorting_tells_of_a_file_where_a_class_needs_its_folder(network, photos, tmp_path):
    place = tmp_path / "sorted"
    place.mkdir()
    for name in class_folders(CLASSES):
        (place / name).write_text("mine")
    with pytest.raises(UsageError, match=r"cannot be sorted into .*[\s\S]*, which is no folder"):
        ask(network, photos, tmp_path / "out", "--sort-into", str(place))
    assert all((place / name).read_text() == "mine" for name in class_folders(CLASSES))


@pytest.mark.parametrize("place", ["https://x.org/a.jpg", "s3://bucket/all.zip", "https://x.org/list.csv?x=1"])
def test_pictures_at_an_address_are_refused_before_anything_is_fetched(network, tmp_path, place, monkeypatch):
    monkeypatch.setattr(inputs.ShardSet, "open", lambda *_: pytest.fail("it was fetched"))
    with pytest.raises(NstError, match=r"not read from an address[\s\S]*next:  download it first"):
        ask(network, place, tmp_path / "out")


def test_a_list_may_part_folders_as_windows_does(network, photos, tmp_path):
    (photos / "list.csv").write_text("path\nsub folder\\deep\\moving.gif\n0.jpg\n")
    assert ask(network, photos / "list.csv", tmp_path / "out")["predicted"] == 2


def test_a_list_of_excels_may_say_what_parts_its_columns(tmp_path):
    (tmp_path / "list.csv").write_text("sep=;\r\nclass;path\r\nx;a.jpg\r\n")
    assert listed_paths(tmp_path / "list.csv")[1] == ["a.jpg"]


def test_the_last_words_name_classes_that_have_pictures_and_count_right(tmp_path):
    def told(**by_class: int) -> str:
        counts = {"predicted": sum(by_class.values()), "unsure": 0, "unreadable": 0}
        result = {**counts, "by_class": by_class, "sheet": False, "tables": {}}
        return predict.summary_line(result, tmp_path).splitlines()[0]

    assert told(a=80, b=0, c=0, d=0, e=0, f=0, g=0) == "80 pictures with an answer: a 80"
    assert told(a=1, b=0) == "1 picture with an answer: a 1"
    assert told(**dict.fromkeys("abcdefg", 200)).endswith("f 200, 1 more class")
    assert told(**dict.fromkeys("abcdefgh", 200)).startswith("1,600 pictures")
    assert told(**dict.fromkeys("abcdefgh", 2)).endswith("f 2, 2 more classes")


def test_classes_that_a_file_system_would_take_for_one_have_folders_of_their_own():
    assert class_folders(["a/b", "a_b", "a:b", "c", "..", "", "a_b~2"]) == [
        "a_b~3", "a_b", "a_b~4", "c", "_", "_~2", "a_b~2",
    ]  # fmt: skip


def test_pictures_in_an_archive_are_written_out(network, tmp_path):
    ask(network, archive(tmp_path / "p.tar", "w"), tmp_path / "out", f"--sort-into={tmp_path / 'sorted'}")
    files = list((tmp_path / "sorted").rglob("*.jpg"))
    assert sorted(path.name for path in files) == [f"in-{number}.jpg" for number in range(5)]
    assert {path.read_bytes() for path in files} == {encode(picture(number), "JPEG") for number in range(5)}
    assert not any(path.is_symlink() for path in files)


# ---- the contact sheet


def test_the_contact_sheet_is_one_file_with_pictures_by_class_the_surest_first(network, photos, tmp_path):
    ask(network, photos, tmp_path / "out", "predict.sheet=6")
    page = (tmp_path / "out" / "sheet.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "nothing from elsewhere"
    assert 6 <= page.count("<img ") <= 7
    assert "&lt;" not in page or "<script" not in page
    shown = [float(share) for share in re.findall(r'class="sure">(\d+) %', page)]
    assert shown
    for section in page.split("<section")[2:]:
        shares = [float(share) for share in re.findall(r'class="sure">(\d+) %', section)]
        assert shares == sorted(shares, reverse=True)
    said = re.findall(
        r'<span class="says">.*</span>\s*<span class="sure">(\d+) %</span>\s*(?:<span class="caption">(.*)<)?', page
    )
    others = [re.findall(r"(\d+)\xa0%", more) for _, more in said]
    assert any(others), "the runners-up come behind the answer"
    for (sure, _), shares in zip(said, others, strict=True):
        assert sorted(map(int, [sure, *shares]), reverse=True) == [*map(int, [sure, *shares])]
    assert ask(network, photos, tmp_path / "out", "predict.sheet=0")
    assert not (tmp_path / "out" / "sheet.html").exists()


def test_classes_take_turns_on_the_sheet():
    assert shared_out(np.array([100, 3, 0, 50]), 23) == [10, 3, 0, 10]
    assert shared_out(np.array([2, 2]), 100) == [2, 2]
    assert sum(shared_out(np.array([5] * 50), 20)) <= 50
    assert spread(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert spread(np.arange(3), 3).tolist() == [0, 1, 2]


# ---- several networks


def test_several_networks_answer_with_the_mean_each_at_its_size_and_order_of_classes(network, photos, tmp_path):
    order = (2, 0, 3, 1)
    other = network_file(tmp_path / "b.safetensors", 1, tuple(CLASSES[place] for place in order), size=24)
    both = Ensemble.of([network, other])
    assert both.classes == CLASSES
    assert both.windows == [(0, 16), (16, 24)]
    one, two = nst.load(network), nst.load(other)
    together = nst.load([network, other])
    paths = [photos / f"{number}.jpg" for number in range(9)]
    for first, second, mean in zip(one.predict(paths), two.predict(paths), together.predict(paths), strict=True):
        by_name = dict(zip(second.classes, second.probabilities, strict=True))
        expected_mean = [(p + by_name[name]) / 2 for name, p in zip(CLASSES, first.probabilities, strict=True)]
        np.testing.assert_allclose(mean.probabilities, expected_mean, atol=1e-5)
    assert any(a.class_name != b.class_name for a, b in zip(one.predict(paths), two.predict(paths), strict=True))
    ask([network, other], photos, tmp_path / "out", "trainer.workers=1")
    found = {row["path"]: row for row in rows(tmp_path / "out" / "predictions.csv")}
    for path, mean in zip(paths, together.predict(paths), strict=True):
        assert found[str(path)]["class"] == mean.class_name
        assert float(found[str(path)]["confidence"]) == pytest.approx(mean.confidence, abs=2e-3)


def test_networks_over_other_classes_are_refused_by_name(network, tmp_path):
    other = network_file(tmp_path / "b.safetensors", 1, ("ant", "bee/wasp", "[red] cat", "fox"))
    with pytest.raises(NstError, match=r"dog only in .*; fox only in"):
        nst.load([network, other])


def test_views_of_several_sizes_travel_as_one_picture():
    views = (CenterView(8, crop="none"), CenterView(12, crop="center"))
    both, pixels = SideBySide(views), picture(3)
    seen = torch.from_numpy(both(pixels)).permute(2, 0, 1)[None]
    assert seen.shape == (1, 3, 12, 20)
    for view, window in zip(views, both.windows, strict=True):
        np.testing.assert_array_equal(seen_by(seen, window)[0].permute(1, 2, 0).numpy(), view(pixels))


# ---- Python


def test_python_takes_paths_images_arrays_and_bytes_and_folders(network, photos):
    loaded = nst.load(network)
    path = photos / "4.jpg"
    data = path.read_bytes()
    pixels = np.asarray(Image.open(path).convert("RGB"))
    answers = loaded.predict([path, str(path), Image.open(path), pixels, data], batch_size=2)
    assert [answer.path for answer in answers] == [str(path), str(path), None, None, None]
    for answer in answers:
        np.testing.assert_allclose(answer.probabilities, expected(network, pixels).numpy(), atol=1e-4)
        assert answer.class_name == answer.top(1)[0][0] == CLASSES[int(answer.probabilities.argmax())]
        assert [name for name, _ in answer.top(4)] != []
        assert answer.confidence == pytest.approx(float(answer.probabilities.max()))
    assert loaded.predict(pixels)[0].class_name == answers[0].class_name
    assert len(loaded.predict(photos / "sub folder")) == 2
    grey = loaded.predict([pixels[:, :, 0], Image.fromarray(pixels[:, :, 0])])
    np.testing.assert_allclose(grey[0].probabilities, grey[1].probabilities, atol=1e-5)


def test_python_takes_what_pillow_would_make_one_picture_of(network, photos):
    """Open files, tensors, and arrays with one channel or with transparency."""
    loaded, path = nst.load(network), photos / "4.jpg"
    pixels = np.asarray(Image.open(path).convert("RGB"))
    grey, tensor = pixels[:, :, :1], torch.from_numpy(pixels.copy())
    clear = np.dstack([pixels, np.full(pixels.shape[:2], 100, np.uint8)])
    written = io.BytesIO()
    written.write(path.read_bytes())  # and left at its end
    with open(path, "rb") as file:
        answers = loaded.predict([file, file, written, tensor, tensor.permute(2, 0, 1), pixels], batch_size=4)
        answers += loaded.predict(file) + loaded.predict(tensor) + loaded.predict(written)
    for answer in answers:
        np.testing.assert_allclose(answer.probabilities, answers[0].probabilities, atol=2e-4)
    one = [grey, grey[:, :, 0], torch.from_numpy(grey.copy()), torch.from_numpy(grey[None, :, :, 0].copy())]
    for answer in loaded.predict(one):
        np.testing.assert_allclose(answer.probabilities, loaded.predict(grey)[0].probabilities, atol=2e-4)
    through, image = loaded.predict([clear, Image.fromarray(clear)])
    np.testing.assert_allclose(through.probabilities, image.probabilities, atol=2e-4)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"this tensor is no picture[\s\S]*predict\(list"),
        (torch.zeros(3, 8, 8), r"this tensor is no picture[\s\S]*float32[\s\S]*of uint8"),
        (torch.zeros(3, 8, 3, dtype=torch.uint8), r"channels first or last[\s\S]*permute"),
        (np.zeros((3, 8, 8), np.uint8), r"this array is no picture[\s\S]*\(H, W, 3\)"),
        ({"a": "x.jpg"}, r"no picture, nor several[\s\S]*got:   dict[\s\S]*valid: a path"),
        (io.StringIO("x"), r"opened as text[\s\S]*next:  open\(\.\.\., 'rb'\)"),
    ],
)
def test_python_refuses_what_could_be_several_things(network, what, says):
    with pytest.raises(NstError, match=says):
        nst.load(network).predict(what)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("cut.jpg", r"cut\.jpg cannot be read"),
        ("missing.jpg", "there is nothing at"),
        (b"words", "an image file in memory cannot be read"),
        (np.zeros((4, 4, 2), np.uint8), "this array is no picture"),
        (np.zeros((4, 4, 3)), "this array is no picture"),
        (7, "this is no picture"),
        (Image.new("F", (4, 4)), "a PIL image cannot be read"),
    ],
)
def test_python_says_which_picture_cannot_be_read(network, photos, what, says):
    with pytest.raises(NstError, match=says):
        nst.load(network).predict([photos / what if isinstance(what, str) else what])


def test_importing_nst_brings_neither_torch_nor_anything_else_heavy():
    code = "import sys, nst; print([name for name in ('torch', 'numpy', 'lightning', 'hydra') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_lines_in_the_guide_do_what_it_says(network, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "predict.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    run_of(tmp_path / "runs" / "mine", network)
    (tmp_path / "photos").mkdir()
    for number in (1, 2):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(encode(picture(number), "JPEG"))
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "predict.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["photos/1.jpg", "photos/2.jpg"]
    assert all(any(name in line for name in CLASSES) for line in lines)
