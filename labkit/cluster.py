"""A Dask cluster: one that is there already, or the cores of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from labkit import LabkitError

PATIENCE_S = 8  # for a scheduler that does not answer


@contextmanager
def connected(
    scheduler: str | None, tasks: int, resources: Mapping[str, float] | None = None
) -> Iterator[Any]:
    """Give a Dask client.

    Args:
        scheduler: Address of a scheduler, such as tcp://10.0.0.1:8786; None = a cluster of this machine's
            cores, one thread each, that ends with the context.
        tasks: How many tasks there will be: no more workers than that are started here.
        resources: What every task needs of its worker, such as {"GPU": 1}.

    Raises:
        LabkitError: without Dask, if no scheduler answers, or if no worker offers the resources.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise LabkitError(
            "The dask engine needs Dask: pip install -e '.[cluster]' in the repository."
        ) from None
    with ExitStack() as stack:
        where: Any = scheduler
        if scheduler is None:
            workers = max(1, min(tasks, os.cpu_count() or 1))
            where = stack.enter_context(
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
            )
        try:
            client = stack.enter_context(Client(where, timeout=PATIENCE_S))
        except (OSError, ValueError) as error:  # nobody there; not an address
            raise LabkitError(
                f"No Dask scheduler answers at {scheduler}: {error}. Start one with `dask scheduler`, or "
                "leave the address out to use this machine's cores."
            ) from None
        offered = [w["resources"] for w in client.scheduler_info(n_workers=-1)["workers"].values()]
        for name, amount in (resources or {}).items():
            if not any(each.get(name, 0) >= amount for each in offered):
                raise LabkitError(
                    f"No worker offers {name}={amount:g}, which every point asks for. Start workers with "
                    f"`dask worker {scheduler or 'ADDRESS'} --resources {name}={amount:g}`."
                )
        yield client
