"""Say what works on this machine: versions, processor, memory, browser, data, store, GPU, echo."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from labkit.tables import aligned

_SYMBOLS = {"ok": "✓ ok", "warn": "! warn", "fail": "✗ fail"}
_BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


@dataclass(frozen=True)
class Finding:
    """One line of the report: how it is, and what to do if that is not well."""

    what: str
    level: str
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything; a look that itself fails becomes a finding, never a traceback."""
    findings = []
    looks = (_python, _torch, _cpu, _memory, _jupyter, _browser, _data, _store, _gpu, _echo)
    for look in looks:
        try:
            findings.append(look())
        except Exception as error:  # a broken installation is just what this command is for
            name = look.__name__.strip("_")
            advice = "install again: make lab, or pip install -e . -c constraints.txt"
            findings.append(Finding(name, "fail", f"{type(error).__name__}: {error}", advice))
    return findings


def report(findings: list[Finding]) -> str:
    """Return the findings as a table."""
    rows = [[_SYMBOLS[f.level], f.what, f.found, f.advice] for f in findings]
    return aligned(["", "what", "found", "what to do"], rows)


def browser() -> str | None:
    """Return the path of a Chromium for browser tests: $LABKIT_CHROMIUM or one on the path."""
    chosen = os.environ.get("LABKIT_CHROMIUM")
    return chosen or next((path for name in _BROWSERS if (path := shutil.which(name))), None)


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Finding:
    import torch

    return Finding("torch", "ok", torch.__version__)


def _cpu() -> Finding:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    found = f"{capability}, {os.cpu_count()} cores, torch threads {torch.get_num_threads()}"
    if capability in ("DEFAULT", "NO AVX") and platform.machine() in ("x86_64", "AMD64"):
        return Finding(
            "cpu", "warn", found, "works, but trains several times slower than with AVX2"
        )
    return Finding("cpu", "ok", found)


def _memory() -> Finding:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    gib = pages * size / 2**30
    if gib < 4:
        return Finding("memory", "warn", f"{gib:.1f} GiB", "keep one notebook open at a time")
    return Finding("memory", "ok", f"{gib:.1f} GiB")


def _jupyter() -> Finding:
    names = ("jupyterlab", "ipywidgets", "ipykernel", "papermill")
    try:
        return Finding("jupyter", "ok", ", ".join(f"{name} {version(name)}" for name in names))
    except PackageNotFoundError as error:
        advice = "pip install -e . -c constraints.txt"
        return Finding("jupyter", "fail", f"{error.name} is missing", advice)


def _browser() -> Finding:
    path = browser()
    if path is None:
        advice = "only browser tests need it; Debian: apt install chromium; macOS: install Chrome"
        return Finding("chromium", "warn", "none found", advice + ", or set LABKIT_CHROMIUM")
    return Finding("chromium", "ok", path)


def _data() -> Finding:
    from labkit.data import files

    here = sorted({entry.dataset for entry in files.catalogue() if entry.local})
    missing = sorted({entry.dataset for entry in files.catalogue()} - set(here))
    if missing:
        found = f"{', '.join(here) or 'none'} here; {', '.join(missing)} not"
        advice = "only --source real needs it: labkit data get, or set LABKIT_DATA"
        return Finding("data", "warn", found, advice)
    return Finding("data", "ok", ", ".join(here))


def _store() -> Finding:
    from labkit.shelf import store_root

    folder = store_root()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    found = f"{size / 2**20:,.0f} MiB in {folder}"
    if size > 5 * 2**30:
        return Finding("store", "warn", found, "labkit runs clean")
    return Finding("store", "ok", found)


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", "ok", "none; every notebook is sized for a CPU")
    return Finding("gpu", "ok", torch.cuda.get_device_name())


def _echo() -> Finding:
    from labkit import echo

    try:
        measured = echo.measure()
    except TimeoutError as error:
        return Finding("echo", "warn", str(error), "run labkit doctor again on a quieter machine")
    median = statistics.median(measured.ms)
    found = f"{median:.0f} ms for a widget's message to the kernel and back"
    if median <= 25:
        return Finding("echo", "ok", found)
    if measured.no_delay:
        advice = "the no-delay extension is on, so the machine is busy: look again when it is not"
    else:
        advice = "views lag: `jupyter server extension list` should show labkit.server enabled; "
        advice += "if it does not: pip install -e . -c constraints.txt"
    return Finding("echo", "warn", found, advice)
