"""The tables of a run: which columns, of which type, in which order. Times are seconds on the engine's clock."""

import pyarrow as pa

PUSHES = pa.schema(
    [
        ("worker", pa.int32()),
        ("clock", pa.int64()),
        ("lead", pa.int64()),
        ("pulled_version", pa.int64()),
        ("version", pa.int64()),
        ("staleness", pa.int64()),
        ("arrived_s", pa.float64()),
        ("compute_s", pa.float64()),
        ("held_s", pa.float64()),
        ("action", pa.string()),
        ("threshold", pa.int64()),
        ("loss", pa.float32()),
    ]
)
UPDATES = pa.schema(
    [("version", pa.int64()), ("at_s", pa.float64()), ("pushes", pa.int64()), ("learning_rate", pa.float64())]
)
EVALUATIONS = pa.schema(
    [
        ("at_s", pa.float64()),
        ("version", pa.int64()),
        ("samples", pa.int64()),
        ("epoch", pa.float64()),
        ("loss", pa.float64()),
        ("accuracy", pa.float64()),
    ]
)
GRANTS = pa.schema(
    [
        ("at_s", pa.float64()),
        ("worker", pa.int32()),
        ("lead", pa.int64()),
        ("r_star", pa.int64()),
        ("predicted_wait_s", pa.float64()),
    ]
)

TABLES = {"pushes": PUSHES, "updates": UPDATES, "evaluations": EVALUATIONS, "grants": GRANTS}
"""The tables that a finished run leaves as `<name>.parquet`, and a running or killed one as `<name>.arrows`."""

LATE = pa.schema([("row", pa.int64()), ("staleness", pa.int64()), ("held_s", pa.float64())])
"""`late.arrows`, while a run goes on: what became known of a push after its row in `pushes` was written. `row` counts
from 0 and says which."""

STREAMS = {**TABLES, "late": LATE}

NULLABLE_INTEGERS = ("staleness", "threshold")
