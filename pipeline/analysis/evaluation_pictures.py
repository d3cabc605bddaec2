"""The pictures of an evaluation, and the scenes in them as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.analysis.comparison_samples import shown_scenes
from pipeline.analysis.decoded import batch_views, decoded_views
from pipeline.analysis.gallery import (
    draw_overview,
    draw_reconstructions,
    draw_samples,
    draw_translations,
    known_only,
)
from pipeline.analysis.grid import save_png
from pipeline.analysis.scenes_file import SCENES, save_scenes
from pipeline.analysis.scoring import Scored, decode_mean, has_all
from pipeline.analysis.views import Views
from pipeline.metrics.features import spread
from pipeline.models.prior import LatentPrior
from pipeline.models.variables import Experts


def draw_pictures(
    scored: Scored, samples: int, columns: int, prior: LatentPrior, seed: int, directory: Path
) -> None:
    """Reconstructions, translations, samples from the fitted prior, and one figure of all of them.

    A few scenes are kept as numbers beside the directory, for figures of several systems.

    Args:
        scored: The model and the scenes.
        samples: How many test samples may be shown; the first so many.
        columns: How many are, evenly spaced; twice as many are drawn from the prior.
        prior: What they are drawn from.
        seed: Chooses them.
        directory: Where the pictures go.
    """
    info = scored.pretrained.info
    batch = scored.dataset.read("test", spread(samples, columns))
    experts = scored.pretrained.model.encode(batch.to(scored.device))
    real = batch_views(batch)
    reconstructed = _translate(scored, experts, info.modalities)
    save_png(directory / "reconstructions.png", draw_reconstructions(info, real, reconstructed))
    alone = {name: _translate(scored, experts, (name,)) for name in info.modalities}
    if len(info.modalities) > 1:
        save_png(directory / "translations.png", draw_translations(info, real, alone))
    drawn = sample_prior(scored, prior, 2 * columns, seed)
    save_png(directory / "samples.png", draw_samples(info, drawn, columns))
    first = alone[info.modalities[0]] if len(info.modalities) > 1 else None
    save_png(directory / "overview.png", draw_overview(info, real, reconstructed, first, drawn))
    save_scenes(directory.with_name(SCENES), shown_scenes(real, reconstructed, first, drawn))


def sample_prior(scored: Scored, prior: LatentPrior, count: int, seed: int) -> Views:
    """Scenes decoded from latents drawn from the prior.

    Where the posteriors leave N(0, I) far behind, as those of a short training do, draws from N(0, I)
    are latents that the decoders have never seen, so the prior is fitted.
    """
    model, device = scored.pretrained.model, scored.device
    shared, private = prior.sample(count, torch.Generator().manual_seed(seed))
    decoded = model.decode(shared.to(device), {name: value.to(device) for name, value in private.items()})
    return decoded_views(model, decoded)


def _translate(scored: Scored, experts: Experts, given: Sequence[str]) -> Views:
    """Everything decoded from what is given; nothing is known of rows that lack it."""
    views = decoded_views(scored.pretrained.model, decode_mean(scored.pretrained.model, experts, given))
    rows = has_all(scored.pretrained.info.modalities, experts.present, given)
    return known_only(views, rows.cpu().numpy())
