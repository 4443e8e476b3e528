"""Pictures of every kind that people have, made by Pillow or byte by byte."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def write_png(path: Path, rows: np.ndarray, depth: int, colours: int, *chunks: tuple[bytes, bytes]) -> None:
    """A PNG that Pillow does not write: ``rows`` are its bytes, without filters."""
    height, width = rows.shape[0], rows.shape[1] * 8 // (depth * {0: 1, 2: 3, 6: 4}[colours])
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = b"\x89PNG\r\n\x1a\n"
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    for name, part in (header, *chunks, (b"IDAT", packed), (b"IEND", b"")):
        data += struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
    path.write_bytes(data)


def write_odd_pictures(folder: Path) -> list[Path]:
    """Twenty-six of them; their files, sorted."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)
    grey, alpha = rgb[..., 0], rng.integers(0, 256, (24, 20, 1), dtype=np.uint8)
    deep = rng.integers(0, 4096, (24, 20), dtype=np.uint16)
    colour = Image.fromarray(rgb)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((320, 240))

    def save(name: str, picture: Image.Image | np.ndarray, **options: object) -> None:
        made = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        made.save(folder / name, **options)

    save("colour.png", rgb)
    save("colour.bmp", rgb)
    save("grey.png", grey)
    save("alpha.png", np.concatenate((rgb, alpha), 2))
    save("alpha.webp", np.concatenate((rgb, alpha), 2), lossless=True)
    save("grey-alpha.png", np.concatenate((grey[..., None], alpha), 2))
    save("palette.png", colour.quantize(50))
    save("palette-transparent.png", colour.quantize(50), transparency=bytes(range(0, 250, 5)))
    save("palette-one-transparent.gif", colour.quantize(50), transparency=3)
    save("palette-grey.png", Image.fromarray(grey).quantize(16))
    save("frames.gif", colour.quantize(20), save_all=True, append_images=[colour.rotate(180).quantize(20)])
    save("grey-one-transparent.png", grey, transparency=int(grey[0, 0]))
    save("colour-one-transparent.png", rgb, transparency=tuple(map(int, rgb[0, 0])))
    save("one-bit.png", Image.fromarray(grey).convert("1"))
    save("cmyk.jpg", colour.convert("CMYK"))
    save("cmyk.tif", colour.convert("CMYK"))
    save("twelve-bits.png", deep)
    save("twelve-bits-dark.png", deep // 40)
    save("fractions.tif", (deep / 4095).astype(np.float32))
    save("fractions-dark.tif", (deep / 40_950).astype(np.float32))
    save("turned.jpg", smooth, exif=_turned(6))
    save("upside-down.png", rgb, exif=_turned(3))
    save("turned.tif", colour, tiffinfo={0x0112: 8})
    save("large.jpg", smooth.resize((640, 480)), progressive=True)
    sixteen = rng.integers(0, 65536, (24, 20 * 3), dtype=np.uint16).astype(">u2").view(np.uint8).reshape(24, -1)
    write_png(folder / "sixteen-bits-colour.png", sixteen, 16, 2)
    exif = (b"eXIf", _turned(8).removeprefix(b"Exif\0\0"))
    write_png(folder / "two-bits-turned.png", rng.integers(0, 256, (24, 5), dtype=np.uint8), 2, 0, exif)
    return sorted(folder.iterdir())
