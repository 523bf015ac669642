"""The command line. Each command imports what it needs when it runs: `labkit --help` is instant."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from labkit import LabkitError, __version__

_PRESETS = click.Choice(["smoke", "quick", "full", "paper"])
_SOURCES = click.Choice(["procedural", "real"])
_DATASETS = click.Choice(
    ["hoda", "kannada", "fsdd", "ravdess", "mosi", "utd_mhad", "nyuv2", "mmimdb", "epic"]
)


class _Group(click.Group):
    """Turns LabkitError, which says what to do, into one message and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LabkitError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="labkit")
def main() -> None:
    """What does a multimodal model know when a modality is missing, noisy, costly or unequal?

    Start with `labkit lab`; `labkit doctor` says what works on this machine.
    """


@main.command()
@click.option("--headless", is_flag=True, help="Open no browser; print the address to visit.")
@click.option(
    "--port", type=int, default=8888, show_default=True, help="Port, or the next free one."
)
def lab(headless: bool, port: int) -> None:
    """Open JupyterLab on the map of the notebooks.

    \b
    Examples:
      labkit lab
      labkit lab --headless --port 9000     (then: ssh -L 9000:localhost:9000 HOST)
    """
    from labkit.files import cache_dir, write_atomic
    from labkit.reproduce import repository

    start = "notebooks/00_start_here.ipynb"
    command = [
        *(sys.executable, "-m", "jupyterlab", f"--port={port}"),
        *(f"--ServerApp.root_dir={repository()}", f"--LabApp.default_url=/lab/tree/{start}"),
    ]
    # No question about news on first opening, and no request to the network in a class room.
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    overrides = json.dumps({"@jupyterlab/apputils-extension:notification": quiet})
    write_atomic(cache_dir() / "jupyterlab" / "overrides.json", overrides)
    command += [
        f"--LabApp.app_settings_dir={cache_dir() / 'jupyterlab'}",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    installed = Path(sys.prefix) / "etc" / "jupyter" / "jupyter_server_config.d" / "labkit.json"
    if not installed.is_file():  # a checkout that is not installed; see labkit.server
        command.append("--ServerApp.jpserver_extensions=labkit.server=True")
    if headless:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container there often is nobody else
    os.execv(sys.executable, command)


@main.command()
@click.option("--headless", is_flag=True, help="Open no browser; print the address to visit.")
@click.option(
    "--port", type=int, default=8866, show_default=True, help="Port, or the next free one."
)
def app(headless: bool, port: int) -> None:
    """Serve the labs of the notebooks as pages: no code, no JupyterLab around them (Voila).

    Whoever opens a page gets a kernel of their own; nothing is asked of other hosts.

    \b
    Examples:
      labkit app
      labkit app --headless --port 9000     (then: ssh -L 9000:localhost:9000 HOST)
    """
    from importlib.util import find_spec

    if find_spec("voila") is None:
        raise LabkitError(
            "labkit app needs Voila, which is not installed: make app, "
            "or pip install -e '.[apps]' -c constraints.txt"
        )
    from labkit.files import cache_dir
    from labkit.live import gallery

    folder = cache_dir() / "app"
    for name in gallery.GALLERY:
        gallery.write_notebook(name, folder)
    command = [
        *(sys.executable, "-m", "voila", str(folder), f"--port={port}"),
        f"--Voila.config_file_paths={Path(__file__).with_name('jupyter_config')}",
    ]
    if headless:
        command.append("--no-browser")
    os.execv(sys.executable, command)


@main.command()
@click.argument("notebooks", nargs=-1)
@click.option("--preset", type=_PRESETS, default="quick", show_default=True)
@click.option("--source", type=_SOURCES, default="procedural", show_default=True)
@click.option(
    "-p", "settings", multiple=True, metavar="NAME=VALUE", help="Set a parameter; may be repeated."
)
@click.option("--figures", type=click.Path(path_type=Path), help="Where results go. [figures/]")
@click.option("--timeout", type=float, help="Seconds one cell may take. [by preset]")
@click.option("--engine", type=click.Choice(["here", "dask"]), default="here", show_default=True)
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler. [a local cluster]")
def reproduce(
    notebooks: Sequence[str],
    preset: str,
    source: str,
    settings: Sequence[str],
    figures: Path | None,
    timeout: float | None,
    engine: str,
    scheduler: str | None,
) -> None:
    """Run NOTEBOOKS (all, if none is named) and keep results, figures, pages and the ledger.

    \b
    Examples:
      labkit reproduce 01_missing_modalities
      labkit reproduce --preset full --source real
      labkit reproduce 01_missing_modalities -p seeds=0,1,2 -p device=cpu
      labkit reproduce --engine dask --scheduler tcp://HOST:8786
    """
    from labkit import reproduce as series

    if scheduler and engine != "dask":
        raise click.UsageError("--scheduler needs --engine dask")
    parameters = dict(_setting(text) for text in settings)
    results = series.reproduce(
        notebooks, preset, source, parameters, figures, timeout, engine, scheduler
    )
    for path in results:
        click.echo(path)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise click.UsageError(f"-p takes NAME=VALUE, got {text!r}")
    if name in ("preset", "source"):
        raise click.UsageError(f"set it by --{name} {value}, not by -p")
    return name, value


@main.command()
@click.argument("notebooks", nargs=-1)
@click.option("--preset", type=_PRESETS, help="Check this preset only; the one to --record.")
@click.option("--source", type=_SOURCES, default="procedural", help="The data source to --record.")
@click.option("--figures", type=click.Path(path_type=Path), help="Where results are. [figures/]")
@click.option("--expected", type=click.Path(path_type=Path), help="[notebooks/expected]")
@click.option("--record", is_flag=True, help="Run NOTEBOOKS on several settings; write new values.")
def check(
    notebooks: Sequence[str],
    preset: str | None,
    source: str,
    figures: Path | None,
    expected: Path | None,
    record: bool,
) -> None:
    """Compare results with the expected ones; exit status 1 on any difference.

    \b
    Examples:
      labkit reproduce --preset smoke && labkit check --preset smoke
      labkit check --record 01_missing_modalities --preset smoke
    """
    from labkit import check as regression
    from labkit.reproduce import find, repository

    if record:
        if not notebooks:
            raise click.UsageError("--record needs the name of a notebook")
        for notebook in notebooks:
            click.echo(regression.record(notebook, preset or "smoke", source, expected))
        return
    names = [path.stem for path in find(notebooks)] if notebooks else []
    results = (figures or repository() / "figures") / "results"
    wanted = expected or repository() / "notebooks" / "expected"
    compared, differences = regression.check(results, wanted, names, preset)
    if differences:
        click.echo(regression.report(differences))
        raise click.ClickException(f"{len(differences)} of the results are not as expected.")
    click.echo(f"{compared} results are as expected.")


@main.group()
def data() -> None:
    """The real data: what there is, whence, and what is here. No notebook needs it."""


@data.command("list")
def list_data() -> None:
    """Show each file's origin, licence, size, and whether it is here."""
    from labkit.data import files
    from labkit.tables import aligned

    rows = [
        [
            entry.dataset,
            entry.file,
            "–" if entry.size is None else f"{entry.size / 1e6:.1f} MB",
            str(entry.local or "not here"),
            entry.licence,
            entry.url or "packed from the originals",
        ]
        for entry in files.catalogue()
    ]
    click.echo(aligned(["data set", "file", "size", "here", "licence", "origin"], rows))
    click.echo("\nLooked for in: " + ", ".join(map(str, files.roots())))


@data.command("get")
@click.argument("names", nargs=-1, type=_DATASETS, metavar="[NAME]...")
def get_data(names: Sequence[str]) -> None:
    """Download data sets (all, if none is named); each file is checked against its sha256.

    Names are those that `labkit data list` shows. One that cannot be had does not stop the others; exit
    status 1 then.
    """
    from labkit.data import files

    problems = []
    for name in names or _DATASETS.choices:
        try:
            for path in files.get(name):
                click.echo(path)
        except LabkitError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise LabkitError("\n".join(problems))


@data.command("check")
@click.argument("names", nargs=-1, type=_DATASETS, metavar="[NAME]...")
def check_data(names: Sequence[str]) -> None:
    """Hash again what is here; exit status 1 if a file is not what it should be.

    A data set that is named must be here, too; without names, any that is not is passed over.
    """
    from labkit.data import files

    asked: Sequence[str | None] = names or [None]
    problems = [problem for name in asked for problem in files.check(name)]
    if problems:
        raise click.ClickException("\n".join(problems))
    click.echo("All files are what they should be.")


@main.group()
def runs() -> None:
    """Finished trainings, kept so that a notebook opens in seconds the second time."""


@runs.command("list")
def list_stored() -> None:
    """Show what is stored; every byte is checked."""
    from labkit import shelf
    from labkit.tables import aligned

    rows = [
        [
            entry["key"],
            entry["kind"] + (" (damaged)" if entry["damaged"] else ""),
            str(entry["config"] or "–"),
            "–" if entry["seed"] is None else str(entry["seed"]),
            f"{entry['bytes'] / 1e6:.1f} MB",
            "–" if entry["seconds"] is None else f"{entry['seconds']:.0f} s",
            entry["created"],
        ]
        for entry in shelf.list_runs()
    ]
    click.echo(aligned(["key", "kind", "of", "seed", "size", "took", "made"], rows))
    click.echo(f"\n{len(rows)} runs in {shelf.store_root()}")


@runs.command("clean")
@click.argument("keys", nargs=-1)
@click.option("--older-than-days", type=click.FloatRange(min=0), help="Only what was made before.")
@click.option("--damaged", is_flag=True, help="Only what is damaged.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean_stored(
    keys: Sequence[str], older_than_days: float | None, damaged: bool, yes: bool
) -> None:
    """Delete runs (all, if no KEYS are given); a notebook trains again what it needs."""
    from labkit import shelf

    if not yes:
        click.confirm(f"Delete runs from {shelf.store_root()}?", abort=True)
    try:
        removed = shelf.clean(
            keys=keys or None, older_than_days=older_than_days, damaged_only=damaged
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{len(removed)} runs deleted.")


@main.command()
@click.argument("names", nargs=-1)
@click.option(
    "--out", default=Path("figures/gallery"), type=click.Path(path_type=Path), show_default=True
)
def gallery(names: Sequence[str], out: Path) -> None:
    """Write labs as single HTML files that need no kernel and no network (all, if none is named)."""
    from labkit.live import gallery as pages

    for name in names or pages.GALLERY:
        try:
            click.echo(pages.write(name, out))
        except ValueError as error:
            raise click.UsageError(str(error)) from None


@main.group("weights")
def shipped() -> None:
    """The small trained models that ship with labkit."""


@shipped.command("check")
def check_weights() -> None:
    """Measure each shipped model again; exit status 1 if a figure is not what its file says."""
    from labkit import weights

    wrong = [line for name in weights.SHIPPED for line in weights.check(name)]
    if wrong:
        raise click.ClickException("\n".join(wrong))
    click.echo(f"{', '.join(weights.SHIPPED)}: as their files say.")


@shipped.command("make")
@click.argument("names", nargs=-1)
def make_weights(names: Sequence[str]) -> None:
    """Train NAMES (all, if none is named) anew by their recipes: two to four minutes each."""
    from labkit import weights

    for name in names or weights.SHIPPED:
        click.echo(weights.make(name))


@main.command()
def doctor() -> None:
    """Say what works on this machine, and what to do about the rest."""
    from labkit import doctor as examination

    findings = examination.examine()
    click.echo(examination.report(findings))
    if any(finding.level == "fail" for finding in findings):
        raise click.exceptions.Exit(1)
