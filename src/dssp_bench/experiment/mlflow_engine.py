"""How MLflow is connected to its database here: a plugin of SQLAlchemy, which the database's URL names.

MLflow waits up to 20 s for a locked SQLite database, whatever it is asked, and no setting changes that. The plugin says
how long instead, and acts on the engines of our own databases only.
"""

import os
from typing import Any

from sqlalchemy import URL, Engine, event
from sqlalchemy.engine import CreateEnginePlugin
from sqlalchemy.exc import DisconnectionError

from dssp_bench.experiment.mlflow_store import patience_ms


class RunsDatabase(CreateEnginePlugin):
    """Attaches to one engine; with `making` in the URL nobody waits for the disk, as the file does not count yet."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        self._path = str(url.database)
        self._making = "making" in url.query

    def update_url(self, url: URL) -> URL:
        """The URL without what is said to this plugin."""
        return url.difference_update_query(["making"])

    def engine_created(self, engine: Engine) -> None:
        """Listen to this engine."""
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "checkout", self._checked_out)
        event.listen(engine, "before_cursor_execute", _with_our_patience, retval=True)

    def _connected(self, connection: Any, record: Any) -> None:
        record.info["file"] = os.stat(self._path).st_ino
        if self._making:
            connection.execute("PRAGMA synchronous=off")
            connection.execute("PRAGMA journal_mode=memory")

    def _checked_out(self, connection: Any, record: Any, _proxy: Any) -> None:
        """A connection is used again: not if the file was deleted since, and another one made."""
        if os.stat(self._path).st_ino != record.info["file"]:
            raise DisconnectionError(f"{self._path} is another file now")
        connection.execute(f"PRAGMA busy_timeout={patience_ms()}")


def _with_our_patience(
    _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
) -> tuple[str, Any]:
    """MLflow's own statements, but for the one that says how long to wait."""
    if statement.startswith("PRAGMA busy_timeout"):
        statement = f"PRAGMA busy_timeout={patience_ms()}"
    return statement, parameters
