"""Feature networks against other implementations, with random weights.

Also requested weight files that are present, absent or wrong.
"""

import functools
import http.server
import threading

import numpy as np
import pytest
import torch
from torch.nn import functional

from selftrans.evaluation import weights
from selftrans.evaluation.dinov2 import Dinov2Extractor, dinov2_network, resampled_positions
from selftrans.evaluation.extractors import load_extractor
from selftrans.evaluation.inception import (
    InceptionExtractor,
    inception_network,
    resize_like_tensorflow_1,
)
from selftrans.evaluation.weights import (
    DINOV2,
    INCEPTION,
    PublishedFile,
    fetch_weights,
    find_weights,
)
from selftrans.runtime.errors import UserError
from selftrans.runtime.files import sha256_of

CPU = torch.device("cpu")


def relative_difference(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def state():
    """Random weights and batch statistics under which activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)
    tensors = inception_network().state_dict()
    for name, tensor in tensors.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=generator)
        elif name.endswith("bn.weight"):
            tensor.uniform_(0.8, 1.6, generator=generator)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return tensors


@pytest.fixture(scope="module")
def extractor(state):
    network = inception_network()
    network.load_state_dict(state)
    return InceptionExtractor(network, "random", CPU)


@pytest.fixture(scope="module")
def images():
    return torch.randint(
        0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


@pytest.mark.slow
def test_the_network_has_the_keys_of_the_ported_weights(state):
    assert len(state) == 566
    assert state["fc.weight"].shape == (1008, 2048)


@pytest.mark.slow
def test_features_are_torch_fidelitys(state, extractor, images, tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save(state, tmp_path / "weights.pth")
    names = ["2048", "logits_unbiased"]
    other = FeatureExtractorInceptionV3("inception-v3-compat", names, str(tmp_path / "weights.pth"))
    features, logits = other(images.permute(0, 3, 1, 2))
    found = extractor(images)
    assert features.std() > 0.05
    assert relative_difference(found.features, features) < 1e-5
    assert relative_difference(found.logits, logits) < 1e-5


@pytest.mark.slow
def test_features_are_pytorch_fids(state, extractor, images, monkeypatch):
    from pytorch_fid import inception

    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    other = inception.InceptionV3([3], resize_input=False, normalize_input=False).eval()
    pixels = (resize_like_tensorflow_1(images.permute(0, 3, 1, 2).float(), 299) - 128) / 128
    with torch.no_grad():
        (features,) = other(pixels)
    assert relative_difference(extractor(images).features, features.flatten(1)) < 1e-6


@pytest.mark.slow
def test_plain_torchvision_is_another_network(state, extractor, images):
    """The negative control.

    Without the three differences in pooling the same weights give other features.
    """
    from torchvision.models import inception_v3

    plain = inception_v3(
        num_classes=1008, aux_logits=False, transform_input=False, init_weights=False
    ).eval()
    plain.load_state_dict(state)
    seen = []
    plain.avgpool.register_forward_hook(lambda *given: seen.append(given[2].flatten(1)))
    with torch.no_grad():
        plain((resize_like_tensorflow_1(images.permute(0, 3, 1, 2).float(), 299) - 128) / 128)
    assert relative_difference(seen[0], extractor(images).features) > 0.01


@pytest.mark.slow
def test_spatial_features_are_the_first_channels_of_mixed_6_conv_in_nhwc_order(extractor, images):
    seen = []
    handle = extractor.network.Mixed_6d.branch1x1.register_forward_hook(
        lambda *given: seen.append(given[2])
    )
    found = extractor(images).spatial
    handle.remove()
    assert found.shape == (3, 17 * 17 * 7)
    expected = np.stack(
        [
            [seen[0][i, c, y, x] for y in range(17) for x in range(17) for c in range(7)]
            for i in range(3)
        ]
    )
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("size", [64, 128, 256, 299, 512])
def test_resize_is_torch_fidelitys(size):
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    pixels = torch.randint(
        0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(size)
    ).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(
        pixels, size=(299, 299), align_corners=False
    )
    torch.testing.assert_close(resize_like_tensorflow_1(pixels, 299), expected, rtol=0, atol=1e-4)
    if size != 299:
        antialiased = functional.interpolate(pixels, (299, 299), mode="bilinear", antialias=True)
        assert (antialiased - expected).abs().max() > 1  # the negative control


def test_resize_is_its_formula():
    """Output pixel i lies at i * (input / output).

    A ramp stays a ramp, except at the end, where the last value is held.
    """
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert resize_like_tensorflow_1(ramp, 8)[0, 0, 3].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]


@pytest.mark.slow
def test_batches_do_not_matter(extractor, images):
    whole, single = extractor(images), [extractor(images[i : i + 1]) for i in range(3)]
    for name in ("features", "spatial", "logits"):
        parts = torch.cat([getattr(one, name) for one in single])
        assert relative_difference(parts, getattr(whole, name)) < 1e-5


# ---------------------------------------------------------------------------------------- DINOv2


@pytest.fixture(scope="module")
def hub_state():
    """Random weights of a ViT-S/14 under the hub's names.

    The position table is 37x37, as in training at 518 pixels.
    """
    generator = torch.Generator().manual_seed(0)
    width, tensors = 384, {}

    def normal(*shape, std=0.05):
        return torch.randn(shape, generator=generator) * std

    tensors["cls_token"], tensors["mask_token"] = normal(1, 1, width), normal(1, width)
    tensors["pos_embed"] = normal(1, 1 + 37 * 37, width, std=0.5)
    tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"] = (
        normal(width, 3, 14, 14),
        normal(width),
    )
    for block in range(12):
        shapes = {
            "norm1.weight": (width,), "norm1.bias": (width,), "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,), "ls1.gamma": (width,), "norm2.weight": (width,),
            "norm2.bias": (width,), "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,), "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,), "ls2.gamma": (width,),
        }  # fmt: skip
        tensors |= {
            f"blocks.{block}.{name}": normal(*shape) + ("norm" in name)
            for name, shape in shapes.items()
        }
    tensors["norm.weight"], tensors["norm.bias"] = 1 + normal(width), normal(width)
    return tensors


def class_token(state, pixels):
    """The hub's vision transformer, transcribed.

    Pre-norm blocks with layer scale, exact GELU, and the norm of the class token.
    """
    width, heads = 384, 6
    x = functional.conv2d(
        pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14
    )
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    grid = state["pos_embed"][:, 1:].reshape(1, 37, 37, width).permute(0, 3, 1, 2)
    grid = functional.interpolate(
        grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic", antialias=False
    )
    x = x + torch.cat(
        [state["pos_embed"][:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, width)], dim=1
    )

    def norm(x, name):
        return functional.layer_norm(
            x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6
        )

    def linear(x, name):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    for block in range(12):
        own = f"blocks.{block}."
        qkv = linear(norm(x, own + "norm1"), own + "attn.qkv").reshape(
            len(x), -1, 3, heads, width // heads
        )
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = ((q * (width // heads) ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        attended = attended.transpose(1, 2).reshape(len(x), -1, width)
        x = x + state[own + "ls1.gamma"] * linear(attended, own + "attn.proj")
        hidden = functional.gelu(linear(norm(x, own + "norm2"), own + "mlp.fc1"))
        x = x + state[own + "ls2.gamma"] * linear(hidden, own + "mlp.fc2")
    return norm(x, "norm")[:, 0]


@pytest.mark.slow
def test_dinov2_is_the_hubs_model(hub_state):
    images = torch.randint(
        0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    own = Dinov2Extractor(dinov2_network(hub_state, "vit_small_patch14_dinov2"), "random", CPU)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    expected = class_token(hub_state, pixels)
    assert expected.std() > 0.3
    torch.testing.assert_close(own(images).features, expected, rtol=1e-4, atol=1e-4)


def test_timms_own_resampling_of_positions_is_another(hub_state):
    """The negative control of the position table."""
    from timm.layers import resample_abs_pos_embed

    table = hub_state["pos_embed"]
    assert (
        resampled_positions(table, 16) - resample_abs_pos_embed(table, [16, 16])
    ).abs().max() > 0.1
    assert resampled_positions(table, 37) is table


@pytest.mark.slow
def test_images_of_other_sizes_are_resized_with_antialias(hub_state):
    own = Dinov2Extractor(dinov2_network(hub_state, "vit_small_patch14_dinov2"), "random", CPU)
    images = torch.randint(
        0, 256, (1, 448, 448, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    pixels = images.permute(0, 3, 1, 2).float() / 255
    small = functional.interpolate(pixels, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    rounded = (small * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert (
        relative_difference(own(images).features, own(rounded).features) < 0.02
    )  # but for the rounding to uint8


# ---------------------------------------------------------------------------------- weight files


def test_absent_weights_say_what_from_where_and_where_to(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFTRANS_CACHE", str(tmp_path))
    for name, file in (("inception", INCEPTION), ("dinov2", DINOV2)):
        with pytest.raises(UserError) as caught:
            load_extractor(name, None, CPU)
        message = str(caught.value)
        assert "\n" not in message
        for part in (
            str(tmp_path / file.name),
            file.url,
            file.sha256,
            f"{file.bytes:,}",
            "--fetch",
        ):
            assert part in message
    with pytest.raises(UserError, match="--weights: the classifier extractor needs the file"):
        load_extractor("classifier", None, CPU)


def test_the_cache_is_where_users_expect_it(monkeypatch, tmp_path):
    monkeypatch.delenv("SELFTRANS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_directory() == tmp_path / "selftrans"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.cache_directory() == tmp_path / ".cache/selftrans"


@pytest.fixture
def served(tmp_path):
    """A weight file on a server of this machine."""
    source = tmp_path / "server/weights.pth"
    source.parent.mkdir()
    source.write_bytes(bytes(range(256)) * 9000)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=source.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/weights.pth"
    yield PublishedFile(url=url, bytes=source.stat().st_size, sha256=sha256_of(source)), source
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_once_and_checked(served, tmp_path, caplog):
    file, source = served
    cache = tmp_path / "cache"
    assert fetch_weights(file, cache).read_bytes() == source.read_bytes()
    source.write_bytes(b"gone")
    assert (
        find_weights(file, fetch_weights(file, cache)) == cache / "weights.pth"
    )  # no second download
    (cache / "weights.pth").write_bytes(bytes(9000 * 256))
    with pytest.raises(UserError, match=r"weights\.pth: has SHA-256"):
        find_weights(file, cache / "weights.pth")


@pytest.mark.parametrize("content", [b"short", bytes(9000 * 256)])
def test_a_download_that_is_not_the_file_leaves_nothing(served, tmp_path, content):
    file, source = served
    source.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth: has (5 bytes|SHA-256)"):
        fetch_weights(file, tmp_path / "cache")
    source.unlink()
    with pytest.raises(UserError, match="cannot be fetched") as caught:
        fetch_weights(file, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_weights_are_never_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth: not a file of weights"):
        weights.load_state_dict(tmp_path / "evil.pth")
