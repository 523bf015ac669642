"""The repository itself: one source of truth for versions, arrows that point down, no leaks."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Each layer may import itself and what stands above it in this list.
LAYERS = [
    ["files", "parameters", "progress", "server", "echo", "cluster"],
    ["batch", "keys", "protocols", "madds"],
    ["data", "models", "history"],
    ["train", "checkpoint", "watching"],
    ["metrics", "evidence", "floors", "store", "shelf", "sweep", "disentangle"],
    [
        "bundle",
        "tables",
        "ledger",
        "figures",
        "drawing",
        "missing",
        "latent",
        "focusing",
        "recovering",
        "choosing",
        "fusing",
        "exchanging",
        "shootout",
        "weights",
    ],
    ["live"],
    ["reproduce", "runner", "check", "cli", "doctor", "bench"],
]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~ \[]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = (line.split("==") for line in lines if not line.startswith("#"))
    return {name_of(name): version for name, version in pinned}


def tracked() -> list[Path]:
    """Return the files that are, or are about to be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_constraints_pin_every_requirement_inside_its_bounds() -> None:
    from packaging.requirements import Requirement

    pinned = pins()
    assert pinned["torch"] == "2.13.0"
    assert "labkit" not in pinned
    for text in [*PROJECT["dependencies"], *(item for extra in EXTRAS.values() for item in extra)]:
        requirement = Requirement(text)
        assert len(list(requirement.specifier)) >= 1, f"{text} has no bounds"
        assert requirement.specifier.contains(pinned[name_of(text)]), text


def test_environment_yml_says_the_same_as_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, inner = environment["dependencies"]
    assert python == "python=" + PROJECT["requires-python"].removeprefix(">=")
    assert pip == "pip"
    constraints, torch, labkit = inner["pip"]
    assert constraints == "-c constraints.txt"
    assert torch == f"torch=={pins()['torch']}"
    extras = re.fullmatch(r"-e \.\[(.+)\]", labkit)
    assert extras is not None
    assert set(extras[1].split(",")) == set(EXTRAS)


def test_make_installs_all_extras_for_tests_and_every_target_it_describes_is_phony() -> None:
    makefile = (ROOT / "Makefile").read_text()
    test = re.search(r"/\.labkit-test:.*?-e '\.\[(.+?)\]'", makefile, flags=re.DOTALL)
    assert test is not None
    assert set(test[1].split(",")) == set(EXTRAS)
    described = re.findall(r"^([a-z-]+):.*##", makefile, flags=re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony is not None
    assert set(described) == set(phony[1].split())


def test_make_help_lists_the_targets() -> None:
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert listed[:4] == ["help", "lab", "test", "lint"]


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("exit 1", "Python 3.11 or newer"),
        ('case "$*" in *ensurepip*) exit 1;; *) exit 0;; esac', "apt install python3-venv"),
    ],
    ids=["too old", "without venv"],
)
def test_make_lab_says_what_is_wrong_with_a_python(
    script: str, complaint: str, tmp_path: Path
) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    command = ["make", "lab", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert complaint in done.stdout + done.stderr
    assert not (tmp_path / "venv").exists()


def test_ci_runs_what_the_readme_says() -> None:
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    assert "exec make test" in path.read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_readme_shows_a_picture_of_every_run_of_record_and_the_head_of_the_ledger() -> None:
    readme, ledger = ((ROOT / name).read_text() for name in ("README.md", "figures/ledger.md"))
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert [name for name in pictures if not (ROOT / name).is_file()] == []
    found = {path.name.partition(".")[0] for path in (ROOT / "figures" / "results").glob("*.json")}
    for notebook in sorted(found):
        assert any(name.startswith(f"figures/{notebook}/") for name in pictures), notebook
    head = ledger[ledger.index("| notebook |") : ledger.index("\n\n## ")]
    assert len(head.splitlines()) > 10
    assert head in readme, "copy the first table of figures/ledger.md into README.md"


# No pattern matches its own line: a bracket stands in each. All are of lower case, and what stands before
# a match is looked at last: a pattern that begins with a letter is found ten times as fast.
LEAKS = {
    "a path of somebody's machine": r"/(?<![\w.]/)(work|root|home|users|mnt)/\w|/tmp/[l]k\b|/opt/[pw]",
    "the folder beside the checkout": r"\.\./share[d]",
    "a package registry": r"pyp[i]\.org|pythonhoste[d]|download\.pytorc[h]|anacond[a]\.(org|com)"
    r"|registry\.npmj[s]|tes[t]pypi",
    "a tool of a session": r"claud[e]\b|anthropi[c]|copilo[t]\b|chatgp[t]|code[x](?<!\wcode[x])\b",
}


def test_no_committed_file_names_machines_registries_or_tools() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8").lower()
        except UnicodeDecodeError:
            continue
        for what, pattern in LEAKS.items():
            # CI lays the data beside the checkout, so its script alone may look there.
            if what == "the folder beside the checkout" and path == ROOT / ".ci" / "run":
                continue
            for hit in re.finditer(pattern, text):
                line = text.count("\n", 0, hit.start()) + 1
                found.append(f"{path.relative_to(ROOT)}:{line}: {what}: {hit[0]}")
    assert found == []


def hygiene() -> ModuleType:
    path = ROOT / "tests" / "notebooks" / "hygiene.py"
    spec = importlib.util.spec_from_file_location("hygiene", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOURCES = sorted((ROOT / "labkit").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_labkit_uses_nothing_banned(path: Path) -> None:
    assert list(hygiene().banned(path.read_text())) == []


@cache
def imports(path: Path) -> set[str]:
    """Return the modules a file imports, `from labkit import ledger` as `labkit.ledger`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "labkit":
            found |= {f"labkit.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def layer(module: str) -> int:
    for number, names in enumerate(LAYERS):
        if module in names or module.split("_")[0] in names:  # figures_missing sits with figures
            return number
    raise AssertionError(f"{module} stands in no layer: put it into LAYERS of this test")


def test_arrows_point_down() -> None:
    wrong = []
    for path in SOURCES:
        module = path.relative_to(ROOT / "labkit").parts[0].removesuffix(".py")
        if module in ("__init__", "__main__"):
            continue
        for name in imports(path):
            package, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if package != "labkit" or target in ("", "LabkitError", "__version__"):
                continue
            if layer(target) > layer(module):
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_every_package_that_labkit_imports_is_a_stated_requirement() -> None:
    optional = [*EXTRAS["data"], *EXTRAS["cluster"]]
    stated = {name_of(text) for text in [*PROJECT["dependencies"], *optional]}
    called = {
        "sklearn": "scikit-learn",
        "PIL": "pillow",
        "jupyter_client": "nbclient",
        "jupyter_server": "jupyterlab",
        "websocket": "jupyterlab",
        "traitlets": "ipywidgets",
    }  # nbclient brings it
    needed = {name.split(".")[0] for path in SOURCES for name in imports(path)}
    needed -= set(sys.stdlib_module_names) | {"labkit"}
    assert {called.get(name, name) for name in needed} - stated == set()
