"""`python -m labkit.bench`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from labkit import LabkitError
from labkit.bench import digits, exchange, flow, mfh, mult, routing, sweep
from labkit.bench.timing import machine
from labkit.files import write_atomic

BENCHMARKS = {
    "mvae_step": digits.mvae_step,
    "render": digits.render,
    "mfh_figures": mfh.mfh_figures,
    "mfh_algorithm1": mfh.mfh_algorithm1,
    "mfh_gpu": mfh.mfh_gpu,
    "flow": flow.flow_both_ways,
    "cross_modal": mult.cross_modal,
    "norm_exchange": exchange.norm_exchange,
    "cross_attention": exchange.cross_attention,
    "routing": routing.modality_level,
    "routing_fusion": routing.fusion_level,
    "sweep": sweep.sweep_engines,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--rounds", default=15, show_default=True, help="Timed rounds of each way.")
@click.option(
    "--out", default=Path("figures/bench"), type=click.Path(path_type=Path), show_default=True
)
def main(names: tuple[str, ...], rounds: int, out: Path) -> None:
    """Run the benchmarks NAMES on one thread; without names all that this machine can."""
    torch.set_num_threads(1)
    for name in names or BENCHMARKS:
        try:
            result = BENCHMARKS[name](rounds) | {"machine": machine()}
        except LabkitError as error:
            if names:
                raise click.ClickException(str(error)) from error
            click.echo(f"{name}\nskipped: {error}")
            continue
        write_atomic(out / f"{name}.json", json.dumps(result, indent=2) + "\n")
        click.echo(f"{name}\n{json.dumps(result, indent=2)}")


if __name__ == "__main__":
    main()
