import dataclasses
import math
from pathlib import Path

import pytest
import torch
from by_hand import INFO, make_batch, make_model, make_noise, without

from pipeline.config.model import Model
from pipeline.config.objective import DepthLikelihood, Objective
from pipeline.errors import InputError
from pipeline.models.autoencoder import build_autoencoder
from pipeline.models.network_patch import stage_widths
from pipeline.models.pretrained import load_pretrained, posterior_mean, save_pretrained, weight_bytes

SMALL = Model(latent=6, private={"rgb": 3}, width=8)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weight_bytes(make_model(seed=5))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert weight_bytes(make_model(seed=5)) == first
    assert weight_bytes(make_model(seed=6)) != first


def test_channels_double_towards_the_innermost_map() -> None:
    assert stage_widths(32, 8) == [16, 32]
    assert stage_widths(64, 8) == [8, 16, 32]
    assert stage_widths(256, 8) == [8, 8, 8, 16, 32]


@pytest.mark.parametrize("space", ["metric", "log"])
def test_metres_return_from_standardised_units(space: str) -> None:
    model = make_model(SMALL, Objective(depth=DepthLikelihood(space=space)))
    depth = make_batch(2).modalities["depth"]
    standardised = model.standardise(depth.value, depth.valid)
    torch.testing.assert_close(model.units.to_metres(standardised), depth.value)
    mean = 3.0 if space == "metric" else math.exp(1.1)
    assert model.units.to_metres(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(mean)
    assert not model.standardise(depth.value, torch.zeros_like(depth.valid)).any()


def test_private_latents_reach_their_own_modality_only() -> None:
    model = make_model(SMALL)
    shared = torch.zeros(1, 6)
    one, other = (model.decode(shared, {"rgb": torch.full((1, 3), value)}) for value in (0.0, 2.0))
    assert not torch.equal(one.rgb, other.rgb)
    assert torch.equal(one.depth, other.depth)
    assert torch.equal(one.seg, other.seg)


def test_a_modality_left_out_of_the_batch_is_absent() -> None:
    model, batch = make_model(SMALL), make_batch(3)
    left_out = dataclasses.replace(batch, modalities={"seg": batch.modalities["seg"]})
    absent = without(without(batch, "rgb", [0, 1, 2], 0.0), "depth", [0, 1, 2], 0.0)
    everything = torch.ones(3, 3, dtype=torch.bool)
    one, other = (model.posterior(model.encode(rows), everything) for rows in (left_out, absent))
    assert torch.equal(one.shared.mean, other.shared.mean)
    assert not one.private["rgb"].mean.any()
    posterior, shared, private = posterior_mean(model, batch, ["seg"])
    assert torch.equal(shared, one.shared.mean)
    assert torch.equal(posterior.shared.logvar, one.shared.logvar)
    assert not private["rgb"].any()


def test_seeing_nothing_is_the_prior() -> None:
    posterior, shared, _ = posterior_mean(make_model(SMALL), make_batch(2), [])
    assert not shared.any()
    assert not posterior.shared.logvar.any()


def test_a_private_latent_of_a_modality_the_data_lacks_is_refused() -> None:
    info = dataclasses.replace(INFO, modalities=("depth", "seg"))
    with pytest.raises(InputError, match=r"model.private.rgb: the dataset has no rgb \(it has depth, seg\)"):
        build_autoencoder(SMALL, Objective(), info, 0)


def test_two_modalities_train_without_the_third() -> None:
    info = dataclasses.replace(INFO, modalities=("depth", "seg"))
    model = build_autoencoder(Model(latent=6, private={"depth": 2}, width=8), Objective(), info, 0)
    whole = make_batch(2)
    batch = dataclasses.replace(whole, modalities={name: whole.modalities[name] for name in ("depth", "seg")})
    output = model(batch, batch.present(), make_noise(model, 2))
    assert output.decoded.rgb is None
    assert set(model.scales()) == {"depth"}


def test_a_saved_model_returns_with_all_that_describes_it(tmp_path: Path) -> None:
    objective = Objective(depth=DepthLikelihood(space="log"))
    model = make_model(SMALL, objective)
    save_pretrained(tmp_path, model, SMALL, objective, INFO)
    first = (tmp_path / "model.safetensors").read_bytes(), (tmp_path / "model.json").read_bytes()
    pretrained = load_pretrained(tmp_path)
    assert (pretrained.info, pretrained.model_config, pretrained.objective) == (INFO, SMALL, objective)
    assert not pretrained.model.training
    assert weight_bytes(pretrained.model) == first[0]
    batch, noise = make_batch(2), make_noise(model, 2)
    torch.testing.assert_close(
        model(batch, batch.present(), noise).decoded.rgb,
        pretrained.model(batch, batch.present(), noise).decoded.rgb,
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.json", b'{"format": 1', "model.json: damaged"),
        ("model.json", b'{"format": 99}', "format 99"),
        ("model.json", None, "model.json: No such file"),
        ("model.safetensors", b"not weights", "model.safetensors: does not hold this model's weights"),
        ("model.safetensors", None, "model.safetensors: No such file"),
    ],
)
def test_a_damaged_model_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    save_pretrained(tmp_path, make_model(SMALL), SMALL, Objective(), INFO)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_pretrained(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_pretrained(tmp_path, make_model(SMALL), SMALL, Objective(), INFO)
    (tmp_path / "model.safetensors").write_bytes(weight_bytes(make_model(Model(latent=7, width=8))))
    with pytest.raises(InputError, match="does not hold this model's weights"):
        load_pretrained(tmp_path)
