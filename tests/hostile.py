"""Files and folders that no data set and no list of architectures can be, a hundred of each kind."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import pickle
import resource
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

Hostile = tuple[str, Callable[[Path], object]]
"""What it is, and what makes it at a path."""

LABELS = np.arange(40) % 2
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)
NINES = "9" * 6000


def peak() -> int:
    """The most memory that this process has used, in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def new_peak() -> int:
    """Forget the most memory used so far, which may be an earlier test's; return the new peak, in kilobytes."""
    with suppress(OSError):  # where the system cannot
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def _file(content: bytes | str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def _link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's name has at most 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL: list[Hostile] = [
    ("a pipe", os.mkfifo),
    ("a socket", _socket),
    ("a link to /dev/zero", _link("/dev/zero")),
    ("a link to /dev/random", _link("/dev/random")),
    ("a link to memory", _link("/proc/self/mem")),
    ("a link to itself", lambda path: path.symlink_to(path.name)),
    ("a link to nothing", _link("/nothing/at/all")),
]
"""No regular files."""

OTHER: list[Hostile] = [
    ("empty", _file(b"")),
    ("a text", _file("just words\n" * 50)),
    ("HTML", _file("<!DOCTYPE html><html><body>404</body></html>")),
    ("a pickle", _file(pickle.dumps({"images": [1, 2], "labels": [0]}))),
    ("gzip", _file(gzip.compress(b"images" * 100))),
    ("bzip2", _file(bz2.compress(b"images" * 100))),
    ("UTF-16", _file("images".encode("utf-16"))),
    ("NUL bytes", _file(bytes(5000))),
    ("0xFF bytes", _file(b"\xff" * 5000)),
    ("a program", _file(b"\x7fELF" + bytes(100))),
    ("a megabyte in one line", _file("x" * 10**6)),
    ("JSON nested deeply", _file("[" * 100_000)),
]
"""Regular files of some other kind."""


# --- NumPy files ------------------------------------------------------------------------------------------------------


def npz(method: int = zipfile.ZIP_DEFLATED, **arrays: bytes | np.ndarray) -> bytes:
    """An archive of arrays, whatever they hold, and of other content under their names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in arrays.items():
            if isinstance(content, np.ndarray):
                part = io.BytesIO()
                np.save(part, content, allow_pickle=True)
                content = part.getvalue()
            archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def lying(header: str, data: bytes = b"\0" * 64, version: tuple[int, int] = (1, 0)) -> bytes:
    """An array with a header of one's own."""
    text = (header + " " * (-(len(header) + 11) % 64) + "\n").encode("latin1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def npz_array(array: np.ndarray) -> bytes:
    """One array as a file."""
    part = io.BytesIO()
    np.save(part, array)
    return part.getvalue()


def _objects(values: list[object]) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def _npz_contents() -> Iterator[tuple[str, bytes]]:
    whole = npz(images=PIXELS, labels=LABELS)
    for share in (0.01, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99):
        yield f"cut off at {share:.0%}", whole[: int(share * len(whole))]
    for name, arrays in {
        "without labels": {"images": PIXELS},
        "without images": {"labels": LABELS},
        "without either": {"a": PIXELS, "b": LABELS},
        "without arrays": {},
        "images twice": {"images": PIXELS, "x": PIXELS, "labels": LABELS},
        "a test part without labels": {"images": PIXELS, "labels": LABELS, "x_test": PIXELS},
        "pickled images": {"images": _objects([{}] * 40), "labels": LABELS},
        "pickled labels": {"images": PIXELS, "labels": _objects(["a", 1] * 20)},
        "pickled names": {"images": PIXELS, "labels": LABELS, "classes": _objects(["a", print])},
        "a pickled layout": {"images": PIXELS, "labels": LABELS, "layout": _objects([1])},
        "an unknown layout": {"images": PIXELS, "labels": LABELS, "layout": np.array("hwcn")},
        "a layout that is a number": {"images": PIXELS, "labels": LABELS, "layout": np.array(7)},
        "another number of labels": {"images": PIXELS, "labels": LABELS[:7]},
        "one image": {"images": PIXELS[:1], "labels": LABELS[:1]},
        "no image": {"images": PIXELS[:0], "labels": LABELS[:0]},
        "one class": {"images": PIXELS, "labels": LABELS * 0},
        "images without pixels": {"images": PIXELS[:, :0], "labels": LABELS},
        "a scalar": {"images": np.array(3, np.uint8), "labels": LABELS},
        "one axis": {"images": PIXELS[:, 0, 0], "labels": LABELS},
        "five axes": {"images": PIXELS[..., None, None], "labels": LABELS},
        "ten channels": {"images": np.zeros((40, 6, 6, 10), np.uint8), "labels": LABELS},
        "channels first or last": {"images": np.zeros((40, 3, 6, 3), np.uint8), "labels": LABELS},
        "parts of other channels": {
            **{"x_train": PIXELS, "y_train": LABELS},
            **{"x_test": np.zeros((40, 6, 6, 3), np.uint8), "y_test": LABELS},
        },
        "a test class that was not trained": {
            **{"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS + 5}
        },
        "names for three classes": {"images": PIXELS, "labels": LABELS, "classes": np.array(list("abc"))[:1]},
        "labels of three axes": {"images": PIXELS, "labels": np.zeros((40, 2, 2))},
        "names that are numbers": {"images": PIXELS, "labels": LABELS, "classes": np.arange(2)},
        "an empty archive member": {"images": b"", "labels": LABELS},
    }.items():
        yield name, npz(**arrays)  # type: ignore[arg-type]
    for kind in ("<c16", "<M8[s]", "<m8[s]", "<U7", "|S9", "|V8"):
        yield f"images of {kind}", npz(images=np.zeros((40, 6, 6), kind), labels=LABELS)
    for value in (np.nan, np.inf, -np.inf, -1.0, 1e300, 3e9):
        yield f"images of {value}", npz(images=np.where(PIXELS > 9, value, 0.0), labels=LABELS)
    for value in (np.nan, np.inf, 0.5, 1e300):
        yield f"labels of {value}", npz(images=PIXELS, labels=np.where(LABELS, value, 0.0))
    yield "a name that is no text", npz(images=PIXELS, labels=np.array(["\ud800", "a"] * 20))
    yield "a name that is not UTF-8", npz(images=PIXELS, labels=np.array([b"\xff", b"a"] * 20))
    yield "a class for each image", npz(images=np.tile(PIXELS, (3, 1, 1)), labels=np.arange(120))
    yield "several labels for an image", npz(images=PIXELS, labels=np.ones((40, 3)))
    for header in ("", "{", "[" * 5000, "{'descr': __import__('os').getcwd()}", "'" + "x" * 30_000):
        yield f"a header {header[:12]!r}", npz(images=lying(header), labels=LABELS)
        yield f"a header {header[:12]!r} of format 2", npz(images=lying(header, version=(2, 0)), labels=LABELS)
    for shape in (
        "(40, 10000, 10000)",
        "(-1, 6, 6)",
        "(9999999999999, 9, 9)",
        f"({NINES[:400]}, 6, 6)",
        "(True, 6, 6)",
    ):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
        yield f"a shape {shape[:16]}", npz(images=lying(header), labels=LABELS)
    yield "a header of 4 GB", npz(images=b"\x93NUMPY\x02\x00\xff\xff\xff\xff", labels=LABELS)
    yield "an unknown format of arrays", npz(images=lying("{}", version=(9, 9)), labels=LABELS)
    damaged = bytearray(npz(zipfile.ZIP_STORED, images=PIXELS, labels=LABELS))
    damaged[400] ^= 255
    yield "a wrong checksum", bytes(damaged)
    locked = whole.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    yield "an encrypted archive", locked
    odd = whole.replace(struct.pack("<HH", 0, 8), struct.pack("<HH", 0, 99))
    yield "an unknown compression", odd
    yield "a plain array", npz_array(PIXELS)


def arrays() -> list[Hostile]:
    """For ``npz:``."""
    return [*SPECIAL, *OTHER, *((name, _file(content)) for name, content in _npz_contents())]


# --- folders of pictures ----------------------------------------------------------------------------------------------


def _picture(kind: str, size: tuple[int, int] = (24, 20), **more: object) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, kind, **more)
    return out.getvalue()


def _png(width: int, height: int, colours: int = 2, rows: bytes = b"", *chunks: tuple[bytes, bytes]) -> bytes:
    found = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = (struct.pack(">I", len(p)) + name + p + struct.pack(">I", zlib.crc32(name + p)) for name, p in found)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _two_classes(root: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (8, 8), 100 * number + i).save(root / name / f"{i}.png")


def _with(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """A folder that is whole but for one picture."""

    def write(root: Path) -> None:
        _two_classes(root)
        make(root / "dog" / name)

    return write


def _tree(*places: str) -> Callable[[Path], object]:
    """A folder of empty folders, and of pictures where a place ends so."""

    def write(root: Path) -> None:
        root.mkdir()
        for place in places:
            path = os.fsencode(root / place)
            os.makedirs(os.path.dirname(path) if place.endswith(".png") else path, exist_ok=True)
            if place.endswith(".png"):
                Path(os.fsdecode(path)).write_bytes(_png(4, 4, 0, bytes(20)))

    return write


def _pictures() -> Iterator[tuple[str, str, bytes]]:
    for kind, ending in (
        *(("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif"), ("WEBP", "webp")),
        *(("PPM", "ppm"), ("TGA", "tga"), ("JPEG2000", "jp2"), ("AVIF", "avif")),
    ):
        whole = _picture(kind)
        for share in (0.02, 0.3, 0.6):
            yield f"{kind} cut off at {share:.0%}", f"x.{ending}", whole[: max(8, int(share * len(whole)))]
        yield f"{kind} of zeros", f"y.{ending}", whole[:12] + bytes(len(whole))
        yield f"text called {ending}", f"z.{ending}", b"no picture, just words"
    for width, height in ((13_000, 13_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (0, 8), (8, 0)):
        yield f"a PNG of {width} by {height}", "huge.png", _png(width, height)
    for width, height in ((65_535, 65_535), (30_000, 30_000)):
        gif = _picture("GIF")
        lies = gif[:6] + struct.pack("<HH", width, height) + gif[10:]
        yield f"a GIF of {width} by {height}", "huge.gif", lies
        jpeg = bytearray(_picture("JPEG"))
        place = jpeg.index(b"\xff\xc0") + 5
        jpeg[place : place + 4] = struct.pack(">HH", height, width)
        yield f"a JPEG of {width} by {height}", "huge.jpg", bytes(jpeg)
    for side in (40_000, -40_000, 2**31 - 1):
        bmp = _picture("BMP")
        yield f"a BMP of {side}", "huge.bmp", bmp[:18] + struct.pack("<ii", abs(side), side) + bmp[26:]
    yield "a PPM of 50,000", "huge.ppm", b"P6 50000 50000 255\n" + bytes(100)
    text = zlib.compress(bytes(2**29), 9)
    yield "512 MB of text in a PNG", "text.png", _png(8, 8, 2, bytes(200), (b"zTXt", b"Comment\0\0" + text))
    yield "512 MB of colours in a PNG", "icc.png", _png(8, 8, 2, bytes(100), (b"iCCP", b"icc\0\0" + text))
    yield "512 MB of rows in a PNG", "rows.png", _png(20_000, 9_000, 2, bytes(2**20))


def folders() -> list[Hostile]:
    """For ``folder:``."""
    shapes: list[Hostile] = [
        ("no folder", lambda path: None),
        ("a file", _file("x")),
        ("an empty folder", Path.mkdir),
        ("one class", _tree("cat/1.png")),
        ("two empty classes", _tree("cat", "dog")),
        ("one class with pictures", _tree("cat/1.png", "dog")),
        ("pictures without classes", _tree("1.png", "2.png")),
        ("a test part alone", _tree("test/cat/1.png", "test/dog/1.png")),
        ("two training parts", _tree("train/cat/1.png", "Training/cat/1.png", "test/cat/1.png")),
        ("a test part without classes", _tree("train/cat/1.png", "train/dog/1.png", "test/1.png")),
        ("a test class that was not trained", _tree("train/a/1.png", "train/b/1.png", "test/c/1.png")),
        ("one level too deep", _tree("a/c/1.png", "a/d/1.png", "b/c/1.png", "b/d/1.png")),
        ("a class that is no text", _tree("caf\udce9/1.png", "dog/1.png")),
        ("a class that a terminal obeys", _tree("\x1b[31mred/1.png", "dog/1.png")),
        ("one picture of each class", _tree("cat/1.png", "dog/1.png")),
        ("hidden classes", _tree(".cat/1.png", ".dog/1.png")),
        ("a folder in a circle", lambda path: (_tree("cat/1.png")(path), (path / "cat/again").symlink_to(path))),
        ("a picture that is a folder", _tree("cat/1.png/2", "dog/1.png")),
        ("a class that is a picture", _tree("cat.png", "dog/1.png")),
    ]
    special = [(f"{name} as a picture", _with("odd.png", make)) for name, make in SPECIAL]
    other = [(f"{name} as a picture", _with("odd.png", make)) for name, make in OTHER]
    pictures = [(name, _with(file, _file(content))) for name, file, content in _pictures()]
    return [*shapes, *special, *other, *pictures]


# --- lists of architectures -------------------------------------------------------------------------------------------

GOOD = {"conv1.filters": 16, "conv1.kernel": 3, "conv1.stride": 1} | {
    "conv2.filters": 16,
    "conv2.kernel": 3,
    "conv2.stride": 1,
}


def _lists() -> Iterator[str]:
    for value in (NINES, f"-{NINES}", "1e999", "NaN", "-Infinity", "true", "null", '"16"', '"x"', "[]", "{}", "16.5"):
        yield json.dumps(GOOD).replace('"conv1.filters": 16', f'"conv1.filters": {value}')
        yield f"[{value}]"
    for value in (NINES, "-3", "0", "16.0", "x", "16\u0301", "0x10", " "):
        yield f"f{value}k3s1-f16k3s1"
        yield json.dumps([f"f16k3s1-f16k{value}s1"])
    for key in ("conv3.filters", "conv1.filter", "x" * 10**6, "", "\0", "\ud800", "__class__", "conv1.filters\n"):
        yield json.dumps(GOOD | {key: 16})
        yield json.dumps([GOOD, {key: 16}])
    for missing in GOOD:
        yield json.dumps({name: value for name, value in GOOD.items() if name != missing})
    for text in ("[", "{", '{"a"', "[[[]]]", "[]", "{}", '""', '[""]', "f16k3s1", "-" * 10**5, '{"a":' * 5000, "[{}]"):
        yield text
    for text in (
        "f16k3s1-f16k3s1-f16k3s1",
        "f16k3s1_f16k3s1",
        "[1, 2",
        "null",
        "true",
        "\ufeff",
        "//",
        "\x1b[31m",
        "'",
    ):
        yield text


def queues() -> list[Hostile]:
    """For ``--enqueue``, ``--fixed`` and ``--among``."""
    texts = [(f"{number}: {text[:20]}", _file(text.encode())) for number, text in enumerate(_lists())]
    large = ("100 MB", _file(b"[" + b" " * 10**8))
    special = SPECIAL[1:]  # a pipe is waited for, as the shell's own are
    return [*special, *OTHER, large, ("a folder", Path.mkdir), ("no file", lambda path: None), *texts]
