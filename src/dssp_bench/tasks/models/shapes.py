"""Refuses images that a network cannot take."""

from dssp_bench.core.errors import ConfigurationError


def require_size(network: str, input_shape: tuple[int, int, int], smallest: int) -> None:
    """Raise a `ConfigurationError` if the images are smaller than `smallest` pixels in height or width."""
    _, height, width = input_shape
    if min(height, width) < smallest:
        raise ConfigurationError(
            "model",
            f"{network} needs images of at least {smallest}x{smallest} pixels, not {height}x{width}",
            "model=mlp takes any size",
        )
