"""Which choices make a system, as somebody who writes a config learns it."""

from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.errors import InputError

POINTS = "fusion: joint"
IMAGE = "adversary: {kind: image, fakes: %s}"


def text(model: str, objective: str) -> str:
    return f"name: a\ndata: {{source: {{kind: rooms}}}}\nmodel: {{{model}}}\nobjective: {{{objective}}}\n"


def refusal(directory: Path, model: str, objective: str) -> str:
    path = directory / "a.yaml"
    path.write_text(text(model, objective))
    with pytest.raises(InputError) as refused:
        load_config(path, [])
    return str(refused.value)


ACCEPTED = {
    "ae": (POINTS, "regulariser: {kind: none}"),
    "ae of mean codes": ("fusion: barycentre", "regulariser: {kind: none}"),
    "dae": (POINTS, "regulariser: {kind: none}, corruption: {masking: 0.3, drop: {rgb: 0.2}}"),
    "vae": ("fusion: mopoe", "regulariser: {kind: kl}"),
    "betatc": ("fusion: poe", "regulariser: {kind: tc}"),
    "factorvae": ("fusion: mopoe", "regulariser: {kind: tc, estimator: discriminator}"),
    "gan": ("posterior: none", f"regulariser: {{kind: none}}, {IMAGE % 'prior'}"),
    "vaegan": ("fusion: mopoe", IMAGE % "both"),
    "aegan": (POINTS, f"regulariser: {{kind: none}}, {IMAGE % 'reconstructions'}"),
    "aae": (POINTS, "regulariser: {kind: adversarial}"),
    "aae of mixtures": (POINTS, "regulariser: {kind: adversarial, prior: mixture}"),
    "aae of densities": ("fusion: mopoe, posterior: gaussian", "regulariser: {kind: adversarial}"),
    "avb": ("fusion: joint, private: {}", "regulariser: {kind: avb}"),
    "wae": ("fusion: barycentre", "regulariser: {kind: mmd}"),
    "wae-gan": (POINTS, f"regulariser: {{kind: mmd}}, {IMAGE % 'both'}"),
    "mvae": ("fusion: poe, subsets: subsampled", "regulariser: {kind: kl}"),
    "mvtcae": ("fusion: mvtcae", "regulariser: {kind: kl, free_bits: 0.1}"),
    "mmvae": (
        "fusion: moe, subsets: each",
        "regulariser: {kind: kl, importance_samples: 10, estimator: dreg}",
    ),
    "mmvaeplus": ("fusion: mmvaeplus", "regulariser: {kind: kl, importance_samples: 10, estimator: dreg}"),
    "mmvaeplus-gan": (
        "fusion: mmvaeplus",
        f"regulariser: {{kind: kl, importance_samples: 2, estimator: dreg}}, {IMAGE % 'prior'}",
    ),
    "joint vae": ("fusion: joint, joint_pool: attention", "regulariser: {kind: kl, capacity: 20}"),
    "enumerated": ("fusion: mopoe, subsets: enumerated", "regulariser: {kind: kl}"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_system_that_makes_sense_is_accepted(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text(*ACCEPTED[name]))
    assert load_config(path, []).name == "a"


REFUSED = [
    (
        "fusion: poe, private: {}",
        "regulariser: {kind: avb}",
        "model.fusion: poe cannot fuse implicit posteriors; choose model.fusion: joint",
    ),
    (
        "fusion: joint",
        "regulariser: {kind: avb}",
        "an implicit posterior has no private latents; set model.private: {}",
    ),
    (
        "fusion: mopoe",
        "regulariser: {kind: none}",
        "the posterior is a point, which has none; choose model.fusion: joint or barycentre",
    ),
    (
        "fusion: mvtcae",
        "regulariser: {kind: mmd}",
        "the posterior is a point, which has none; choose model.fusion: joint or barycentre",
    ),
    (
        "fusion: mvtcae",
        "regulariser: {kind: tc}",
        "needs objective.regulariser.kind: kl, not tc; choose model.fusion: mopoe",
    ),
    (
        "fusion: mmvaeplus",
        "regulariser: {kind: tc}",
        "needs objective.regulariser.kind: kl, not tc; choose model.fusion: mopoe",
    ),
    (
        "fusion: poe, subsets: subsampled",
        "regulariser: {kind: tc}",
        "tc is for one code per row; choose model.subsets: whole",
    ),
    (
        "fusion: mopoe, subsets: enumerated",
        "regulariser: {kind: tc}",
        "tc is for one code per row; choose model.subsets: drawn",
    ),
    (
        "posterior: none",
        IMAGE % "prior",
        "kl is not defined for model.posterior: none; choose posterior: gaussian, or kind: none",
    ),
    (
        "posterior: gaussian, fusion: joint",
        "regulariser: {kind: avb}",
        "avb is not defined for model.posterior: gaussian; choose posterior: implicit, or kind: kl or tc",
    ),
    (
        "posterior: none",
        "regulariser: {kind: none}",
        "leaves nothing to train the decoders with; choose objective.adversary.kind: image",
    ),
    (
        "posterior: none",
        f"regulariser: {{kind: none}}, {IMAGE % 'both'}",
        "needs reconstructions, which model.posterior: none cannot make; choose fakes: prior",
    ),
    (
        "posterior: none",
        f"regulariser: {{kind: none}}, {IMAGE % 'prior'}, corruption: {{masking: 0.2}}",
        "there is no encoder to corrupt the input of; remove it",
    ),
    (
        POINTS,
        f"regulariser: {{kind: none}}, {IMAGE % 'both'}",
        "does not hold the codes to; choose fakes: reconstructions",
    ),
    (
        "fusion: mopoe",
        "regulariser: {kind: kl, importance_samples: 5}",
        "importance_samples: 5 is for model.fusion: moe (with model.subsets: each) or mmvaeplus, not mopoe; "
        "set it to 1",
    ),
    (
        "fusion: moe",
        "regulariser: {kind: kl, estimator: dreg}",
        "not moe (with subsets: drawn); set it to iwae",
    ),
    (
        "fusion: mmvaeplus",
        "regulariser: {kind: kl, free_bits: 0.5}",
        "has no KL to limit; remove it, or choose model.fusion: mopoe",
    ),
    (
        "fusion: mmvaeplus",
        f"regulariser: {{kind: kl, importance_samples: 5, estimator: dreg}}, {IMAGE % 'both'}",
        "choose estimator: iwae, or fakes: prior",
    ),
    ("fusion: mvtcae, prior_expert: full", "beta: 1.0", "fusion mvtcae needs prior_expert: none, not full"),
    (
        "fusion: mvtcae, subsets: drawn",
        "beta: 1.0",
        "fusion mvtcae cannot be trained with subsets: drawn; choose whole",
    ),
    (
        "fusion: mopoe",
        "regulariser: {kind: kl, free_bits: 0.1, capacity: 5}",
        "two answers to one question; keep one",
    ),
]


@pytest.mark.parametrize(("model", "objective", "said"), REFUSED)
def test_what_makes_no_sense_is_refused_with_the_nearest_that_does(
    tmp_path: Path, model: str, objective: str, said: str
) -> None:
    message = refusal(tmp_path, model, objective)
    assert said in message
    assert message.startswith(f"{tmp_path}/a.yaml: 1 mistake in the config")
    assert message.count("choose") <= 1


def test_following_the_advice_ends_in_a_system(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    advised = [
        ("fusion: joint, private: {}", "regulariser: {kind: avb}"),
        ("fusion: barycentre", "regulariser: {kind: mmd}"),
        ("fusion: mopoe", "regulariser: {kind: tc}"),
        ("fusion: poe, subsets: whole", "regulariser: {kind: tc}"),
        ("posterior: none", f"regulariser: {{kind: none}}, {IMAGE % 'prior'}"),
        ("posterior: gaussian, fusion: joint", "regulariser: {kind: tc}"),
        (POINTS, f"regulariser: {{kind: none}}, {IMAGE % 'reconstructions'}"),
        ("fusion: mmvaeplus", f"regulariser: {{kind: kl, importance_samples: 5}}, {IMAGE % 'both'}"),
    ]
    for model, objective in advised:
        path.write_text(text(model, objective))
        load_config(path, [])


def test_a_training_that_ends_before_its_discriminator_matters_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text("fusion: mopoe", IMAGE % "both"))
    load_config(path, ["train.samples=9601"])
    with pytest.raises(InputError, match=r"together are 9,600, and train.samples 9,600 ends before that"):
        load_config(path, ["train.samples=9600"])
