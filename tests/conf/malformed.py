"""Right and wrong values of every key of the configuration, and wrong shapes of its groups, to draw examples from.

Said here once more, by hand, what each key takes; so a mistake in the schemas does not excuse itself.
"""

import copy
from collections.abc import Iterator
from functools import cache
from math import inf, nan
from typing import Any, NamedTuple

from hypothesis import strategies as st

from dssp_bench.cli.compose import compose_job

Values = st.SearchStrategy[Any]

NO_NUMBERS = ["", "abc", "1 2", "--1", "ünï", "☃", "\x00", "\ud800", "x" * 5000, "1e", "0x", "${seed", "a: [1, {"]
LARGEST = 2**63 - 1
SCALARS: Values = st.sampled_from([0, 1, -1, 1.5, nan, inf, True, "", "abc", "☃"])
GROUPS: Values = st.sampled_from([{}, {"a": 1}, {"_target_": "os.system"}, {1: 2}, {"": {}}, {None: []}])
LISTS: Values = st.sampled_from([[], [1], [None], [[[[]]]], ["abc"], [{}], [nan]])


class Kind(NamedTuple):
    """What a key takes and what it does not."""

    right: Values
    wrong: Values


def _or_null(kind: Kind, null: bool) -> Kind:
    if null:
        return Kind(st.none() | kind.right, kind.wrong)
    return Kind(kind.right, st.none() | kind.wrong)


def whole(least: int, usual: int = 9, most: int = LARGEST, null: bool = False) -> Kind:
    """Whole numbers from `least` on; small ones, up to `usual`, to begin with."""
    numbers = st.integers(max_value=least - 1) | st.integers(min_value=most + 1) | st.just(10**5000)
    wrong = numbers | st.sampled_from([0.5, nan, inf, -inf, True, False, *NO_NUMBERS])
    return _or_null(Kind(st.integers(least, max(usual, least)), wrong | GROUPS | LISTS), null)


def number(
    low: float, high: float = inf, open_ends: bool = False, usual: float = 1.0, null: bool = False, below: bool = False
) -> Kind:
    """Numbers between two bounds, of which the lower counts unless `open_ends`, and the upper one unless `below`."""
    wrong = st.sampled_from([-inf, inf, nan, True, False, *NO_NUMBERS, *([low] if open_ends else [])])
    wrong |= st.floats(max_value=low, exclude_max=True) | st.floats(
        min_value=high, exclude_min=high < inf and not below
    )
    return _or_null(Kind(st.just(usual) | st.sampled_from([usual, str(usual)]), wrong | GROUPS | LISTS), null)


def word(*allowed: str, null: bool = False) -> Kind:
    """One of a few words."""
    return _or_null(Kind(st.sampled_from(allowed), SCALARS | GROUPS | LISTS), null)


def list_of(item: Kind) -> Kind:
    """Lists of these; null is none."""
    wrong_items = st.lists(item.right, max_size=2).flatmap(lambda some: item.wrong.map(lambda bad: [*some, bad]))
    wrong = wrong_items | SCALARS | GROUPS.filter(bool) | st.none()
    return Kind(st.lists(item.right, max_size=4), wrong)


POSITIVE = number(0, open_ends=True)
COST = number(0, 1e6)
FLAG = Kind(st.booleans() | st.sampled_from(["yes", "off"]), st.sampled_from([2, 0.5, nan, "", "maybe", None]) | GROUPS)
DEVICE = word("auto", "cpu")
FOLDER = Kind(
    st.just("somewhere"), st.sampled_from([None, 1, "\x00", "~nobody-of-that-name/x", "\ud800"]) | GROUPS | LISTS
)
WIDTH = whole(1)
SIZES = Kind(
    st.just([1, 8, 8]), st.sampled_from([[1, 8], [8, 8, 8, 8], [0, 8, 8], "8x8", 8, [1, 8, "a"], None]) | GROUPS
)

EVENTS = Kind(
    st.sampled_from([
        [], [{"worker": 0, "at_s": 1}| {"slowdown": 2.0}], [{"worker": 1, "at_s": 1.5, "leave": True}],
        [{"worker": 1, "at_s": 1, "join": True}, {"worker": 1, "at_s": 2, "leave": True}],
    ]),
    st.sampled_from([
        None, 5, "leave", {"worker": 0}, [5], [None], [{}], [[]], ["worker: 0"],
        [{"worker": 0, "at_s": 1}],
        [{"worker": 0, "at_s": 1, "leave": False}],
        [{"worker": 0, "at_s": 1, "leave": True, "join": True}],
        [{"worker": 0, "at_s": 1, "slowdown": 2, "leave": True}],
        [{"worker": -1, "at_s": 1, "leave": True}],
        [{"worker": 10**9, "at_s": 1, "leave": True}],
        [{"worker": "fast", "at_s": 1, "leave": True}],
        [{"worker": 0.5, "at_s": 1, "leave": True}],
        [{"worker": True, "at_s": 1, "leave": True}],
        [{"worker": 0, "at_s": -1, "leave": True}],
        [{"worker": 0, "at_s": nan, "leave": True}],
        [{"worker": 0, "at_s": 1e300, "leave": True}],
        [{"worker": 0, "at_s": "later", "leave": True}],
        [{"worker": 0, "at_s": 1, "slowdown": 0}],
        [{"worker": 0, "at_s": 1, "slowdown": 2, "for_s": 0}],
        [{"worker": 0, "at_s": 1, "slowdown": inf}],
        [{"worker": 0, "at_s": 1, "explode": True}],
        [{"worker": i, "at_s": 1, "join": True} for i in range(8)],
        [{"worker": 0, "at_s": at, "leave": True} for at in (1, 2)],
        [{"worker": 0, "at_s": 2, "join": True}, {"worker": 0, "at_s": 1, "leave": True}],
    ]),
)  # fmt: skip
JITTER = Kind(
    st.sampled_from([None, "shared", "noisy", {"kind": "lognormal", "sigma": 0.1}]),
    st.sampled_from(["loud", "", 5, {"kind": "loud"}, {"sigma": -1}, {"kind": "lognormal", "sigma": nan}, {"x": 1}])
    | LISTS,
)
WORKERS = Kind(
    st.sampled_from([[{}, {}, {}], [{"name": "a"}, {"slowdown": 2, "device": "cpu"}, {}]]),
    st.sampled_from([None, 5, "abc", [], {}, [5], [None], [[]], ["cpu"], [{"speed": 1}], [{"slowdown": -1}]]),
)

GENERAL = {
    "batch_size": whole(1),
    "seed": whole(0),
    "on_nan": word("stop", "skip"),
    "on_worker_loss": word("stop", "continue", "restart"),
    "name": Kind(
        st.sampled_from([None, "mine", "é", 7, "a b"]),
        st.sampled_from(["", ".", "..", "../up", "-m", "a/b", "a\\b", "a\nb", "\x00", "x" * 101, "☃" * 90, True])
        | LISTS,
    ),
    "runs_dir": Kind(st.sampled_from([None, "somewhere"]), FOLDER.wrong.filter(lambda value: value is not None)),
    "cluster.count": Kind(
        st.none() | st.integers(3, 9), whole(1, most=10**6).wrong.filter(lambda count: count is not None)
    ),
    "cluster.iteration_s": number(0, 1e6, open_ends=False, null=True),
    "cluster.keys": whole(1, null=True),
    "cluster.message_bytes": whole(1, null=True),
    "cluster.network.latency_s": COST,
    "cluster.network.per_key_s": COST,
    "cluster.network.bandwidth_bytes_per_s": number(1, null=True),
    "cluster.server.device": DEVICE,
    **{f"cluster.server.{what}{of}_s": COST for what in ("receive", "update", "reply") for of in ("", "_per_key")},
    "cluster.events": EVENTS,
    "cluster.workers": WORKERS,
    "cluster.workers.0.name": Kind(st.just("me"), st.sampled_from([None, 5, True]) | GROUPS | LISTS),
    "cluster.workers.0.slowdown": number(0, 1e12, usual=1.5),
    "cluster.workers.0.device": DEVICE,
    "cluster.workers.0.jitter": JITTER,
    "cluster.workers.0.resources": Kind(
        st.just({"gpu": 1}), st.sampled_from([None, 5, "x", [], {"a": "b"}, {"a": nan}])
    ),
    "optimizer.learning_rate": POSITIVE,
    "optimizer.momentum": number(0, 1, usual=0.5, below=True),
    "optimizer.weight_decay": number(0),
    "optimizer.nesterov": FLAG,
    "schedule.clock": word("samples", "updates"),
    "schedule.milestones": list_of(POSITIVE),
    "schedule.gamma": POSITIVE,
    "schedule.scale": word("none", "linear_workers", "inverse_staleness"),
    "stop.epochs": Kind(st.sampled_from(["auto", 2, 0.5]), POSITIVE.wrong.filter(lambda value: value is not None)),
    "stop.pushes": whole(1, null=True),
    "stop.updates": whole(1, null=True),
    "stop.seconds": number(0, 1e9, null=True),
    "stop.target_accuracy": number(0, 1, usual=0.5, null=True),
    "tracking.mlflow": FLAG,
    "tracking.figures": FLAG,
    "checkpoint.every_s": number(0, open_ends=True, null=True),
    "checkpoint.keep": whole(1),
    "evaluation.every_epochs": number(0, open_ends=True, null=True),
    "evaluation.batch_size": whole(1),
    "evaluation.device": DEVICE,
}
OF_GROUPS = {
    "paradigm=asp": {},
    "paradigm=bsp": {"held_gradients": word("merge_mean", "merge_sum")},
    "paradigm=ssp": {"threshold": whole(0), "held_gradients": word("apply", "merge_sum", "merge_mean")},
    "paradigm=dssp": {
        "lower": whole(0, usual=3),
        "upper": whole(3),
        "variant": word("bounded", "literal", "single_grant"),
        "interval": word("raw", "hold_corrected"),
        "held_gradients": word("apply", "merge_sum", "merge_mean"),
    },
    "engine=simulated": {"train": FLAG, "threads": whole(1, most=1024)},
    "engine=local": {
        "pull": word("whole"),
        "threads": whole(1, most=1024),
        "startup_timeout_s": number(0, 86_400),
        "lease_s": number(0, 86_400),
        "restarts": whole(0),
    },
    "engine=replay": {"run": FOLDER},
    "model=mlp": {
        "hidden": Kind(st.sampled_from([[], [8], [8, 8]]), list_of(WIDTH).wrong),
        "iteration_s": number(0, 1e6),
    },
    "model=cnn": {"channels": WIDTH, "hidden": WIDTH, "iteration_s": number(0, 1e6)},
    "model=resnet20": {
        "depth": Kind(st.sampled_from([8, 20, "26"]), whole(8).wrong | st.sampled_from([9, 7, 21])),
        "iteration_s": number(0, 1e6),
    },
    "model=alexnet_small": {
        "channels": Kind(st.just([4, 4, 4]), st.sampled_from([[1], [1, 2, 3, 4], 5, None, [0, 1, 2], "a"])),
        "hidden": WIDTH,
        "dropout": number(0, 1, usual=0.5, below=True),
        "iteration_s": number(0, 1e6),
    },
    "model=torchvision": {"iteration_s": number(0, 1e6), "name": Kind(st.just("vgg11"), st.none() | GROUPS | LISTS)},
    "dataset=digits": {},
    "dataset=synthetic": {
        "shape": SIZES, "classes": whole(2), "examples": WIDTH, "test_examples": WIDTH, "noise": number(0),
        "seed": whole(-LARGEST, usual=0),
    },
    "dataset=fashion_mnist": {"root": FOLDER, "download": FLAG, "augment": FLAG},
    "dataset=cifar10": {"root": FOLDER, "download": FLAG, "augment": FLAG},
    "dataset=cifar100": {"root": FOLDER, "download": FLAG, "augment": FLAG},
}  # fmt: skip
TARGETS = [
    None, 5, "", ".", "..", "x", "a..b", ".relative.X", "dssp_bench.", "nowhere.to.be.Found", "dssp_bench.nowhere.X",
    "os.system", "subprocess.Popen", "builtins.eval", "builtins.object", "antigravity.fly", "this.s", "idlelib.idle.x",
    "dssp_bench.paradigms.dssp", "dssp_bench.experiment.run.run", "torch.nn.Module", "dssp_bench.worker.Worker",
    "dssp_bench.core.paradigm.Paradigm", "dssp_bench.tasks.task.DataSource", "dssp_bench.tasks.task.ModelSource",
    "\x00.\x00", "☃.☃", "x" * 5000 + ".X", [], {}, ["os.system"], {"_target_": "os.system"}, True,
]  # fmt: skip
PARTS = ["cluster", "optimizer", "schedule", "stop", "tracking", "evaluation", "paradigm", "engine", "model", "dataset"]
UNKNOWN = ["x", "", "☃", "_target_s", "lr", "__class__", "worker", "model_config", "a.b", "x" * 500, 5, None, nan]
BASES = [
    "",
    "paradigm=asp engine=simulated model=cnn dataset=fashion_mnist cluster=hetero4",
    "paradigm=bsp engine=simulated model=resnet20 dataset=cifar10 cluster=shared",
    "paradigm=ssp engine=local model=alexnet_small dataset=cifar100 cluster=homogeneous",
    "paradigm=dssp engine=simulated model=torchvision dataset=synthetic cluster=straggler",
    "paradigm=ssp engine=replay engine.run=a_run model=mlp dataset=synthetic",
]


@cache
def composed(line: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration that a command line describes, and its choices; not to be changed."""
    job = compose_job(line.split())
    return job.config, job.choices


def keys_of(line: str) -> dict[str, Kind]:
    """All keys that the configuration has with these choices."""
    _, choices = composed(line)
    kinds = dict(GENERAL)
    for group in ("paradigm", "engine", "model", "dataset"):
        for key, kind in OF_GROUPS[f"{group}={choices[group]}"].items():
            kinds[f"{group}.{key}"] = kind
    return kinds


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a configuration that hold values; of a list of groups those of the first."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
            if isinstance(value, list) and value and isinstance(value[0], dict):
                yield from leaves(value[0], f"{prefix}{key}.0.")


def put(config: Any, key: str, value: Any) -> None:
    """Set one value, in a configuration of one's own."""
    *parents, last = key.split(".")
    for part in parents:
        config = config[int(part) if part.isdigit() else part]
    config[last] = value


class Example(NamedTuple):
    """A configuration, and where it is wrong."""

    config: dict[str, Any]
    choices: dict[str, str]
    places: list[str]


@st.composite
def configurations(draw: Any, mistakes: int) -> Example:
    """Some right changes and up to so many wrong ones, each at a place of its own; without mistakes it is right."""
    line = draw(st.sampled_from(BASES))
    config, choices = copy.deepcopy(composed(line))
    kinds = keys_of(line)
    keys = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=4, unique=True))
    keys = [key for key in keys if key != "cluster.workers" or not any(k.startswith("cluster.workers.") for k in keys)]
    wrong = keys[: draw(st.integers(1, mistakes))] if mistakes else []
    for key in keys:
        put(config, key, draw(kinds[key].wrong if key in wrong else kinds[key].right))
    if mistakes and draw(st.integers(0, 3)) == 0:
        wrong.append(draw(shapes(config)))
    return Example(config, choices, wrong)


@st.composite
def shapes(draw: Any, config: dict[str, Any]) -> str:
    """Make the shape of a configuration wrong; where it is then."""
    part = draw(st.sampled_from(PARTS))
    how = draw(st.sampled_from(["missing", "no group", "unknown", "unknown", "target", "target"]))
    if how == "missing":
        config.pop(part)
    elif how == "no group":
        config[part] = draw(st.none() | SCALARS | LISTS)
    elif how == "unknown":
        key = draw(st.sampled_from(UNKNOWN))
        if draw(st.booleans()):
            config[part] = {**config[part], key: 1}
        else:
            config[key] = draw(st.none() | SCALARS | LISTS | GROUPS)
            part = str(key)
    else:
        part = draw(st.sampled_from(["paradigm", "engine", "model", "dataset"]))
        others = [config[other]["_target_"] for other in ("paradigm", "engine", "model", "dataset") if other != part]
        config[part] = {**config[part], "_target_": draw(st.sampled_from([*TARGETS, *others]))}
    return str(part)


def as_typed(value: Any) -> str:
    """A value in Hydra's grammar, as far as it can be said in it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, list):
        return "[" + ",".join(map(as_typed, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_typed(item)}" for key, item in value.items()) + "}"
    return str(value) if not isinstance(value, int) or value.bit_length() < 1000 else "9" * 5000


@st.composite
def command_lines(draw: Any, right: bool) -> tuple[list[str], list[str]]:
    """What is typed, and the keys of which the last is wrong unless all are to be right."""
    line = draw(st.sampled_from(BASES))
    kinds = keys_of(line)
    keys = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=3, unique=True))
    values = [draw(kinds[key].right) for key in keys]
    if not right:
        values[-1] = draw(kinds[keys[-1]].wrong)
    return [*line.split(), *(f"{key}={as_typed(value)}" for key, value in zip(keys, values, strict=True))], keys
