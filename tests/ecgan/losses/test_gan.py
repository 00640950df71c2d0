import math

import pytest
import torch

from ecgan.losses import gan_loss

SCALES = [torch.tensor([[0.5, -2.0], [3.0, 1.0]]), torch.tensor([[-0.25]])]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


EQUATIONS = {
    ("hinge", True, True): lambda x: max(0.0, 1 - x),
    ("hinge", False, True): lambda x: max(0.0, 1 + x),
    ("hinge", True, False): lambda x: -x,
    ("original", True, True): lambda x: -math.log(sigmoid(x)),
    ("original", False, True): lambda x: -math.log(1 - sigmoid(x)),
    ("original", True, False): lambda x: -math.log(sigmoid(x)),
    ("ls", True, True): lambda x: (x - 1) ** 2,
    ("ls", False, True): lambda x: x**2,
    ("ls", True, False): lambda x: (x - 1) ** 2,
}


@pytest.mark.parametrize(("mode", "real", "for_discriminator"), EQUATIONS)
def test_mean_over_scales_of_mean_over_patches(mode, real, for_discriminator):
    equation = EQUATIONS[mode, real, for_discriminator]
    per_scale = [[equation(x) for x in scale.flatten().tolist()] for scale in SCALES]
    expected = sum(sum(values) / len(values) for values in per_scale) / len(per_scale)
    loss = gan_loss(SCALES, real, mode, for_discriminator=for_discriminator)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_half_precision_logits_give_a_float32_loss():
    loss = gan_loss([torch.full((2, 1, 3, 3), -40.0).half()], True, "original")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(40.0)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="hinge, original or ls"):
        gan_loss(SCALES, True, "wgan")
    with pytest.raises(ValueError, match="at least one scale"):
        gan_loss([], True)
    with pytest.raises(ValueError, match="real must be True"):
        gan_loss(SCALES, False, for_discriminator=False)
