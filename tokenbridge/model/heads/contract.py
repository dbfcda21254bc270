"""What every head promises. N positions, C channel, D width of the feature."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from tokenbridge.config import HEAD_KINDS, Sample


class Head(nn.Module):
    """The distribution of one token given its feature.

    kind: its name in the config. noise: what a draw reads, uniforms in [0, 1) or standard normals.
    loss_noise_shape: normals a position that the loss reads, () for none.
    """

    kind: str
    noise: Literal["uniform", "normal"]
    loss_noise_shape: tuple[int, ...] = ()

    def noise_shape(self, how: Sample) -> tuple[int, ...]:
        """Shape of the noise that a draw of one position reads."""
        raise NotImplementedError

    def loss(self, z: Tensor, target: Tensor, noise: Tensor | None = None) -> Tensor:
        """(N,) from features (N, D), tokens (N, C) and normals (N, *loss_noise_shape), summed over channels.

        Nats, minus log_prob, where the head has a density.
        """
        return -self.log_prob(z, target)

    def log_prob(self, z: Tensor, target: Tensor) -> Tensor:
        """(N,) log probability (levels) or log density (values, unit deviation) of tokens (N, C), nats."""
        raise NotImplementedError(f"a {self.kind} head has no exact likelihood")

    def sample(
        self, z: Tensor, noise: Tensor, how: Sample, unconditional: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """Tokens (N, C) from features (N, D) and noise (N, *noise_shape), which is drawn per image outside.

        unconditional (N, D): features without the class, guided by this weight on what how.guidance_on says.
        Of how, reads temperature (0: the most likely value), guidance_on and what the kind of head has of its own.
        """
        raise NotImplementedError

    def guided_on(self, how: Sample) -> str:
        """features, logits or estimate."""
        return HEAD_KINDS[self.kind].guided[0] if how.guidance_on == "auto" else how.guidance_on

    def mixed(
        self, z: Tensor, how: Sample, unconditional: Tensor | None, guidance: float
    ) -> tuple[Tensor, Tensor | None]:
        """Features to draw from, and the unconditional ones where they are still to be used: not with features."""
        if unconditional is None or self.guided_on(how) != "features":
            return z, unconditional
        return guide(z, unconditional, guidance), None


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): weight 1 is the conditional value."""
    return unconditional + guidance * (conditional - unconditional)
