"""Muon: orthogonal steps of a known size for matrices, torch's AdamW for the rest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from minimaskrcnn.engine.muon import Muon, orthogonalize


@settings(deadline=None)
@given(
    rows=st.integers(1, 24), columns=st.integers(1, 24), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 999)
)
def test_singular_values_become_about_one_and_vectors_stay(rows, columns, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    k = min(rows, columns)
    u = torch.linalg.qr(torch.randn(rows, k, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(columns, k, generator=generator, dtype=torch.float64)).Q
    # Down to 0.05 of the largest; five steps do not lift much smaller ones all the way.
    values = 0.05 + 0.95 * torch.rand(k, generator=generator, dtype=torch.float64)
    found = u.T @ orthogonalize(scale * (u * values) @ v.T, steps=5) @ v
    assert torch.allclose(found, torch.diag(found.diagonal()), atol=1e-8)
    assert ((found.diagonal() > 0.3) & (found.diagonal() < 1.25)).all(), found.diagonal()


def test_a_zero_matrix_stays_zero():
    assert not orthogonalize(torch.zeros(3, 4)).any()


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 2, 3, 3)])
def test_one_step_by_hand(shape):
    start, gradient = torch.randn(shape), torch.randn(shape)
    parameter = nn.Parameter(start.clone())
    parameter.grad = gradient.clone()
    Muon([parameter], [], lr=0.1, weight_decay=0.5, momentum=0.75).step()
    # Average and look ahead are multiples of the only gradient so far: the direction is its own.
    direction = orthogonalize(gradient.flatten(1)).view(shape)
    longer = max(gradient.flatten(1).shape)
    expected = start * (1 - 0.1 * 0.5) - 0.1 * 0.2 * longer**0.5 * direction
    assert torch.allclose(parameter, expected, atol=1e-5)


def test_a_matrix_moves_as_far_as_adamw_would_move_it():
    parameter = nn.Parameter(torch.zeros(64, 32, 3, 3))
    parameter.grad = torch.randn(parameter.shape)
    Muon([parameter], [], lr=1.0, weight_decay=0.0).step()
    assert parameter.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.25)


def test_momentum_averages_the_gradients():
    first, second = torch.randn(4, 5), torch.randn(4, 5)
    parameter = nn.Parameter(torch.zeros(4, 5))
    optimizer = Muon([parameter], [], lr=1.0, weight_decay=0.0, momentum=0.5)
    for gradient in (first, second):
        parameter.data.zero_()
        parameter.grad = gradient.clone()
        optimizer.step()
    average = 0.5 * (0.5 * first) + 0.5 * second
    expected = -0.2 * 5**0.5 * orthogonalize(0.5 * second + 0.5 * average)
    assert torch.allclose(parameter, expected, atol=1e-5)


def test_others_are_trained_by_adamw_and_what_has_no_gradient_stays():
    torch.manual_seed(0)
    matrix, other, twin, idle = (nn.Parameter(torch.ones(3, 3)) for _ in range(4))
    optimizer = Muon([matrix, idle], [other], lr=0.1, weight_decay=0.2)
    adamw = torch.optim.AdamW([twin], 0.1, weight_decay=0.2)
    for _ in range(3):
        gradient = torch.randn(3, 3)
        matrix.grad, other.grad, twin.grad = gradient.clone(), gradient.clone(), gradient.clone()
        optimizer.step()
        adamw.step()
    assert torch.equal(other, twin)
    assert torch.equal(idle, torch.ones(3, 3)) and not torch.equal(matrix, other)
