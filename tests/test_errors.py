"""Errors keep what they say in parts, also on their way between processes."""

import pickle

import pytest

from nst.errors import NstError, Preempted, UsageError, in_a_line


@pytest.mark.parametrize("kind", [NstError, UsageError, Preempted])
def test_an_error_keeps_its_parts_from_one_process_to_another(kind: type[NstError]):
    error = kind("seed cannot be -1", got=-1, valid="a whole number", next="seed=0")
    for found in (error, pickle.loads(pickle.dumps(error))):
        assert type(found) is kind
        assert (found.what, found.got, found.valid, found.next) == (
            "seed cannot be -1",
            "-1",
            "a whole number",
            "seed=0",
        )
        assert str(found) == "seed cannot be -1\n  got:   -1\n  valid: a whole number\n  next:  seed=0"


def test_what_is_not_given_is_not_said():
    error = NstError("the disk is full")
    assert (error.got, error.valid, error.next) == (None, None, None)
    assert str(error) == "the disk is full"
    assert str(NstError("no", got=[])) == "no\n  got:   []"


def test_no_part_shows_a_secret():
    error = NstError("cannot read s3://me:geheim1@bucket", got="https://u:geheim2@host/x", next="--token geheim333")
    assert "geheim" not in "".join([error.what, error.got or "", error.next or "", str(error)])


def test_an_error_in_a_line():
    assert in_a_line(NstError("no such folder: x\ny", got="nothing")) == "no such folder: x"
    assert in_a_line(ValueError("first\nsecond")) == "ValueError: first"
    assert in_a_line(FileNotFoundError(2, "No such file", "a.jpg")) == "No such file: a.jpg"
