"""Which of a model's latents are worth moving by hand."""

from __future__ import annotations

from distgen.metrics.card import Card

MOST = 16


def leading_latents(card: Card | None, latent_dim: int) -> tuple[int, ...]:
    """Places in the latent vector, the most telling first, at most `MOST`.

    Where the card has measured what each latent holds, those with the most KL to the prior lead;
    elsewhere, as with a GAN, whose latents are all alike, the first do.

    Args:
        card: The bundle's card, if it has one.
        latent_dim: Size of the latent vector.
    """
    if card is None or card.latents is None:
        return tuple(range(min(MOST, latent_dim)))
    measured = [strength for group in card.latents.groups for strength in group.strongest]
    measured.sort(key=lambda strength: -strength.kl_nats)
    return tuple(strength.index for strength in measured[:MOST])
