"""What training minimises: a negative bound on log p(x), of all that is present in a row."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.config.schema import Objective
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import Output, SharedLatentAutoencoder
from pipeline.objectives.divergence import kl_to_experts, kl_to_prior
from pipeline.objectives.likelihood import nll


@dataclass(frozen=True)
class Loss:
    """A loss and what it is made of, in nats.

    Attributes:
        total: What is minimised.
        terms: `rgb_nll`, `depth_nll`, `seg_nll`, `kl`, `kl_private_rgb` ...: unweighted, detached,
            reduced like the total.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


def negative_elbo(
    model: SharedLatentAutoencoder,
    output: Output,
    batch: Batch,
    objective: Objective,
    fusion: str,
    *,
    beta: float,
    global_batch: int,
) -> Loss:
    """The loss of one pass; `output.given` says which fusion's posterior it was (see `choose_given`).

    Every row reconstructs all that is present in it, whatever its posterior saw: a subset learns to
    predict the modalities outside it. The private latent of a modality that was not given is a draw
    from its prior and costs no KL. Nats, summed over valid events, then over rows, divided by the
    global batch size.

    Args:
        model: Unwrapped; its scales are part of the likelihood.
        output: Of the model for this batch.
        batch: This process's rows.
        objective: Densities, weights and, for mvtcae, alpha.
        fusion: `poe`, `mopoe` or `mvtcae`.
        beta: Factor on the KL terms now.
        global_batch: Rows over all processes.

    Raises:
        ValueError: If the fusion is unknown.
    """
    rows = nll(model, output.decoded, batch, objective)
    weights = {"rgb": objective.rgb.weight, "depth": objective.depth.weight, "seg": objective.seg.weight}
    kl = kl_to_prior(output.posterior.shared)
    kl_private = {name: kl_to_prior(private) for name, private in output.posterior.private.items()}
    reconstruction = torch.zeros_like(kl)
    for name, row in rows.items():
        reconstruction = reconstruction + weights[name] * row
    for row in kl_private.values():
        reconstruction = reconstruction + beta * row
    terms = {f"{name}_nll": row for name, row in rows.items()} | {"kl": kl}
    terms |= {f"kl_private_{name}": row for name, row in kl_private.items()}
    match fusion:
        case "poe" | "mopoe":
            total = reconstruction + beta * kl
        case "mvtcae":
            terms["kl_experts"] = kl_to_experts(output.posterior.shared, output.experts)
            count = output.experts.present.sum(dim=0)
            alpha = torch.where(count > 1, objective.mvtcae_alpha, 0.0)
            total = mvtcae(reconstruction, kl, terms["kl_experts"], count, alpha, beta)
        case _:
            raise ValueError(f"fusion {fusion!r} is unknown; choose poe, mopoe or mvtcae")
    return Loss(
        total.sum() / global_batch, {name: row.detach().sum() / global_batch for name, row in terms.items()}
    )


def mvtcae(
    reconstruction: Float[Tensor, " batch"],
    kl: Float[Tensor, " batch"],
    kl_experts: Float[Tensor, " batch"],
    count: Int[Tensor, " batch"],
    alpha: Float[Tensor, " batch"] | float,
    beta: float,
) -> Float[Tensor, " batch"]:
    """(M - a) / M * reconstruction + beta * [(1 - a) KL(q || p) + a / M * sum_m KL(q || q_m)].

    With M = 1 it is (1 - a) times the beta-ELBO, with a = 0 the ELBO of the product of experts.

    Args:
        reconstruction: Weighted NLL, and the KL of private latents, which exist for it alone.
        kl: KL(joint posterior || prior).
        kl_experts: Sum over what is present of KL(joint posterior || expert).
        count: M, the number of modalities present.
        alpha: a, from the KL to the prior (0) to agreement with the experts (1).
        beta: Factor on the divergences.

    Source: Hwang et al. 2021, "Multi-View Representation Learning via Total Correlation Objective" (NeurIPS).
    """
    share = alpha / count.clamp(min=1)
    return (1.0 - share) * reconstruction + beta * ((1.0 - alpha) * kl + share * kl_experts)
