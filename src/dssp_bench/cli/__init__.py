"""The command line.

- `main`: the commands (Typer); imports nothing heavy, so that `--help` answers at once
- `compose`: the only file that knows Hydra; from what was typed to plain mappings, and from its errors to ours
- `run`: one run, or a sweep
- `errors`: how errors are shown; `completion`: what TAB offers
"""
