import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from ecgan import ECGAN
from ecgan.errors import WeightsError
from ecgan.inference import hub
from ecgan.inference import model as home

LABELS = torch.arange(32 * 64).view(32, 64) // 7 % 5


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that keeps its repositories in a folder, behind the calls that the mixin makes."""
    root = tmp_path / "hub"

    def create_repo(self, repo_id, **options):
        (root / repo_id).mkdir(parents=True, exist_ok=True)
        return huggingface_hub.RepoUrl(
            f"https://hub.invalid/{repo_id}", endpoint="https://hub.invalid"
        )

    def upload_folder(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
        return f"https://hub.invalid/{repo_id}/commit"

    def download(repo_id, filename, **options):
        path = root / repo_id / filename
        if not path.is_file():
            raise huggingface_hub.errors.LocalEntryNotFoundError(f"no {filename} in {repo_id}")
        return str(path)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", download)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    return root


@pytest.mark.parametrize("style", ["none", "encoder"])
def test_round_trip_through_a_folder(make_model, tmp_path: Path, style: str):
    model = make_model(style=style)
    model.provenance = {"data": "my photos"}
    model.save_pretrained(tmp_path / "model")
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "config.json", "model.safetensors", "README.md",
    }  # fmt: skip
    loaded = ECGAN.from_pretrained(tmp_path / "model")
    assert loaded.cfg == model.cfg
    assert loaded.classes.to_values() == model.classes.to_values()
    assert loaded.provenance == model.provenance
    assert not loaded.training
    assert torch.equal(loaded.synthesize(LABELS).images, model.synthesize(LABELS).images)
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    for name in ("config.json", "README.md"):
        assert (again / name).read_text() == (tmp_path / "model" / name).read_text()


def test_round_trip_through_the_hub(make_model, local_hub: Path):
    model = make_model(style="noise")
    model.push_to_hub("someone/streets", model_card_kwargs={"license": "cc-by-4.0"})
    assert (local_hub / "someone/streets/model.safetensors").is_file()
    loaded = ECGAN.from_pretrained("someone/streets", dtype=torch.float64)
    expected = model.double().synthesize(LABELS, seed=3).images
    assert torch.equal(loaded.synthesize(LABELS, seed=3).images, expected)


def test_what_the_hub_lacks_is_one_sentence(local_hub: Path):
    with pytest.raises(WeightsError, match="no model can be loaded from 'someone/nothing'") as info:
        ECGAN.from_pretrained("someone/nothing")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("source", ["nope", "runs/nope", "./nope", "/nope", "a/b/c", "runs/file"])
def test_a_mistyped_path_is_not_asked_of_the_hub(source, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "file").touch()
    monkeypatch.setattr(huggingface_hub.hub_mixin, "hf_hub_download", None)  # not callable
    with pytest.raises(WeightsError, match=f"{source} is neither a checkpoint"):
        ECGAN.from_pretrained(source)


def test_a_run_becomes_a_model_with_a_card(b6_run: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(b6_run, run)
    weights = home_weights(run)
    number = {"name": "miou", "value": 12.3456, "unit": "%", "higher_is_better": True}
    protocol = {"split": "val", "images": 16, "segmenter": "/home/me/secret/segmenter"}
    other = {**number, "value": 99.0, "protocol": {}}
    document = {
        "systems": [
            {"name": "real photos", "weights": "", "numbers": [other]},
            {"name": "run", "weights": weights, "numbers": [{**number, "protocol": protocol}]},
        ],
        "remarks": ["Sixteen photos are few."],
    }
    (run / "evaluation.json").write_text(json.dumps(document))
    model = ECGAN.from_pretrained(run)
    model.save_pretrained(tmp_path / "model", model_card_kwargs={"license": "cc-by-4.0"})
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "ecgan"
    for part in (
        "scenes; 12 classes", "7 pole", "| steps | 4 |", "| preset | B6 |",
        "| miou | 12.35% | split: val; images: 16; segmenter: segmenter |",
        "Sixteen photos are few.", "torch 2.",
    ):  # fmt: skip
        assert part in card.text
    assert "99" not in card.text
    assert "/home" not in card.content
    assert str(tmp_path) not in card.content


def home_weights(run: Path) -> str:
    from ecgan.models.pretrained import file_sha256

    return file_sha256(run / "checkpoints" / "step-000004" / "generator.safetensors")


def damage(folder: Path, kind: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if kind == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif kind == "truncated":
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif kind == "other network":
        save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    elif kind == "no json":
        (folder / "config.json").write_text("{")
    elif kind == "a list":
        (folder / "config.json").write_text("[]")
    elif kind == "no model":
        del config["model"]
    elif kind == "unknown key":
        config["model"]["colour"] = 3
    elif kind == "wrong type":
        config["model"]["ngf"] = "wide"
    elif kind == "huge":
        config["model"]["ngf"] = 8_000_000
    elif kind == "no classes":
        config["classes"] = {"names": []}
    elif kind == "few classes":
        config["classes"]["names"].pop()
    if kind in ("no model", "unknown key", "wrong type", "huge", "no classes", "few classes"):
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickle", "model.safetensors cannot be read"),
        ("truncated", "model.safetensors cannot be read"),
        ("other network", "made for another configuration"),
        ("no json", "no model can be loaded"),
        ("a list", "no model can be loaded"),
        ("no model", "it has no model settings"),
        ("unknown key", "unknown configuration key 'colour'"),
        ("wrong type", "ngf"),
        ("huge", "made for another configuration"),
        ("no classes", "config.json of .* cannot be used"),
        ("few classes", "as many names, colours and file_ids"),
    ],
)
def test_damaged_folders_are_one_sentence(make_model, tmp_path: Path, kind: str, message: str):
    make_model().save_pretrained(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises(WeightsError, match=message) as info:
        ECGAN.from_pretrained(tmp_path)
    assert "\n" not in str(info.value)


def test_the_package_offers_the_model():
    assert ECGAN is home.ECGAN
