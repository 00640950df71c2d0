import pytest
import torch

from ecgan.losses import feature_matching


def features(seed: int) -> list[list[torch.Tensor]]:
    torch.manual_seed(seed)
    return [
        [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4), torch.randn(2, 1, 4, 4)],
        [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2), torch.randn(2, 1, 2, 2)],
    ]


def test_l1_over_all_layers_but_the_last_divided_by_the_scales():
    fake, real = features(0), features(1)
    expected = 0.0
    for scale in range(2):
        for layer in range(2):
            difference = fake[scale][layer] - real[scale][layer]
            expected += difference.abs().sum().item() / difference.numel() / 2
    assert feature_matching(fake, real).item() == pytest.approx(expected, rel=1e-6)


def test_the_real_side_is_a_constant():
    fake, real = features(0), features(1)
    for tensor in [t for side in (fake, real) for scale in side for t in scale]:
        tensor.requires_grad_()
    feature_matching(fake, real).backward()
    assert all(t.grad is None for scale in real for t in scale)
    assert all(t.grad.abs().sum() > 0 for scale in fake for t in scale[:-1])
    assert all(scale[-1].grad is None for scale in fake)


def test_sides_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="zip"):
        feature_matching(features(0), features(1)[:1])
