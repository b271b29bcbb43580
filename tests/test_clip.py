"""Text encoders and CLIP scores through transformers, on random weights made here."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from selftrans.config import PretrainedTextEncoderConfig
from selftrans.evaluation.clip_score import Clip, clip_score
from selftrans.models.pretrained import read_network
from selftrans.models.text_encoder import load_text_encoder
from selftrans.runtime.errors import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MERGES = ["r e", "re d</w>", "r i", "n g</w>", "ri ng</w>"]
LENGTH, SIZE = 8, 16


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of random weights with a tokenizer of few words, as its authors' files are."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    tokens = [*LETTERS, *(f"{one}</w>" for one in LETTERS)]
    tokens += [merge.replace(" ", "") for merge in MERGES] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.model_max_length = LENGTH
    tokenizer.save_pretrained(folder)
    text = {
        "vocab_size": len(tokens), "hidden_size": SIZE, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": LENGTH,
        "bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1,
    }  # fmt: skip
    vision = {
        "hidden_size": SIZE, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(folder)
    return folder


def settings(folder, **changes):
    values = {"kind": "pretrained", "path": str(folder), "length": LENGTH, "size": SIZE, **changes}
    return PretrainedTextEncoderConfig.model_validate(values)


def test_captions_are_encoded_as_transformers_does(clip_folder):
    from transformers import AutoTokenizer, CLIPTextModel

    texts = ["red ring", "", "Ring red ring"]
    found = load_text_encoder(settings(clip_folder))(texts)
    tokens = AutoTokenizer.from_pretrained(clip_folder)(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    assert tokens["input_ids"][0, 0] == tokens["input_ids"][1, 0]  # each begins with the start
    with torch.no_grad():
        expected = CLIPTextModel.from_pretrained(clip_folder)(tokens["input_ids"])
    torch.testing.assert_close(found, expected.last_hidden_state)
    assert found.shape == (3, LENGTH, SIZE)


def test_captions_beyond_the_length_are_cut_off_and_counted(clip_folder):
    encode = load_text_encoder(settings(clip_folder))
    words = " ".join(["red"] * (LENGTH - 2))
    assert encode.count_truncated([words, words + " red", "ring"]) == 1
    assert encode([words + " red ring"]).shape == (1, LENGTH, SIZE)


def test_the_digest_is_of_weights_tokens_and_length(clip_folder, tmp_path):
    one = load_text_encoder(settings(clip_folder))
    assert one.digest == load_text_encoder(settings(clip_folder)).digest
    assert one.digest != load_text_encoder(settings(clip_folder, length=LENGTH - 1)).digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "nobody/nothing"}, r"cannot be loaded \(fetch it by: hf download nobody/"),
        ({"size": SIZE + 1}, f"size: its features have {SIZE} elements"),
        ({"length": LENGTH + 1}, f"length: {LENGTH + 1} is beyond its {LENGTH} tokens"),
    ],
)
def test_what_cannot_be_used_is_refused(clip_folder, changes, message):
    with pytest.raises(UserError, match=message):
        load_text_encoder(settings(clip_folder, **changes))


def test_an_empty_folder_is_no_text_encoder(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_text_encoder(settings(tmp_path))


def _cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def _without(part):
    def change(folder):
        path = folder / "model.safetensors"
        kept = {name: tensor for name, tensor in load_file(path).items() if part not in name}
        save_file(kept, path, {"format": "pt"})

    return change


def _no_vocabulary(folder):
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (folder / name).unlink()


DAMAGES = {
    "cut off": (_cut, "Error while deserializing header"),
    "no text weights": (_without("text_model"), "its file has no weight"),
    "no vocabulary": (_no_vocabulary, "its tokenizer knows no words"),
    "no settings": (lambda folder: (folder / "config.json").write_text("[]"), "cannot be loaded: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_transformers_would_make_up_is_refused_in_one_line(clip_folder, tmp_path, damage):
    """It fills missing weights with random numbers, and missing words with one token."""
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    change, message = DAMAGES[damage]
    change(folder)
    for load in (lambda: load_text_encoder(settings(folder)), lambda: Clip(str(folder))):
        with pytest.raises(UserError, match=message) as raised:
            load()
        assert "\n" not in str(raised.value)


def test_a_length_beyond_the_positions_is_refused(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 1000}))
    with pytest.raises(UserError, match="Sequence length must be less than max_position"):
        load_text_encoder(settings(folder, length=LENGTH + 1))


def test_the_encoder_of_a_whole_t5_lacks_no_weight(tmp_path):
    from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 9}
    whole = T5ForConditionalGeneration(T5Config(**sizes))
    whole.save_pretrained(tmp_path)
    encoder = read_network(T5EncoderModel, str(tmp_path))
    assert torch.equal(encoder.shared.weight, whole.shared.weight)


def text_model(folder, kind):
    """One of random weights with a tokenizer of few words, saved; returns it."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = {word: i for i, word in enumerate(["<pad>", "<unk>", "red", "ring", "a", "b"])}
    words = Tokenizer(models.WordLevel(known, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", model_max_length=16
    ).save_pretrained(folder)
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 9}
    if kind == "Bert":
        sizes = {
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 9,
        }  # fmt: skip
    torch.manual_seed(0)
    name = f"{kind}EncoderModel" if "T5" in kind else f"{kind}Model"
    model = getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**sizes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["T5", "MT5", "UMT5", "Bert"])
def test_words_do_not_see_what_fills_a_caption_up(tmp_path, kind):
    model = text_model(tmp_path, kind)
    long = load_text_encoder(settings(tmp_path, size=8))(["red ring red", "ring red"])
    short = load_text_encoder(settings(tmp_path, size=8, length=3))(["red ring red"])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[2, 3, 2]])).last_hidden_state
    torch.testing.assert_close(short, expected)
    torch.testing.assert_close(long[:1, :3], expected)


def test_a_model_that_writes_text_is_refused(tmp_path):
    from transformers import BartConfig, BartModel

    text_model(tmp_path, "T5")
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 16, "vocab_size": 9}
    BartModel(BartConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'bart' writes text"):
        load_text_encoder(settings(tmp_path, size=8))


def test_the_score_is_that_of_transformers_logits(clip_folder):
    """And its preprocessing that of CLIP: resized, cut, normalised."""
    from transformers import CLIPModel, CLIPProcessor

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 40, 40, 3), np.uint8)
    texts = ["red", "ring", "red ring", "a", "ring a red"]
    processor, model = CLIPProcessor.from_pretrained(clip_folder), None
    model = CLIPModel.from_pretrained(clip_folder).eval()
    inputs = processor(
        text=texts, images=[Image.fromarray(image) for image in images],
        padding="max_length", max_length=LENGTH, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    cosines = logits.diagonal().double().numpy()
    clip = Clip(str(clip_folder))
    found, truncated = clip.similarities(images, texts)
    np.testing.assert_allclose(found, cosines, atol=1e-5)
    assert truncated == 0
    halves = [(images[:2], texts[:2]), (images[2:], texts[2:])]
    score = clip_score(clip, halves)
    assert score.mean == pytest.approx(np.maximum(100 * cosines, 0).mean(), abs=1e-3)
    assert (score.images, score.truncated) == (5, 0)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (28, 28), (61, 90)])
def test_clips_preprocessing_is_the_published_one(clip_folder, height, width):
    """openai/CLIP: the short side resized bicubically, the middle cut out, normalised."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    size = [round(28 * side / min(height, width)) for side in (width, height)]
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    left, top = ((side - 28) // 2 for side in size)
    cut = np.asarray(image.crop((left, top, left + 28, top + 28)), np.float32) / 255
    expected = (cut - np.float32(mean)) / np.float32(std)
    found = Clip(str(clip_folder)).preprocessed(pixels[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).mean() < 1e-3
    assert np.abs(found - expected).max() < 0.04  # two grey levels


def test_without_transformers_it_is_said_in_one_line(clip_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for load in (lambda: load_text_encoder(settings(clip_folder)), lambda: Clip(str(clip_folder))):
        with pytest.raises(UserError, match=r"needs transformers \(pip install '\.\[text\]'\)"):
            load()


def test_no_picture_has_no_score(clip_folder):
    with pytest.raises(UserError, match="there is no picture"):
        clip_score(Clip(str(clip_folder)), [])


def test_a_text_encoder_alone_is_no_clip(clip_folder, tmp_path):
    from transformers import CLIPTextModel

    CLIPTextModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded: is a 'clip_text_model' model"):
        Clip(str(tmp_path))


# -- the published tokenizer's own table, as open_clip ships it


@pytest.fixture(scope="module")
def published_tokenizer(tmp_path_factory):
    """CLIP's tokenizer for transformers, made of its table of 48,894 merges."""
    import gzip
    from importlib.util import find_spec
    from pathlib import Path

    from transformers import CLIPTokenizer

    (place,) = find_spec("open_clip").submodule_search_locations
    packed = (Path(place) / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    table = gzip.decompress(packed).decode().split("\n")
    merges = table[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    tokens = [*letters, *(f"{one}</w>" for one in letters)]
    tokens += [merge.replace(" ", "") for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


@pytest.mark.slow
def test_tokens_are_those_of_clips_own_table(published_tokenizer):
    from open_clip.tokenizer import SimpleTokenizer

    texts = [
        "", "A man riding a wave on top of a surfboard.", "two dogs' bowls, 3 cats & a fish!",
        "  An  OLD   clock\n", "naïve café, déjà vu", "пять синих колец",
        "日本語 🙂", "it's 10:45pm",
        " ".join(["surfboard"] * 200),
    ]  # fmt: skip
    expected = SimpleTokenizer(context_length=77)(texts).numpy()
    found = np.array(
        published_tokenizer(texts, padding="max_length", max_length=77, truncation=True)[
            "input_ids"
        ]
    )
    for text, one, other in zip(texts, found, expected, strict=True):
        length = int(np.argmax(other == 49407)) + 1  # behind the end the two pad by other tokens
        np.testing.assert_array_equal(one[:length], other[:length], err_msg=repr(text))
        assert (one[length:] == 49407).all()
