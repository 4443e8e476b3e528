"""Batches: equal to torchvision's pipeline, image by image, however they come about."""

import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision import transforms

from nas_optuna import ImageSet
from nas_optuna.data import Augmentation, BatchLoader
from nas_optuna.data.loaders import enlarge_rows
from nas_optuna.spec import Recipe
from tests.hostile import new_peak, peak

CPU = torch.device("cpu")
LOADERS: list[Callable[..., BatchLoader]] = [BatchLoader, partial(BatchLoader, resident=False)]


def image_set(count: int = 23, channels: int = 1, height: int = 28, width: int = 28, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % 3, ("a", "b", "c"))


def collect(loader: BatchLoader, seed: int | None = None) -> tuple[Tensor, Tensor]:
    batches = list(loader.epoch(seed))
    assert len(batches) == len(loader)
    assert all(len(images) == loader.batch_size for images, _ in batches[:-1])
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def per_item(images: ImageSet, size: int) -> Tensor:
    """The reference pipeline."""
    pipeline = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize(images.mean, images.std),
            transforms.Resize((size, size), antialias=True),
        ]
    )
    mode = "L" if images.channels == 1 else "RGB"
    arrays = [np.ascontiguousarray(i.permute(1, 2, 0).numpy().squeeze()) for i in images.images]
    return torch.stack([pipeline(Image.fromarray(array, mode=None if mode == "L" else "RGB")) for array in arrays])


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize(
    ("channels", "height", "width", "size"),
    [
        (1, 28, 28, 224),
        (1, 28, 28, 28),
        (3, 32, 32, 64),
        (3, 32, 32, 224),
        (3, 20, 33, 24),
        (1, 28, 28, 14),
        (3, 40, 30, 7),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_batches_are_torchvisions(
    make: Callable[..., BatchLoader], channels: int, height: int, width: int, size: int
) -> None:
    images = image_set(9, channels, height, width)
    batches, labels = collect(make(images, 4, size, CPU))
    torch.testing.assert_close(batches, per_item(images, size), atol=1e-5, rtol=0)
    assert torch.equal(labels, images.labels)
    assert batches.dtype == torch.float32


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_rows_enlarge_as_torch_enlarges_them(batch: int, height: int, width: int, factor: int) -> None:
    rows = torch.randn(batch, height, width)
    enlarged = torch.full((batch, factor * height, width), torch.nan)
    enlarge_rows(rows, out=enlarged)
    expected = F.interpolate(rows[None], size=enlarged.shape[1:], mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(enlarged, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", LOADERS)
def test_a_seed_draws_an_order_of_all_images(make: Callable[..., BatchLoader]) -> None:
    images = image_set()
    loader = make(images, 4, 28, CPU)
    stored, labels = collect(loader)
    assert torch.equal(labels, images.labels)
    first, again, other = (collect(loader, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(_sorted(first[0]), _sorted(stored))
    assert torch.equal(_sorted(other[0]), _sorted(stored))


def _sorted(images: Tensor) -> Tensor:
    return images[images.flatten(1).double().sum(1).argsort()]


@pytest.mark.parametrize(
    "augmentation",
    [
        None,
        Augmentation(shift=2),
        Augmentation(flip=True),
        Augmentation(shift=1, flip=True, cutout=3),
        Augmentation(shift=2, fill="reflect", mix=0.5),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 4, 23, 100])
def test_streaming_gives_what_resident_gives(augmentation: Augmentation | None, batch_size: int) -> None:
    images = image_set(channels=3, height=9, width=9)
    resident, streaming = (make(images, batch_size, 12, CPU, augmentation) for make in LOADERS)
    for seed in (None, 0, 7):
        for ours, theirs in zip(resident.epoch(seed), streaming.epoch(seed), strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


def test_a_streaming_epoch_that_is_left_ends_its_thread() -> None:
    epoch = BatchLoader(image_set(), 2, 28, CPU, resident=False).epoch(0)
    next(epoch)
    assert any(thread.name.startswith("nas-optuna-gather") for thread in threading.enumerate())
    epoch.close()
    assert not any(thread.name.startswith("nas-optuna-gather") for thread in threading.enumerate())


def test_an_error_of_the_gathering_thread_is_raised() -> None:
    images = image_set()
    loader = BatchLoader(images, 4, 28, CPU, resident=False)
    loader._labels = images.labels[:5]
    with pytest.raises(IndexError):
        list(loader.epoch(0))


def test_the_cpu_keeps_images_where_they_are() -> None:
    images = image_set()
    loader = BatchLoader(images, 4, 28, CPU)
    assert loader.kind == "resident"
    assert loader._images.data_ptr() == images.images.data_ptr()  # type: ignore[attr-defined]


batches = st.builds(
    lambda count, channels, height, width, seed: image_set(count, channels, height, width, seed).images,
    count=st.integers(3, 8),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
)


def vary(images: Tensor, seed: int, **options: int) -> Tensor:
    before = images.clone()
    varied = Augmentation(**options)(images, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    assert torch.equal(images, before), "the resident images are left alone"
    assert varied.shape == images.shape
    assert varied.dtype == torch.uint8
    assert torch.equal(varied, Augmentation(**options)(images, torch.Generator().manual_seed(seed)))  # type: ignore[arg-type]
    return varied


@settings(deadline=None)
@given(batches, st.integers(1, 12), st.integers(0, 99))
def test_a_reflecting_shift_brings_in_nothing_new(images: Tensor, shift: int, seed: int) -> None:
    for before, after in zip(images, vary(images, seed, shift=shift, fill="reflect"), strict=True):  # type: ignore[arg-type]
        for channel, source in zip(after, before, strict=True):
            assert set(channel.flatten().tolist()) <= set(source.flatten().tolist())


def test_a_reflecting_shift_is_torchs_padding() -> None:
    images = image_set(40).images
    found = Augmentation(shift=3, fill="reflect")(images, torch.Generator().manual_seed(0))
    padded = F.pad(images.float(), [3] * 4, mode="reflect").to(torch.uint8)
    windows = [padded[:, :, y : y + 28, x : x + 28] for y in range(7) for x in range(7)]
    for image in range(40):
        assert any(torch.equal(found[image], window[image]) for window in windows)


@settings(deadline=None)
@given(batches, st.integers(0, 99), st.floats(0.1, 1))
def test_mixed_labels_are_the_pasted_share(images: Tensor, seed: int, mix: float) -> None:
    images = torch.arange(1, len(images) + 1, dtype=torch.uint8)[:, None, None, None].expand_as(images)
    labels = torch.arange(len(images))
    generator = torch.Generator().manual_seed(seed)
    mixed, shares = Augmentation(mix=mix).batch(images, labels, len(images), generator)
    for image, row in zip(mixed, shares, strict=True):
        for label, share in enumerate(row.tolist()):
            assert (image == label + 1).float().mean().item() == pytest.approx(share, abs=1e-5)


def test_about_the_asked_share_of_images_is_mixed() -> None:
    images = image_set(2000)
    loader = BatchLoader(images, 500, 28, CPU, Augmentation(mix=0.25))
    shares = torch.cat([labels for _, labels in loader.epoch(0)])
    # A third of the pairs have one class, and a square of less than half a pixel is none.
    assert 0.1 < (shares.max(1).values < 1).float().mean() < 0.25
    assert all(labels.dtype == torch.int64 for _, labels in loader.epoch())


@pytest.mark.parametrize(
    ("classes", "flipped"),
    [
        (("cat", "dog", "x"), True),
        (("a", "b", "c"), False),
        (("+", "1", "あ"), False),
    ],
)
@pytest.mark.parametrize(("epochs", "mixed"), [(29, 0.0), (30, 0.5)])
def test_auto_follows_from_classes_and_passes(
    classes: tuple[str, ...], flipped: bool, epochs: int, mixed: float
) -> None:
    images = image_set()
    object.__setattr__(images, "classes", classes)
    recipe = Recipe(epochs=epochs, flip="auto", mix="auto")
    assert Augmentation.of(recipe, images) == (Augmentation(flip=flipped, mix=mixed) if flipped or mixed else None)


@pytest.mark.parametrize(("epochs", "size", "mixed"), [(10, 3 * 23, 0.5), (60, 11, 0.0)])
def test_passes_count_rather_than_epochs(epochs: int, size: int, mixed: float) -> None:
    found = Augmentation.of(Recipe(epochs=epochs, epoch_size=size, shift=1, mix="auto"), image_set())
    assert found == Augmentation(shift=1, mix=mixed)


@pytest.mark.parametrize(("side", "shift"), [(8, 1), (28, 3), (64, 6), (4, 1)])
def test_an_automatic_shift_is_a_tenth_of_the_side(side: int, shift: int) -> None:
    found = Augmentation.of(Recipe(shift="auto"), image_set(height=side, width=side))
    assert found == Augmentation(shift=shift)


@pytest.mark.parametrize(("height", "width", "shift"), [(10, 100, 1), (100, 25, 10), (25, 250, 2), (8, 100, 0)])
def test_an_automatic_shift_leaves_something_of_long_images(height: int, width: int, shift: int) -> None:
    images = image_set(height=height, width=width)
    found = Augmentation.of(Recipe(shift="auto"), images)
    assert found == (Augmentation(shift=shift) if shift else None)
    mirrored = Augmentation.of(Recipe(shift="auto", shift_fill="reflect"), images)
    assert mirrored == Augmentation(shift=round(max(height, width) / 10), fill="reflect")


def test_an_augmentation_says_what_it_does() -> None:
    assert str(Augmentation(shift=3, flip=True, mix=0.5)) == "shifted by up to 3 pixels, mirrored, mixed (50% of them)"
    assert str(Augmentation(shift=1)) == "shifted by up to 1 pixel"


@settings(deadline=None)
@given(batches, st.integers(0, 99))
def test_flip_mirrors_or_leaves(images: Tensor, seed: int) -> None:
    for before, after in zip(images, vary(images, seed, flip=True), strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))


@settings(deadline=None)
@given(batches, st.integers(1, 4), st.integers(0, 99))
def test_shift_moves_by_at_most_so_much_and_fills_with_black(images: Tensor, shift: int, seed: int) -> None:
    def moved(image: Tensor, down: int, right: int) -> Tensor:
        height, width = image.shape[1:]
        canvas = torch.zeros(image.shape[0], height + 2 * shift, width + 2 * shift, dtype=torch.uint8)
        canvas[:, shift + down : shift + down + height, shift + right : shift + right + width] = image
        return canvas[:, shift : shift + height, shift : shift + width]

    steps = range(-shift, shift + 1)
    for before, after in zip(images, vary(images, seed, shift=shift), strict=True):
        assert any(torch.equal(after, moved(before, down, right)) for down in steps for right in steps)


@settings(deadline=None)
@given(batches, st.integers(1, 12), st.integers(0, 99))
def test_cutout_blanks_one_square_that_lies_in_the_image(images: Tensor, side: int, seed: int) -> None:
    white = torch.full_like(images, 255)
    height, width = images.shape[2:]
    for after, original in zip(vary(white, seed, cutout=side), vary(images, seed, cutout=side), strict=True):
        blank = after[0] == 0
        assert torch.equal(after, after[:1].expand_as(after)), "the same square in every channel"
        rows, columns = blank.any(1).nonzero().flatten(), blank.any(0).nonzero().flatten()
        assert len(rows) == min(side, height)
        assert len(columns) == min(side, width)
        assert blank[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert blank.sum() == len(rows) * len(columns)
        assert (original[:, blank] == 0).all()


def test_images_are_varied_each_on_its_own() -> None:
    same = image_set(1).images.expand(64, -1, -1, -1)
    for options in ({"shift": 2}, {"flip": True}, {"cutout": 5}):
        varied = vary(same, 0, **options)
        assert len({image.numpy().tobytes() for image in varied}) > 1


def test_only_training_epochs_are_varied() -> None:
    images = image_set()
    loader = BatchLoader(images, 4, 28, CPU, Augmentation(shift=3, flip=True, cutout=9))
    assert torch.equal(collect(loader)[0], collect(BatchLoader(images, 4, 28, CPU))[0])
    assert not torch.equal(_sorted(collect(loader, 1)[0]), _sorted(collect(loader)[0]))


def test_a_loop_uses_the_same_memory_again_but_a_kept_batch_stays() -> None:
    loader = BatchLoader(image_set(40), 4, 56, CPU)
    addresses, kept, copy = set(), None, None
    for i, (images, _) in enumerate(loader.epoch()):
        addresses.add(images.data_ptr())
        if i == 3:
            kept, copy = images[1:], images[1:].clone()
    assert kept is not None
    assert copy is not None
    assert torch.equal(kept, copy)
    assert len(addresses) < len(loader)


@pytest.mark.parametrize("seed", [None, 1])
def test_images_may_lie_channels_last(seed: int | None) -> None:
    planar = image_set(9, channels=3)
    last = ImageSet(planar.images.contiguous(memory_format=torch.channels_last), planar.labels, planar.classes)
    found, expected = (collect(BatchLoader(images, 4, 40, CPU), seed)[0] for images in (last, planar))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [8, (16, 8)])
def test_large_pictures_become_floats_in_pieces(size: int | tuple[int, int]) -> None:
    images = torch.randint(0, 256, (40, 3, 1024, 1024), dtype=torch.uint8)
    loader = BatchLoader(ImageSet(images, torch.arange(40) % 2, ("a", "b")), 40, size, torch.device("cpu"))
    before = new_peak()
    ((found, _),) = loader.epoch()
    assert peak() - before < 700_000, "kilobytes; all floats at once are 1,500,000"
    torch.testing.assert_close(found, torch.cat([loader._prepare(image[None]) for image in images]))
