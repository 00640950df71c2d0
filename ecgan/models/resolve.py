"""What the automatic and the derived values of ``ModelConfig`` stand for."""

from __future__ import annotations

from ecgan.config import ModelConfig, parse_size
from ecgan.errors import ConfigError


def check(cfg: ModelConfig) -> None:
    """Refuses settings that contradict each other.

    Raises:
        ConfigError: one sentence that names the setting and what was expected.
    """
    if cfg.num_classes < 1:
        raise ConfigError(f"model.num_classes must be at least 1, not {cfg.num_classes}")
    if cfg.ngf < 8 or cfg.ngf % 8:
        raise ConfigError(f"model.ngf must be a multiple of 8, not {cfg.ngf}")
    for name in ("spade_hidden", "projection_dim", "ndf", "num_discriminators", "d_layers"):
        if getattr(cfg, name) < 1:
            raise ConfigError(f"model.{name} must be at least 1, not {getattr(cfg, name)}")
    if cfg.z_dim < 0:
        raise ConfigError(f"model.z_dim must not be negative, but is {cfg.z_dim}")
    if not 0 <= cfg.num_upsamples <= 6:
        raise ConfigError(f"model.num_upsamples must be 0 to 6, not {cfg.num_upsamples}")
    if cfg.edge_transfer and not cfg.edge_branch:
        raise ConfigError("model.edge_transfer needs model.edge_branch, which is off")
    if cfg.class_fuse != "none" and not cfg.class_branch:
        raise ConfigError(
            f"model.class_fuse {cfg.class_fuse} needs model.class_branch, which is off"
        )
    parse_size(cfg.size)


def label_classes(cfg: ModelConfig) -> int:
    """Classes that have a channel: N, and void if it has one."""
    return cfg.num_classes + cfg.void_channel


def layout_channels(cfg: ModelConfig) -> int:
    """Channels of the layout's one-hot form, as ``Layout.channels``."""
    return label_classes(cfg) + cfg.instance_edges


def style_length(cfg: ModelConfig) -> int:
    """Length of the style code z: 0 without one, else 256 (encoder) or 64 (noise) by default."""
    if cfg.style == "none":
        return 0
    return cfg.z_dim or {"encoder": 256, "noise": 64}[cfg.style]


def upsamplings(cfg: ModelConfig) -> int:
    """Doublings inside the spade encoder.

    SPADE's "more" (6) where the images are at least 256x512, its "normal" (5) below.
    """
    if cfg.num_upsamples:
        return cfg.num_upsamples
    height, width = parse_size(cfg.size)
    large = min(height, width) >= 256 and max(height, width) >= 512
    return 6 if large and height % 64 == 0 and width % 64 == 0 else 5


def label_sizes(cfg: ModelConfig, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Heights and widths at which layers of G look at the layout's neighbourhoods.

    Args:
        cfg: networks' settings, complete.
        size: height and width of the layout.
    """
    if cfg.encoder != "spade" or (cfg.style == "noise"):
        return []
    return [(size[0] >> level, size[1] >> level) for level in range(upsamplings(cfg) + 1)]
