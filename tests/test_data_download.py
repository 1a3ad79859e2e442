"""Downloads from a server that breaks off, lies about sizes, sends errors and other files, or is silent."""

import hashlib
import io
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import (
    BODY,
    Behaviour,
    Handler,
    breaks_at,
    closed_port,
    error,
    hangs_up,
    honest,
    noise,
    other_part,
    page,
    serving,
    silent,
    stalls_at,
    unannounced,
    whole,
    zipped,
)

from minimaskrcnn.data import download as downloading
from minimaskrcnn.data.download import check_archive, download, partial_of

SIZE, MD5 = len(BODY), hashlib.md5(BODY).hexdigest()


@pytest.fixture(scope="module")
def running() -> Iterator[ThreadingHTTPServer]:
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        patch.setenv("no_proxy", "127.0.0.1")
        yield server


@pytest.fixture
def server(running) -> ThreadingHTTPServer:
    running.script, running.asked, running.content = [], [], {}
    return running


class Fetch:
    """`download` to `target`, with its waits and lines kept instead of waited for and printed."""

    def __init__(self, server: ThreadingHTTPServer, folder: Path) -> None:
        self.server, self.target = server, folder / "val2017.zip"
        self.waits: list[float] = []
        self.lines: list[str] = []

    def __call__(self, *script: Behaviour, md5: str = MD5, timeout: float = 5.0, attempts: int = 6) -> None:
        self.server.script[:], self.server.asked[:] = script, []
        url = f"{self.server.url}/zips/val2017.zip"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(downloading, "TIMEOUT", timeout)
            patch.setattr(downloading, "ATTEMPTS", attempts)
            patch.setattr(downloading, "sleep", self.waits.append)
            download(url, self.target, SIZE, md5, self.lines.append)

    @property
    def kept(self) -> bytes | None:
        path = partial_of(self.target)
        return path.read_bytes() if path.exists() else None

    def assert_whole(self) -> None:
        assert self.target.read_bytes() == BODY and self.kept is None

    def assert_nothing_final(self) -> None:
        assert not self.target.exists()


@pytest.fixture
def fetch(server, tmp_path) -> Fetch:
    return Fetch(server, tmp_path / "coco")


def test_an_honest_server(fetch):
    fetch()
    fetch.assert_whole()
    assert (fetch.server.asked, fetch.waits) == ([None], [])
    assert fetch.lines == [
        f"{fetch.server.url}/zips/val2017.zip: fetching {SIZE} bytes to {fetch.target}, 0 are there"
    ]
    assert [path.name for path in fetch.target.parent.iterdir()] == ["val2017.zip"]


def test_a_file_that_is_there_is_checked(fetch):
    fetch.target.parent.mkdir()
    fetch.target.write_bytes(BODY)
    fetch()
    fetch.assert_whole()
    assert fetch.server.asked == [] and fetch.lines == [f"{fetch.target}: checking"]
    with pytest.raises(ValueError, match=f"expected MD5 {'0' * 32}, found {MD5}"):
        fetch(md5="0" * 32)
    fetch.assert_whole()


def test_a_broken_download_goes_on_where_it_stopped(fetch):
    fetch(breaks_at(10_000), breaks_at(30_000))
    fetch.assert_whole()
    assert fetch.server.asked == [None, "bytes=10000-", "bytes=30000-"]
    # Each attempt brought something, so the wait does not grow.
    assert fetch.waits == [1, 1]
    assert "have 10.0kB" in fetch.lines[1] and fetch.server.url in fetch.lines[1]


def test_breaks_do_not_count_while_bytes_come(fetch):
    breaks = range(1000, SIZE, 1000)
    fetch(*(breaks_at(upto) for upto in breaks), attempts=2)
    fetch.assert_whole()
    assert len(fetch.waits) == len(breaks)


def test_giving_up_keeps_what_came(fetch):
    with pytest.raises(ConnectionError, match=r"no connection any more: .*\(10\.0kB are kept in .*zip\.partial\)"):
        fetch(breaks_at(10_000), *[hangs_up] * 3, attempts=4)
    assert fetch.waits == [1, 2, 4] and fetch.kept == BODY[:10_000]
    fetch.assert_nothing_final()
    fetch()
    fetch.assert_whole()
    assert fetch.server.asked == ["bytes=10000-"]


def test_a_wait_is_bounded(fetch):
    with pytest.raises(ConnectionError):
        fetch(*[hangs_up] * 9, attempts=9)
    assert fetch.waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_of_a_server_without_ranges_what_is_there_is_skipped(fetch):
    fetch(breaks_at(10_000), partial(whole, upto=7_000), partial(whole, upto=20_000), unannounced)
    fetch.assert_whole()
    assert fetch.server.asked == [None, "bytes=10000-", "bytes=10000-", "bytes=20000-"]


def test_a_server_without_ranges_that_always_breaks_is_given_up(fetch):
    with pytest.raises(ConnectionError, match="ended early"):
        fetch(*[partial(whole, upto=upto) for upto in (10_000, 5_000, 9_000, 10_000)], attempts=4)
    # Bytes that were here before are no progress.
    assert fetch.waits == [1, 2, 4] and fetch.kept == BODY[:10_000]


@pytest.mark.parametrize("announced", [None, "", "bytes 7-", "bytes */9", "words 10000-20000/30000"])
def test_another_part_than_the_one_asked_for_is_not_taken(fetch, announced):
    fetch(breaks_at(10_000), partial(other_part, announced=announced))
    fetch.assert_whole()
    assert fetch.server.asked == [None, "bytes=10000-", "bytes=10000-"]
    assert any("asked for bytes 10000-" in line for line in fetch.lines)


def test_a_part_without_a_total_and_a_shorter_part(fetch):
    def piece(handler: Handler, body: bytes, start: int) -> None:
        handler.begin(206, Content_Range=f"bytes {start}-{start + 99}/*", Content_Length=100)
        handler.wfile.write(body[start : start + 100])

    fetch(breaks_at(10_000), piece)
    fetch.assert_whole()
    assert fetch.server.asked == [None, "bytes=10000-", "bytes=10100-"]


@pytest.mark.parametrize("length", [SIZE - 500, SIZE + 500])
def test_a_wrong_content_length_against_a_known_size(fetch, length):
    with pytest.raises(ConnectionError, match=rf"expected {SIZE} bytes, the server offers {length}"):
        fetch(partial(whole, length=length))
    fetch.assert_nothing_final()
    assert fetch.waits == []


def test_a_body_longer_than_the_known_size(fetch):
    def longer(handler: Handler, body: bytes, start: int) -> None:
        handler.begin(200)
        handler.wfile.write(body + bytes(1000))

    fetch(longer)
    fetch.assert_whole()
    assert fetch.waits == [] and len(fetch.server.asked) == 1


def test_a_body_of_unannounced_length(fetch):
    fetch(unannounced)
    fetch.assert_whole()


def test_a_file_that_changes_on_the_server_fails_the_check(fetch):
    before = zipped({"val2017/1.jpg": noise(40_000, 9)})

    def old(handler: Handler, body: bytes, start: int) -> None:
        handler.begin(200)
        handler.wfile.write(before[:10_000])

    with pytest.raises(ValueError, match=r"expected MD5 .* it is removed, and the next run fetches it again"):
        fetch(old)
    assert fetch.kept is None
    fetch()
    fetch.assert_whole()


def test_a_known_size_and_a_file_that_changed(fetch):
    fetch.target.parent.mkdir()
    partial_of(fetch.target).write_bytes(BODY[:5000])
    fetch.server.content["/zips/val2017.zip"] = BODY + b"more"
    with pytest.raises(ConnectionError, match=f"expected {SIZE} bytes, the server offers {SIZE + 4}"):
        fetch()
    assert fetch.kept == BODY[:5000]


def leave(fetch: Fetch, content: bytes) -> None:
    fetch.target.parent.mkdir(exist_ok=True)
    partial_of(fetch.target).write_bytes(content)


def test_a_partial_file_that_is_whole_needs_no_server(fetch):
    leave(fetch, BODY)
    fetch(hangs_up)
    fetch.assert_whole()
    assert fetch.server.asked == []


@pytest.mark.parametrize(("content", "found"), [(BODY + b"more", f"{SIZE} bytes"), (bytes(5000), "MD5")])
def test_a_partial_file_of_something_else_is_removed_and_fetched_by_the_next_run(fetch, content, found):
    leave(fetch, content)
    with pytest.raises(ValueError, match=rf"expected {found}.*; it is removed"):
        fetch()
    fetch.assert_nothing_final()
    assert fetch.kept is None
    fetch()
    fetch.assert_whole()
    assert fetch.server.asked == [None]


def test_a_wrong_checksum(fetch):
    with pytest.raises(ValueError, match=rf"expected MD5 {'0' * 32}, found {MD5}; it is removed"):
        fetch(md5="0" * 32)
    fetch.assert_nothing_final()
    assert fetch.kept is None and len(fetch.server.asked) == 1


@pytest.mark.parametrize("status", [404, 408, 429, 500, 502, 503, 504])
def test_errors_that_pass(fetch, status):
    fetch(error(status), error(status))
    fetch.assert_whole()
    assert fetch.waits == [1, 2] and f"error {status}" in fetch.lines[1]


@pytest.mark.parametrize("status", [400, 401, 403, 410, 416, 501, 304])
def test_errors_that_do_not_pass(fetch, status):
    with pytest.raises(ConnectionError, match=f"error {status}"):
        fetch(error(status))
    assert fetch.waits == [] and len(fetch.server.asked) == 1
    fetch.assert_nothing_final()


def test_errors_keep_what_came(fetch):
    with pytest.raises(ConnectionError, match=r"error 500 \(10\.0kB are kept"):
        fetch(breaks_at(10_000), *[error(500)] * 5)
    assert fetch.kept == BODY[:10_000]


def test_redirection(fetch):
    fetch(error(302, Location="/elsewhere/val2017.zip"), breaks_at(10_000), error(301, Location="/third.zip"))
    fetch.assert_whole()
    # The range is asked for again at the new address.
    assert fetch.server.asked == [None, None, "bytes=10000-", "bytes=10000-"]


def test_redirection_in_a_circle_or_to_a_file(fetch, tmp_path):
    (tmp_path / "secret.zip").write_bytes(BODY)
    for target in ("/zips/val2017.zip", (tmp_path / "secret.zip").as_uri()):
        with pytest.raises(ConnectionError, match="error 302"):
            fetch(*[error(302, Location=target)] * 12)
        fetch.assert_nothing_final()


@pytest.mark.parametrize("behaviour", [silent, stalls_at(10_000)])
def test_a_silent_server(fetch, behaviour):
    fetch(behaviour, timeout=0.2)
    fetch.assert_whole()
    assert fetch.waits and "timed out" in fetch.lines[1]


def test_a_web_page_instead_of_an_archive(fetch):
    with pytest.raises(ConnectionError, match=r"no zip archive \(it begins b'<html>Please log in"):
        fetch(page)
    assert not fetch.kept and fetch.waits == []
    leave(fetch, BODY[:5000])
    with pytest.raises(ConnectionError, match="no zip archive"):
        fetch(page)
    # What came before it is not lost.
    assert fetch.kept == BODY[:5000]


def test_an_empty_answer(fetch):
    def empty(handler: Handler, body: bytes, start: int) -> None:
        handler.begin(200)

    fetch(empty)
    fetch.assert_whole()
    assert "the connection ended early" in fetch.lines[1]


def test_chunks_that_break_off(fetch):
    def chunked(handler: Handler, body: bytes, start: int) -> None:
        handler.begin(200, Transfer_Encoding="chunked")
        handler.wfile.write(b"1000\r\n" + body[:0x1000] + b"\r\n1000\r\n" + body[0x1000:0x1800])

    Handler.protocol_version = "HTTP/1.1"
    try:
        fetch(chunked)
    finally:
        Handler.protocol_version = "HTTP/1.0"
    fetch.assert_whole()
    assert fetch.server.asked == [None, f"bytes={0x1800}-"]


def test_no_server(fetch, monkeypatch):
    monkeypatch.setattr(downloading, "sleep", fetch.waits.append)
    with pytest.raises(ConnectionError, match="no connection"):
        download(f"http://127.0.0.1:{closed_port()}/x.zip", fetch.target, SIZE, MD5, print)
    assert fetch.waits == [1, 2, 4, 8, 16]
    fetch.assert_nothing_final()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a b.zip", "http://[::1/x.zip"])
def test_addresses_that_are_none(url, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(ValueError):
        download(url, tmp_path / "x.zip", SIZE, MD5, print)


def test_a_full_disk_is_no_broken_connection(fetch, monkeypatch):
    class Full(io.BytesIO):
        def write(self, block: bytes) -> int:
            raise OSError(28, "No space left on device")

    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r": Full() if mode in ("wb", "ab") else opened(path, mode)
    )
    with pytest.raises(OSError, match="No space left"):
        fetch()
    assert fetch.waits == []


def test_interruption_keeps_what_came(fetch, monkeypatch):
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(downloading, "sleep", interrupted)
    fetch.server.script[:] = [breaks_at(10_000)]
    with pytest.raises(KeyboardInterrupt):
        download(f"{fetch.server.url}/x.zip", fetch.target, SIZE, MD5, print)
    assert fetch.kept == BODY[:10_000]
    fetch.assert_nothing_final()


def test_a_killed_run_is_continued(fetch):
    fetch.server.script[:] = [stalls_at(30_000)] * 50
    code = (
        "import pathlib, sys; from minimaskrcnn.data.download import download;"
        "_, url, target, size = sys.argv;"
        "download(url, pathlib.Path(target), int(size), '', print)"
    )
    command = [sys.executable, "-c", code, f"{fetch.server.url}/x.zip", str(fetch.target), str(SIZE)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 300
        while not fetch.kept and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    kept = fetch.kept
    assert kept and BODY.startswith(kept)
    fetch.assert_nothing_final()
    fetch()
    fetch.assert_whole()
    assert fetch.server.asked == [f"bytes={len(kept)}-"]


BREAKS = st.integers(0, SIZE)
BEHAVIOURS = st.one_of(
    st.just(honest),
    st.just(hangs_up),
    st.just(unannounced),
    st.just(other_part),
    BREAKS.map(breaks_at),
    BREAKS.map(lambda upto: partial(whole, upto=upto)),
    st.sampled_from([404, 429, 500, 503]).map(error),
)


@given(script=st.lists(BEHAVIOURS, max_size=8), left=st.integers(0, SIZE))
def test_whatever_the_server_does_the_file_is_whole(running, tmp_path_factory, script, left):
    running.asked, running.content, running.script = [], {}, []
    fetch = Fetch(running, tmp_path_factory.mktemp("any"))
    leave(fetch, BODY[:left])
    fetch(*script, attempts=30)
    fetch.assert_whole()


def test_checking_an_archive(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(BODY)
    check_archive(archive, SIZE, MD5)
    with pytest.raises(ValueError, match=f"expected 7 bytes, found {SIZE}"):
        check_archive(archive, 7, MD5)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/m\u00f6bel", "http://.example", "http://[::1"])
def test_what_is_no_address(tmp_path, url):
    with pytest.raises(ValueError, match=f"{re.escape(url)}: not an address that can be asked"):
        download(url, tmp_path / "a.zip", SIZE, MD5, print)
