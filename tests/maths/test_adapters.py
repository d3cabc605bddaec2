"""Low-rank adapters: the identity at first, of bounded rank, alone in training, safe on disk."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.models.adapters import (
    AdapterDescription,
    adapter_state,
    attach_adapter,
    detach_adapter,
    load_adapter,
    load_adapter_state,
    save_adapter,
)

RANK = 3
DESCRIPTION = AdapterDescription(rank=RANK, model_digest="ab" * 32, support=("room-1", "room-2"))


def decoder(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 16 * 4),
        nn.Unflatten(1, (16, 2, 2)),
        nn.ConvTranspose2d(16, 12, 4, 2, 1),
        nn.GroupNorm(4, 12),
        nn.SiLU(),
        nn.Conv2d(12, 7, 3, padding=1, bias=False),
    )


def latents(seed: int = 1) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


def trained(root: nn.Module, steps: int = 5) -> nn.Module:
    optimizer = torch.optim.Adam(attach_adapter(root, RANK, seed=2).values(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (root(latents()) - 1.0).square().mean().backward()
        optimizer.step()
    return root


def test_a_fresh_adapter_changes_no_bit() -> None:
    root = decoder()
    before = root(latents())
    attach_adapter(root, RANK, seed=0)
    assert torch.equal(root(latents()), before)


def test_only_adapter_parameters_receive_gradients_and_the_rest_stays() -> None:
    root = decoder()
    frozen = {name: value.clone() for name, value in root.state_dict().items()}
    parameters = attach_adapter(root, RANK, seed=2)
    root(latents()).sum().backward()
    with_gradient = {id(p) for p in root.parameters() if p.grad is not None}
    assert with_gradient == {id(p) for p in parameters.values()}
    detach_adapter(root)
    trained(root)
    detach_adapter(root)
    assert frozen.keys() == root.state_dict().keys()
    assert all(torch.equal(root.state_dict()[name], value) for name, value in frozen.items())


def test_training_the_adapter_lowers_the_loss() -> None:
    root = decoder()
    before = (root(latents()) - 1.0).square().mean()
    assert (trained(root, 50)(latents()) - 1.0).square().mean() < 0.5 * before


@pytest.mark.parametrize(("layer", "transposed"), [(0, False), (2, True), (5, False)])
def test_the_change_of_every_layer_has_at_most_the_rank_asked_for(layer: int, transposed: bool) -> None:
    root = decoder()
    before = root[layer].weight.detach().clone()
    trained(root)
    detach_adapter(root, merge=True)
    change = root[layer].weight.detach() - before
    matrix = (change.transpose(0, 1) if transposed else change).flatten(1).double()
    singular = torch.linalg.svdvals(matrix)
    assert singular[RANK - 1] > 1e-3
    assert singular[RANK] < 1e-5 * singular[0]


def test_merging_keeps_the_output_and_leaves_plain_weights() -> None:
    root = trained(decoder())
    adapted = root(latents())
    detach_adapter(root, merge=True)
    torch.testing.assert_close(root(latents()), adapted)
    assert root.state_dict().keys() == decoder().state_dict().keys()


def test_an_adapter_read_back_gives_the_same_bits(tmp_path: Path) -> None:
    root = trained(decoder())
    save_adapter(tmp_path, DESCRIPTION, adapter_state(root))
    description, state = load_adapter(tmp_path)
    assert description == DESCRIPTION
    other = decoder()
    attach_adapter(other, description.rank, seed=99)
    load_adapter_state(other, state)
    assert torch.equal(other(latents()), root(latents()))


def test_the_starting_values_follow_the_seed() -> None:
    first, again, other = (attach_adapter(decoder(), RANK, seed=s)["0.weight.down"] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_adapter_of_another_model_is_refused() -> None:
    root = decoder()
    attach_adapter(root, RANK, seed=0)
    state = adapter_state(root) | {"5.weight.up": torch.zeros(9, RANK)}
    with pytest.raises(InputError, match=r"1 tensors differ, first 5\.weight\.up"):
        load_adapter_state(root, state)


def test_damaged_or_missing_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapters\.json is missing"):
        load_adapter(tmp_path)
    root = decoder()
    attach_adapter(root, RANK, seed=0)
    save_adapter(tmp_path, DESCRIPTION, adapter_state(root))
    weights = tmp_path / "adapters.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        load_adapter(tmp_path)
    weights.write_bytes(whole)
    fields = json.loads((tmp_path / "adapters.json").read_text())
    (tmp_path / "adapters.json").write_text(json.dumps(fields | {"format": 7}))
    with pytest.raises(InputError, match="adapter format 7, this version reads 1"):
        load_adapter(tmp_path)


def test_attaching_twice_or_to_nothing_is_refused() -> None:
    root = decoder()
    attach_adapter(root, RANK, seed=0)
    with pytest.raises(ValueError, match="layer 0 is adapted already"):
        attach_adapter(root, RANK, seed=0)
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        attach_adapter(nn.Sequential(nn.SiLU()), RANK, seed=0)
