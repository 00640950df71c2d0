import numpy as np
import pytest
import torch
from PIL import Image

from ecgan import ECGAN, to_uint8
from ecgan.config import ModelConfig
from ecgan.data.classes import ADE20K, plain_classes
from ecgan.errors import ConfigError, DataError
from ecgan.models import Generator, ImageEncoder, Layout


def labels_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(seed))


def test_it_makes_what_the_generator_makes(make_model):
    model = make_model()
    labels = labels_of(2, 32, 64)
    images, edges = model.synthesize(labels)
    out = model.generator(Layout(labels, 5))
    assert torch.equal(images, out.final.clamp(-1, 1))
    assert torch.equal(edges, out.edge)
    assert to_uint8(images).shape == (2, 32, 64, 3)
    stages = model.stages(labels)
    for name in ("image", "refined", "class_image", "edge"):
        assert torch.equal(getattr(stages, name), getattr(out, name))


@pytest.mark.parametrize("kind", ["array", "uint8", "Pillow"])
def test_labels_of_every_kind(make_model, kind: str):
    model = make_model()
    labels = labels_of(32, 64)
    ids = labels.numpy().astype(np.uint8)
    given = {"array": labels.numpy(), "uint8": ids, "Pillow": Image.fromarray(ids)}[kind]
    assert torch.equal(model.synthesize(given).images, model.synthesize(labels).images)


def test_labels_are_file_ids():
    cfg = ModelConfig(num_classes=150, size="32x32", ngf=8, spade_hidden=8, num_upsamples=1)
    model = ECGAN(cfg, ADE20K)
    # 0 is void in ADE20K's files, 1 the first class.
    ids = torch.arange(32 * 32).view(32, 32) % 151
    direct = model.generator(Layout(torch.where(ids == 0, 150, ids - 1)[None], 150)).final
    assert torch.equal(model.synthesize(ids).images, direct.clamp(-1, 1))


def test_size_resizes_by_nearest(make_model):
    model = make_model()
    labels = labels_of(32, 64)
    large = labels.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(
        model.synthesize(large, size=(32, 64)).images, model.synthesize(labels).images
    )


@pytest.mark.parametrize("style", ["noise", "encoder"])
def test_an_item_does_not_depend_on_its_batch(make_model, style: str):
    model = make_model(style=style, z_dim=6)
    labels = labels_of(32, 64)
    batch = model.synthesize(labels.expand(3, -1, -1), seed=4).images
    for i in range(3):
        alone = model.synthesize(labels, seed=4 + i).images
        torch.testing.assert_close(batch[i], alone[0], atol=1e-4, rtol=0)
    assert (batch[0] - batch[1]).abs().max() > 1e-3
    chosen = model.synthesize(labels.expand(2, -1, -1), seed=[6, 4]).images
    torch.testing.assert_close(chosen[1], batch[0], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="an int or 3 of them"):
        model.synthesize(labels.expand(3, -1, -1), seed=[1])


def test_a_region_of_noise_has_its_own_style(make_model):
    model = make_model(style="noise", z_dim=6, num_upsamples=1, semantic_preserving=False)
    labels = labels_of(32, 128)
    whole = model.synthesize(labels, seed=1).images
    code = model.sample_style(1, (32, 128))
    torch.testing.assert_close(model.synthesize(labels, style=code).images, whole)
    code[:, :, 96:] = model.sample_style(2, (32, 32))
    mixed = model.synthesize(labels, style=code).images
    # Far from the region nothing changes: this model sees some 40 pixels around.
    torch.testing.assert_close(mixed[..., :32], whole[..., :32])
    assert (mixed[..., 100:] - whole[..., 100:]).abs().max() > 1e-2


def test_style_of_a_photo(make_model):
    model = make_model(style="encoder", z_dim=6)
    photo = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    code = model.encode_style(photo)
    assert code.shape == (6,)
    labels = labels_of(2, 32, 64)
    by_photo = model.synthesize(labels, style=Image.fromarray(photo)).images
    assert torch.equal(by_photo, model.synthesize(labels, style=code).images)
    assert (by_photo - model.synthesize(labels, seed=1).images).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="only one with encoder takes photos"):
        make_model(style="noise").encode_style(photo)
    with pytest.raises(DataError, match=r"uint8 \[h, w, 3\]"):
        model.encode_style(photo[..., 0])


def test_no_style_no_code(make_model):
    model = make_model()
    assert model.sample_style(3) is None
    labels = labels_of(32, 64)
    assert torch.equal(
        model.synthesize(labels, seed=1).images, model.synthesize(labels, seed=2).images
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("style", ["none", "noise", "encoder"])
def test_half_precision(make_model, dtype: torch.dtype, style: str):
    model = make_model(style=style, z_dim=4)
    labels = labels_of(32, 64)
    full = model.synthesize(labels, seed=1).images
    half = model.to(dtype).synthesize(labels, seed=1).images
    assert half.dtype == torch.float32
    assert model.dtype == dtype
    # Units in the last place of dtype, a few layers' worth.
    error = (half - full).abs().mean() / torch.finfo(dtype).eps
    assert 0 < error < 20


def test_spectral_norms_are_folded():
    cfg = ModelConfig(
        num_classes=3, size="32x32", ngf=8, spade_hidden=8, spectral="paper", style="encoder"
    )
    generator, encoder = Generator(cfg), ImageEncoder(cfg)
    layout = Layout(torch.randint(0, 3, (2, 32, 32)), 3)
    for _ in range(3):  # steps of the power iteration, and batch statistics
        generator(layout, torch.randn(2, 256))
    generator.eval(), encoder.eval()
    z = torch.randn(2, 256)
    photo = np.zeros((32, 32, 3), np.uint8)
    model = ECGAN.from_networks(generator, encoder, plain_classes(3))
    assert not [name for name in model.state_dict() if "parametrizations" in name]
    with torch.no_grad():
        expected = generator(layout, z).final.clamp(-1, 1)
        code = encoder(-torch.ones(1, 3, 32, 32))[0][0]
    torch.testing.assert_close(model.synthesize(layout.labels, style=z).images, expected)
    torch.testing.assert_close(model.encode_style(photo), code)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(32, 64), "must be integers, not float32"),
        (torch.zeros(32, 64, dtype=torch.bool), "must be integers, not bool"),
        (torch.zeros(64, dtype=torch.int64), r"\[H, W\] or \[B, H, W\], not \[64\]"),
        (torch.zeros(0, 32, dtype=torch.int64), "must be ids of shape"),
        (Image.new("RGB", (64, 32)), r"not \[32, 64, 3\]"),
        (torch.full((32, 64), 9), "class id 9 out of range: expected 0..4 or 255 for void"),
    ],
)
def test_wrong_labels_are_named(make_model, labels: object, message: str):
    with pytest.raises(DataError, match=message):
        make_model().synthesize(labels)


def test_wrong_sizes_and_codes_are_named(make_model):
    model = make_model(style="noise", z_dim=4)
    labels = labels_of(32, 64)
    with pytest.raises(ConfigError, match="30x64 does not suit"):
        model.synthesize(labels, size=(30, 64))
    with pytest.raises(ValueError, match="z must be"):
        model.synthesize(labels, style=torch.zeros(5))
    with pytest.raises(ConfigError, match="3 classes, but the model 5"):
        ECGAN(model.cfg, plain_classes(3))


def test_instances_are_asked_for(make_model):
    model = make_model(instance_edges=True)
    labels = labels_of(32, 64)
    with pytest.raises(ConfigError, match="instance edges: give instances"):
        model.synthesize(labels)
    with pytest.raises(DataError, match="instances have shape"):
        model.synthesize(labels, instances=labels[:16])
    assert model.synthesize(labels, instances=labels).images.shape == (1, 3, 32, 64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_gpu_makes_the_same_whole_and_in_tiles(make_model, dtype: torch.dtype):
    model = make_model(style="noise", z_dim=4, num_upsamples=1)
    labels = labels_of(96, 64)
    expected = model.synthesize(labels, seed=1).images
    model = model.to("cuda", dtype)
    whole = model.synthesize(labels, seed=1).images
    tiled = model.synthesize(labels, seed=1, tile=32).images
    assert (whole.device.type, tiled.device.type) == ("cuda", "cpu")
    # TF32 in convolutions, where the GPU has it, counts as half precision here.
    for found in (whole.cpu(), tiled):
        assert (found - expected).abs().mean() < 50 * torch.finfo(torch.float16).eps
