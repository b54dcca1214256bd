"""The losses over tuples and classes, against loops over their equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffusion import DiffusionError
from features.training.losses import NormalizedSoftmax, triplet_loss, tuple_contrastive_loss


def drawn(t=4, n=3, d=5, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((t, d), (t, d), (t, n, d))
    return [torch.from_numpy(rng.standard_normal(shape) / 2) for shape in shapes]


@pytest.mark.parametrize("margin", [0.2, 0.7, 2.0])
def test_contrastive_loss_of_tuples_equals_loops(margin):
    a, p, n = drawn()
    terms = []
    for i in range(4):
        terms.append(float(((a[i] - p[i]) ** 2).sum()))
        terms += [max(0.0, margin - math.dist(a[i], n[i, j])) ** 2 for j in range(3)]
    loss = tuple_contrastive_loss(a, p, n, margin=margin)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-12)


def test_contrastive_loss_of_a_tuple_by_hand():
    # The positive at distance 0.5; negatives at 0.3, inside the margin, and at 1, outside.
    a, p, n = torch.zeros(1, 2), torch.tensor([[0.3, 0.4]]), torch.tensor([[[0.3, 0.0], [1.0, 0]]])
    loss = tuple_contrastive_loss(a, p, n, margin=0.7)
    assert loss.item() == pytest.approx((0.25 + 0.16 + 0) / 3)


@pytest.mark.parametrize("margin", [0.1, 0.5])
def test_triplet_loss_equals_loops(margin):
    a, p, n = drawn(seed=1)
    terms = [
        max(0.0, margin + math.dist(a[i], p[i]) ** 2 - math.dist(a[i], n[i, j]) ** 2)
        for i in range(4)
        for j in range(3)
    ]
    assert triplet_loss(a, p, n, margin=margin).item() == pytest.approx(np.mean(terms), rel=1e-12)


@pytest.mark.parametrize("loss", [tuple_contrastive_loss, triplet_loss])
def test_gradients_are_those_of_the_equations(loss):
    tensors = [tensor.requires_grad_() for tensor in drawn(seed=2)]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, margin=0.9), tensors)


@pytest.mark.parametrize("loss", [tuple_contrastive_loss, triplet_loss])
def test_gradients_are_finite_where_all_coincide(loss):
    a, p, n = (torch.ones(shape, requires_grad=True) for shape in ((2, 3), (2, 3), (2, 1, 3)))
    loss(a, p, n).backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in (a, p, n))


@pytest.mark.parametrize("loss", [tuple_contrastive_loss, triplet_loss])
@pytest.mark.parametrize(
    ("shapes", "margin", "name"),
    [
        (((2, 3), (2, 3), (2, 3)), 0.5, "anchors"),
        (((2, 3), (3, 3), (2, 1, 3)), 0.5, "anchors"),
        (((2, 3), (2, 3), (2, 0, 3)), 0.5, "anchors"),
        (((0, 3), (0, 3), (0, 1, 3)), 0.5, "anchors"),
        (((2, 3), (2, 3), (2, 1, 4)), 0.5, "anchors"),
        (((2, 3), (2, 3), (2, 1, 3)), 0.0, "margin"),
    ],
)
def test_bad_tuples_are_named(loss, shapes, margin, name):
    with pytest.raises(DiffusionError, match=f"^{name}"):
        loss(*(torch.zeros(shape) for shape in shapes), margin=margin)


def test_softmax_by_hand():
    softmax = NormalizedSoftmax(2, 2, temperature=0.5)
    with torch.no_grad():
        softmax.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.2]]))
    y = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    # Cosines 0.6 and 0.8, then 1 and 0, over 0.5.
    first = -math.log(math.exp(1.6) / (math.exp(1.2) + math.exp(1.6)))
    second = -math.log(math.exp(2) / (math.exp(2) + 1))
    loss = softmax(y, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 2, 0.1), "dimension"), ((2, 1, 0.1), "classes"), ((2, 2, 0.0), "temperature")],
)
def test_softmax_names_bad_parameters(arguments, name):
    dimension, classes, temperature = arguments
    with pytest.raises(DiffusionError, match=f"^{name}:"):
        NormalizedSoftmax(dimension, classes, temperature=temperature)
