"""Explorers in a running JupyterLab: all cells of the lesson executed there, handles moved by keys and by mouse."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from browser import need_browser
from optional import need

need("jupyterlab")
need("jupytext")

from minimaskrcnn_lessons import editions

pytestmark = pytest.mark.lessons
# Four explorers that live in lessons of seconds, not minutes.
EXPLORED = [path for path in editions.sources() if "explorers" in path.read_text(encoding="utf-8")]
# Milliseconds for all cells of a lesson, on a machine that also does other things.
PATIENCE = 240_000
# A point where the mouse meets the handle: its middle may lie under another one.
POINT = """element => {
    const box = element.getBoundingClientRect();
    for (const down of [0.5, 0.25, 0.75, 0.1, 0.9]) for (const across of [0.5, 0.25, 0.75, 0.1, 0.9]) {
        const point = [box.x + across * box.width, box.y + down * box.height];
        if (element.contains(document.elementFromPoint(...point))) return point;
    }
}"""
KERNEL_IS_READY = """
    window.jupyterapp && window.jupyterapp.commands.hasCommand("notebook:run-all-cells") &&
    window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === "idle"
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab over copies of the notebooks."""
    need_browser()
    folder = tmp_path_factory.mktemp("lab")
    for path in editions.sources():
        shutil.copy(editions.notebook_path(path.stem, "self-study"), folder)
    settings = folder / "settings" / "@jupyterlab"
    for extension, values in {
        # All cells in the page, also those out of sight.
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    }.items():
        file = settings / f"{extension}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", f"--port={port}", "--IdentityProvider.token=", "--expose-app-in-browser"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    environment = {**os.environ, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "HOME": str(folder)}
    log = (folder / "lab.log").open("w")
    command = [sys.executable, "-m", "jupyterlab", *options]
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api", server)
        yield address
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _wait_for(address: str, server: subprocess.Popen) -> None:
    until = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            assert server.poll() is None and time.monotonic() < until, "JupyterLab does not answer"
            time.sleep(0.5)


def said(handle) -> str:
    return f"{handle.get_attribute('aria-valuenow')} {handle.get_attribute('aria-valuetext')}"


@pytest.mark.parametrize("path", EXPLORED, ids=lambda path: path.stem)
def test_the_explorer_lives_where_all_cells_have_run(lab, browser, path):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    try:
        # A workspace of its own: in the default one the lessons opened before come back as tabs.
        page.goto(f"{lab}/lab/workspaces/{path.stem}/tree/{path.stem}.ipynb")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
        # A command given before the kernel is there does nothing.
        page.wait_for_function(KERNEL_IS_READY, timeout=90_000)
        page.set_default_timeout(PATIENCE)
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        handle = page.locator(".jp-OutputArea [role=slider][aria-valuenow][tabindex='0']").first
        handle.wait_for(timeout=PATIENCE)
        assert page.locator(".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        handle.evaluate('element => element.scrollIntoView({block: "center"})')
        page.wait_for_timeout(500)
        before = said(handle)
        handle.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(200)
        after_key = said(handle)
        assert after_key != before
        x, y = handle.evaluate(POINT)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 40, y + 25, steps=5)
        page.mouse.up()
        page.wait_for_timeout(200)
        assert said(handle) != after_key
        outside = [
            url for url in asked if not url.startswith((lab, lab.replace("http", "ws", 1), "data:", "blob:"))
        ]
        assert not outside
    finally:
        page.close()
