"""The no-delay extension, on real servers: is TCP_NODELAY on at their end of the websocket?"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from labkit import echo, server
from labkit.cli import main

ROOT = Path(__file__).parents[1]
SETTING = "kernel_websocket_connection_class"


class Websocket:
    """Notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def set_nodelay(self, value: bool) -> None:
        self.done.append(("nodelay", value))


class Connection:
    """What Jupyter's server expects of the class, without a kernel."""

    def __init__(self, websocket: Any) -> None:
        self.websocket_handler = websocket
        self.log = logging.getLogger("test")

    async def connect(self) -> str:
        self.websocket_handler.done.append("connect")
        return "connected"


class Other(Connection):
    """A class that another package put in the place of Jupyter's."""

    async def connect(self) -> str:
        self.websocket_handler.done.append("other")
        return await super().connect()


def serverapp(**settings: Any) -> Any:
    return SimpleNamespace(
        web_app=SimpleNamespace(settings=settings), log=logging.getLogger("test")
    )


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records if record.name == "test"]


@pytest.mark.parametrize(("base", "after"), [(Connection, []), (Other, ["other"])])
def test_nodelay_comes_first_and_then_all_that_was_there(
    base: type, after: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    app = serverapp(**{SETTING: base, "other": 1})
    server._load_jupyter_server_extension(app)
    replaced = app.web_app.settings[SETTING]
    assert issubclass(replaced, base)
    assert app.web_app.settings["other"] == 1
    assert levels(caplog) == ["INFO"]
    websocket = Websocket()
    assert asyncio.run(replaced(websocket).connect()) == "connected"
    assert websocket.done == [("nodelay", True), *after, "connect"]


@pytest.mark.parametrize("websocket", [SimpleNamespace(done=[]), Websocket()])
def test_a_websocket_that_cannot_do_it_is_connected_all_the_same(
    websocket: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def closed(self: Any, value: bool) -> None:
        raise AssertionError  # what tornado does when the browser is gone already

    monkeypatch.setattr(Websocket, "set_nodelay", closed)
    caplog.set_level("DEBUG")
    assert asyncio.run(server.no_delay(Connection)(websocket).connect()) == "connected"
    assert websocket.done == ["connect"]
    assert levels(caplog) == ["DEBUG"]


@pytest.mark.parametrize("settings", [{}, {SETTING: None}])
def test_a_server_without_the_setting_stays_as_it_is(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    app = serverapp(**settings)
    server._load_jupyter_server_extension(app)
    assert app.web_app.settings == settings
    assert levels(caplog) == ["DEBUG"]


def test_the_installed_configuration_enables_this_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ((folder, files),) = project["tool"]["setuptools"]["data-files"].items()
    assert folder == "etc/jupyter/jupyter_server_config.d"
    ((extension, enabled),) = json.loads((ROOT / files[0]).read_text())["ServerApp"][
        "jpserver_extensions"
    ].items()
    assert enabled is True
    assert server._jupyter_server_extension_points() == [{"module": extension}]
    assert sys.modules[extension] is server


def test_the_extension_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "pandas", "matplotlib", "ipywidgets", "anywidget"}
    script = f"import labkit.server, sys\nprint(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# Runs in the server: says of the socket whose other end has this port whether TCP_NODELAY is on.
PROBE = """
import os, socket, stat
from tornado.web import RequestHandler

class Probe(RequestHandler):
    def get(self, port):
        for number in range(3, 1024):
            try:
                if not stat.S_ISSOCK(os.fstat(number).st_mode):
                    continue
                with socket.socket(fileno=os.dup(number)) as end:
                    if end.family != socket.AF_UNIX and end.getpeername()[1] == int(port):
                        return self.write(str(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            except OSError:  # no such number, or a socket that listens
                continue
        self.write("no such socket")

def _jupyter_server_extension_points():
    return [{"module": "probe"}]

def _load_jupyter_server_extension(serverapp):
    serverapp.web_app.add_handlers(".*", [(r"/probe/(.*)", Probe)])
"""
# Voila loads no extensions: a Voila with one more address, its options as given.
PROBED_VOILA = """
from probe import Probe
from voila.app import Voila

class Probed(Voila):
    def init_handlers(self):
        return [(r"/probe/(.*)", Probe), *super().init_handlers()]

Probed.launch_instance()
"""


def get(port: int, path: str) -> tuple[str, Any]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as link:
        link.request("GET", path)
        answer = link.getresponse()
        return answer.read().decode(), answer.headers


def nodelay(port: int, page: echo.Page) -> str:
    """Return TCP_NODELAY, 0 or not, at the server's end of a page's websocket to a kernel."""
    page.receive(page.send("kernel_info_request", {}), "kernel_info_reply")  # it is open by now
    return get(port, f"/probe/{page.socket.sock.getsockname()[1]}")[0]


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the probe in it, on the path of servers."""
    folder = tmp_path / "probe"
    folder.mkdir()
    (folder / "probe.py").write_text(PROBE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(echo, "_LIMIT_S", 120.0)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("probe")
@pytest.mark.parametrize("enabled", [True, False], ids=["on", "off"])
def test_jupyters_server_sends_without_delay_where_the_extension_is_enabled(
    enabled: bool, tmp_path: Path
) -> None:
    extensions = {"ServerApp": {"jpserver_extensions": {"labkit.server": enabled, "probe": True}}}
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.json").write_text(json.dumps(extensions))
    with echo.serve(tmp_path) as running:
        kernel = running.post("/api/kernels", {"name": "python3"})["id"]
        with closing(echo.Page(running.port, kernel, running.token, running.deadline)) as page:
            assert (nodelay(running.port, page) not in ("0", "no such socket")) == enabled
            ms = echo.round_trips(page)
    assert len(ms) == echo.ROUNDS
    assert min(ms) > 0
    assert ("TCP_NODELAY" in running.log.read_text()) == enabled


@pytest.mark.slow
def test_whatever_happens_server_and_kernel_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echo, "_LIMIT_S", 120.0)
    pids = []

    def interrupted() -> None:
        with echo.serve(tmp_path) as running:
            kernel = running.post("/api/kernels", {"name": "python3"})["id"]
            with closing(echo.Page(running.port, kernel, running.token, running.deadline)) as page:
                request = {"code": "import os", "user_expressions": {"pid": "os.getpid()"}}
                reply = page.receive(page.send("execute_request", request), "execute_reply")
            pids.append(running.process.pid)
            pids.append(int(reply["user_expressions"]["pid"]["data"]["text/plain"]))
            for pid in pids:
                os.kill(pid, 0)  # it lives
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_server_that_does_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jupyter_server.py").write_text("raise SystemExit('no jupyter_server today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no jupyter_server today"), echo.serve(tmp_path):
        pass


@pytest.mark.slow
def test_doctor_measures_the_echo() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    row = result.output.splitlines()[-1]
    assert re.match(r"(✓ ok|! warn) +echo ", row), row
    assert re.search(r"\d ms for a widget's|in 12 s", row), row


@contextmanager
def voila(command: list[str]) -> Iterator[int]:
    """Run Voila; yield the port it found."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://localhost:(\d+)", line):
                yield int(found[1])
                break
        else:
            raise AssertionError("Voila ended without an address")
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("ours", [True, False], ids=["labkit app", "plain voila"])
def test_the_app_sends_without_delay_and_shows_labs_without_code(
    ours: bool, probe: Path, tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "execv", lambda path, command: calls.append(command))
    with socket.create_server(("127.0.0.1", 0)) as free:
        wanted = str(free.getsockname()[1])
    assert CliRunner().invoke(main, ["app", "--headless", "--port", wanted]).exit_code == 0
    (tmp_path / "app" / "tiny.ipynb").write_text(tiny("print('made of', gain * 21)").read_text())
    command = [part for part in calls[0] if ours or "config_file_paths" not in part]
    (probe / "probed.py").write_text(PROBED_VOILA)
    command[command.index("voila")] = "probed"
    with voila(command) as port:
        listing, headers = get(port, "/")
        if ours:
            assert "latent_probing.ipynb" in listing
            assert "missing_modalities.ipynb" in listing
            assert "default-src 'self'" in headers["Content-Security-Policy"]
        text, _ = get(port, "/voila/render/tiny.ipynb")
        assert "made of 42.0" in text
        assert "print(" not in text
        kernel = re.search(r'"kernelId": "([\w-]+)"', text)
        assert kernel is not None
        with closing(echo.Page(port, kernel[1], "", time.monotonic() + 60)) as page:
            assert (nodelay(port, page) not in ("0", "no such socket")) == ours
