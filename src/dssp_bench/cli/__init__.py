"""The command line.

- `main`: the commands (Typer); imports nothing heavy, so that `--help` answers at once
- `compose`: from what was typed to plain mappings, and `hydra_errors`: from its errors to ours; nobody else knows Hydra
- `run`: one run, or a sweep; `resume`: one that came to no end; `sync`: what MLflow lacks; `ui`: its pages
- `errors`: how errors are shown; `completion`: what TAB offers
"""
