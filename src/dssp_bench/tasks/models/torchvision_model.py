"""Any of torchvision's classification networks, by name."""

from difflib import get_close_matches
from typing import Any

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from dssp_bench.core.errors import ConfigurationError
from dssp_bench.tasks.task import ModelSource, Seconds
from dssp_bench.tasks.torchvision_import import import_torchvision

_OPTIONS: dict[str, dict[str, Any]] = {  # one output while training, too, as everything here expects
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


@dataclass(config=ConfigDict(extra="forbid"))
class TorchvisionModel(ModelSource):
    """A network of torchvision with its own initial weights, untrained; grey images are given to it as colour."""

    iteration_s: Seconds
    name: str = "resnet18"

    def build(self, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network; whether it takes images of this size is tried."""
        models = import_torchvision("models")
        known = models.list_models(module=models)
        if self.name not in known:
            near = get_close_matches(self.name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"such as {', '.join(known[:3])}"
            raise ConfigurationError("model.name", f"torchvision has no classification network {self.name!r}", hint)
        network: nn.Module = models.get_model(
            self.name, weights=None, num_classes=classes, **_OPTIONS.get(self.name, {})
        )
        if input_shape[0] == 1:
            network = nn.Sequential(_GreyAsColour(), network)
        self._try(network, input_shape)
        return network

    def _try(self, network: nn.Module, input_shape: tuple[int, int, int]) -> None:
        network.eval()  # so that the trial leaves no trace in the normalisation layers
        try:
            with torch.inference_mode():
                network(torch.zeros(1, *input_shape))
        except (RuntimeError, AssertionError) as error:
            shape = "x".join(map(str, input_shape))
            raise ConfigurationError("model.name", f"{self.name} cannot take images of {shape}: {error}") from error
        network.train()


class _GreyAsColour(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)
