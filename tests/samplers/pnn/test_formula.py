from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_gps.samplers.pnn.formula import mean_value_sum_gradient, pseudo_neighbour, scale_gradient, scheduled_value

vectors = st.integers(0, 2**31).map(
    lambda seed: torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed)) * 10 ** (seed % 5 - 2)
)


def by_hand(z, n, alpha, sphere):
    """One vector at a time, in float64: the paper's mean, then the length between the two lengths."""
    z, n = np.asarray(z, dtype=np.float64), np.asarray(n, dtype=np.float64)
    out = np.empty_like(z)
    for row in range(len(z)):
        length = math.sqrt((z[row] ** 2).sum())
        other = n[row] * length / math.sqrt((n[row] ** 2).sum()) if sphere else n[row]
        mean = z[row] + (1 - alpha) * (other - z[row])
        wanted = alpha * length + (1 - alpha) * math.sqrt((other**2).sum())
        out[row] = mean / math.sqrt((mean**2).sum()) * wanted
    return out


@given(pair=vectors, sphere=st.booleans(), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_alpha_one_is_the_anchor_to_the_last_bit(pair, sphere, dtype):
    z, neighbour = pair.to(dtype)
    assert torch.equal(pseudo_neighbour(z, neighbour, alpha=1.0, beta=0.0, sphere=sphere).to(dtype), z)


@given(pair=vectors, dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_alpha_zero_is_the_neighbour_to_the_last_bit(pair, dtype):
    z, neighbour = pair.to(dtype)
    assert torch.equal(pseudo_neighbour(z, neighbour, alpha=0.0, beta=0.0, sphere=False).to(dtype), neighbour)


def layouts(z):
    """The same numbers row by row, column by column, with gaps, and off the boundaries of the allocator."""
    spread, shifted = torch.zeros(len(z), 2 * z.shape[1]), torch.zeros(z.numel() + 3)
    spread[:, ::2], shifted[3:] = z, z.flatten()
    return [z, z.T.contiguous().T, spread[:, ::2], shifted[3:].view_as(z)]


@pytest.mark.parametrize("columns", [7, 33, 128])
def test_both_ends_are_exact_in_any_layout_of_memory(columns):
    pair = torch.randn(2, 64, columns, generator=torch.Generator().manual_seed(columns))
    for z, neighbour in product(*map(layouts, pair)):
        assert torch.equal(pseudo_neighbour(z, neighbour, alpha=1.0, beta=0.0, sphere=True), z)
        assert torch.equal(pseudo_neighbour(z, neighbour, alpha=0.0, beta=0.0, sphere=False), neighbour)


@given(pair=vectors, alpha=st.floats(0, 1), sphere=st.booleans())
def test_agrees_with_the_formula_by_hand(pair, alpha, sphere):
    z, neighbour = pair
    made = pseudo_neighbour(z, neighbour, alpha=alpha, beta=0.0, sphere=sphere)
    np.testing.assert_allclose(made, by_hand(z, neighbour, alpha, sphere), rtol=2e-3, atol=1e-5 * float(pair.abs().max()))


@given(pair=vectors, alpha=st.floats(0.01, 0.99))
def test_unit_vectors_are_normalised_as_in_the_paper(pair, alpha):
    z, neighbour = torch.nn.functional.normalize(pair, dim=-1)
    mean = z + (1 - alpha) * (neighbour - z)
    made = pseudo_neighbour(z, neighbour, alpha=alpha, beta=0.0, sphere=False)
    torch.testing.assert_close(made, torch.nn.functional.normalize(mean, dim=-1), atol=1e-4, rtol=1e-3)


def test_a_vector_by_hand():
    z, neighbour = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    # Half way between (3, 0) and (0, 1) is (1.5, 0.5), of length sqrt(2.5); the length half way between 3 and 1 is 2.
    made = pseudo_neighbour(z, neighbour, alpha=0.5, beta=0.0, sphere=False)
    torch.testing.assert_close(made, torch.tensor([[1.5, 0.5]]) * 2 / math.sqrt(2.5))
    # On the sphere of radius 3 the neighbour is (0, 3): half way is (1.5, 1.5), back to length 3.
    made = pseudo_neighbour(z, neighbour, alpha=0.5, beta=0.0, sphere=True)
    torch.testing.assert_close(made, torch.full((1, 2), 3 / math.sqrt(2)))


def test_the_noise_has_the_papers_spread_in_every_coordinate():
    # |r| is 0.001 of the length, so that bringing the length back hardly bends the noise, and only along z.
    z = torch.zeros(200_000, 3)
    z[:, 0] = 1000
    neighbour = z + torch.tensor([0.0, 0.8, 0.6])
    generator = torch.Generator().manual_seed(3)
    made = pseudo_neighbour(z, neighbour, alpha=0.25, beta=0.1, sphere=False, generator=generator)
    torch.testing.assert_close(made[:, 1:].mean(0), torch.tensor([0.6, 0.45]), atol=1e-3, rtol=0)
    torch.testing.assert_close(made[:, 1:].std(0), torch.tensor([0.1, 0.1]), atol=1e-3, rtol=0)


def test_without_beta_no_random_number_is_drawn_and_with_it_only_the_generators():
    z, neighbour = torch.randn(2, 4, 3)
    generator, before = torch.Generator().manual_seed(1), torch.random.get_rng_state()
    drawn = generator.get_state()
    pseudo_neighbour(z, neighbour, alpha=0.3, beta=0.0, sphere=True, generator=generator)
    assert torch.equal(generator.get_state(), drawn)
    pseudo_neighbour(z, neighbour, alpha=0.3, beta=0.1, sphere=True, generator=generator)
    assert not torch.equal(generator.get_state(), drawn)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_vector_of_length_zero_stays_finite():
    z = torch.zeros(1, 3)
    assert torch.isfinite(pseudo_neighbour(z, torch.ones(1, 3), alpha=0.5, beta=0.1, sphere=True)).all()
    assert torch.isfinite(pseudo_neighbour(torch.ones(1, 3), z, alpha=0.5, beta=0.1, sphere=True)).all()


def test_it_has_no_gradient():
    z = torch.randn(2, 3, requires_grad=True)
    assert not pseudo_neighbour(z, torch.randn(2, 3), alpha=0.5, beta=0.0, sphere=True).requires_grad


def test_five_neighbours_of_each_anchor():
    z, five = torch.randn(4, 3), torch.randn(4, 5, 3)
    made = pseudo_neighbour(z[:, None], five, alpha=0.3, beta=0.0, sphere=False)
    for column in range(5):
        one = pseudo_neighbour(z, five[:, column], alpha=0.3, beta=0.0, sphere=False)
        torch.testing.assert_close(made[:, column], one)


@given(values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5))
def test_the_mean_of_the_losses_with_the_gradient_of_their_sum(values):
    leaves = [torch.tensor(value, requires_grad=True) for value in values]
    loss = mean_value_sum_gradient(leaves)
    torch.testing.assert_close(loss.detach(), torch.tensor(np.mean(values, dtype=np.float64)).float(), atol=1e-4, rtol=1e-4)
    loss.backward()
    for leaf in leaves:
        torch.testing.assert_close(leaf.grad, torch.tensor(1.0))


@given(value=st.floats(-1e6, 1e6, width=32))
def test_the_mean_of_two_equal_losses_is_exact(value):
    leaf = torch.tensor(value)
    assert torch.equal(mean_value_sum_gradient([leaf, leaf]), leaf)


def test_scaled_gradient_keeps_the_value():
    x = torch.randn(5, requires_grad=True)
    scaled = scale_gradient(x, 0.5)
    assert torch.equal(scaled, x)
    scaled.sum().backward()
    assert x.grad.tolist() == [0.5] * 5
    assert scale_gradient(x, 1) is x


@pytest.mark.parametrize(
    ("shape", "epoch", "value"),
    [
        *[("linear", 0, 1.0), ("linear", 1, 0.75), ("linear", 2, 0.5), ("linear", 4, 0.0), ("linear", 9, 0.0)],
        *[("cosine", 0, 1.0), ("cosine", 1, 0.5 + math.sqrt(0.125)), ("cosine", 2, 0.5), ("cosine", 4, 0.0), ("cosine", 9, 0.0)],
    ],
)
def test_schedules_go_from_start_to_end(shape, epoch, value):
    assert scheduled_value(1.0, 0.0, epoch=epoch, epochs=4, shape=shape) == pytest.approx(value, abs=1e-12)


@settings(max_examples=30)
@given(start=st.floats(0, 1), end=st.floats(0, 1), shape=st.sampled_from(["linear", "cosine"]))
def test_schedules_are_exact_at_both_ends_and_constant_without_an_end(start, end, shape):
    assert scheduled_value(start, end, epoch=0, epochs=3, shape=shape) == start
    assert scheduled_value(start, end, epoch=3, epochs=3, shape=shape) == end
    assert scheduled_value(start, None, epoch=2, epochs=3, shape=shape) == start


def test_d6_the_noise_is_per_coordinate_so_its_length_grows_with_the_dimensions():
    """beta * sqrt(D) * r before the length is brought back: at D = 256 and beta = 0.1 it ends 1.36 r from the neighbour."""
    generator = torch.Generator().manual_seed(0)
    z, other = (torch.nn.functional.normalize(torch.randn(4000, 256, generator=generator), dim=1) for _ in range(2))
    across = torch.nn.functional.normalize(other - (other * z).sum(1, keepdim=True) * z, dim=1)
    cosine = 0.904
    neighbour = cosine * z + (1 - cosine**2) ** 0.5 * across
    r = (neighbour - z).norm(dim=1)
    moved = pseudo_neighbour(z, neighbour, alpha=0, beta=0.1, sphere=True, generator=generator)
    assert ((moved - neighbour).norm(dim=1) / r).mean().item() == pytest.approx(1.36, abs=0.02)
    assert (moved * z).sum(1).mean().item() == pytest.approx(0.74, abs=0.015)


@pytest.mark.parametrize("columns", [16, 256])
def test_d6_noise_of_a_total_length_has_it_whatever_the_dimensions(columns):
    """z and the neighbour are unit vectors at a right angle, so |r| is sqrt(2); halfway there, the noise lies across."""
    z, neighbour = torch.zeros(4000, columns), torch.zeros(4000, columns)
    z[:, 0], neighbour[:, 1] = 1.0, 1.0
    generator = torch.Generator().manual_seed(0)
    made = pseudo_neighbour(z, neighbour, alpha=0.5, beta=0.3, sphere=True, generator=generator, noise="total")
    share = made[:, 2:].square().sum(dim=1).mean() / made.square().sum(dim=1).mean()
    across = (0.3 * math.sqrt(2)) ** 2 * (columns - 2) / columns
    assert share == pytest.approx(across / (0.5 + across + (0.3**2 * 2) * 2 / columns), rel=0.1)
