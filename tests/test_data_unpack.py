"""Unpacking: nothing outside the folder, half-done work continued, unsafe and damaged archives refused."""

import io
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import (
    BODY,
    FILES,
    noise,
    zipped,
)

from minimaskrcnn.data import unpack as unpacking
from minimaskrcnn.data.unpack import unpack


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NAMES = {name.split("/")[1]: content for name, content in FILES.items()}


@pytest.fixture
def archive(tmp_path) -> Path:
    path = tmp_path / "val2017.zip"
    path.write_bytes(BODY)
    return path


def test_unpacking(archive, tmp_path):
    unpack(archive, tmp_path / "new" / "coco", "val2017", files=20)
    assert contents(tmp_path / "new" / "coco" / "val2017") == NAMES
    assert [path.name for path in (tmp_path / "new" / "coco").iterdir()] == ["val2017"]


def test_a_folder_member_is_no_file(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"val2017/": b"", **FILES}))
    unpack(tmp_path / "a.zip", tmp_path, "val2017", files=20)
    assert contents(tmp_path / "val2017") == NAMES


def test_unpacking_goes_on_after_an_interruption(archive, tmp_path, monkeypatch):
    copy, done = shutil.copyfileobj, []

    def interrupted(source: io.BufferedIOBase, file: io.BufferedWriter, length: int) -> None:
        if len(done) == 7:
            file.write(b"half")
            raise KeyboardInterrupt
        done.append(source.name)
        copy(source, file, length)

    with monkeypatch.context() as patch:
        patch.setattr(unpacking.shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, tmp_path, "val2017", 20)
    assert not (tmp_path / "val2017").exists()
    half = contents(tmp_path / "val2017.partial")
    assert len([name for name in half if NAMES.get(name) == half[name]]) == 7 and len(half) == 8
    monkeypatch.setattr(unpacking.shutil, "copyfileobj", lambda *a: done.append(a[0].name) or copy(*a))
    unpack(archive, tmp_path, "val2017", 20)
    assert contents(tmp_path / "val2017") == NAMES and sorted(done) == sorted(FILES)
    assert not (tmp_path / "val2017.partial").exists()


def test_a_folder_that_is_there_gets_what_it_lacks(archive, tmp_path):
    folder = tmp_path / "val2017"
    folder.mkdir()
    first, second = sorted(NAMES)[:2]
    (folder / "mine.txt").write_bytes(b"kept")
    (folder / first).write_bytes(NAMES[first])
    before = (folder / first).stat().st_mtime_ns
    unpack(archive, tmp_path, "val2017", 20)
    assert contents(folder) == {**NAMES, "mine.txt": b"kept"}
    assert (folder / first).stat().st_mtime_ns == before
    (folder / second).write_bytes(b"changed")
    with pytest.raises(ValueError, match=rf"{second}: not the archive's file of 3000 bytes; move it away"):
        unpack(archive, tmp_path, "val2017", 20)
    assert (folder / second).read_bytes() == b"changed"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg", "/evil.jpg", "val2017/../../evil.jpg", "val2017/../evil.jpg", "val2017\\..\\evil.jpg",
        "C:/evil.jpg", "val2017/C:evil.jpg", "val2017/.bashrc", "val2017/a/b.jpg", "other/evil.jpg", "evil.jpg",
        "val2017/evil\n.jpg", "val2017/evil.jpg\n", "val2017/..", "val2017//evil.jpg", "val2017/evil\0.jpg", "",
    ],
)  # fmt: skip
def test_members_outside_the_folder(tmp_path, name):
    info = zipfile.ZipInfo("placeholder")
    info.filename = info.orig_filename = name
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("val2017/good.jpg", b"good")
        archive.writestr(info, b"evil")
    root = tmp_path / "deep" / "root"
    with pytest.raises(ValueError, match=r"a\.zip: member .* is no plain file of val2017/"):
        unpack(tmp_path / "a.zip", root, "val2017", 2)
    assert list(root.iterdir()) == [] and {path.name for path in tmp_path.iterdir()} == {"a.zip", "deep"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFSOCK])
def test_links_and_special_files(tmp_path, kind):
    info = zipfile.ZipInfo("val2017/link.jpg")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match=r"'val2017/link\.jpg' is no plain file of val2017/"):
        unpack(tmp_path / "a.zip", tmp_path, "val2017", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def refused(tmp_path: Path, body: bytes, message: str, files: int = 1) -> None:
    (tmp_path / "a.zip").write_bytes(body)
    with pytest.raises(ValueError, match=message) as caught:
        unpack(tmp_path / "a.zip", tmp_path, "val2017", files=files)
    assert str(tmp_path / "a.zip") in str(caught.value)
    assert not (tmp_path / "val2017").exists()


def test_other_archives(tmp_path):
    refused(tmp_path, zipped({}), "expected 1 files in val2017/, found 0")
    refused(tmp_path, BODY, "expected 21 files in val2017/, found 20", files=21)
    one_name = zipped({"val2017/a.jpg": b"1", "val2017/A.jpg": b"2"})
    refused(tmp_path, one_name, "expected 2 files in val2017/, found 1", files=2)
    refused(tmp_path, one_name, "expected 1 files in val2017/, found 1", files=1)
    refused(tmp_path, zipped({"val2017/a": b"1"}, zipfile.ZIP_BZIP2), "is no plain file of val2017/")
    refused(tmp_path, b"hello", "damaged zip archive")
    encrypted = bytearray(zipped({"val2017/a.jpg": b"1"}))
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    refused(tmp_path, bytes(encrypted), "is no plain file of val2017/")


def test_a_member_with_other_bytes_than_its_checksum(tmp_path):
    body = zipped({"val2017/a.jpg": noise(100)}, zipfile.ZIP_STORED)
    spoilt = bytearray(body)
    spoilt[60] ^= 1
    refused(tmp_path, bytes(spoilt), "damaged zip archive: Bad CRC-32")
    # Nothing has its name; the whole archive can follow.
    (tmp_path / "a.zip").write_bytes(body)
    unpack(tmp_path / "a.zip", tmp_path, "val2017", 1)
    assert contents(tmp_path / "val2017") == {"a.jpg": noise(100)}


def test_too_little_room(archive, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: usage._replace(free=59_999))
    with pytest.raises(OSError, match=r"takes 60\.0kB and the disk has 60\.0kB left"):
        unpack(archive, tmp_path, "val2017", 20)
    assert not (tmp_path / "val2017").exists()
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: usage._replace(free=60_000))
    unpack(archive, tmp_path, "val2017", 20)


SMALL = zipped({f"val2017/{i}.jpg": noise(40, i) for i in range(3)})


@given(
    spoil=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 40),
)
def test_damaged_archives_give_one_clear_error_or_whole_files(tmp_path_factory, spoil, cut):
    root = tmp_path_factory.mktemp("damaged")
    body = bytearray(SMALL)
    for position, value in spoil:
        body[position] = value
    (root / "a.zip").write_bytes(body[: len(body) - cut])
    try:
        unpack(root / "a.zip", root / "coco", "val2017", files=3)
    except (ValueError, OSError) as error:
        assert not isinstance(error, UnicodeError) and str(root) in str(error)
        assert not (root / "coco" / "val2017").exists()
    else:
        assert sorted(contents(root / "coco" / "val2017").values()) == sorted(noise(40, i) for i in range(3))
