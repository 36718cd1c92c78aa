"""How many round trips of gradients and weights a second, beside what memory allows and beside other people's software?

    python benchmarks/push_pull.py
    python benchmarks/push_pull.py --sizes 1.7e6 --workers 1,4 --paradigms asp --peers gloo,rpc --repeats 5

Workers compute nothing: their constant gradient lies in their slot. The local engine runs as in `dssp-bench run`, with
status page and records; what is left out is the network, and who watches. `limit` is a process that copies a gradient
in, makes torch's fused update and copies the weights out, and as many of them at once as there are workers; `memcpy` is
the two copies alone. Peers exchange gradients in the way of their own parameter-server examples, asynchronously; those
that are not installed are left out, with the reason. Whatever took part, the weights at the end must be those that so
many updates make.

All contenders of a case take turns, `--repeats` times; the first fifth of a turn is for warming up. Prints one JSON
line per case and contender, medians over the repeats: round trips per second, milliseconds of a round trip as its
worker sees it, CPU milliseconds of all processes per round trip (without Ray's own daemons), how many cores' worth of
time the server took, how many round trips were made in all, and by how much the best repeat exceeds the worst. Then a
table, with ratios to `limit`, `memcpy` and the best peer.

`--check-pulls` makes each worker look at every weight that it pulls: all are equal, unless a pull mixed two versions,
which ends the run with an error.
`--idle` adds workers that are silent, to see what the server costs meanwhile.
"""

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import peers
from _report import case as print_case
from _report import count, header, names_of, numbers, positive, table
from _spec import specification

from dssp_bench.core.errors import DsspBenchError
from dssp_bench.core.paradigm import Paradigm
from dssp_bench.engines.local.fork_server import start_fork_server
from dssp_bench.engines.options import LocalOptions
from dssp_bench.experiment.contenders import OverNetwork, ThroughServer, limit, memcpy
from dssp_bench.experiment.round_trips import PRELOAD, Contender, Medians, in_turns, measure

PARADIGMS = ("asp", "bsp", "ssp", "dssp")


def main() -> None:
    """Measure every case, then show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=numbers, default=[100_000, 1_700_000, 23_500_000], help="float32 parameters")
    parser.add_argument("--workers", type=numbers, default=[1, 2, 4])
    parser.add_argument("--paradigms", type=names_of(*PARADIGMS), default=list(PARADIGMS))
    parser.add_argument(
        "--network", type=names_of(*PARADIGMS), default=[], help="of the same: the cluster engine, over TCP"
    )
    parser.add_argument("--shards", type=numbers, default=[1], help="of the cluster engine's server")
    parser.add_argument(
        "--peers", type=names_of(*peers.PEERS), default=list(peers.PEERS), help=f"of {', '.join(peers.PEERS)}; '': none"
    )
    parser.add_argument("--mxnet-python", default="", help="an interpreter with mxnet, which needs a NumPy of its own")
    parser.add_argument("--ps-lite", default="", help="a folder with ps-lite's sources, which are compiled")
    parser.add_argument("--seconds", type=positive, default=3.0, help="of each contender's turn, after its start")
    parser.add_argument("--repeats", type=count, default=3)
    parser.add_argument("--no-records", dest="records", action="store_false")
    parser.add_argument("--check-pulls", action="store_true")
    parser.add_argument("--idle", action="store_true")
    arguments = parser.parse_args()
    header(arguments)
    start_fork_server(PRELOAD)
    contenders = chosen(arguments)

    rows = []
    for size in arguments.sizes:
        for workers in arguments.workers:
            rows += measured(contenders, size, workers, arguments)
    table(f"medians of {arguments.repeats} interleaved repeats", rows)
    if any(row["weights"] == "WRONG" for row in rows):
        sys.exit("wrong weights at the end")


def chosen(arguments: argparse.Namespace) -> dict[str, Contender]:
    """The contenders by name, bounds first; says why a peer is left out."""
    contenders: dict[str, Contender] = {"memcpy": memcpy, "limit": limit}
    for paradigm in arguments.paradigms:
        contenders[paradigm] = ours(paradigm, arguments, check_pulls=arguments.check_pulls)
    for paradigm in arguments.network:
        for shards in arguments.shards:
            name = f"{paradigm} over TCP" + (f", {shards} shards" if shards > 1 else "")
            contenders[name] = OverNetwork(*ours_with(paradigm), arguments.records, shards=shards)
    if arguments.idle:
        contenders["asp idle"] = ours("asp", arguments, idle_s=0.85 * arguments.seconds)
    for name in arguments.peers:
        try:
            contenders[name] = peers.PEERS[name](arguments)
        except peers.Missing as missing:
            print_case(contender=name, skipped=str(missing))
    return contenders


def ours(paradigm: str, arguments: argparse.Namespace, **options: Any) -> ThroughServer:
    """The local engine, with what the files in conf/ say."""
    return ThroughServer(*ours_with(paradigm), arguments.records, **options)


def ours_with(paradigm: str) -> tuple[Paradigm, LocalOptions]:
    """A paradigm and the engine's options, as the files in conf/ have them."""
    spec = specification(Path(), {"paradigm": paradigm}, {})
    assert isinstance(spec.engine, LocalOptions)
    return spec.paradigm, spec.engine


def measured(
    contenders: dict[str, Contender], size: int, workers: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The table's rows of one case, which are printed as JSON on the way."""
    turns = {
        name: partial(measure, contender, size, workers, arguments.seconds) for name, contender in contenders.items()
    }
    try:
        found, errors = in_turns(turns, arguments.repeats)
    except DsspBenchError as error:
        sys.exit(str(error))
    rows = [row(name, size, workers, medians) for name, medians in found.items()]
    rates = {name: medians.per_s for name, medians in found.items()}
    best_peer = max((rates[name] for name in arguments.peers if name in rates), default=None)
    bounds = {"of limit": rates.get("limit"), "of memcpy": rates.get("memcpy"), "of best peer": best_peer}
    for each in rows:
        each.update({name: each["per_s"] / bound if bound else None for name, bound in bounds.items()})
        print_case(**{key.replace(" ", "_"): value for key, value in each.items()})
    for name, reason in errors.items():
        print_case(size=size, workers=workers, contender=name, error=str(reason))
    return rows


def row(name: str, size: int, workers: int, medians: Medians) -> dict[str, Any]:
    """What the table says of one contender."""
    values = asdict(medians)
    weights = "right" if values.pop("right") else "WRONG"
    return {"contender": name, "size": size, "workers": workers, **values, "weights": weights}


if __name__ == "__main__":
    main()
