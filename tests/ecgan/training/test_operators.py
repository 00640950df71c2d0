"""Whole training steps: fused operators against references, and what a step must not build."""

import ecgan_kernels
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from ecgan.config import ContrastConfig, LossConfig, ModelConfig, OptimConfig, preset_values
from ecgan.losses import Objective
from ecgan.models import Layout
from ecgan.training.build import build_networks, build_optimizers
from ecgan.training.step import TrainingStep

N, SIZE = 5, 32


class Percept(nn.Module):
    layer_weights = (0.5, 1.0)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [image * 2, nn.functional.avg_pool2d(image, 2).square()]


class Segment(nn.Module):
    """Label generator: fixed linear classes on a quarter of the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(N, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(image, 4)
        return nn.functional.conv2d(small, self.weight.to(image.dtype))


class Run:
    """A small B6 training in ``dtype``, everything drawn from one seed."""

    def __init__(self, dtype: torch.dtype, **model) -> None:
        torch.manual_seed(0)
        values = {k: bool(v) for k, v in preset_values("B6").items()}
        on = {k.removeprefix("model."): v for k, v in values.items() if k.startswith("model.")}
        cfg = ModelConfig(
            num_classes=N,
            size=f"{SIZE}x{SIZE}",
            ngf=8,
            ndf=8,
            spade_hidden=8,
            projection_dim=8,
            num_upsamples=3,
            instance_edges=True,
            **on,
            **model,
        )
        networks = build_networks(cfg)
        for network in networks.items().values():
            network.to(dtype)
            for parameter in network.parameters():
                if parameter.dim() > 1:  # of a size at which every part of the network shows
                    nn.init.normal_(parameter, std=1 / parameter[0].numel() ** 0.5)
        loss = LossConfig(similarity_resolution="16", contrastive=ContrastConfig(budget=256))
        self.step = TrainingStep(
            OptimConfig(),
            networks,
            (networks.generator, networks.discriminator, None),
            Objective(loss, Percept(), Segment().to(dtype)),
            build_optimizers(OptimConfig(lr=1e-3), networks),
        )
        coarse = torch.randint(0, N + 1, (2, SIZE // 4, SIZE // 4))
        self.labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
        self.edges = torch.rand(2, 1, SIZE, SIZE) < 0.05
        self.batch = {
            "image": torch.rand(2, 3, SIZE, SIZE, dtype=dtype) * 2 - 1,
            "edge": torch.rand(2, 1, SIZE, SIZE, dtype=dtype) * 2 - 1,
        }

    def __call__(self, number: int, rate: float = 1e-4) -> dict[str, float]:
        torch.manual_seed(number)  # of the pixels that the contrastive loss draws
        layout = Layout(self.labels, N, instance_edges=self.edges)
        outcome = self.step([{**self.batch, "layout": layout}], (rate, rate), number)
        return {name: float(term) for name, term in outcome.terms.items()}


def test_fused_and_reference_operators_train_alike_for_fifty_steps():
    # In float64 and at a small rate. A GAN's training is chaotic: at a rate of 1e-4 two runs that
    # differ by 1e-16 part five times further with every step, whatever the operators.
    rate = 1e-6
    fused, plain = Run(torch.float64), Run(torch.float64)
    curves = []
    for number in range(50):
        ours = fused(number, rate)
        with ecgan_kernels.implementation("reference"):
            theirs = plain(number, rate)
        assert ours.keys() == theirs.keys() >= {"gan", "similarity", "contrast", "class_l1"}
        for name, value in ours.items():
            assert value == pytest.approx(theirs[name], rel=1e-7), (number, name)
        curves.append(ours)
    first, last = curves[0], curves[-1]
    assert last["feature_matching"] < 0.96 * first["feature_matching"]  # it did learn


class OneHots(TorchDispatchMode):
    """Notes floating tensors of at least N channels whose pixels each hold one 1, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, lambda tensor: self.look(func, tensor), result)
        return result

    def look(self, func, tensor: Tensor) -> None:
        if tensor.dim() != 4 or not tensor.is_floating_point() or tensor.numel() == 0:
            return
        for dim in (1, 3):
            if tensor.shape[dim] < N or tensor.shape[2] < 4:
                continue
            classes = tensor.detach().narrow(dim, 0, N)
            binary = ((classes == 0) | (classes == 1)).all()
            total = classes.sum(dim)
            if binary and total.max() == 1 and total.mean() > 0.5:
                self.found.append((str(func), tuple(tensor.shape)))


@pytest.mark.parametrize(
    "model",
    [{}, {"style": "noise", "z_dim": 4}, {"encoder": "resnet"}, {"norm": "instance"}],
    ids=["default", "noise", "resnet", "instance norm"],
)
def test_a_step_builds_no_floating_one_hot(model):
    if not ecgan_kernels.libraries()[0].loaded:
        pytest.skip("needs the compiled CPU operators: the references build one-hot maps")
    run = Run(torch.float32, **model)
    with OneHots() as seen:
        run(0)
    assert seen.found == []
    # The watcher sees one where there is one.
    with OneHots() as seen, ecgan_kernels.implementation("reference"):
        run(1)
    assert seen.found
