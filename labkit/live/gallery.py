"""Labs on pages of their own: single HTML files, and notebooks of nothing else for Voila.

A file needs no kernel, no network, no widget manager; mail it and it still turns. It holds the same
script that JupyterLab runs and a small stand-in for the widget's model. The state stands in the address
after the `#`, so that a link opens a lab where somebody left it.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit import weights
from labkit.batch import Batch
from labkit.data.digits import Digits
from labkit.files import write_atomic
from labkit.live import cross, fusion, latent
from labkit.live.lab import PAGE, Lab, script


@dataclass(frozen=True)
class Exhibit:
    """One page: a title, what to read first, and its labs; a kernel behind the page can train, too."""

    title: str
    intro: str
    labs: Callable[[bool], Sequence[Lab]]


def held_out() -> Batch:
    """The digits that the labs of the gallery show: procedural, from the test split."""
    return Digits(n_test=400).load("test")


def _missing(kernel: bool) -> list[Lab]:
    plane, wide = weights.load("mvae2"), weights.load("mvae32")
    batch = held_out()
    return [
        fusion.missing_modalities(
            plane, batch, recipe=weights.SHIPPED["mvae2"] if kernel else None
        ),
        fusion.conflict(plane, batch),
        cross.matrix(wide, batch),
    ]


def _probing(kernel: bool) -> list[Lab]:
    plane, wide = weights.load("mvae2"), weights.load("mvae32")
    batch = held_out()
    return [latent.probe(wide, batch), latent.plane(plane, batch), latent.between(wide, batch)]


GALLERY = {
    "missing_modalities": Exhibit(
        "What does a missing modality look like?",
        "A digit is written in two scripts and spoken. A multimodal variational autoencoder has learnt all "
        "three together; here you take modalities away and see what it puts in their place: the mean of "
        "the digit's class, which is all that the modalities share. The models are small and were trained "
        "on digits that labkit draws itself; the numbers of record stand in notebook 01.",
        _missing,
    ),
    "latent_probing": Exhibit(
        "What does one latent mean?",
        "The poster 'Generative Multimodal Learning for Reconstructing Missing Modality' pushes one latent "
        "by up to 1500 standard deviations of the prior and sees the digit change. Here is that picture with "
        "what it lacks: a random direction beside it, a gauge of how far from all data it lies, the plane "
        "that latents live in and the paths through it. The numbers of record stand in notebook 02.",
        _probing,
    ),
}

# The stand-in for the widget's model: traits in a record, messages answered in the page.
STAND_IN = """
function standIn(lab) {
  const heard = {}, bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const fire = (event, ...values) => (heard[event] || []).forEach((act) => act(...values));
  return {
    get: (name) => lab[name],
    set: (name, value) => { lab[name] = value; },
    save_changes: () => history.replaceState(null, "", "#" + toLine(lab.spec, lab.state)),
    on: (event, act) => { (heard[event] = heard[event] || []).push(act); },
    off: (event, act) => { heard[event] = (heard[event] || []).filter((each) => each !== act); },
    send: (content) => {
      if (content.type !== "assets") return;
      const buffers = [bytes(BUFFERS[lab.buffer]), bytes(WASM)];
      fire("msg:custom", { type: "assets", manifest: lab.manifest }, buffers);
    },
  };
}
const link = decodeURIComponent(location.hash.slice(1));
for (const lab of LABS_HERE) {
  if (link.startsWith(lab.spec.name + "?")) lab.line = link;
  render({ model: standIn(lab), el: document.getElementById(lab.spec.name) });
}
"""
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1120px; margin: 24px auto; padding: 0 16px; }
body > p { max-width: 46em; }
"""


def page(title: str, intro: str, labs: Sequence[Lab]) -> str:
    """One self-contained HTML page of labs that compute in the page.

    Raises:
        ValueError: if a lab needs a kernel.
    """
    records, places, buffers = [], [], []  # labs of one model share its bytes
    for lab in labs:
        if lab.assets is None:
            raise ValueError(f"lab {lab.spec['name']!r} computes in a kernel: a page cannot run it")
        if lab.assets.buffer not in buffers:
            buffers.append(lab.assets.buffer)
        records.append({
            "spec": lab.spec, "state": lab.state, "pictures": {}, "error": "", "guess": lab.guess,
            "manifest": lab.assets.manifest, "buffer": buffers.index(lab.assets.buffer),
        })  # fmt: skip
        places.append(f'<div id="{lab.spec["name"]}"></div>')
    data = json.dumps(records, allow_nan=False).replace("</", "<\\/")
    wasm = base64.b64encode((PAGE / "simd.wasm").read_bytes()).decode()
    style = STYLE + (PAGE / "style.css").read_text(encoding="utf-8")
    code = script().replace("export default { render };", "")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{style}</style></head>
<body><h1>{html.escape(title)}</h1><p>{html.escape(intro)}</p>
<noscript><p>These labs run as JavaScript in this page; please allow it.</p></noscript>
{"".join(places)}
<script type="module">
const WASM = "{wasm}";
const BUFFERS = {json.dumps([base64.b64encode(each).decode() for each in buffers])};
const LABS_HERE = {data};
{code}
{STAND_IN}
</script></body></html>
"""


def write(name: str, folder: Path) -> Path:
    """Write one page of the gallery.

    Raises:
        ValueError: on an unknown name.
    """
    exhibit = _exhibit(name)
    path = folder / f"{name}.html"
    write_atomic(path, page(exhibit.title, exhibit.intro, exhibit.labs(False)))
    return path


def write_notebook(name: str, folder: Path) -> Path:
    """Write the labs of one page as a notebook; nothing is trained before they appear.

    Raises:
        ValueError: on an unknown name.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

    exhibit = _exhibit(name)
    show = (
        "from IPython.display import display\n\nfrom labkit.live.gallery import GALLERY\n\n"
        f"display(*GALLERY[{name!r}].labs(True))"
    )
    cells = [new_markdown_cell(f"# {exhibit.title}\n\n{exhibit.intro}"), new_code_cell(show)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / f"{name}.ipynb"
    write_atomic(path, writes(new_notebook(cells=cells, metadata={"kernelspec": kernel})))
    return path


def _exhibit(name: str) -> Exhibit:
    if name not in GALLERY:
        raise ValueError(f"unknown page {name!r}; the gallery has {', '.join(GALLERY)}")
    return GALLERY[name]
