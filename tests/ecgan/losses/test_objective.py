from types import SimpleNamespace

import pytest
import torch
from ecgan_kernels import PixelQueue
from torch import nn

from ecgan.config import ContrastConfig, LossConfig, preset_values
from ecgan.errors import ConfigError
from ecgan.losses import (
    Objective,
    class_l1,
    feature_matching,
    gan_loss,
    perceptual_loss,
    similarity_loss,
)

B, N, C, H, W = 2, 3, 4, 16, 16
PRESETS = ["B1", "B2", "B3", "B4", "B5", "B6"]


class Judge(nn.Module):
    """A two-scale discriminator of two layers; notes each pass's images and if it kept a graph."""

    def __init__(self):
        super().__init__()
        self.scales = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(3 + N, 4, 3, 2, 1), nn.Conv2d(4, 1, 3, 1, 1)]) for _ in "12"
        )
        self.passes = []

    def forward(self, layout, images):
        self.passes.append((len(images), torch.is_grad_enabled()))
        one_hot = nn.functional.one_hot(layout.labels, N + 1)[..., :N].permute(0, 3, 1, 2).float()
        results = []
        for image in images:
            x = torch.cat([image, one_hot], 1)
            layers = []
            for first, last in self.scales:
                hidden = first(x).relu()
                layers.append([hidden, last(hidden)])
                x = nn.functional.avg_pool2d(x, 2)
            results.append(layers)
        return results


class Percept(nn.Module):
    layer_weights = (0.5, 1.0)

    def forward(self, image):
        return [image * 2, nn.functional.avg_pool2d(image, 2).square()]


class Segment(nn.Module):
    """Label generator: three fixed linear classes on a quarter of the resolution."""

    def __init__(self, covered=None):
        super().__init__()
        self.passes = []
        self.register_buffer("weight", torch.randn(N, 3, 1, 1))
        if covered is not None:
            self.register_buffer("covered", torch.tensor(covered))

    def forward(self, image):
        self.passes.append(torch.is_grad_enabled())
        return nn.functional.conv2d(nn.functional.avg_pool2d(image, 4), self.weight)


class World:
    """Outputs of a generator, a batch and the networks, for one preset."""

    def __init__(self, preset="B6", **loss):
        torch.manual_seed(0)
        on = preset_values(preset)
        weights = {key[5:]: value for key, value in on.items() if key.startswith("loss.")}
        self.cfg = LossConfig(**{**weights, **loss})
        self.out = SimpleNamespace(
            features=torch.randn(B, C, H, W, requires_grad=True),
            image=torch.randn(B, 3, H, W, requires_grad=True),
            edge=self.image(on["model.edge_branch"]),
            refined=self.image(on["model.semantic_preserving"]),
            class_image=self.image(on["model.class_branch"]),
        )
        self.out.final = self.out.image if self.out.refined is None else self.out.refined
        self.layout = SimpleNamespace(labels=torch.randint(0, N + 1, (B, H, W)), num_classes=N)
        self.batch = {
            "labels": self.layout.labels,
            "image": torch.rand(B, 3, H, W) * 2 - 1,
            "edge": torch.rand(B, 1, H, W) * 2 - 1,
        }
        self.judge, self.percept, self.segment = Judge(), Percept(), Segment()
        self.projection = nn.Linear(C, 8)
        self.queue = None

    def image(self, present):
        return torch.randn(B, 3, H, W, requires_grad=True) if present else None

    @property
    def objective(self):
        return Objective(self.cfg, self.percept, self.segment, self.queue)

    def generator(self, **kwargs):
        return self.objective.generator(
            self.out, self.batch, self.layout, self.judge, self.projection, **kwargs
        )

    def discriminator(self):
        return self.objective.discriminator(self.out, self.batch, self.layout, self.judge)

    def judged(self, *images):
        return self.judge(self.layout, [image.expand(-1, 3, -1, -1) for image in images])


TERMS = {
    "B1": {"gan", "feature_matching", "perceptual"},
    "B2": {"gan", "feature_matching", "perceptual"},
    "B3": {"gan", "feature_matching", "perceptual"},
    "B4": {"gan", "feature_matching", "perceptual"},
    "B5": {"gan", "feature_matching", "perceptual", "similarity"},
    "B6": {"gan", "feature_matching", "perceptual", "similarity", "contrast", "class_l1"},
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_its_terms_finite_scalars(preset):
    world = World(preset)
    generator, discriminator = world.generator(), world.discriminator()
    assert generator.keys() == TERMS[preset]
    assert discriminator.keys() == ({"image"} if preset == "B1" else {"edge", "image"})
    for term in (*generator.values(), *discriminator.values()):
        assert term.shape == ()
        assert term.dtype == torch.float32
        assert term.isfinite()


@pytest.mark.parametrize(
    ("preset", "fakes", "reals"),
    [("B1", 1, 1), ("B2", 2, 2), ("B3", 2, 2), ("B4", 3, 2), ("B6", 3, 2)],
)
def test_the_discriminator_sees_each_image_once_a_step(preset, fakes, reals):
    world = World(preset)
    world.generator()
    assert world.judge.passes == [(fakes, True), (reals, False)]
    world.judge.passes.clear()
    world.discriminator()
    assert world.judge.passes == [(fakes + reals, True)]


def test_generator_step_gives_the_discriminator_no_gradient():
    world = World()
    sum(world.generator().values()).backward()
    assert all(parameter.grad is None for parameter in world.judge.parameters())
    assert all(parameter.requires_grad for parameter in world.judge.parameters())
    for name in ("features", "image", "edge", "refined", "class_image"):
        assert getattr(world.out, name).grad.abs().sum() > 0, name
    assert world.projection.weight.grad.abs().sum() > 0


def test_a_parameter_frozen_by_the_user_stays_frozen():
    world = World()
    frozen = world.judge.scales[0][0].bias.requires_grad_(False)
    world.generator()
    assert not frozen.requires_grad
    assert world.judge.scales[0][0].weight.requires_grad


def test_the_discriminator_thaws_even_when_its_pass_fails():
    world = World()
    world.out.image = torch.randn(B, 3, 4, 4)
    with pytest.raises(RuntimeError):
        world.generator()
    assert all(parameter.requires_grad for parameter in world.judge.parameters())


def test_discriminator_step_gives_the_fakes_no_gradient():
    world = World()
    sum(world.discriminator().values()).backward()
    weights = [parameter for parameter in world.judge.parameters() if parameter.dim() > 1]
    assert all(weight.grad.abs().sum() > 0 for weight in weights)
    for name in ("features", "image", "edge", "refined", "class_image"):
        assert getattr(world.out, name).grad is None


@pytest.mark.parametrize("mode", ["hinge", "original", "ls"])
def test_discriminator_weights(mode):
    world = World(gan_mode=mode, refined=2.0)
    out, batch = world.out, world.batch
    logits = [
        [scale[-1] for scale in scales]
        for scales in world.judged(out.edge, out.image, out.refined, batch["edge"], batch["image"])
    ]
    real = [gan_loss(x, True, mode) for x in logits]
    fake = [gan_loss(x, False, mode) for x in logits]
    terms = world.discriminator()
    torch.testing.assert_close(terms["edge"], real[3] + fake[0])
    torch.testing.assert_close(terms["image"], 3 * real[4] + fake[1] + 2 * fake[2])


def test_without_a_refined_image_the_real_one_weighs_one():
    world = World("B1")
    fake, real = (
        [scale[-1] for scale in scales]
        for scales in world.judged(world.out.image, world.batch["image"])
    )
    expected = gan_loss(real, True) + gan_loss(fake, False)
    torch.testing.assert_close(world.discriminator()["image"], expected)


def test_generator_terms_are_the_weighted_losses():
    world = World(
        adversarial=1.5, feature_matching=10.0, perceptual=7.0, similarity=0.5, class_l1=3.0
    )
    out, batch, labels = world.out, world.batch, world.layout.labels
    terms = world.generator()
    judged = world.judged(out.edge, out.image, out.refined, batch["edge"], batch["image"])
    weights = (1.0, 1.0, 2.0)
    gan = sum(
        weight * -torch.stack([scale[-1].mean() for scale in scales]).mean()
        for weight, scales in zip(weights, judged[:3], strict=True)
    )
    matching = sum(
        weight * feature_matching(judged[fake], judged[real])
        for weight, fake, real in zip(weights, (0, 1, 2), (3, 4, 4), strict=True)
    )
    percept = sum(
        perceptual_loss(world.percept, [fake], [real.expand(-1, 3, -1, -1)], [(0, 0, weight)])
        for weight, fake, real in (
            (1.0, out.edge, batch["edge"]),
            (1.0, out.image, batch["image"]),
            (2.0, out.refined, batch["image"]),
        )
    )
    similarity = similarity_loss(world.segment(out.refined), labels, ignore_index=N)
    l1 = class_l1(out.class_image, batch["image"], labels, num_classes=N)
    for name, expected in {
        "gan": 1.5 * gan,
        "feature_matching": 10 * matching,
        "perceptual": 7 * percept,
        "similarity": 0.5 * similarity,
        "class_l1": 3 * l1,
    }.items():
        torch.testing.assert_close(terms[name], expected, msg=name)


def test_weight_zero_switches_off():
    world = World(
        adversarial=0,
        feature_matching=0,
        perceptual=0,
        similarity=0,
        contrast=0,
        class_l1=0,
        kld=0,
    )
    style = (torch.zeros(B, 4), torch.zeros(B, 4))
    assert world.generator(style=style) == {}
    assert world.judge.passes == world.segment.passes == []


def test_only_matching_features_needs_the_real_images():
    world = World(feature_matching=0)
    assert "feature_matching" not in world.generator()
    assert world.judge.passes == [(3, True)]


def test_style_adds_the_divergence():
    mu, logvar = torch.ones(B, 4), torch.zeros(B, 4)
    assert "kld" not in World().generator()
    assert World(kld=0.05).generator(style=(mu, logvar))["kld"].item() == pytest.approx(0.1)


def test_warm_up_keeps_the_graph_but_counts_nothing():
    world = World(contrastive=ContrastConfig(warmup_steps=10))
    early = world.generator(step=9)["contrast"]
    assert early.item() == 0
    early.backward()
    assert (world.projection.weight.grad == 0).all()
    assert world.generator(step=10)["contrast"].item() > 0


def test_the_settings_reach_the_losses():
    full = World(similarity_resolution="full").generator()["similarity"]
    drawn = World(similarity_resolution="full", similarity_pairs="200000").generator()["similarity"]
    assert full.item() != drawn.item() == pytest.approx(full.item(), rel=0.01)
    world = World(contrastive=ContrastConfig(source="queue", queue_update=1))
    world.queue = PixelQueue(N, world.projection.out_features, megabytes=1)
    world.generator()
    assert world.queue.counts.tolist() == [1, 1, 1]


def test_hard_sampling_asks_the_label_generator_once_without_a_graph():
    hard = ContrastConfig(hard=True)
    alone = World(similarity=0, contrastive=hard)
    assert alone.generator()["contrast"].isfinite()
    assert alone.segment.passes == [False]
    shared = World(contrastive=hard)
    shared.generator()
    assert shared.segment.passes == [True]


def test_classes_that_the_segmenter_does_not_know_leave_the_similarity_loss():
    world = World()
    world.segment = Segment(covered=[True, False, True])
    labels = world.layout.labels
    known = labels.masked_fill(labels == 1, N)
    logits = world.segment(world.out.refined)
    expected = similarity_loss(logits, known, ignore_index=N)
    assert not torch.isclose(expected, similarity_loss(logits, labels, ignore_index=N))
    torch.testing.assert_close(world.generator()["similarity"], expected)


def test_what_is_missing_is_said():
    with pytest.raises(ConfigError, match="no perceptual network"):
        Objective(LossConfig(), None, Segment())
    with pytest.raises(ConfigError, match="no label generator"):
        Objective(LossConfig(), Percept(), None)
    hard = LossConfig(similarity=0, contrastive=ContrastConfig(hard=True))
    with pytest.raises(ConfigError, match="hard needs a label generator"):
        Objective(hard, Percept(), None)
    with pytest.raises(ConfigError, match="source is queue but there is no queue"):
        Objective(LossConfig(contrastive=ContrastConfig(source="queue")), Percept(), Segment())
    with pytest.raises(ConfigError, match="all or a number of pairs"):
        Objective(LossConfig(similarity_pairs="few"), Percept(), Segment())
    with pytest.raises(ConfigError, match="quarter, full"):
        Objective(LossConfig(similarity_resolution="half"), Percept(), Segment())
    world = World()
    world.projection = None
    with pytest.raises(ConfigError, match="no projection head"):
        world.generator()
