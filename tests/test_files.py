"""Whole files: what is there is the old content or the new one, whatever happens on the way."""

import json
import os

import pytest

from minimaskrcnn.files import replace_durably, replacing, write_json, write_text


def test_text_and_json_come_back_and_leave_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    write_text(path, "möbel\n")
    assert path.read_bytes() == "möbel\n".encode()
    for indent, text in ((2, '{\n  "a": [\n    1,\n    0.5\n  ]\n}\n'), (None, '{"a": [1, 0.5]}\n')):
        write_json(path, {"a": [1, 0.5]}, indent=indent)
        assert path.read_text() == text and json.loads(text) == {"a": [1, 0.5]}
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, object())
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "1\n"
    write_json(path, 2)
    assert path.read_text() == "2\n" and list(tmp_path.iterdir()) == [path]


def test_the_name_is_given_after_the_disk_holds_the_file(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), sync(handle)))
    monkeypatch.setattr(type(tmp_path), "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    (tmp_path / "a.tmp").write_bytes(b"new")
    replace_durably(tmp_path / "a.tmp", tmp_path / "a")
    assert done == (["sync", "replace", "sync"] if os.name == "posix" else ["sync", "replace"])
    assert (tmp_path / "a").read_bytes() == b"new"
