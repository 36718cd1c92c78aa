"""Errors: whose fault it is, and what to say."""

import pytest

from dssp_bench.core import errors
from dssp_bench.core.errors import ConfigurationError, DsspBenchError


def test_a_configuration_error_names_the_key_the_problem_and_the_way_out() -> None:
    error = ConfigurationError("paradigm.upper", "2 is below lower", "make it at least 3")
    assert str(error) == "paradigm.upper: 2 is below lower (make it at least 3)"
    assert (error.key, error.problem, error.hint) == ("paradigm.upper", "2 is below lower", "make it at least 3")


def test_a_hint_is_optional() -> None:
    assert str(ConfigurationError("paradigm", "there is no such paradigm")) == "paradigm: there is no such paradigm"


@pytest.mark.parametrize("name", [name for name in vars(errors) if not name.startswith("_")])
def test_everything_raised_on_purpose_has_one_root_and_is_in_the_map(name: str) -> None:
    assert issubclass(getattr(errors, name), DsspBenchError)
    assert errors.__doc__ is not None
    assert name in errors.__doc__
