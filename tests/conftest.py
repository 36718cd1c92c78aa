"""Every run of the tests draws the same examples."""

from hypothesis import settings

settings.register_profile("same_every_time", derandomize=True, database=None, deadline=None)
settings.load_profile("same_every_time")
