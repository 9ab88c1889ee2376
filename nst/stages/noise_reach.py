"""Whether a network lets stochastic depth do what it should: drop branches image by image."""

from __future__ import annotations

from nst.errors import UsageError
from nst.models.networks import AnyArchitecture
from nst.models.timm_architecture import TimmArchitecture
from nst.plan.layer_costs import NetworkCost, measure
from nst.progress import say
from nst.sharing import is_rank_zero
from nst.training.fitting import Setup
from nst.training.phases import Phase


def require_noise_by_image(phase: Phase, cost: NetworkCost, architecture: AnyArchitecture) -> None:
    """Raises UsageError where the blocks see parts of images in the place of images: no mask fits them."""
    rate = phase.noise.stochastic_depth
    if rate and cost.folds:
        raise UsageError(
            f"stochastic depth cannot drop the blocks of {architecture.name} image by image: they see parts of images",
            got=f"noise.stochastic_depth={rate:g}",
            next="noise.stochastic_depth=0",
        )


def tell_of_noise(setup: Setup, phase: Phase) -> None:
    """Says where stochastic depth is asked for and the network has nothing that it could drop."""
    architecture = setup.architecture
    if not phase.noise.stochastic_depth or not isinstance(architecture, TimmArchitecture) or not is_rank_zero():
        return
    if not measure(architecture, len(setup.data.labeled.classes), phase.image_size).dropping:
        lacks = "has nothing that stochastic depth could drop: noise.stochastic_depth does nothing in it"
        say(f"{setup.job.title}: {architecture.name} {lacks}")
