"""Labels in CSV files: which picture is of which class, and what is said where a line is wrong."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers import encode, noise

from nst.config import compose_config
from nst.data.source import Source
from nst.data.sources import open_source
from nst.errors import NstError
from nst.stages import shard

PICTURES = ("a/1.png", "a/2.png", "b/1.png", "b/3.png", "b/4.png")


def pictures(root: Path, wrap: str = "") -> Path:
    for number, name in enumerate(PICTURES):
        path = root / wrap / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise(8, 8, number), "PNG"))
    return root


def labels(root: Path, text: str, encoding: str = "utf-8") -> Path:
    path = root / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def found(source: Source) -> dict[str, tuple[str | None, str | None]]:
    """Class and split by key."""
    return {entry.key: (source.classes[entry.label] if entry.label is not None else None, entry.split)
            for entry in source.entries}  # fmt: skip


WHOLE = {"a-1": ("rose", "train"), "a-2": ("daisy", "train"), "b-1": (None, None), "b-3": ("rose", "test"),
         "b-4": ("daisy", "unlabeled")}  # fmt: skip
TEXT = """file,label,split
a/1.png,rose,train
a/2.png,daisy,train
b/1.png,,
b/3.png,rose,test
b/4.png,daisy,unlabelled
"""


@pytest.mark.parametrize("text", [
    TEXT,
    TEXT.replace("\n", "\r\n") + "\r\n",
    TEXT.replace(",", ";"),
    TEXT.replace(",", "\t"),
    TEXT.replace("file,label,split", "Path,Class,Set").replace("rose,train", '"rose" ,TRAIN'),
    "split,rose,daisy,image\ntrain,1,0,a/1\ntrain,0.0,1.0,a/2\n,0,0,b/1\ntest,1,0,3\nunlabeled,,1,4.png\n".replace(
        "a/1\n", "./a/1.png\n").replace("a/2\n", "a/2.png\n").replace("b/1\n", "b\\\\1.png\n".replace("\\\\", "\\")),
    "sep=;\r\n" + TEXT.replace(",", ";").replace("\n", "\r\n"),
    TEXT.replace("b/1.png,,", "b/1.png,NaN,"),
    ",split,rose,daisy,image\n0,train,True,False,a/1.png\n1,train,False,True,a/2.png\n2,,False,False,b/1.png\n"
    "3,test,True,False,b/3.png\n4,unlabeled,False,True,b/4.png\n",
], ids=["commas", "windows", "semicolons", "tabs", "names", "a-column-each", "sep", "nan", "get_dummies"])  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_labels_is_read_however_it_is_written(tmp_path: Path, text: str, encoding: str) -> None:
    path = labels(pictures(tmp_path), text, encoding)
    source = open_source("csv", root=path)
    assert source.classes == ("daisy", "rose")
    assert found(source) == WHOLE
    assert [sample.image for sample in source] == [(tmp_path / name).read_bytes() for name in PICTURES]


@pytest.mark.parametrize("text", [
    "file,label,fold\na/1.png,rose,0\na/2.png,daisy,4\nb/1.png,,\n",
    "file,rose,daisy,fold\na/1.png,1,0,0\na/2.png,0,1,1\nb/1.png,,,0\n",
], ids=["a label", "a column each"])  # fmt: skip
def test_numbers_of_folds_are_no_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = labels(pictures(tmp_path), text)
    source = open_source("csv", root=path)
    of_the_file = {key: value for key, value in found(source).items() if key in ("a-1", "a-2", "b-1")}
    assert of_the_file == {"a-1": ("rose", None), "a-2": ("daisy", None), "b-1": (None, None)}
    assert f"{path}: column fold has numbers" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(NstError, match="line 2 names no split"):
        open_source("csv", root=path, split_column="fold")


def test_splits_without_labels_are_told_what_they_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path)
    path = labels(root, "file,split\na/1.png,train\na/2.png,unlabeled\nb/1.png,test\nb/3.png,val\n")
    options = [f"data.source.root={path}", f"shard.output={tmp_path / 'out'}", "data.labeled_per_class=null"]
    shard.main(compose_config(["data=csv", "stage=shard", *options]))
    told = " ".join(capsys.readouterr().out.split())
    assert f"{path}: no column is known to name the classes" in told
    assert "data.source.label_column names it" in told
    assert "2 pictures are for test or validation and without a label: in none of the sets" in told
    assert "sizes asked for" not in told
    labels(root, "file,split,kind\na/1.png,train,x\n")
    for each in open_source("csv", root=path, label_column="kind").classes:  # the advice, followed
        assert each == "x"


@pytest.mark.parametrize("kind", ["tar", "zip", "folder"])
@pytest.mark.parametrize("wrap", ["", "photos"])
def test_pictures_may_lie_in_a_folder_a_tar_or_a_zip(tmp_path: Path, kind: str, wrap: str) -> None:
    place = pictures(tmp_path / "p", wrap)
    files = sorted(place.rglob("*.png"))
    if kind == "tar":
        place = tmp_path / "p.tar"
        with tarfile.open(place, "w") as archive:
            archive.add(tmp_path / "p", ".")
    elif kind == "zip":
        place = tmp_path / "p.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(tmp_path / "p"))
    (tmp_path / "elsewhere").mkdir()
    source = open_source("csv", root=labels(tmp_path / "elsewhere", TEXT), pictures=place)
    assert {key.removeprefix("photos-"): value for key, value in found(source).items()} == WHOLE
    assert {sample.image for sample in source} == {file.read_bytes() for file in files}


@pytest.mark.parametrize("said", ["/home/anna/all/a/2.png", "all\\a\\2.png", "2.png", "2", "./all/a/2"])
def test_a_path_from_another_place_is_known_by_its_end(tmp_path: Path, said: str) -> None:
    source = open_source("csv", root=labels(pictures(tmp_path), f"file,label\n{said},rose\n"))
    assert [key for key, (label, _) in found(source).items() if label] == ["a-2"]


def test_the_answers_of_predict_are_labels_when_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = pictures(tmp_path / "p")
    header = "path,class,confidence,second,second_confidence\n"
    for way in (str(place), "p"):
        text = header + "".join(f"{way}/{name},{'rose' if i % 2 else 'daisy'},0.{i}1,tulip,0.1\n"
                                for i, name in enumerate(PICTURES))  # fmt: skip
        monkeypatch.chdir(tmp_path)
        source = open_source("csv", root=labels(tmp_path, text), pictures="p")
        assert found(source)["b-3"] == ("rose", None)
        assert source.classes == ("daisy", "rose")
    lines = text.splitlines()
    lines[-1] = f"p/{PICTURES[-1]},tulip"  # one that a person has added
    source = open_source("csv", root=labels(tmp_path, "\n".join(lines)), pictures="p")
    assert source.classes == ("daisy", "rose", "tulip")


def test_names_that_are_no_utf8_are_read_as_predict_writes_them(tmp_path: Path) -> None:
    (place := tmp_path / "p").mkdir()
    for number, name in enumerate((b"caf\xe9.png", b"th\xe9.png")):
        Path(os.fsdecode(os.fsencode(place) + b"/" + name)).write_bytes(encode(noise(8, 8, number), "PNG"))
    text = f"path,class\n{place}/caf\\xe9.png,rose\nth\\xe9.png,daisy\n"
    source = open_source("csv", root=labels(tmp_path, text), pictures=place)
    assert [source.classes[entry.label] for entry in source.entries] == ["rose", "daisy"]
    assert len({sample.image for sample in source}) == 2


def test_what_pandas_writes_for_nothing_is_nothing_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "file,label,split\na/1.png,NaN,NaN\na/2.png,<NA>,\nb/1.png,nan,\nb/3.png,Nan,\nb/4.png,NAN,\n"
    source = open_source("csv", root=labels(pictures(tmp_path), text))
    assert source.classes == ("NAN", "Nan")
    assert "3 lines with NaN or <NA> for a class" in "".join(capsys.readouterr())


def test_columns_that_are_not_read_are_told_and_words_of_other_languages_name_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "a/1.png;rose;gut;Trainingsdaten\na/2.png;daisy;;Testdaten\nb/1.png;;;unsortiert\n"
    path = labels(pictures(tmp_path), f"Datei;Klasse;Notiz;Teil\n{rows}")
    columns = {"file_column": "Datei", "label_column": "Klasse"}
    open_source("csv", root=path, **columns)
    assert "not read: 2 columns, Teil, Notiz; if Teil names the splits: data.source.split_column=Teil" in "".join(
        capsys.readouterr()
    ).replace("\n", " ")
    source = open_source("csv", root=path, **columns, split_column="Teil")
    assert [entry.split for entry in source.entries] == ["train", "test", "unlabeled"]
    assert "not read: 1 column, Notiz\n" in "".join(capsys.readouterr())
    open_source(
        "csv", root=labels(tmp_path, "path,class,confidence,class_2,confidence_2\na/1.png,rose,0.9,daisy,0.1\n")
    )
    assert "not read" not in "".join(capsys.readouterr()), "the answers of predict"


def test_a_cross_marks_the_class_too(tmp_path: Path) -> None:
    source = open_source("csv", root=labels(pictures(tmp_path), "file,rose,daisy\na/1.png,x,\na/2.png,,X\n"))
    assert [source.classes[entry.label or 0] for entry in source.entries] == ["rose", "daisy"]


def test_an_index_and_files_alone_say_that_no_picture_has_a_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert open_source("csv", root=labels(pictures(tmp_path), ",file\n0,a/1.png\n1,a/2.png\n")).classes == ()
    assert "no column is known to name the classes" in "".join(capsys.readouterr())


def test_classes_that_are_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    text = "file,label\n" + "".join(
        f"{name},{number}\n" for name, number in zip(PICTURES, (10, 9, 2, 0, 1), strict=True)
    )
    assert open_source("csv", root=labels(pictures(tmp_path), text)).classes == ("0", "1", "2", "9", "10")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"labels\.csv is empty"),
        (" \n\n", r"labels\.csv is empty"),
        ("x,y\n1,2\n", r"no column is known to name the pictures[\s\S]*got:   x, y[\s\S]*data\.source\.file_column="),
        ("x,y\n1,2\n", r"file_column=<name of the column> data\.source\.label_column=<that of the classes>"),
        ("x,label\n1,2\n", r"file_column=<name of the column>$"),
        ("a/1.png,rose\na/2.png,daisy\n", r"first line does not name the columns[\s\S]*above it: file,label"),
        ("file,label\n", "names no pictures"),
        ("file,file\n1,2\n", "two columns of one name"),
        ("file,label\na/1.png,rose\n\na/2.png\n", r"line 4 has 1 columns[\s\S]*2: file, label"),
        ("file,label\n,rose\n", "line 2 names no picture"),
        (
            "file,label\na/1.png,rose\na/9.png,rose\n",
            r"line 3 names a picture that is not in [\s\S]*did you mean 'a/2.png'",
        ),
        ("file,label\n1.png,rose\n", r"line 2 could be 2 pictures[\s\S]*a/1\.png, b/1\.png"),
        ("file,label\nz/2.png,rose\n", r"line 2 names a picture that is not in [\s\S]*z/2\.png"),
        (
            "file,label,split\na/1.png,rose,train\na/2.png,rose,tset\n",
            r"line 3 names no split[\s\S]*tset[\s\S]*train, training, val, .*testdaten",
        ),
        ("file,label\na/1.png,rose\na/1.png,'a b '\n", r"got:   'rose' there, \"'a b '\" here"),
        ("file,rose,daisy,part\na/1.png,1,0,train\n", r"column part[\s\S]*data\.source\.split_column=part"),
        ("file,label\nA/1.PNG,rose\n", r"did you mean 'a/1\.png'"),
        ("file,label\nA/1.PNG,rose\nB/1.png,rose\nc.png,rose\n", r"2 of them differ .* in capital letters alone"),
        ("file,label\na/1.png,rose\na/1.png,daisy\n", r"line 3 contradicts line 2 about a/1\.png[\s\S]*rose"),
        ("file,label\na/1.png,rose\n./a/1.png,rose\n", r"line 3 names the picture of line 2"),
        ("file,rose,daisy\na/1.png,1,1\n", r"line 2 is of several classes[\s\S]*rose, daisy"),
        ("file,rose,age\na/1.png,1,37\n", r"line 2 has neither 0 nor 1 in column age[\s\S]*label_column="),
        ("file,label\na/1.png,train\n", r"a class would be called train"),
        ('file,label\n"a/1.png,rose\n' + "x" * 200_000, "cannot be read"),
    ],
)
def test_a_line_that_is_wrong_is_told_by_its_number(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(NstError, match=message):
        _ = open_source("csv", root=labels(pictures(tmp_path), text)).entries


def test_several_pictures_that_are_not_there_are_named_up_to_eight(tmp_path: Path) -> None:
    def told(count: int) -> str:
        rows = "".join(f"c/{number}0.png,rose\n" for number in range(count))
        with pytest.raises(NstError) as caught:
            open_source("csv", root=labels(pictures(tmp_path), f"file,label\na/1.png,rose\n{rows}"))
        assert f"{count:,} lines name pictures that are not in" in caught.value.what
        assert "mend these lines, or name the folder" in str(caught.value.next)
        return str(caught.value.got)

    assert [line.split(",")[0].strip() for line in told(2).splitlines()] == ["line 3: c/00.png", "line 4: c/10.png"]
    assert told(2000).count("line ") == 8
    assert told(2000).endswith("and 1,992 more")


def test_a_file_that_is_no_text_or_not_there_is_told(tmp_path: Path) -> None:
    path = labels(pictures(tmp_path), "file,label\na/1.png,caf\xe9\n", "latin-1")
    with pytest.raises(NstError, match=r"line 2 is not UTF-8[\s\S]*next:  save .*labels\.csv as UTF-8"):
        open_source("csv", root=path)
    with pytest.raises(NstError, match=r"cannot read .*none\.csv"):
        open_source("csv", root=tmp_path / "none.csv")
    with pytest.raises(NstError, match=r"no such folder or archive[\s\S]*data\.source\.pictures="):
        open_source("csv", root=labels(tmp_path, TEXT), pictures=tmp_path / "none")
    with pytest.raises(NstError, match=r"no column lable, did you mean 'label'"):
        open_source("csv", root=labels(tmp_path, TEXT), label_column="lable")


def test_the_identity_is_labels_and_pictures(tmp_path: Path) -> None:
    path = labels(pictures(tmp_path), TEXT)
    before = open_source("csv", root=path).digest
    labels(tmp_path, TEXT.replace(",", ";"))
    assert open_source("csv", root=path).digest == before
    labels(tmp_path, TEXT.replace("a/1.png,rose", "a/1.png,daisy"))
    assert open_source("csv", root=path).digest != before
    labels(tmp_path, TEXT)
    (tmp_path / "a/1.png").write_bytes((tmp_path / "a/2.png").read_bytes())
    assert open_source("csv", root=path).digest != before


def test_shards_are_made_of_a_file_of_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "image,dx\n" + "".join(f"{name},{'rose' if i % 2 else 'daisy'}\n" for i, name in enumerate(PICTURES[:4]))
    path = labels(pictures(tmp_path / "p"), text)
    shard.main(compose_config(["stage=shard", "data=csv", f"data.source.root='{path}'",
                               f"data.root='{tmp_path / 'out'}'", "data.labeled_per_class=1"]))  # fmt: skip
    told = capsys.readouterr().out
    assert "2 labeled, 2 test images of 2 classes" in told
    assert f"pictures in {tmp_path / 'p'} that labels.csv does not name: 1" in told
