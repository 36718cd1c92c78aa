"""Everything that dssp-bench raises on purpose.

DsspBenchError
├── ConfigurationError   the user's configuration cannot work; nothing has been started
├── DataNotFound         a data set is not on this machine
├── ProtocolViolation    an engine broke the rules of the core; the core's state is untouched
├── InvalidDecision      a paradigm answered something impossible
├── Deadlock             nobody computes, nothing is pending, and the run is not over
├── NotFinite            a gradient has a NaN or an infinity in it, and the run is to stop then
├── WorkerFailed         a worker process raised, or died
└── RecordsError         a run folder cannot be read
"""


class DsspBenchError(Exception):
    """The root of all errors that dssp-bench raises on purpose."""


class ConfigurationError(DsspBenchError):
    """A configuration that cannot work: which key, what is wrong with it, what would be right."""

    def __init__(self, key: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{key}: {problem}" + (f" ({hint})" if hint else ""))
        self.key = key
        self.problem = problem
        self.hint = hint


class DataNotFound(DsspBenchError):
    """A data set is not on this machine and could not be fetched."""


class ProtocolViolation(DsspBenchError):
    """An event that cannot happen, such as a push by a held worker; the state is as before."""


class InvalidDecision(DsspBenchError):
    """A paradigm decided something impossible, such as releasing a worker that is computing."""


class Deadlock(DsspBenchError):
    """No live worker is computing, no timer is pending, and the run is not over."""


class NotFinite(DsspBenchError):
    """A worker pushed a gradient with a NaN or an infinity in it, and the run is to stop then."""


class WorkerFailed(DsspBenchError):
    """A worker or server process raised an exception or died."""


class RecordsError(DsspBenchError):
    """A run folder that cannot be read: which, and why."""
