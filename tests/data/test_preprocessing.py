"""The three maps against their equations, kornia and numpy; round trips; what is refused."""

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.enhance import ZCAWhitening
from safetensors.torch import load_file, save_file
from torch import Tensor

from raydd.core.errors import ArtefactError, ConfigError, DataError
from raydd.core.keyed_random import Key
from raydd.data import DataConfig, ImageSet, fit_preprocessing, load, preprocessing
from raydd.data.fit_preprocessing import fit, fit_zca
from raydd.data.preprocessing import ZCA, Identity, Preprocessing, Standardise, restore

needs_cifar10 = pytest.mark.skipif("RAYDD_DATA" not in os.environ, reason="RAYDD_DATA is not set: no real CIFAR-10")

PREPROCESS = ("none", "standardise", "zca")


def image_set(images: Tensor) -> ImageSet:
    """Images of one class."""
    return ImageSet(images, torch.zeros(len(images), dtype=torch.int64), ("only",), "made up")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return correlated()


@cache
def correlated() -> Tensor:
    """Correlated uint8 [300, 3, 4, 4], as photographs are."""
    draws = np.random.default_rng(0).normal(size=(300, 48)) @ np.random.default_rng(1).normal(size=(48, 48))
    return torch.from_numpy(np.clip(draws * 12 + 120, 0, 255).astype(np.uint8)).view(300, 3, 4, 4)


@pytest.fixture(params=PREPROCESS)
def fitted(request: pytest.FixtureRequest, images: Tensor) -> Preprocessing:
    """Each of the maps."""
    return fit(DataConfig(preprocess=request.param), image_set(images))


def test_zca_agrees_with_kornia(images: Tensor) -> None:
    reference = ZCAWhitening(eps=0.1, compute_inv=True).fit(images.double() / 255)
    zca = fit_zca(images)
    ours, theirs = zca.forward(images[:50]), reference(images[:50].double() / 255)
    assert (ours - theirs).abs().max() < 1e-5
    assert (zca.inverse(ours) - reference.inverse_transform(theirs)).abs().max() < 1e-5


def test_zca_equals_its_equations(images: Tensor) -> None:
    x = images.numpy().reshape(300, 48) / 255
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    expected = (x - x.mean(0)) @ vectors @ np.diag((values + 0.1) ** -0.5) @ vectors.T
    assert np.allclose(fit_zca(images).forward(images).flatten(1).numpy(), expected, atol=1e-5)


def test_zca_with_fewer_images_than_values(images: Tensor) -> None:
    zca = fit_zca(images[:10])
    assert (zca.inverse(zca.forward(images)) - images / 255).abs().max() < 1e-5


def test_blocks_do_not_change_the_fit(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit_zca(images)
    monkeypatch.setattr(preprocessing, "_BLOCK_VALUES", 7 * 48)
    blocks = fit_zca(images)
    assert torch.allclose(whole.whiten_DD, blocks.whiten_DD, rtol=0, atol=1e-6)
    assert torch.allclose(whole.forward(images), blocks.forward(images), rtol=0, atol=1e-5)


@dataclass(frozen=True)
class Read:
    """Images that are never in memory all at once, in blocks of several sizes, one of them empty."""

    images: Tensor
    sizes: list[int]

    @property
    def shape(self) -> tuple[int, int, int]:
        _, *shape = self.images.shape
        return tuple(shape)  # type: ignore[return-value]

    def __len__(self) -> int:  # noqa: D105
        return len(self.images)

    def blocks(self) -> Iterator[Tensor]:
        start = 0
        for size in itertools.chain([0], itertools.cycle(self.sizes)):
            if start >= len(self):
                return
            yield self.images[start : start + size]
            start += size


def same_fit(images: Tensor, sizes: list[int], preprocess: str) -> None:
    config = DataConfig(preprocess=preprocess)  # type: ignore[arg-type]
    whole, read = fit(config, image_set(images)), fit(config, Read(images, sizes))
    assert read.digest == whole.digest


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 320), min_size=1, max_size=5), at_once=st.integers(1, 400))
def test_images_read_in_blocks_give_the_same_bits(sizes: list[int], at_once: int) -> None:
    pixels = correlated()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(preprocessing, "_BLOCK_VALUES", 48 * at_once)
        for preprocess in PREPROCESS:
            same_fit(pixels, sizes, preprocess)


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 30), max_size=20), size=st.integers(1, 20))
def test_regrouped_blocks_have_one_size(sizes: list[int], size: int) -> None:
    rows = torch.arange(sum(sizes))
    found = list(fit_preprocessing._regrouped(iter(rows.split(sizes) if sizes else []), size))
    assert torch.equal(torch.cat([rows[:0], *found]), rows)
    assert all(len(block) == size for block in found[:-1])
    assert [len(block) for block in found if len(block)] == [len(block) for block in rows.split(size) if len(block)]


def test_streaming_zca_agrees_with_kornia_and_with_the_one_in_memory(images: Tensor) -> None:
    reference = ZCAWhitening(eps=0.1, compute_inv=True).fit(images.double() / 255)
    read, whole = fit_zca(Read(images, [7, 64, 1])), fit_zca(images)
    for name, tensor in whole.tensors().items():
        assert (read.tensors()[name] - tensor).abs().max() < 1e-5
    assert (read.forward(images) - reference(images.double() / 255)).abs().max() < 1e-5


def test_a_fit_remains_the_one_of_stored_artefacts(images: Tensor) -> None:
    """The order of operations that keys and cards were written by: two passes of one block, then eigenvectors."""
    x = images.double().div(255).flatten(1)
    mean = x.sum(0) / 300
    centred = x - mean
    values, vectors = torch.linalg.eigh(
        torch.zeros(48, 48, dtype=torch.float64).addmm_(centred.T, centred, alpha=1 / 299)
    )
    scale = (values.clamp(min=0) + 0.1).sqrt()
    wanted = mean.float(), ((vectors / scale) @ vectors.T).float(), ((vectors * scale) @ vectors.T).float()
    zca = fit_zca(images)
    assert all(torch.equal(*both) for both in zip((zca.mean_D, zca.whiten_DD, zca.colour_DD), wanted, strict=True))


def test_standardise_computed(images: Tensor) -> None:
    standardise = fit(DataConfig(), image_set(images))
    assert isinstance(standardise, Standardise)
    x = images.numpy() / 255
    assert np.allclose(standardise.mean_C, x.mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(standardise.std_C, x.std((0, 2, 3)), rtol=1e-12)
    seen = standardise.forward(images)
    assert seen.mean((0, 2, 3)).abs().max() < 1e-6
    assert (seen.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_standardise_literature(images: Tensor) -> None:
    cifar = fit(DataConfig(source="cifar10", statistics="literature"), image_set(images))
    assert cifar.describe() == {
        "name": "standardise",
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2023, 0.1994, 0.2010],
    }
    folder = fit(DataConfig(source="imagefolder", statistics="literature"), image_set(images))
    assert (folder.describe()["mean"], folder.describe()["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    mean, std = (torch.tensor(cifar.describe()[key])[:, None, None] for key in ("mean", "std"))
    assert torch.equal(
        cifar.forward(images), (images / 255 - mean) / std
    )  # bit for bit what the papers' scripts compute


@pytest.mark.parametrize(("source", "channels"), [("digits", 1), ("digits", 3), ("imagefolder", 1)])
def test_literature_without_constants_is_refused(images: Tensor, source: str, channels: int) -> None:
    with pytest.raises(ConfigError, match=r"^data\.statistics: .*set it to computed"):
        fit(DataConfig(source=source, statistics="literature"), image_set(images[:, :channels]))


def test_constant_channel_is_refused(images: Tensor) -> None:
    images = images.clone()
    images[:, 1] = 7
    with pytest.raises(DataError, match="same value in all training images"):
        fit(DataConfig(), image_set(images))


def test_zca_refuses_large_images_and_a_single_one(images: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"^data\.preprocess: zca of 30000 values .* 7 GB"):
        fit_zca(torch.zeros(2, 3, 100, 100, dtype=torch.uint8))
    with pytest.raises(DataError, match="at least 2"):
        fit_zca(images[:1])


def test_forward_takes_uint8_and_float(fitted: Preprocessing, images: Tensor) -> None:
    from_bytes, from_float = fitted.forward(images), fitted.forward(images / 255)
    assert from_bytes.dtype == torch.float32
    assert torch.equal(from_bytes, from_float)
    precise = fitted.forward(images.double() / 255)
    assert precise.dtype == fitted.inverse(precise).dtype == torch.float64
    assert (precise - from_bytes).abs().max() < 1e-5
    assert fitted.forward(images[:0]).shape == (0, 3, 4, 4)


def test_inverse_undoes_forward(fitted: Preprocessing, images: Tensor) -> None:
    assert (fitted.inverse(fitted.forward(images)) - images / 255).abs().max() < 1e-5


def test_forward_leaves_its_input_alone(fitted: Preprocessing, images: Tensor) -> None:
    pixels = images / 255
    before = pixels.clone()
    assert fitted.forward(pixels).data_ptr() != pixels.data_ptr()
    assert torch.equal(pixels, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_forward_keeps_the_device(fitted: Preprocessing, images: Tensor) -> None:
    on_gpu = fitted.forward(images.to("cuda"))
    assert on_gpu.is_cuda
    assert (on_gpu.cpu() - fitted.forward(images)).abs().max() < 1e-5
    assert fitted.inverse(on_gpu).is_cuda


def test_restore_from_files(fitted: Preprocessing, images: Tensor, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps(fitted.describe()))
    save_file(fitted.tensors(), tmp_path / "whitening.safetensors")
    restored = restore(json.loads((tmp_path / "card.json").read_text()), load_file(tmp_path / "whitening.safetensors"))
    assert type(restored) is type(fitted)
    assert restored.digest == fitted.digest
    assert torch.equal(restored.forward(images), fitted.forward(images))
    assert torch.equal(restored.inverse(images / 255), fitted.inverse(images / 255))


def test_digest_tells_maps_apart(images: Tensor) -> None:
    fits = [fit(DataConfig(preprocess=name), image_set(part)) for name in PREPROCESS for part in (images, images[:200])]  # type: ignore[arg-type]
    assert len({preprocessing.digest for preprocessing in fits}) == 5  # the identity has nothing to fit
    assert Identity().digest == fits[0].digest == fits[1].digest
    zca = fit_zca(images)
    assert ZCA(zca.mean_D, zca.whiten_DD, zca.colour_DD + 1e-6).digest != zca.digest


def test_restore_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ArtefactError, match="'fourier' is not known"):
        restore({"name": "fourier"}, {})
    with pytest.raises(ArtefactError, match="lacks 'mean'"):
        restore({"name": "zca", "epsilon": 0.1}, {})


@needs_cifar10
@pytest.mark.slow
def test_zca_on_cifar10() -> None:
    config = DataConfig(source="cifar10", preprocess="zca", train_limit_per_class=1000)
    train = load(config, Key.root(0)).train
    zca = fit(config, train)
    whitened = zca.forward(train.images)
    assert whitened.std() == pytest.approx(0.255, abs=0.01)
    assert whitened.abs().max() < 4
    assert (zca.inverse(whitened) - train.images / 255).abs().max() < 1e-4


@needs_cifar10
def test_standardise_on_cifar10() -> None:
    config = DataConfig(source="cifar10", train_limit_per_class=1000)
    standardise = fit(config, load(config, Key.root(0)).train)
    assert standardise.describe()["std"] == pytest.approx([0.245, 0.243, 0.261], abs=0.003)
    assert standardise.describe()["mean"] == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.005)
