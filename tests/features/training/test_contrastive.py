"""Networks, the contrastive loss, training and extraction, held against plain numpy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import features
from diffusion import DiffusionError
from features import LeNet, contrastive_loss, describe, train_contrastive


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Keep torch to one thread: on a busy machine small batches wait long for the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loss_by_loops(y, labels, margin):
    """Return the loss as the equation says it, pair by pair."""
    terms = []
    for i in range(len(y)):
        for j in range(i + 1, len(y)):
            distance = np.sqrt(np.sum((y[i] - y[j]) ** 2))
            t = float(labels[i] == labels[j])
            terms.append(t * distance**2 + (1 - t) * max(margin - distance, 0.0) ** 2)
    return np.mean(terms)


def two_classes(n=40, size=8, seed=0):
    """Return noisy images, bright in the upper half (label 0) or in the lower (label 1)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.random((n, size, size)) * 0.8
    images[labels == 0, : size // 2] += 0.2
    images[labels == 1, size // 2 :] += 0.2
    return images, labels


# --- the package ---------------------------------------------------------------------------------


def test_importing_the_package_does_not_import_torch():
    code = "import sys, features, features.demo.digits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_exported_name_is_there():
    assert set(features.__all__) <= set(dir(features))
    assert all(hasattr(features, name) for name in features.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        features.nothing  # noqa: B018


# --- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 8, 15, 28, 32])
@pytest.mark.parametrize("dimension", [1, 10])
def test_lenet_gives_unit_vectors_for_every_image_size(size, dimension):
    network = LeNet(image_size=size, dimension=dimension, channels=(3, 5))
    y = network(torch.rand(6, 1, size, size))
    assert y.shape == (6, dimension)
    torch.testing.assert_close(y.norm(dim=1), torch.ones(6))


def test_lenet_has_the_layers_that_it_says():
    network = LeNet(image_size=12, dimension=7, channels=(3, 5))
    shapes = [tuple(parameter.shape) for parameter in network.parameters()]
    assert shapes == [(3, 1, 3, 3), (3,), (5, 3, 3, 3), (5,), (7, 5 * 3 * 3), (7,)]
    assert network.input_shape == (1, 12, 12)
    assert network.dimension == 7


def test_lenet_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    first, again, other = LeNet(seed=3), LeNet(seed=3), LeNet(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"image_size": 3}, "image_size"),
        ({"image_size": 8.0}, "image_size"),
        ({"dimension": 0}, "dimension"),
        ({"channels": (16,)}, "channels"),
        ({"channels": (16, 0)}, "channels"),
        ({"seed": -1}, "seed"),
    ],
)
def test_lenet_names_the_bad_parameter(parameters, name):
    with pytest.raises(DiffusionError, match=f"^{name}:"):
        LeNet(**parameters)


# --- the loss ------------------------------------------------------------------------------------


def test_loss_of_three_points_worked_by_hand():
    # Distances 0.3 (same label), 0.4 (other label, inside the margin 0.6) and 0.5 (likewise):
    # 0.09, 0.2² and 0.1².
    y = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, 0.4]], dtype=torch.float64)
    loss = contrastive_loss(y, torch.tensor([7, 7, 2]), margin=0.6)
    assert loss.item() == pytest.approx((0.09 + 0.04 + 0.01) / 3)


@pytest.mark.parametrize("margin", [0.3, 0.7, 5.0])
def test_loss_equals_a_loop_over_all_pairs(margin):
    rng = np.random.default_rng(1)
    y, labels = rng.standard_normal((17, 5)) / 2, rng.integers(0, 4, 17)
    loss = contrastive_loss(torch.from_numpy(y), torch.from_numpy(labels), margin=margin)
    assert loss.item() == pytest.approx(loss_by_loops(y, labels, margin), rel=1e-12)


def test_gradient_equals_finite_differences():
    rng = np.random.default_rng(2)
    y = torch.from_numpy(rng.standard_normal((6, 3)) / 2).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda y: contrastive_loss(y, labels, margin=0.9), [y])


@pytest.mark.parametrize("labels", [[0, 1, 0], [0, 0, 0], [0, 1, 2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_finite_at_distance_zero(labels, dtype):
    # The first two coincide; the third is a hair away, where a square underflows.
    y = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.6 + 1e-7, 0.8]], dtype=dtype, requires_grad=True)
    loss = contrastive_loss(y, torch.tensor(labels), margin=0.7)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(y.grad).all()


def test_coincident_points_of_different_labels_cost_the_squared_margin():
    y = torch.zeros(2, 4, requires_grad=True)
    loss = contrastive_loss(y, torch.tensor([0, 1]), margin=0.7)
    loss.backward()
    assert loss.item() == pytest.approx(0.49)
    assert torch.equal(y.grad, torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("shape", "labels", "margin", "name"),
    [
        ((1, 3), [0], 0.7, "descriptors"),
        ((3,), [0, 1, 2], 0.7, "descriptors"),
        ((3, 2), [0, 1], 0.7, "labels"),
        ((3, 2), [0, 1, 2], 0.0, "margin"),
    ],
)
def test_loss_names_the_bad_argument(shape, labels, margin, name):
    with pytest.raises(DiffusionError, match=f"^{name}:"):
        contrastive_loss(torch.zeros(shape), torch.tensor(labels), margin=margin)


# --- training ------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_parts_the_classes():
    images, labels = two_classes()
    network = LeNet(dimension=8)
    losses = train_contrastive(network, images, labels, epochs=40)
    assert losses.shape == (40,)
    assert losses.dtype == np.float64
    assert losses[-1] < losses[0] / 4

    unseen, truth = two_classes(seed=1)
    similarity = describe(network, unseen) @ describe(network, images).T
    nearest = labels[np.argmax(similarity, axis=1)]
    assert np.mean(nearest == truth) > 0.9


def test_training_depends_on_the_seed_alone_and_leaves_the_global_state():
    images, labels = two_classes()

    def trained(seed):
        network = LeNet(dimension=4)
        losses = train_contrastive(network, images, labels, epochs=3, seed=seed)
        return torch.cat([parameter.flatten() for parameter in network.parameters()]), losses

    torch.manual_seed(123)
    state = torch.get_rng_state()
    weights, losses = trained(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(456)
    again, losses_again = trained(0)
    other, _ = trained(1)
    assert torch.equal(weights, again)
    np.testing.assert_array_equal(losses, losses_again)
    assert not torch.equal(weights, other)


def test_dropout_too_follows_the_seed_and_leaves_the_global_state():
    images, labels = two_classes(8, size=4)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 3))
    start = {name: value.clone() for name, value in network.state_dict().items()}

    def trained():
        network.load_state_dict(start)
        train_contrastive(network, images, labels, epochs=2)
        return network[2].weight.detach().clone()

    first = trained()
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(trained(), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_first_loss_is_that_of_the_untrained_network():
    # One batch an epoch: the loss is computed before the first step.
    images, labels = two_classes(12)
    network = LeNet(dimension=4)
    expected = loss_by_loops(describe(network, images).astype(np.float64), labels, 0.7)
    losses = train_contrastive(network, images, labels, epochs=1, batch_size=12)
    assert losses[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_a_single_image_left_over_is_no_batch(n):
    images, labels = two_classes(n)
    losses = train_contrastive(LeNet(dimension=4), images, labels, epochs=2, batch_size=4)
    assert np.isfinite(losses).all()


def test_labels_may_be_names():
    images, labels = two_classes(12)
    names = np.array(["low", "high"])[labels]
    by_name = train_contrastive(LeNet(dimension=4), images, names, epochs=2)
    by_number = train_contrastive(LeNet(dimension=4), images, labels, epochs=2)
    np.testing.assert_array_equal(by_name, by_number)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"images": np.zeros((1, 8, 8)), "labels": [0]}, "images"),
        ({"images": np.full((4, 8, 8), np.nan)}, "images"),
        ({"labels": [0, 1, 2]}, "labels"),
        ({"labels": [[0], [1], [2], [3]]}, "labels"),
        ({"epochs": 0}, "epochs"),
        ({"margin": -1.0}, "margin"),
        ({"seed": 0.5}, "seed"),
        ({"batch_size": 1}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_training_names_the_bad_argument(changes, name):
    arguments = {"images": np.zeros((4, 8, 8)), "labels": [0, 1, 0, 1], **changes}
    with pytest.raises(DiffusionError, match=f"^{name}:"):
        train_contrastive(LeNet(dimension=4), **arguments)


# --- extraction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, bool])
@pytest.mark.parametrize("size", [8, 28])
def test_describe_gives_unit_rows_of_float32(size, dtype):
    images = (np.random.default_rng(0).random((11, size, size)) * 2).astype(dtype)
    Y = describe(LeNet(size, dimension=5), images)
    assert Y.shape == (11, 5)
    assert Y.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(Y, axis=1), 1, rtol=1e-5)


def test_describe_normalises_what_the_network_has_not_and_keeps_zeros():
    images = np.random.default_rng(0).random((3, 2, 2, 2)) - 0.5
    images[1] = 0
    expected = images.reshape(3, 8)
    expected[[0, 2]] /= np.linalg.norm(expected[[0, 2]], axis=1, keepdims=True)
    np.testing.assert_allclose(describe(nn.Flatten(), images), expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 256])
def test_describe_does_not_depend_on_the_batch_size(batch_size):
    images = np.random.default_rng(0).random((11, 8, 8))
    network = LeNet()
    whole = network(torch.from_numpy(images[:, None]).float()).detach().numpy()
    np.testing.assert_allclose(describe(network, images, batch_size=batch_size), whole, atol=1e-6)


def test_describe_evaluates_without_gradients_and_gives_each_module_its_mode_back():
    class Watching(nn.Module):
        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled()))
            return x.flatten(1)

    seen: list[tuple[bool, bool]] = []
    network = nn.Sequential(Watching(), nn.Dropout(0.9), nn.Linear(16, 3))
    network[1].eval()
    images = np.random.default_rng(0).random((2, 4, 4))
    np.testing.assert_array_equal(describe(network, images), describe(network, images))
    assert seen == [(False, False)] * 2
    assert [module.training for module in network] == [True, False, True]


def test_modes_come_back_after_an_error():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(RuntimeError):
        describe(network, np.zeros((1, 3, 3)))
    assert network.training


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8)), "shape"),
        (np.zeros((0, 8, 8)), "shape"),
        (np.zeros((2, 9, 9)), r"\(1, 8, 8\)"),
        (np.zeros((2, 3, 8, 8)), r"\(1, 8, 8\)"),
        (np.zeros((2, 8, 8), complex), "real"),
        ([[[1.0, 2.0], [3.0]]], "array of numbers"),
        (np.where(np.arange(7)[:, None, None] == 5, np.inf, np.zeros((7, 8, 8))), "image 5"),
    ],
)
def test_describe_names_bad_images(images, message):
    with pytest.raises(DiffusionError, match=f"^images: .*{message}"):
        describe(LeNet(), images, batch_size=3)


def test_describe_names_a_bad_batch_size():
    with pytest.raises(DiffusionError, match=r"^batch_size:"):
        describe(LeNet(), np.zeros((2, 8, 8)), batch_size=0)


def test_progress_goes_to_standard_error(capsys):
    images, labels = two_classes(4)
    network = LeNet()
    train_contrastive(network, images, labels, epochs=1)
    describe(network, images)
    assert capsys.readouterr() == ("", "")
    train_contrastive(network, images, labels, epochs=1, progress=True)
    describe(network, images, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "train" in err
    assert "describe" in err
