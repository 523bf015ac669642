"""A real JupyterLab and a real Chromium, one of each for all browser tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

from labkit import doctor

READY = """() => {
  const kernel = window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel;
  return kernel?.connectionStatus === "connected" && kernel.status === "idle";
}"""  # the notebook's own indicator says idle before there is a kernel


class Server:
    """A JupyterLab that serves one folder on this machine, with folders of its own for everything."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.root = folder / "notebooks"
        self.root.mkdir(parents=True)
        own = ("JUPYTER_RUNTIME", "JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTERLAB_SETTINGS",
               "JUPYTERLAB_WORKSPACES")  # fmt: skip
        self.env = os.environ | {f"{name}_DIR": str(folder / name.lower()) for name in own}
        self.env["LABKIT_STORE"] = str(store)
        self.log = folder / "log.txt"
        quiet = {"fetchNews": "false", "checkForUpdates": False}
        (folder / "app").mkdir()
        (folder / "app" / "overrides.json").write_text(
            json.dumps(
                {
                    "@jupyterlab/apputils-extension:notification": quiet,
                    "@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": True},
                    "@jupyterlab/notebook-extension:tracker": {
                        "windowingMode": "defer"
                    },  # all cells in the DOM
                }
            )
        )
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--allow-root"),
            *("--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"),
            *("--expose-app-in-browser", "--LabApp.news_url="),
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            f"--LabApp.app_settings_dir={folder / 'app'}",
            f"--ServerApp.root_dir={self.root}",
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=subprocess.STDOUT
            )
        self.url = self._address(Path(self.env["JUPYTER_RUNTIME_DIR"]))

    def _address(self, runtime: Path) -> str:
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            for path in runtime.glob("jpserver-*.json"):
                return str(json.loads(path.read_text())["url"])
            time.sleep(0.2)
        raise RuntimeError(f"JupyterLab did not start:\n{self.log.read_text()}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, private_folders: None, shelf: Path
) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("jupyter"), shelf)
    yield started
    started.stop()


@pytest.fixture(
    scope="module"
)  # a session's would keep its event loop running under all other tests
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=doctor.browser(), args=["--no-sandbox", "--disable-gpu"]
        )


class Watched:
    """What a page must not do: leave the machine, or throw."""

    def __init__(self, page: Page) -> None:
        self.outside: list[str] = []
        self.errors: list[str] = []
        page.on("request", self._request)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _request(self, request: object) -> None:
        url = urlsplit(request.url)  # type: ignore[attr-defined]
        if url.scheme in ("http", "https", "ws", "wss") and url.hostname not in (
            "127.0.0.1",
            "localhost",
        ):
            self.outside.append(url.geturl())


@pytest.fixture(scope="module")
def open_notebook(server: Server, chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Write a notebook of these cells, open it in JupyterLab, run all; the page is watched."""
    pages: list[Page] = []

    def run(
        name: str, *cells: str, notebook: nbformat.NotebookNode | None = None,
        wait_for: str = ".labkit canvas", timeout: float = 120,
    ) -> Page:  # fmt: skip
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        made = notebook or new_notebook(
            cells=[new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}
        )
        nbformat.write(made, server.root / f"{name}.ipynb")
        page = chromium.new_page(viewport={"width": 1280, "height": 1500})
        page.watched = Watched(page)  # type: ignore[attr-defined]
        pages.append(page)
        page.goto(f"{server.url}lab/tree/{name}.ipynb?reset")
        page.wait_for_function(READY, timeout=60_000)
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        try:
            page.wait_for_selector(wait_for, timeout=1000 * timeout)
        except TimeoutError as error:
            page.screenshot(path=server.root / f"{name}.png")
            outputs = page.locator(".jp-RenderedText").all_inner_texts()
            raise RuntimeError(
                f"{wait_for} did not come; {page.watched.errors}; {outputs}"
            ) from error  # type: ignore[attr-defined]
        return page

    yield run
    for page in pages:
        page.close()
