"""COCO's archives from a mirror or a folder to an opened data set, and the command that does it."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from models import write_scenes
from servers import (
    Handler,
    breaks_at,
    closed_port,
    error,
    honest,
    page,
    serving,
    zipped,
)

from minimaskrcnn import cli
from minimaskrcnn.data import coco_archives
from minimaskrcnn.data import commands as data_commands
from minimaskrcnn.data import download as downloading
from minimaskrcnn.data import unpack as unpacking
from minimaskrcnn.data.coco import open_coco
from minimaskrcnn.data.coco_archives import COCO_2017, Archive, fetch_coco


@pytest.fixture(scope="module")
def running() -> Iterator[ThreadingHTTPServer]:
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        patch.setenv("no_proxy", "127.0.0.1")
        yield server


@pytest.fixture
def server(running) -> ThreadingHTTPServer:
    running.script, running.asked, running.content = [], [], {}
    return running


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> dict[str, bytes]:
    """Archives of three pictures under their paths on a server."""
    place = tmp_path_factory.mktemp("scenes")
    write_scenes(place, train=2, val=1)
    files = {"annotations": {}}
    for old, new in (("train", "train2017"), ("val", "val2017")):
        files[new] = {f"{new}/{path.name}": path.read_bytes() for path in (place / old).iterdir()}
        for kind in ("instances", "person_keypoints"):
            content = (place / "annotations" / f"{kind}_{old}.json").read_bytes()
            files["annotations"][f"annotations/{kind}_{new}.json"] = content
    return {f"/{COCO_2017[folder].path}": zipped(files[folder]) for folder in files}


class Coco:
    """`fetch_coco` from the server, with archives of the scenes."""

    def __init__(self, server: ThreadingHTTPServer, root: Path, scenes: dict[str, bytes]) -> None:
        server.content = scenes
        self.server, self.root, self.lines = server, root, []
        counts = {"annotations": 4, "train2017": 2, "val2017": 1}
        self.table = {
            folder: Archive(
                path=real.path, files=counts[folder], size=len(scenes[f"/{real.path}"]),
                md5=hashlib.md5(scenes[f"/{real.path}"]).hexdigest(),
            )
            for folder, real in COCO_2017.items()
        }  # fmt: skip

    def __call__(self, *splits: str, **more: object) -> None:
        self.server.asked[:], self.lines[:] = [], []
        options = {"base_url": self.server.url, "table": self.table, **more}
        fetch_coco(self.root, splits, say=self.lines.append, **options)

    def put(self, folder: Path, *names: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in self.server.content.items():
            if path.rsplit("/", 1)[1] in (names or path):
                (folder / path.rsplit("/", 1)[1]).write_bytes(content)


@pytest.fixture
def coco(server, tmp_path, scenes, monkeypatch) -> Coco:
    monkeypatch.setattr(downloading, "ATTEMPTS", 3)
    monkeypatch.setattr(downloading, "sleep", lambda seconds: None)
    return Coco(server, tmp_path / "COCO", scenes)


def test_coco_fetched_opens(coco):
    coco("val2017")
    assert {path.name for path in coco.root.iterdir()} == {
        "annotations", "val2017", "val2017.zip", "annotations_trainval2017.zip",
    }  # fmt: skip
    dataset = open_coco(coco.root, "val2017")
    assert len(dataset) == 1 and dataset[0].image.shape[0] == 3 and dataset.has_keypoints
    assert len(coco.server.asked) == 2
    coco("val2017", "train2017", "val2017")
    assert len(coco.server.asked) == 1 and len(open_coco(coco.root, "train2017")) == 2
    assert coco.lines[:1] == [f"{coco.root / 'annotations'}: complete"]
    coco("val2017", "train2017")
    assert coco.server.asked == [] and len(coco.lines) == 3


def test_a_broken_run_goes_on(coco):
    coco.server.script[:] = [honest, breaks_at(1000), *[error(500)] * 2]
    with pytest.raises(ConnectionError):
        coco("val2017")
    # The annotations are done; the pictures wait for their other half.
    assert (coco.root / "annotations").is_dir() and (coco.root / "val2017.zip.partial").stat().st_size == 1000
    coco("val2017")
    assert coco.server.asked == ["bytes=1000-"]
    assert any("1000 are there" in line for line in coco.lines)
    assert len(open_coco(coco.root, "val2017")) == 1


def test_archives_put_into_the_root_by_hand(coco):
    coco.put(coco.root)
    coco("val2017")
    assert coco.server.asked == [] and len(open_coco(coco.root, "val2017")) == 1
    assert not (coco.root / "train2017").exists()


def test_a_folder_of_archives(coco, tmp_path):
    place = tmp_path / "some archives"
    coco.put(place, "val2017.zip", "annotations_trainval2017.zip")
    coco("val2017", archives=place)
    assert coco.server.asked == [] and len(open_coco(coco.root, "val2017")) == 1
    assert {path.name for path in coco.root.iterdir()} == {"annotations", "val2017"}
    message = r"train2017\.zip \([0-9]+ bytes, from http://images\.coco.*\): no such archive"
    with pytest.raises(FileNotFoundError, match=message):
        coco("train2017", archives=place)


def test_a_given_archive_that_is_another_one(coco):
    coco.put(coco.root)
    whole = (coco.root / "val2017.zip").read_bytes()
    (coco.root / "val2017.zip").write_bytes(whole[:-9])
    message = rf"expected {len(whole)} bytes, found {len(whole) - 9}"
    with pytest.raises(ValueError, match=message):
        coco("val2017")
    assert not (coco.root / "val2017").exists()
    (coco.root / "val2017.zip").rename(coco.root / "val2017.zip.partial")
    coco("val2017")
    assert coco.server.asked == [f"bytes={len(whole) - 9}-"] and (coco.root / "val2017").is_dir()


def test_half_a_folder_and_a_missing_file_are_not_complete(coco):
    coco("train2017")
    next((coco.root / "train2017").iterdir()).unlink()
    annotations = coco.root / "annotations" / "instances_train2017.json"
    text = annotations.read_bytes()
    annotations.unlink()
    coco("train2017")
    # Both came from the archives that were kept.
    assert coco.server.asked == [] and len(list((coco.root / "train2017").iterdir())) == 2
    assert annotations.read_bytes() == text
    annotations.unlink()
    (coco.root / "annotations" / "person_keypoints_train2017.json").write_bytes(text[:9])
    with pytest.raises(ValueError, match=r"keypoints_train2017\.json: not the archive's file .* move it away"):
        coco("train2017")


def test_too_little_room_is_said_before_anything_is_fetched(coco, monkeypatch):
    usage = shutil.disk_usage(coco.root.parent)
    needed = 2 * (coco.table["val2017"].size + coco.table["annotations"].size)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: usage._replace(free=needed - 1))
    with pytest.raises(OSError, match="to fetch and unpack takes"):
        coco("val2017")
    assert coco.server.asked == []


@pytest.mark.parametrize("url", ["ftp://host/coco", "/mnt/coco", "images.cocodataset.org", "http://", ""])
def test_mirrors_that_are_none(coco, url):
    with pytest.raises(ValueError, match="expected the address of a mirror"):
        coco("val2017", base_url=url)


def test_a_login_page_of_known_length_says_what_to_put_where(coco):
    def login(handler: Handler, body: bytes, start: int) -> None:
        handler.begin(200, Content_Type="text/html", Content_Length=18)
        handler.wfile.write(b"<html>login</html>")

    coco.server.script[:] = [login]
    with pytest.raises(ConnectionError, match=r"the server offers 18. .*fetch elsewhere and put here"):
        coco("val2017")


def test_an_address_that_is_none_is_named(coco):
    with pytest.raises(ValueError, match=r"http://\[::1/.*: not an address that can be asked"):
        coco("val2017", base_url="http://[::1")


def test_the_archives_that_are_fetched_are_cocos():
    assert {f"{coco_archives.OFFICIAL}/{archive.path}" for archive in COCO_2017.values()} == {
        "http://images.cocodataset.org/zips/train2017.zip",
        "http://images.cocodataset.org/zips/val2017.zip",
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    }
    for folder, archive in COCO_2017.items():
        assert folder in archive.path and re.fullmatch(r"[0-9a-f]{32}", archive.md5)
    assert coco_archives.SPLITS == ["train2017", "val2017"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def command(coco, monkeypatch) -> Coco:
    """The command line on the scenes' table; `coco` is what it works on."""
    monkeypatch.setattr(
        data_commands, "fetch_coco", partial(fetch_coco, table=coco.table)
    )
    return coco


def test_the_command(command, capsys):
    call = ("data", "coco", "--root", command.root, "--base-url", command.server.url)
    code, out, err = run(capsys, *call, "--split", "val2017")
    assert (code, err) == (0, "")
    assert f"train --data {command.root} --split val2017 --val-split val2017" in out
    code, out, err = run(capsys, *call, "--split", "val2017", "train2017")
    assert (code, err) == (0, "") and f"train --data {command.root} --out" in out
    assert len(open_coco(command.root, "train2017")) == 2


def test_the_mirror_of_the_environment(command, capsys, monkeypatch):
    monkeypatch.setenv("MINIMASKRCNN_COCO_URL", command.server.url + "/")
    assert run(capsys, "data", "coco", "--root", command.root, "--split", "train2017")[0] == 0
    assert (command.root / "train2017").is_dir()


def test_without_a_network_one_line_says_what_to_put_where(command, capsys):
    url = f"http://127.0.0.1:{closed_port()}"
    call = ("data", "coco", "--root", command.root, "--split", "val2017", "--base-url")
    code, out, err = run(capsys, *call, url)
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in out + err
    assert err.startswith("minimaskrcnn data: ") and "no connection" in err and "--archives DIR" in err
    for folder in ("val2017", "annotations"):
        archive = command.table[folder]
        assert f"{command.root / archive.name} ({archive.size} bytes, from {url}/{archive.path})" in err
    assert "train2017.zip" not in err
    # And what it says works.
    command.put(command.root, "val2017.zip", "annotations_trainval2017.zip")
    assert run(capsys, *call, url)[0] == 0
    assert len(open_coco(command.root, "val2017")) == 1


def test_the_line_leaves_out_what_is_there(command, capsys):
    command.put(command.root, "annotations_trainval2017.zip")
    command.server.script[:] = [page]
    call = ("data", "coco", "--root", command.root, "--split", "val2017", "--base-url", command.server.url)
    code, _, err = run(capsys, *call)
    assert code == 2 and err.count("\n") == 1
    assert (
        "sent no zip archive" in err and "val2017.zip (" in err and "annotations_trainval2017.zip" not in err
    )


@pytest.mark.parametrize("split", [["test2017"], ["val"], []])
def test_splits_that_are_none(tmp_path, capsys, split):
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", "coco", "--root", str(tmp_path / "o"), "--split", *split])
    assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1
