import torch

from ecgan.models import ProjectionHead


def test_maps_and_sampled_pixels_get_the_same_embeddings():
    torch.manual_seed(0)
    head = ProjectionHead(6, 4)
    features = torch.randn(2, 6, 5, 7)
    embedded = head(features)
    assert embedded.shape == (2, 4, 5, 7)
    pixels = features.movedim(1, -1).reshape(-1, 6)
    torch.testing.assert_close(head(pixels), embedded.movedim(1, -1).reshape(-1, 4))


def test_is_two_layers_with_a_relu():
    torch.manual_seed(0)
    head = ProjectionHead(6, 4)
    pixels = torch.randn(9, 6)
    state = {
        name: value.flatten(1) if value.dim() > 1 else value
        for name, value in head.state_dict().items()
    }
    hidden = (pixels @ state["hidden.weight"].T + state["hidden.bias"]).clamp(min=0)
    expected = hidden @ state["out.weight"].T + state["out.bias"]
    torch.testing.assert_close(head(pixels), expected)
    assert (hidden == 0).any()
