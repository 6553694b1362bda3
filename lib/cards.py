"""Graphics cards that one may not have here, for prices (`--dry-run --on h200`)."""

from __future__ import annotations

from dataclasses import dataclass

from lib.errors import unknown
from lib.values.recipe import Recipe

# Not measured. The share of a card's peak rate that training and evaluation are assumed to reach. Small images and
# small batches leave more of a large card idle than this says; large networks leave less.
ASSUMED_SHARE = 0.2


@dataclass(frozen=True)
class Card:
    """A graphics card by what its maker publishes. bf16, tf32, fp32: peak FLOP/s of dense matrix products in these
    precisions, without sparsity. memory: bytes.
    """

    title: str
    bf16: float
    tf32: float
    fp32: float
    memory: float

    def rate(self, recipe: Recipe) -> float:
        """FLOP/s that work with the recipe's network is assumed to reach."""
        return ASSUMED_SHARE * getattr(self, recipe.precision)

    def seconds(self, recipe: Recipe, like: str, flops: float) -> float:
        """Seconds for work with `flops` FLOPs, as `lib.training.price.Prices.seconds`; `like` does not matter."""
        return flops / self.rate(recipe)


CARDS = {
    # NVIDIA H200 datasheet, SXM: 1,979 TFLOP/s in bf16 and 989 in TF32 with sparsity, which is half as much without
    "h200": Card("an H200", 989e12, 494e12, 67e12, 141e9),
    # NVIDIA H100 datasheet, SXM: the same processor with less memory
    "h100": Card("an H100", 989e12, 494e12, 67e12, 80e9),
    # NVIDIA A100 datasheet, SXM with 80 GB
    "a100": Card("an A100", 312e12, 156e12, 19.5e12, 80e9),
    # NVIDIA Ada GPU architecture whitepaper, appendix A: bf16 with fp32 accumulation
    "4090": Card("an RTX 4090", 165.2e12, 82.6e12, 82.6e12, 24e9),
}


def card(name: str) -> Card:
    """A card by its name. Raises SettingsError for a name that is not in CARDS."""
    if name not in CARDS:
        raise unknown("card of --on", name, CARDS)
    return CARDS[name]
