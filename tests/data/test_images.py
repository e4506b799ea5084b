"""Images in memory: the bits of the map over all of them, however they are asked for; some of them without a copy."""

import pickle
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydd.data.fit_preprocessing import fit_standardise, fit_zca
from raydd.data.images import Images, Resident, SelectedImages, as_images
from raydd.data.preprocessing import Identity, Preprocessing

N = 40
NAMES = ("none", "standardise", "zca")
some_rows = st.lists(st.integers(-N, N - 1), max_size=2 * N).map(lambda rows: torch.tensor(rows, dtype=torch.int64))


@cache
def pixels() -> Tensor:
    """uint8 [40, 3, 16, 16], every value among them."""
    drawn = torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    drawn[0, 0] = torch.arange(256, dtype=torch.uint8).view(16, 16)
    return drawn


@cache
def preprocessing(name: str) -> Preprocessing:
    match name:
        case "none":
            return Identity()
        case "standardise":
            return fit_standardise(pixels())
        case _:
            return fit_zca(pixels())


@cache
def resident(name: str) -> Resident:
    return Resident.of(pixels(), preprocessing(name))


@cache
def whole(name: str) -> Tensor:
    return preprocessing(name).forward(pixels())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(rows=some_rows)
def test_rows_are_those_of_all_images_mapped_at_once(name: str, rows: Tensor) -> None:
    found = resident(name)[rows]
    assert found.dtype == torch.float32
    assert torch.equal(found, whole(name)[rows])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=N, max_size=N), start=st.integers(0, N), size=st.integers(1, N))
def test_masks_slices_and_parts(name: str, mask: list[bool], start: int, size: int) -> None:
    images, wanted = resident(name), whole(name)
    assert torch.equal(images[torch.tensor(mask)], wanted[torch.tensor(mask)])
    assert torch.equal(images[start : start + size], wanted[start : start + size])
    parts = list(images.split(size))
    assert [len(part) for part in parts] == [len(part) for part in wanted.split(size)]
    assert torch.equal(torch.cat(parts), wanted)


def test_the_map_is_that_of_the_equation_in_float32() -> None:
    """NumPy's float32, value by value: x / 255, less the mean, over the deviation."""
    x = pixels().numpy()
    mean, std = ((x / 255).mean((0, 2, 3)), (x / 255).std((0, 2, 3)))
    by_hand = (x.astype(np.float32) / np.float32(255) - mean.astype(np.float32)[:, None, None]) / std.astype(
        np.float32
    )[:, None, None]
    assert np.array_equal(resident("standardise")[:].numpy(), by_hand)
    assert np.array_equal(resident("none")[:].numpy(), x.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(("name", "bytes_of_a_value"), [("none", 1), ("standardise", 1), ("zca", 4)])
def test_what_is_kept(name: str, bytes_of_a_value: int) -> None:
    images = resident(name)
    assert images.pixels.nbytes == bytes_of_a_value * pixels().numel()
    assert images.shape == torch.Size([N, 3, 16, 16]) and len(images) == N and images.device == torch.device("cpu")
    assert (images.pixels.data_ptr() == pixels().data_ptr()) is (bytes_of_a_value == 1)
    assert images.to(torch.device("cpu")) is images


@pytest.mark.parametrize("name", NAMES)
def test_they_travel_to_other_processes(name: str) -> None:
    images = resident(name)
    first = images[:3]
    assert torch.equal(pickle.loads(pickle.dumps(images))[:3], first)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(0, N - 1), max_size=N), parts=st.lists(some_rows, max_size=3), size=st.integers(1, N))
def test_some_of_them_are_those_rows(rows: list[int], parts: list[Tensor], size: int) -> None:
    kept = torch.tensor(rows, dtype=torch.int64)
    images, wanted = SelectedImages(resident("standardise"), kept), whole("standardise")[kept]
    assert images.shape == wanted.shape and len(images) == len(rows)
    assert torch.equal(images[:], wanted) and torch.equal(images[1:3], wanted[1:3])
    every_other = torch.arange(len(rows)) % 2 == 0
    assert torch.equal(images[every_other], wanted[every_other])
    if rows:
        assert torch.equal(torch.cat(list(images.split(size))), wanted)
    asked = [part % len(rows) for part in parts] if rows else []
    both = zip(images.batches(asked), resident("standardise").batches([kept[part] for part in asked]), strict=True)
    for (found, other), part in zip(both, asked, strict=True):
        assert torch.equal(found, wanted[part]) and torch.equal(other, wanted[part])


def test_a_tensor_is_taken_as_it_is() -> None:
    """Whatever its precision; nothing is copied, and what is `Images` already stays that."""
    exact = whole("standardise").double()
    images: Images = as_images(exact)
    assert images[:].dtype == torch.float64 and images[:].data_ptr() == exact.data_ptr()
    assert as_images(images) is images


def test_bytes_need_a_map_and_nothing_else_has_one() -> None:
    for images, given_map in ((pixels(), None), (whole("none"), Identity()), (pixels(), preprocessing("zca"))):
        with pytest.raises(AssertionError):
            Resident(images, given_map)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["none", "standardise"])
def test_a_gpu_finds_the_same_bits(name: str) -> None:
    images = resident(name).to(torch.device("cuda"))
    assert images.device.type == "cuda" and images.pixels.dtype == torch.uint8
    rows = torch.tensor([3, 3, 0, 39])
    assert torch.equal(images[rows.cuda()].cpu(), whole(name)[rows])
    assert torch.equal(preprocessing(name).forward(pixels().cuda()).cpu(), whole(name))
