"""One network that judges a scene as a whole: RGB, depth, its validity and labels side by side.

A scene is one image of [RGB in -1..1, standardised depth, its validity, probability of each class],
0 wherever there is no value. Real scenes and fakes carry the same masks, those of the data, so what is
missing tells neither from the other. It is held as the patches of 4 x 4 pixels that the network embeds,
which only rearranges it.
"""

import math
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.config.objective import ImageAdversary
from pipeline.data.batch import Batch
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.fusion import at_least_float32
from pipeline.models.layers import SMALLEST
from pipeline.models.network_patch import PATCH, stage_widths
from pipeline.models.variables import Decoded

SLOPE = 0.2
"""Of the leaky ReLU below 0."""

MOST_EMBEDDED = 8
"""Features a patch is embedded into at most, in multiples of the width."""


class Judgement(NamedTuple):
    """What a discriminator says of scenes.

    Attributes:
        logits: Of being real: of every patch row by row, then of the whole scene.
        embedded: Of each patch, by the first, linear layer.
    """

    logits: Float[Tensor, "batch logit"]
    embedded: Float[Tensor, "batch row column feature"]


class SceneDiscriminator(nn.Module):
    """Embed patches, halve the map in residual steps down to 4 x 4.

    A patch is embedded into as many features as it has values (up to 8 times the width). The embedding is
    linear, so with fewer there are changes of a patch that no feature sees, and a generator leaves noise
    in them that nothing ever corrects.

    One head judges patches, at an eighth of the resolution; another the whole scene. No normalisation:
    it would take the size of the logits away from the gradient penalties, and in a batch mix rows.

    Attributes:
        weights: Share of each logit in its row's loss, summing to 1: patches alike, and with both heads
            half for all patches together, half for the whole scene.

    Source: Isola et al. 2017 (arXiv:1611.07004), patches; Huang et al. 2024 (arXiv:2501.05441, R3GAN),
        a residual discriminator without normalisation, with leaky ReLU.
    """

    weights: Tensor

    def __init__(
        self,
        modalities: tuple[str, ...],
        classes: int,
        image_size: int,
        width: int,
        heads: Literal["patch", "global", "both"],
        *,
        head_bias: bool = True,
    ) -> None:
        super().__init__()
        values = PATCH**2 * scene_channels(modalities, classes)
        widths = [min(values, MOST_EMBEDDED * width), *stage_widths(image_size, width)[1:]]
        self.embed = nn.Linear(values, widths[0])
        self.halvings = nn.ModuleList(Halving(before, after) for before, after in pairwise(widths))
        self.patch_head = Head(widths[1], head_bias) if heads != "global" else None
        self.global_head = Head(SMALLEST**2 * widths[-1], head_bias) if heads != "patch" else None
        patches = (image_size // PATCH // 2) ** 2 if heads != "global" else 0
        each = torch.full((patches,), 1.0 / max(patches, 1))
        whole = torch.ones(1 if heads != "patch" else 0)
        self.register_buffer("weights", torch.cat([each, whole]) / (2.0 if heads == "both" else 1.0))

    def forward(self, scene: Float[Tensor, "batch row column patch"]) -> Judgement:
        """Judge scenes."""
        embedded = self.embed(scene)
        hidden = rearrange(embedded, "b h w c -> b c h w")
        logits = []
        for stage, halving in enumerate(self.halvings):
            hidden = halving(hidden)
            if stage == 0 and self.patch_head is not None:
                by_patch = rearrange(F.leaky_relu(hidden, SLOPE), "b c h w -> b (h w) c")
                logits.append(self.patch_head(by_patch))
        if self.global_head is not None:
            innermost = rearrange(F.leaky_relu(hidden, SLOPE), "b c h w -> b 1 (h w c)")
            logits.append(self.global_head(innermost))
        return Judgement(at_least_float32(torch.cat(logits, dim=1)), embedded)

    def metric(self) -> Float[Tensor, "feature feature"]:
        """W W^T of the first layer: what a gradient at `embedded` weighs at the scene itself."""
        return self.embed.weight @ self.embed.weight.T


class Halving(nn.Module):
    """Half the side: an average that passes through, and a strided convolution beside it."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(before, after, 1, bias=False)
        self.residual = nn.Conv2d(before, after, 4, 2, 1)

    def forward(
        self, hidden: Float[Tensor, "batch before height width"]
    ) -> Float[Tensor, "batch after half_height half_width"]:
        """Features at half the resolution, of about the same variance."""
        kept = self.shortcut(F.avg_pool2d(hidden, 2))
        added = self.residual(F.leaky_relu(hidden, SLOPE))
        mixed: Tensor = (kept + added) * math.sqrt(0.5)
        return mixed


class Head(nn.Module):
    """One logit of features; its weight is a vector, whose gradient has one layout only."""

    def __init__(self, features: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features) / math.sqrt(features))
        self.bias = nn.Parameter(torch.zeros(1)) if bias else None

    def forward(self, features: Float[Tensor, "batch place feature"]) -> Float[Tensor, "batch place"]:
        """A logit per place."""
        logits: Tensor = features @ self.weight
        return logits if self.bias is None else logits + self.bias


def build_discriminator(
    config: ImageAdversary, model: SharedLatentAutoencoder, seed: int
) -> SceneDiscriminator:
    """A new discriminator of a model's scenes; weights depend on the seed and on nothing else.

    The relativistic loss does not depend on a constant, which rounding alone would move: there is none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        discriminator = SceneDiscriminator(
            model.modalities,
            len(model.class_names),
            model.image_size,
            config.width,
            config.heads,
            head_bias=config.loss != "relativistic",
        )
        for module in discriminator.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity="leaky_relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def scene_channels(modalities: tuple[str, ...], classes: int) -> int:
    """Channels of a scene."""
    sizes = {"rgb": 3, "depth": 2, "seg": classes}
    return sum(sizes[name] for name in modalities)


def scene_masks(
    batch: Batch, model: SharedLatentAutoencoder
) -> dict[str, Bool[Tensor, "batch height width"]]:
    """Where each modality of the model has a value; nowhere if the batch lacks it."""
    masks = {}
    for name in model.modalities:
        if name in batch.modalities:
            modality = batch.modalities[name]
            masks[name] = modality.valid & modality.present[:, None, None]
        else:
            shape = (len(batch), model.image_size, model.image_size)
            masks[name] = torch.zeros(shape, dtype=torch.bool, device=batch.index.device)
    return masks


def scene_of_batch(
    batch: Batch, model: SharedLatentAutoencoder, smoothing: float
) -> Float[Tensor, "batch row column patch"]:
    """Real scenes.

    Labels are (1 - smoothing) one-hot + smoothing / classes, which a softmax reaches at finite logits:
    being one-hot does not tell real scenes from fakes.

    Source: Szegedy et al. 2016 (arXiv:1512.00567), label smoothing.
    """
    dtype = next(model.parameters()).dtype
    classes = len(model.class_names)
    parts = []
    for name, mask in scene_masks(batch, model).items():
        if name not in batch.modalities:
            parts.append(mask[:, None].expand(-1, scene_channels((name,), classes), -1, -1).to(dtype))
            continue
        value = batch.modalities[name].value
        match name:
            case "rgb":
                parts.append(_rgb_channels(value.to(dtype), mask))
            case "depth":
                parts.append(_depth_channels(model.standardise(value, mask), mask))
            case _:
                parts.append(_smoothed_labels(torch.where(mask, value, classes), classes, smoothing, dtype))
    return as_patches(parts)


def scene_of_decoded(
    decoded: Decoded,
    masks: dict[str, Bool[Tensor, "batch height width"]],
    model: SharedLatentAutoencoder,
) -> Float[Tensor, "batch row column patch"]:
    """Fakes, with a gradient to what was decoded; labels are probabilities.

    Args:
        decoded: By the model.
        masks: Of the real scenes that the rows are paired with; where they are False the fake is 0,
            and what was decoded there gets a gradient of exactly 0.
        model: Whose modalities, in its order.
    """
    parts = []
    for name in model.modalities:
        mask = masks[name]
        match name:
            case "rgb":
                assert decoded.rgb is not None
                parts.append(_rgb_channels(decoded.rgb, mask))
            case "depth":
                assert decoded.depth is not None
                parts.append(_depth_channels(decoded.depth, mask))
            case _:
                assert decoded.seg is not None
                logits = torch.where(mask[:, None], decoded.seg, 0.0)
                parts.append(logits.softmax(dim=1) * mask[:, None])
    return as_patches(parts)


def as_patches(
    images: list[Float[Tensor, "batch _ height width"]],
) -> Float[Tensor, "batch row column patch"]:
    """Side by side, the pixels of each patch in one vector; each image stays together in it."""
    parts = [rearrange(image, "b c (h p) (w q) -> b h w (p q c)", p=PATCH, q=PATCH) for image in images]
    return torch.cat(parts, dim=-1)


def _smoothed_labels(
    labels: Int[Tensor, "batch height width"], classes: int, smoothing: float, dtype: torch.dtype
) -> Float[Tensor, "batch class height width"]:
    """Rows of a smoothed identity matrix; all zero for no label, which is `classes`."""
    rows = torch.eye(classes + 1, classes, dtype=dtype, device=labels.device)
    rows[:classes] = (1.0 - smoothing) * rows[:classes] + smoothing / classes
    return rearrange(F.embedding(labels, rows), "b h w c -> b c h w")


def _rgb_channels(
    rgb: Float[Tensor, "batch 3 height width"], mask: Bool[Tensor, "batch height width"]
) -> Float[Tensor, "batch 3 height width"]:
    return torch.where(mask[:, None], 2.0 * rgb - 1.0, 0.0)


def _depth_channels(
    standardised: Float[Tensor, "batch 1 height width"], mask: Bool[Tensor, "batch height width"]
) -> Float[Tensor, "batch 2 height width"]:
    valid = mask[:, None]
    return torch.cat([torch.where(valid, standardised, 0.0), valid.to(standardised.dtype)], dim=1)
