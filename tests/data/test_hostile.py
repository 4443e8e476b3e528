"""Damaged and hostile files: each is taken, or refused in one line, within little memory."""

import io
import os
import random
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest
from PIL import Image

from nas_optuna import ConvSpace
from nas_optuna.data import folder, load_images
from nas_optuna.data import source as data_source
from nas_optuna.data.arrays import NpzSource
from nas_optuna.errors import NasOptunaError
from nas_optuna.spec import DataSpec
from nas_optuna.study.trial_queue import read_architectures
from tests.data.odd_pictures import write_odd_pictures
from tests.hostile import LABELS, NINES, PIXELS, lying, new_peak, npz, peak

MOST = 500_000
"""Kilobytes above what was used before."""


def _read(name: str) -> bool:
    """Whether a data set is taken; a refusal is one line."""
    said = ""
    try:
        load_images(name, True)
        load_images(name, False)
    except NasOptunaError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
    return not said


KINDS = (
    "|O", "<f2", "<f4", "<f8", "<c16", "<M8[s]", "<U1000000", "|S9999999", "<i8", "|V8", "|b1", "<u8", "<f16", ">u2",
    "[('a', '<f4')]",
)  # fmt: skip
SHAPES = (
    "(40, 6, 6)", "(40, 10000, 10000)", "(-1, 6, 6)", "(40,)", "()", "(9999999999999, 9, 9)", "(40, 0, 6)",
    "(40, 6, 6, 6, 6)", "(True, 6, 6)", "(2.5, 6, 6)", "(40, 6, 99999999999999999999)",
)  # fmt: skip


def _hostile_arrays() -> Iterator[bytes]:
    """Two hundred and more."""
    for kind in KINDS:
        for shape in SHAPES:
            described = kind if kind.startswith("[") else repr(kind)
            header = f"{{'descr': {described}, 'fortran_order': False, 'shape': {shape}, }}"
            yield npz(images=lying(header), labels=LABELS)
    for header in ("", "{", "[" * 5000, "{'descr': __import__('os').getcwd()}", "'" + "x" * 30_000):
        for version in ((1, 0), (2, 0), (3, 0), (9, 9)):
            yield npz(images=lying(header, version=version), labels=LABELS)
    for labels in (np.zeros(40), np.full(40, np.nan), np.full(40, 2**63, np.uint64), np.array(["\ud800", "a"] * 20)):
        yield npz(images=PIXELS, labels=labels)
    for images in (np.full((40, 6, 6), np.inf), np.full((40, 6, 6), -1), np.full((40, 6, 6), 1e300), PIXELS * 1j):
        yield npz(images=images, labels=LABELS)
    whole, rng = npz(images=PIXELS, labels=LABELS), random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 30)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        yield bytes(damaged[: rng.randint(1, len(damaged))] if rng.random() < 0.3 else damaged)


def test_300_hostile_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=LABELS)
    assert _read(f"npz:{tmp_path / 'x.npz'}")
    before, taken, count = new_peak(), 0, 0
    for content in _hostile_arrays():
        (tmp_path / "x.npz").write_bytes(content)
        taken += _read(f"npz:{tmp_path / 'x.npz'}")
        count += 1
    assert count >= 290
    assert taken < count / 3
    assert peak() - before < MOST


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_what_never_ends_is_not_waited_for(tmp_path: Path, kind: str, linked: bool) -> None:
    import socket

    file = tmp_path / "real.npz"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(file))
    else:
        file = Path("/dev/zero")
    if linked:
        (tmp_path / "link.npz").symlink_to(file)
        file = tmp_path / "link.npz"
    with pytest.raises(NasOptunaError, match="it is not a regular file"):
        load_images(f"npz:{file}", True)
    for part in ("a", "b"):
        (tmp_path / "folder" / part).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "folder" / part / "1.png")
    (tmp_path / "folder/a/2.png").symlink_to(file)
    with pytest.raises(NasOptunaError, match="not a regular file"):
        load_images(f"folder:{tmp_path / 'folder'}", True)


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
def test_parts_of_an_npz_file_are_read_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    rng, sides = np.random.default_rng(0), {"CHW": (3, 256, 200), "HWC": (256, 200, 3)}[layout]
    arrays = {part: rng.integers(0, 256, (120, *sides), np.uint8) for part in ("train", "val")}
    labels = {f"{part}_labels": np.arange(120) % 2 for part in arrays}
    np.savez(tmp_path / "x.npz", layout=layout, **{f"{k}_images": v for k, v in arrays.items()}, **labels)
    source = NpzSource(tmp_path / "x.npz", DataSpec(name="npz:x.npz"))
    chosen = source._training[rng.permutation(len(source._training))]
    size, before = 120 * 3 * 256 * 200, new_peak()
    found = source._pixels_at(chosen)[0]
    taken = 1024 * (peak() - before)
    both = np.concatenate(list(arrays.values()))
    assert np.array_equal(found, (both if layout == "CHW" else both.transpose(0, 3, 1, 2))[chosen])
    needed = len(chosen) * size // 120 + size
    assert taken < needed + 12_000_000
    monkeypatch.setattr(data_source, "free_memory", lambda: int(needed / 0.8) - 1)
    with pytest.raises(NasOptunaError, match=r"images beside array .* would take .*; store uint8"):
        source._pixels_at(chosen)
    monkeypatch.setattr(data_source, "free_memory", lambda: int(needed / 0.8) + 2)
    assert len(source._pixels_at(chosen)[0]) == len(chosen)


def test_a_million_pictures_do_not_all_wait_for_the_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = []

    class Counting(ThreadPoolExecutor):
        def map(self, function: Any, items: Any) -> Any:  # type: ignore[override]
            waiting.append(len(items))
            return super().map(function, items)

    monkeypatch.setattr(folder, "ThreadPoolExecutor", Counting)
    assert folder._for_each(str, range(3000)) == list(map(str, range(3000)))
    assert max(waiting) <= 1024


def test_of_the_parts_of_an_npz_file_that_become_bytes_one_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {f"{part}_images": np.float32(LABELS[:, None, None] * np.ones((6, 6))) for part in ("train", "val")}
    np.savez(tmp_path / "x.npz", **arrays, train_labels=LABELS, val_labels=LABELS)
    source = NpzSource(tmp_path / "x.npz", DataSpec(name="npz:x.npz"))
    read, held = NpzSource._array, WeakValueDictionary[int, np.ndarray]()

    def one_at_a_time(source: NpzSource, header: Any, copies: int = 2) -> np.ndarray:
        assert not held, "another one is still there"
        return held.setdefault(len(held), read(source, header, copies))

    monkeypatch.setattr(NpzSource, "_array", one_at_a_time)
    assert len(source._pixels_at(source._training)[0]) == len(source._training)


def test_damaged_pictures_of_every_kind(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        for i in range(5):
            Image.new("RGB", (20, 24), (i, 0, 0)).save(tmp_path / part / f"whole{i}.png")
    (tmp_path / "odd").mkdir()
    pictures, rng = write_odd_pictures(tmp_path / "odd"), random.Random(0)
    contents = {file.name: file.read_bytes() for file in pictures}
    for file in pictures:
        file.unlink()
    (tmp_path / "odd").rmdir()
    assert _read(f"folder:{tmp_path}")
    before = new_peak()
    for name, content in contents.items():
        for attempt in range(4):
            damaged = bytearray(content)
            for _ in range(3**attempt):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            (tmp_path / "a" / name).write_bytes(damaged if attempt else damaged[: len(damaged) // 2])
            _read(f"folder:{tmp_path}")
        (tmp_path / "a" / name).unlink()
    assert peak() - before < MOST


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "1", "P", "CMYK"])
def test_a_picture_of_13000_by_13000_pixels(tmp_path: Path, mode: str) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        for i in range(5):
            Image.new("L", (8, 8), i).save(tmp_path / part / f"{i}.png")
    before = new_peak()
    with np.errstate(all="ignore"):
        _write_blank(tmp_path / "a/huge.png", 13_000, mode) if mode != "CMYK" else _write_strip_tiff(
            tmp_path / "a/huge.tif", 13_000
        )
    with pytest.raises(NasOptunaError, match="13000×13000 pixels, and 50,000,000 are the most; reduce it"):
        load_images(f"folder:{tmp_path}", True)
    assert peak() - before < MOST


def test_a_jpeg_of_more_pixels_than_pillow_opens_is_to_be_reduced(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        for i in range(5):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / part / f"{i}.jpg")
    content = bytearray((tmp_path / "a/0.jpg").read_bytes())
    place = content.index(b"\xff\xc0") + 5  # of its height and width
    content[place : place + 4] = struct.pack(">HH", 16_000, 12_000)
    (tmp_path / "a/0.jpg").write_bytes(content)
    with pytest.raises(NasOptunaError, match=r"0\.jpg cannot be used: it has more than 178,956,970 pixels; reduce it"):
        load_images(f"folder:{tmp_path}", True)


def _write_blank(path: Path, side: int, mode: str) -> None:
    """A PNG of one colour, of which only the compressed rows are ever in memory."""
    import zlib

    depth, colours, width = {
        "RGB": (8, 2, 3 * side),
        "RGBA": (8, 6, 4 * side),
        "I;16": (16, 0, 2 * side),
        "1": (1, 0, -(-side // 8)),
        "P": (8, 3, side),
    }[mode]
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(width + 1)) for _ in range(side)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colours, 0, 0, 0))]
    chunks += [(b"PLTE", bytes(6)), (b"tRNS", b"\0")] * (mode == "P")
    data = b"\x89PNG\r\n\x1a\n"
    for name, part in [*chunks, (b"IDAT", packed), (b"IEND", b"")]:
        data += struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
    path.write_bytes(data)


def _write_strip_tiff(path: Path, side: int) -> None:
    """A CMYK TIFF that says to be large; its pixels are missing."""
    small = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(small, "TIFF")
    path.write_bytes(
        small.getvalue().replace(struct.pack("<HHII", 256, 4, 1, 8), struct.pack("<HHII", 256, 4, 1, side))
    )
    content = path.read_bytes()
    for tag in (256, 257):
        for kind in (3, 4):
            old, new = struct.pack("<HHII", tag, kind, 1, 8), struct.pack("<HHII", tag, 4, 1, side)
            content = content.replace(old, new)
    path.write_bytes(content)


SPACE = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5), strides=(1,), input_size=8)
QUEUES = [
    NINES, f"[{NINES}]", f'{{"conv1.filters": {NINES}}}', f"f{NINES}k3s1-f4k3s1", f'["f{NINES}k3s1-f4k3s1"]',
    f"f4k{NINES}s1-f4k3s1", f'{{"conv1.filters": -{NINES}}}', f'{{"conv1.filters": {"9" * 4200}}}',
    '{"conv1.filters": 1e999}', "[NaN]", "[" * 100_000, '{"a":' * 5000, '"' + "x" * 10**6 + '"', "null", "[[[]]]", "[]",
    '{"conv1.filters": [1]}', '{"conv1.filters": "\\ud800"}', "", "\0", "{}", "true", "[{}]", '[""]', "f4k3s1",
    "-" * 10**5,
]  # fmt: skip


@pytest.mark.parametrize("text", QUEUES, ids=lambda text: text[:20])
def test_hostile_queue_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "queue.json").write_text(text)
    with pytest.raises(NasOptunaError) as caught:
        read_architectures(tmp_path / "queue.json", SPACE)
    assert len(str(caught.value)) < 1000
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("inside", ["", "a/"])
def test_a_link_to_itself_is_named(tmp_path: Path, inside: str) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / part / "1.png")
    (tmp_path / f"{inside}round").symlink_to("round")
    with pytest.raises(NasOptunaError, match=f"/{inside}round cannot be read"):
        load_images(f"folder:{tmp_path}", True)
