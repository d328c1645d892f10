"""Room on a disk: refused before, told when it runs out."""

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tokenstore.errors import NoRoom
from tokenstore.space import check_room, free_bytes, least_store, room_for

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1000, 900, 100))


def test_room_is_asked_for_where_the_folder_will_be(tmp_path: Path) -> None:
    assert free_bytes(str(tmp_path / "not" / "there")) > 0
    assert free_bytes("s3://bucket/store") is None


def test_what_cannot_fit_is_refused_with_both_figures(nearly_full: None, tmp_path: Path) -> None:
    check_room(str(tmp_path), 100)
    check_room("s3://bucket/store", 10**18)
    with pytest.raises(NoRoom, match="needs about 1,234 bytes, 100 are free"):
        check_room(str(tmp_path), 1234)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_becomes_full_is_told_with_what_is_needed(
    nearly_full: None, tmp_path: Path, code: int
) -> None:
    told = r"needs about 5,000 bytes in all; 100 are free.*same line"
    with pytest.raises(NoRoom, match=told), room_for(str(tmp_path), 5000):
        raise OSError(code, "full")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), room_for(str(tmp_path), 1):
        raise PermissionError(errno.EACCES, "no")


def test_the_estimate_of_a_store_is_a_low_one() -> None:
    assert least_store(0, (16, 16), 9.0) == 0
    assert 200 * 1000 < least_store(1000, (16, 16), 9.0) < 16 * 16 * 9 / 8 * 1000
