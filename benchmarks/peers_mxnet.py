"""MXNet's `dist_async` store as a peer: what each of its processes runs, in an interpreter that has MXNet.

MXNet 1.9 is the last one, needs NumPy below 1.24, and so an environment of its own:

    python -m venv /tmp/mxnet && /tmp/mxnet/bin/pip install mxnet==1.9.1 numpy==1.23.5

`push_pull.py --mxnet-python /tmp/mxnet/bin/python` starts this file as scheduler, server and workers, which find each
other by the `DMLC_` variables; their messages are those of ps-lite. The store keeps the whole vector under one key. On
one CPU a pull lands in the very array that was pushed, so a worker fills its gradient in again before each push.
"""

import json
import os
import sys
import time

import mxnet as mx
import numpy as np


def main(options):
    """Be a worker; who is scheduler or server never comes back from the import of MXNet's server module."""
    if os.environ["DMLC_ROLE"] != "worker":
        import mxnet.kvstore_server

        mxnet.kvstore_server._init_kvstore_server_module()
        return
    store = mx.kv.create("dist_async")
    gradient, pulled = mx.nd.zeros(options["parameters"]), mx.nd.zeros(options["parameters"])
    store.init("weights", pulled)
    if store.rank == 0:
        settings = {"learning_rate": options["learning_rate"], "momentum": options["momentum"], "wd": 0.0}
        store.set_optimizer(mx.optimizer.SGD(rescale_grad=1.0, lazy_update=False, **settings))
    store._barrier()

    def round_trip():
        gradient[:] = options["gradient"]
        store.push("weights", gradient)
        store.pull("weights", out=pulled)
        pulled.wait_to_read()

    made = until_time_is_up(options, store.rank, round_trip)
    store._barrier()
    store.pull("weights", out=pulled)
    print(json.dumps([made, pulled.min().asscalar().item(), pulled.max().asscalar().item()]), flush=True)


def until_time_is_up(options, worker, round_trip):
    """As for the other contenders, without torch."""
    moments = np.memmap(options["file"], np.int64, "r+", shape=tuple(options["shape"]))[worker]
    end = time.monotonic_ns() + round(options["seconds"] * 1e9)
    for done in range(len(moments)):
        moments[done] = now = time.monotonic_ns()
        if now >= end:
            break
        round_trip()
    return done


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
