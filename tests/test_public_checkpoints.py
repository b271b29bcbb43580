"""Files in each public model's format: the backbone's names, and its training-only heads.

Where the names of heads, buffers (none has any) and the content of a file were read:

- REPA: sihyun-yu/REPA, models/sit.py and train.py; utils.py for the blocks' names in its first
  files (``load_legacy_checkpoints``);
- SRA: vvvvvjdy/SRA, SiT-SRA/models/sit.py and SiT-SRA/train.py;
- LayerSync: vita-epfl/LayerSync, models.py and train.py;
- Self-Transcendence: csslc/Self-Transcendence, models/sit_vaeloss_model.py and train_vaeloss.py
  (stage 1), models/sit_selftrans_model.py and train_selftrans.py (stage 2);
- SiT: willisma/SiT, models.py; published files are its average alone, bare.
"""

import argparse
import re

import pytest
import torch
from torch import nn

from selftrans.api import load_backbone
from selftrans.convert import import_checkpoint
from selftrans.models.sit import SiT
from selftrans.models.weights import load_teacher
from selftrans.training.freeze import freeze_teacher
from tests.support.public_models import PublicModel
from tests.support.random_models import randomise

CPU = torch.device("cpu")
WIDTH = 32


def three_layers(out):
    return nn.Sequential(
        nn.Linear(WIDTH, 24), nn.SiLU(), nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, out)
    )


def two_layers():
    return nn.ModuleDict(
        {"linear1": nn.Linear(WIDTH, 2 * WIDTH), "linear2": nn.Linear(2 * WIDTH, WIDTH)}
    )


# The backbone's options, the heads, and a head's tensor that the file must hold.
FORMATS = {
    "sit": ({"sigma": True}, {}, None),
    "repa": (
        {"qk_norm": True},
        {"projectors": lambda: nn.ModuleList([three_layers(24), three_layers(16)])},
        "projectors.1.4.bias",
    ),
    "sra": ({}, {"ap_head": two_layers}, "ap_head.linear2.weight"),
    "layersync": ({"sigma": True}, {}, None),
    "stage 1": (
        {"qk_norm": True},
        {
            "projectors": lambda: three_layers(WIDTH),
            "projectors_final": lambda: nn.ModuleDict({"linear": nn.Linear(WIDTH, 2 * 2 * 4)}),
        },
        "projectors_final.linear.weight",
    ),
    "stage 2": (
        {"qk_norm": True},
        {"projectors": lambda: three_layers(WIDTH)},
        "projectors.4.weight",
    ),
}
CONVENTIONS = {"sit": "data-at-1", "layersync": "data-at-1"}
KEYS = {"sra": {"epoch": 3, "steps": 4}, "layersync": {}}


def public_model(name, seed):
    options, heads, _ = FORMATS[name]
    model = PublicModel(depth=4, **options)
    for head, build in heads.items():
        model.add_module(head, build())
    return randomise(model, seed, std=0.15)


def write(path, name):
    """A file as the model's training writes it, of a raw and an averaged model."""
    models = {"raw": public_model(name, 1), "ema": public_model(name, 2)}
    content = {
        "model": models["raw"].state_dict(),
        "ema": models["ema"].state_dict(),
        "opt": torch.optim.AdamW(models["raw"].parameters()).state_dict(),
        "args": argparse.Namespace(model="SiT-XL/2"),
        **KEYS.get(name, {"steps": 4}),
    }
    torch.save(content["ema"] if name == "sit" else content, path)
    return models


def inputs():
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 9, 10])


def load(tmp_path, **options):
    import_checkpoint(tmp_path / "a.pt", tmp_path / "a.safetensors", num_heads=2, **options)
    return load_backbone(tmp_path / "a.safetensors", CPU)[0]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "weights"),
    [(name, weights) for name in FORMATS for weights in ("ema", "raw") if name != "sit"]
    + [("sit", "ema")],
)
def test_every_public_format_is_imported_without_its_heads(tmp_path, name, weights):
    models = write(tmp_path / "a.pt", name)
    head = FORMATS[name][2]
    assert head is None or head in models["ema"].state_dict()
    convention = CONVENTIONS.get(name, "noise-at-1")
    ours = load(tmp_path, convention=convention, weights=weights)
    x, t, labels = inputs()
    theirs = models[weights]
    expected = theirs(x, t, labels) if convention == "noise-at-1" else -theirs(x, 1 - t, labels)
    assert expected.std() > 0.5
    torch.testing.assert_close(ours(x, t, labels), expected, rtol=1e-5, atol=1e-5)
    assert ours.state_dict().keys() == SiT(ours.shape).state_dict().keys()


@torch.no_grad()
def test_the_authors_stage_1_becomes_a_teacher(tmp_path):
    theirs = write(tmp_path / "a.pt", "stage 1")["raw"]
    load(tmp_path, convention="noise-at-1", weights="raw")
    freeze_teacher(tmp_path / "a.safetensors", 3, tmp_path / "teacher.safetensors")
    ours = load_teacher(tmp_path / "teacher.safetensors", CPU)[0].tokens(*inputs())
    torch.testing.assert_close(ours, theirs.tokens(*inputs(), 3)[0], rtol=1e-5, atol=1e-5)


def test_repas_first_files_number_the_blocks_in_two_lists(tmp_path):
    content = public_model("repa", 0).state_dict()
    torch.save(content, tmp_path / "a.pt")
    expected = load(tmp_path, convention="noise-at-1").state_dict()
    two_lists = {  # the aligned block is the first here
        re.sub(r"^blocks\.([123])", lambda n: f"decoder_blocks.{int(n[1]) - 1}", key): tensor
        for key, tensor in content.items()
    }
    assert "decoder_blocks.2.attn.qkv.weight" in two_lists
    torch.save(two_lists, tmp_path / "a.pt")
    ours = load(tmp_path, convention="noise-at-1").state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("sigma", [True, False])
@pytest.mark.parametrize("convention", ["data-at-1", "noise-at-1"])
def test_the_import_of_a_sit_says_how_its_numbers_were_guided(tmp_path, caplog, sigma, convention):
    """In forward_with_cfg of willisma/SiT and vita-epfl/LayerSync, models.py."""
    content = randomise(PublicModel(sigma=sigma)).state_dict()
    torch.save(content, tmp_path / "a.pt")
    with caplog.at_level("INFO", "selftrans"):
        load(tmp_path, convention=convention)
    lines = [line for line in caplog.messages if "guided" in line]
    assert len(lines) == (convention == "data-at-1")
    for line in lines:
        assert line.startswith(f"{tmp_path / 'a.pt'}: ")
        assert "guided 3 of the 4 channels" in line
        assert "`guidance: {channels: 3}`" in line
        assert "\n" not in line
