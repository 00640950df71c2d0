import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from ecgan.cli import main
from ecgan.errors import ConfigError
from ecgan.inference import ECGAN, export

SIZES = [(32, 64), (12, 8), (40, 20)]
PLAIN = {"edge_branch": False, "edge_transfer": False, "class_branch": False,
         "semantic_preserving": False, "num_upsamples": 1}  # fmt: skip
"""The fewest nodes: the time of an export grows with them."""


@pytest.mark.slow
def test_onnx_equals_torch_at_three_sizes(make_model, tmp_path: Path, capsys):
    model = make_model(
        num_upsamples=2, instance_edges=True, void_channel=True, style="noise", z_dim=3,
        class_fuse="attention", fuse_features=True,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "onnx" / "model.onnx"
    assert main(["export", str(tmp_path / "model"), "--out", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"ONNX, opset {export.OPSET}; differs from the model by at most" in said
    assert "input style [batch, z, height, width]" in said
    assert list(path.parent.iterdir()) == [path]

    assert export.check_onnx(model, path, SIZES) < 1e-4
    content = onnx.load(path)
    assert [(o.domain, o.version) for o in content.opset_import] == [("", export.OPSET)]
    assert not [node.op_type for node in content.graph.node if node.domain]
    facts = json.loads(next(p.value for p in content.metadata_props if p.key == "ecgan.json"))
    assert facts["multiple"] == model.multiple
    assert facts["classes"]["names"] == list(model.classes.names)

    # As a user goes: class indices into onnxruntime, file ids into the model.
    labels = torch.randint(0, 5, (2, 16, 24))
    style = model.sample_style(1, (16, 24)).expand(2, -1, -1, -1)
    feeds = {
        "labels": labels.numpy(),
        "instance_edges": torch.zeros(2, 1, 16, 24).numpy(),
        "style": style.numpy(),
    }
    (image,) = onnxruntime.InferenceSession(path).run(["image"], feeds)
    expected = model.synthesize(labels, style=style, instances=torch.zeros_like(labels)).images
    torch.testing.assert_close(torch.from_numpy(image), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"encoder": "vgg", "fuse_features": True}, [(32, 64), (48, 32)]),
        ({"style": "encoder", "z_dim": 4}, [(32, 64)]),
    ],
)
def test_programs_equal_the_model(make_model, tmp_path: Path, changes: dict, sizes: list):
    model = make_model(**PLAIN, **changes)
    path = tmp_path / "model.pt2"
    export.save_program(model, path)
    assert export.check_program(model, path, sizes) < 1e-4
    used = {str(n.target) for n in torch.export.load(path).graph.nodes if n.op == "call_function"}
    assert not [target for target in used if target.startswith("ecgan")]


def test_a_wrong_export_is_noticed(make_model, tmp_path: Path):
    model = make_model(**PLAIN, norm="instance")
    path = tmp_path / "model.pt2"
    export.save_program(model, path)
    assert export.check_program(model, path, SIZES) < 1e-4
    model.generator.image_generator.convs[0].weight[0, 0, 0, 0] += 0.5
    assert export.check_program(model, path, SIZES[:1]) > 1e-3


def test_a_run_as_a_folder(b6_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = tmp_path / "model"
    assert main(["export", str(b6_run), "--out", str(folder), "--license", "cc-by-4.0"]) == 0
    assert "license: cc-by-4.0" in (folder / "README.md").read_text()
    labels = torch.zeros(32, 64, dtype=torch.int64)
    ours, theirs = (ECGAN.from_pretrained(p).synthesize(labels).images for p in (b6_run, folder))
    assert torch.equal(ours, theirs)
    capsys.readouterr()
    assert main(["export", str(b6_run), "--out", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(b6_run), "--out", str(tmp_path / "n.onnx"), "--push", "a/b"]) == 2
    assert "--push uploads a folder" in capsys.readouterr().err


def test_old_opsets_are_refused(make_model, tmp_path: Path):
    with pytest.raises(ConfigError, match="at least 18, not 11"):
        export.save_onnx(make_model(), tmp_path / "m.onnx", opset=11)
