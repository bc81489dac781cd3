"""Two machines of one processor each, simulated by Ray; one is lost while both are at work."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import click

from benchmarks.pool import Policy, Pool
from benchmarks.ray_engine import RayEngine
from benchmarks.supervisor import Place
from tests.support.work import leave_a_mark


def main(folder: Path) -> None:
    """Do eight tasks on the two machines; print what came of them."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    first = cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    pool = Pool(work=leave_a_mark, places=(Place(),), policy=Policy())

    def lose() -> None:
        while len(list(folder.iterdir())) < 3:  # two have begun on either machine, or one is done
            time.sleep(0.1)
        cluster.remove_node(first, allow_graceful=False)
        click.echo(f"machine lost after {len(list(folder.iterdir()))} beginnings")

    threading.Thread(target=lose, daemon=True).start()
    started = time.monotonic()
    tasks = [f"{folder}/{number}" for number in range(8)]
    outcomes = list(RayEngine().run(pool, tasks))
    for outcome in outcomes:
        click.echo(f"{outcome.task} {outcome.ended.status} {outcome.ended.reason}")
    answered = [o for o in outcomes if o.ended.answer == f"did {o.task}"]
    click.echo(f"all {len(answered)} tasks answered in {time.monotonic() - started:.0f} s")
    begun = len(list(folder.iterdir()))
    click.echo(f"{begun} beginnings")
    ray.shutdown()
    cluster.shutdown()
    if len(answered) != len(tasks) or begun <= len(tasks):
        raise SystemExit("a task was lost, or no machine was")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
