"""Where a model, an adapter and a prior come from."""

import re
from pathlib import Path

from pipeline.errors import InputError
from pipeline.models.adapters import attach_adapter, detach_adapter, load_adapter, load_adapter_state
from pipeline.models.autoencoder import SharedLatentAutoencoder
from pipeline.models.pretrained import DESCRIPTION, WEIGHTS
from pipeline.models.prior import PRIOR_FILE, LatentPrior, load_prior, widths

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def locate(source: str | Path, revision: str | None) -> Path:
    """The directory that holds the model's files, fetched if need be.

    Raises:
        InputError: If there is none.
    """
    directory = Path(source)
    for candidate in (directory, directory / "train"):
        if (candidate / DESCRIPTION).is_file():
            return candidate
    if directory.exists() or not HUB_ID.fullmatch(str(source)):
        raise InputError(
            f"{source}: holds no {DESCRIPTION}; give the train directory of a finished run, or owner/name "
            "of a model on the Hugging Face Hub"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        fetched = snapshot_download(str(source), revision=revision, allow_patterns=[WEIGHTS, DESCRIPTION])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{source}: is no directory here, and cannot be fetched from the Hugging Face Hub ({reason})"
        ) from None
    return Path(fetched)


def adapt(model: SharedLatentAutoencoder, digest: str, directory: Path) -> LatentPrior:
    """Merge an adapter into a model; its re-fit prior.

    Raises:
        InputError: If it belongs to another model or its files are missing or damaged.
    """
    description, state = load_adapter(directory)
    if description.model_digest != digest:
        raise InputError(
            f"{directory}: was adapted from the model {description.model_digest[:12]}, not from this one "
            f"({digest[:12]}); load the model it was made from"
        )
    if state:
        attach_adapter(model.decoders, description.rank, seed=0)
        load_adapter_state(model.decoders, state)
        detach_adapter(model.decoders, merge=True)
    return load_prior(directory / PRIOR_FILE)


def fitting_prior(path: Path, model: SharedLatentAutoencoder) -> LatentPrior:
    """A prior from a file.

    Raises:
        InputError: If it cannot be read or draws latents of another size.
    """
    prior = load_prior(path)
    shared, private = widths(prior)
    if shared != model.latent or private != model.private:
        raise InputError(
            f"{path}: draws {shared} shared and {private or 'no'} private latents, but this model has "
            f"{model.latent} and {model.private or 'none'}; name the prior that was fitted to it"
        )
    return prior
