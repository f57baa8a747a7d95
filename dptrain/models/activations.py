"""What stands between the layers of a network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dptrain.contracts import ConfigError

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class TemperedSigmoid(nn.Module):
    """scale * sigmoid(temperature * x) - offset: bounded, so that gradients stay short as weights grow.

    Papernot et al. 2021, "Tempered sigmoid activations for deep learning with differential
    privacy", eq. 4. Scale 2, temperature 2 and offset 1 are tanh.

    >>> import torch
    >>> x = torch.linspace(-3, 3, 7)
    >>> torch.allclose(TemperedSigmoid(2, 2, 1)(x), x.tanh(), atol=1e-6)
    True
    """

    def __init__(self, scale: float, temperature: float, offset: float) -> None:
        super().__init__()
        self.scale, self.temperature, self.offset = scale, temperature, offset

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * (self.temperature * inputs).sigmoid() - self.offset

    def extra_repr(self) -> str:
        return f"scale={self.scale}, temperature={self.temperature}, offset={self.offset}"


def never_falls(activation: nn.Module) -> bool:
    """Whether a larger input never gives a smaller output, so that the activation commutes with a maximum.

    >>> never_falls(nn.Tanh()), never_falls(nn.GELU()), never_falls(TemperedSigmoid(2, -2, 1))
    (True, False, False)
    """
    if isinstance(activation, TemperedSigmoid):
        return activation.scale * activation.temperature >= 0
    return isinstance(activation, nn.Tanh | nn.ReLU)


def make_activation(chosen: str | Sequence[float]) -> nn.Module:
    """The activation of this name, or the tempered sigmoid of this scale, temperature and offset.

    Raises ConfigError where it is neither.
    """
    if isinstance(chosen, str):
        if chosen in ACTIVATIONS:
            return ACTIVATIONS[chosen]()
    elif len(chosen) == 3 and all(isinstance(number, int | float) for number in chosen):
        return TemperedSigmoid(*chosen)
    raise ConfigError(
        f"model.activation={chosen} is unknown; choose one of {', '.join(ACTIVATIONS)}, or give scale, "
        "temperature and offset of a tempered sigmoid, such as [1.58,3,0.71]"
    )
