"""One experiment: from a specification to a finished run folder.

- `spec`: everything that a run depends on, validated
- `run`: the only place where everything meets
- `evaluate`: snapshots of the weights, and their accuracy
- `watcher`: who may watch a run; `progress` shows it, `mlflow_log` logs it
"""
