"""Every setting of ECGAN as typed dataclasses.

The defaults are the paper's where it speaks and the resolutions of its ambiguities where it does
not. A recipe (``ecgan/recipes/*.yaml``) changes them for a data set, a preset (``B1`` to ``B6``,
the rows of the paper's Table 3) switches components, and the user's file and command line come
last. This module imports nothing of the project but its errors, so every package may use it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from ecgan.errors import ConfigError

Preset = Literal["B1", "B2", "B3", "B4", "B5", "B6"]

# Table 3: what each baseline adds to the one before it.
_ADDED: dict[Preset, tuple[str, ...]] = {
    "B1": (),
    "B2": ("model.edge_branch",),
    "B3": ("model.edge_transfer",),
    "B4": ("model.semantic_preserving",),
    "B5": ("loss.similarity",),
    "B6": ("model.class_branch", "loss.contrast", "loss.class_l1"),
}


def preset_values(preset: Preset) -> dict[str, bool | float]:
    """Values that a preset gives to dotted configuration keys (components on or off)."""
    values: dict[str, bool | float] = {}
    for row, keys in _ADDED.items():
        for key in keys:
            values[key] = row <= preset if key.startswith("model.") else float(row <= preset)
    return values


def parse_size(size: str) -> tuple[int, int]:
    """Reads ``"HEIGHTxWIDTH"`` in pixels, e.g. ``"256x512"``, into ``(256, 512)``.

    Raises:
        ConfigError: the text is not two positive integers joined by ``x``.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size.strip().lower())
    if match is None:
        raise ConfigError(f"size must be HEIGHTxWIDTH in pixels, such as 256x512, not {size!r}")
    return int(match[1]), int(match[2])


@dataclass
class EdgeConfig:
    """Where the real edge maps I_e come from (the paper trains with Canny)."""

    method: Literal["canny", "opencv", "hed"] = "canny"
    """canny: the rule of the authors' script; opencv: cv2.Canny; hed: HED from a weights file."""
    low: float = 0.075
    """Lower hysteresis threshold, as a fraction of the image's largest gradient."""
    high: float = 0.175
    """Upper hysteresis threshold, as a fraction of the image's largest gradient."""
    hed_weights: str = ""
    """Weights file of HED; needed by method hed only."""
    cache: str = ""
    """Folder that keeps computed edge maps; empty computes them on the fly."""


@dataclass
class DatasetConfig:
    """How pairs of label map and photo are found and prepared."""

    format: Literal["auto", "folder", "cityscapes", "ade20k", "coco_stuff", "scenes"] = "auto"
    """Layout on disk; auto recognises it from the folder names."""
    num_classes: int = 0
    """Number of classes N; 0 takes it from the data set."""
    void_channel: bool = False
    """Whether void pixels get a channel of their own (SPADE's contain_dontcare_label)."""
    instance_edges: bool = False
    """Whether the boundary of instances is a further input channel."""
    resize: Literal["stretch", "scale_crop"] = "stretch"
    """stretch: resize to size; scale_crop: resize to load_size, then crop size at random."""
    load_size: str = "286x286"
    """Height x width before the crop of scale_crop."""
    flip: bool = True
    """Mirror half of the training pairs."""
    edges: EdgeConfig = field(default_factory=EdgeConfig)
    """Real edge maps."""
    scenes: int = 2000
    """Number of training pairs of the built-in set scenes."""
    workers: int = 2
    """Data-loading processes; 0 loads in the training process."""
    check: int = 0
    """Pairs decoded and checked before training; 0 checks all, about 20 ms a pair and core."""
    faults: Literal["refuse", "skip"] = "refuse"
    """refuse: a faulty file ends the run before its first step; skip: files without a partner are
    left out and faulty pairs replaced by the next sound one, unless more than half are faulty."""


@dataclass
class ModelConfig:
    """Networks of the generator and the discriminator."""

    num_classes: int = 0
    """Number of classes N; filled in from the data set."""
    void_channel: bool = False
    """Filled in from the data set."""
    instance_edges: bool = False
    """Filled in from the data set."""
    size: str = "256x256"
    """Height x width of the images; filled in from the run."""
    encoder: Literal["spade", "resnet", "vgg"] = "spade"
    """Backbone of the shared encoder E (the paper's experiments: GauGAN, i.e. spade)."""
    ngf: int = 64
    """Width C of the shared feature F."""
    num_upsamples: int = 0
    """Doublings inside the spade encoder; 0: 6 where height and width allow 256x512, else 5."""
    spade_hidden: int = 128
    """Width of SPADE's label convolution."""
    norm: Literal["batch", "syncbatch", "instance"] = "syncbatch"
    """Parameter-free normalisation inside SPADE; syncbatch is batch on one process."""
    fuse_features: bool = False
    """Whether F also takes in intermediate features of E (the paper's option)."""
    spectral: Literal["official", "paper", "none"] = "official"
    """official: E's residual convolutions and D's middle ones; paper: all layers of G and D."""
    edge_branch: bool = True
    """G_e: the edge generator (B2)."""
    edge_transfer: bool = True
    """G_t: attention guided edge transfer, feature and content level (B3)."""
    semantic_preserving: bool = True
    """G_s: the semantic preserving module and its image I'' (B4)."""
    class_branch: bool = True
    """Class-specific pixel generation and its image I_g (B6)."""
    class_fuse: Literal["none", "mean", "attention"] = "none"
    """Whether I_g is an output of its own or is fused into the final image."""
    projection_dim: int = 256
    """Width of the pixel embeddings of the contrastive loss."""
    style: Literal["none", "encoder", "noise"] = "none"
    """Multi-modal synthesis: encoder: SPADE's image encoder (VAE); noise: OASIS' 3D noise."""
    z_dim: int = 0
    """Length of the style code; 0: 256 for encoder, 64 for noise."""
    ndf: int = 64
    """Width of D's first layer."""
    num_discriminators: int = 2
    """Scales of the multi-scale discriminator."""
    d_layers: int = 4
    """Convolutions of each discriminator before its last."""
    checkpointing: bool = False
    """Keep only what enters G's blocks and compute the rest again in the backward pass: less memory
    for one more forward of G."""


@dataclass
class ContrastConfig:
    """The pixel-wise contrastive loss (Section 3.3)."""

    temperature: float = 0.07
    """tau."""
    layouts: int = 8
    """Layouts that share one loss."""
    source: Literal["batch", "ranks", "queue"] = "batch"
    """Where they come from: the process's batch; the batches of all processes; or the batch and a
    queue of past embeddings."""
    budget: int = 4096
    """Pixels sampled from those layouts, balanced over the classes."""
    queue_mb: float = 16.0
    """Memory of the queue in MiB, in equal parts for the classes."""
    queue_update: int = 10
    """Most pixels of one class that enter the queue in a step (from each process)."""
    hard: bool = False
    """Draw half of each class where the label generator is wrong on I''."""
    warmup_steps: int = 0
    """Steps before the loss counts."""


@dataclass
class PerceptualConfig:
    """The frozen network of the perceptual loss L_p."""

    network: Literal["auto", "vgg19", "efficientnet_lite0"] = "auto"
    """auto: VGG19 where its weights are at hand or can be fetched, else EfficientNet-Lite0."""
    weights: str = ""
    """VGG19 weights file in torchvision's format; empty: torchvision's hub."""
    input: Literal["raw", "imagenet"] = "raw"
    """VGG19 input: raw [-1, 1], as the authors feed it, or ImageNet's mean and deviation."""


@dataclass
class SegmenterConfig:
    """The label generator G_l: a frozen SegFormer."""

    source: str = "auto"
    """Folder or hub id of a SegFormer; auto trains a small one on the run's own pairs first."""
    label_map: str = ""
    """YAML file that maps the segmenter's class ids to the data set's; empty: identity."""
    steps: int = 300
    """Training steps of auto."""
    batch_size: int = 8
    """Images per training step of auto."""
    lr: float = 2e-3
    """Learning rate of auto (AdamW, decayed linearly to zero)."""


@dataclass
class LossConfig:
    """Weights and forms of the losses (Equations 5 to 7); 0 switches a loss off."""

    gan_mode: Literal["hinge", "original", "ls"] = "hinge"
    """Form of the adversarial loss."""
    adversarial: float = 1.0
    """lambda_c of Equation 7."""
    similarity: float = 1.0
    """lambda_s."""
    contrast: float = 1.0
    """lambda_l."""
    feature_matching: float = 10.0
    """lambda_f."""
    perceptual: float = 10.0
    """lambda_p."""
    class_l1: float = 1.0
    """Weight of the class-specific L1, which Equation 7 leaves out."""
    class_l1_balanced: bool = False
    """Divide each class's L1 by its area instead of by the image's."""
    kld: float = 0.05
    """Weight of the image encoder's KL divergence (style: encoder)."""
    refined: float = 2.0
    """lambda of Equation 6: weight of I'' beside I' and the edge in D, L_f, L_p and L_GAN."""
    similarity_resolution: str = "quarter"
    """Grid of the similarity loss: quarter, full, or the number of rows."""
    similarity_pairs: str = "all"
    """Pairs of pixels of the similarity loss: all, or the number drawn from each image."""
    similarity_eps: float = 1e-6
    """Lower bound inside the similarity loss's logarithm."""
    contrastive: ContrastConfig = field(default_factory=ContrastConfig)
    """Settings of the contrastive loss."""
    perceptual_network: PerceptualConfig = field(default_factory=PerceptualConfig)
    """Settings of the perceptual loss."""


@dataclass
class OptimConfig:
    """Adam with two time scales."""

    lr: float = 2e-4
    """Learning rate; with ttur G takes half of it and D twice."""
    lr_discriminator: float = 0.0
    """D's learning rate; 0: as lr and ttur say."""
    ttur: bool = True
    """Two time-scale update rule: G lr/2, D 2*lr."""
    beta1: float = 0.0
    """Adam's first decay."""
    beta2: float = 0.999
    """Adam's second decay (paper: 0.999; the authors' code: 0.9)."""
    steps: int = 0
    """Generator steps in all; 0 counts epochs instead."""
    epochs: int = 100
    """Epochs at the full learning rate."""
    decay_epochs: int = 100
    """Further epochs of linear decay to zero; with steps, the same share of them."""
    reuse_fakes: bool = False
    """Let D judge the fakes of the G step; the authors run the updated G a second time."""
    accumulate: int = 1
    """Batches whose gradients are averaged before an update: few images at a time train like many,
    but for batch statistics and the contrastive loss, which see one batch at a time."""
    ema: float = 0.0
    """Share of itself that a moving average of G's weights keeps at each step, such as 0.999; 0: no
    average. Samples, synthesis and evaluation take the average where there is one."""
    ema_batches: int = 16
    """Batches from which the average's batch statistics come before it is shown or saved."""


@dataclass
class TrainConfig:
    """One training run."""

    data: str = "scenes"
    """Folder of the data set, or scenes for the built-in one."""
    preset: Preset = "B6"
    """Row of the paper's Table 3: which components and losses are on."""
    size: str = "256x256"
    """Height x width of the training images."""
    batch_size: int = 8
    """Images per step and process."""
    out: str = ""
    """Run folder; empty makes runs/DATA-PRESET-TIME."""
    seed: int = 1
    """Seed of every random generator."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""
    precision: Literal["no", "fp16", "bf16"] = "no"
    """Autocast type; fp16 (with a loss scale for G and one for D) is the one for V100."""
    channels_last: bool = False
    """Store feature maps with the channels last, which convolutions of GPUs with tensor cores like
    in fp16 and bf16."""
    compile: bool = False
    """Compile G and D by torch.compile; the first steps take minutes."""
    log_every: int = 10
    """Steps between rows of metrics.csv."""
    sample_every: int = 500
    """Steps between sample sheets; one is always made at the end."""
    save_every: int = 1000
    """Steps between checkpoints; one is always made at the end."""
    keep: int = 3
    """Checkpoints kept."""
    keep_gib: float = 0.0
    """Most GiB that checkpoints take together, 0 for any number; the newest is always kept."""
    max_bad_steps: int = 20
    """Steps in a row with a loss or gradient that is not finite after which training gives up; each
    is left out. fp16 begins with some, until the loss scale fits."""
    timeout: float = 60.0
    """Minutes that a process waits for the others before it gives up."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    """Data set."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Networks."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Losses."""
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    """Label generator."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimisers."""


@dataclass
class SegmenterTrainConfig:
    """One training run of the small segmenter, the label generator of a later run."""

    data: str = "scenes"
    """Folder of the data set, or scenes for the built-in one."""
    size: str = "96x128"
    """Height x width of the training images."""
    steps: int = 300
    """Training steps."""
    batch_size: int = 8
    """Images per step."""
    lr: float = 2e-3
    """Learning rate (AdamW, decayed linearly to zero)."""
    out: str = ""
    """Folder of the segmenter; empty makes runs/DATA-segmenter-TIME."""
    seed: int = 1
    """Seed of every random generator."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    """Data set."""


@dataclass
class JudgeConfig:
    """The segmenter that reads label maps back from images, for mIoU and Acc."""

    source: str = "auto"
    """Folder or hub id of a semantic-segmentation model of transformers, or an .onnx file; auto:
    the label generator of the first run; none: no mIoU and no Acc."""
    label_map: str = ""
    """YAML file that maps the segmenter's class ids to the data set's; empty: identity (auto: the
    run's own)."""
    size: str = ""
    """Height x width at which the segmenter sees images; empty: as they are compared."""
    normalize: Literal["auto", "imagenet", "signed", "unit"] = "auto"
    """Its input: ImageNet's mean and deviation, [-1, 1] or [0, 1]; auto: as the model's own
    preprocessor says, else imagenet."""


@dataclass
class DiversityConfig:
    """Diversity of the images and edges made of one label map (Table 4)."""

    measure: Literal["auto", "on", "off"] = "auto"
    """auto: for models with a style; it costs ``samples`` images a label map."""
    samples: int = 20
    """Images of each label map."""
    network: Literal["alex", "vgg"] = "alex"
    """Backbone of LPIPS."""
    backbone: str = ""
    """Its weights file in torchvision's format; empty: torch's hub folder, else no LPIPS but a
    distance on EfficientNet-Lite0."""
    linear: str = ""
    """LPIPS' linear weights; empty: those that an installed torchmetrics or lpips carries."""


@dataclass
class EvaluateConfig:
    """One evaluation of runs and results folders."""

    data: str = ""
    """Folder of the data set, or scenes; empty: that of the first run."""
    split: Literal["val", "train"] = "val"
    """Pairs whose label maps are used."""
    reference: Literal["split", "val", "train"] = "split"
    """Real photos that distances compare with; split: those of the pairs used."""
    size: str = ""
    """Height x width at which images are compared; empty: the first run's."""
    filter: Literal["bicubic", "bilinear", "lanczos", "nearest"] = "bicubic"
    """Filter (Pillow's, antialiased) that brings photos and images to size; label maps take the
    nearest pixel."""
    limit: int = 0
    """Evaluate that many pairs, evenly spread; 0: all."""
    small_objects: str = ""
    """Class names of the small-object group, with commas; empty: Table 5's that there are."""
    inception: str = ""
    """Weights file pt_inception-2015-12-05 for FID and KID; empty: torch's hub folder, else the
    same distances on EfficientNet-Lite0 under other names."""
    kid_subsets: int = 100
    """Random subsets of the kernel distance."""
    kid_subset_size: int = 1000
    """Images in each."""
    batch_size: int = 4
    """Images at a time."""
    workers: int = 2
    """Data-loading processes; 0 loads in the main process."""
    seed: int = 1
    """Seed of the styles; also of scenes where no run is given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""
    out: str = ""
    """Folder for evaluation.json, .csv and .md; empty: the first run's, else ``evaluation``."""
    format: Literal["auto", "folder", "cityscapes", "ade20k", "coco_stuff", "scenes"] = "auto"
    """Layout of the data set on disk; for data other than the first run's."""
    num_classes: int = 0
    """Number of classes, for data other than the first run's; 0 takes it from the data set."""
    label_order: Literal["auto", "none", "shifted", "unshifted", "coco_plus1"] = "auto"
    """Label channels of --spade and --oasis files. none: no channel for void; shifted: void last;
    unshifted, coco_plus1: void first; auto knows Cityscapes, ADE20K and COCO-Stuff."""
    segmenter: JudgeConfig = field(default_factory=JudgeConfig)
    """Segmenter."""
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    """Diversity."""
