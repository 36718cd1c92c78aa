"""One experiment: from a specification to a finished run folder.

- `spec`: everything that a run depends on, validated
- `run`: the only place where everything meets; `plan`: the run in numbers; `environment`: where it runs
- `leftovers`: what runs that came to no end have left
- `virtual`, `local`, `replay`: the run on each engine; `resume`: where a run was left; `parts`: what it is made of;
  `preload`: what its processes import once for all of them
- `watcher`: who may watch a run, `watchers`: all of them as one; `progress` shows it, `figures` draws it, `mlflow_log`
  logs it, with what MLflow gets (`mlflow_content`, `mlflow_run`, `mlflow_view`), where it lies (`mlflow_store`,
  `mlflow_engine`), and what it lacks (`mlflow_sync`)
"""
