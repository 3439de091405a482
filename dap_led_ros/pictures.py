"""Pictures from and to files: upright, with their EXIF and ICC profile.

Pillow reads and writes pixels of 8 bit and all metadata; OpenCV pixels of 16 bit.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SUFFIXES = (
    *('.avif', '.bmp', '.heic', '.heif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif'),
    *('.tiff', '.webp'),
)
_DEEP = ('.png', '.tif', '.tiff', '.pgm', '.ppm')
"""Formats that may have 16 bit."""
_HEIF = ('.heic', '.heif')
_SAVE: dict[str, dict[str, Any]] = {
    'JPEG': {'quality': 95},
    'PNG': {'compress_level': 3},
    'TIFF': {'compression': 'tiff_lzw'},
    'WEBP': {'lossless': True},
    'HEIF': {'quality': 90},
    'AVIF': {'quality': 90},
}
_ORIENTATION = 0x0112
_WORDS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
"""EXIF tags that say something of the picture; TIFF has those of its own storage beside them."""
_SUB_DIRECTORIES = (0x8769, 0x8825)
"""Of exposure and of GPS."""
_TURNS = {
    1: lambda f: f,
    2: lambda f: f[:, ::-1],
    3: lambda f: f[::-1, ::-1],
    4: lambda f: f[::-1],
    5: lambda f: f.swapaxes(0, 1),
    6: lambda f: f.swapaxes(0, 1)[:, ::-1],
    7: lambda f: f.swapaxes(0, 1)[::-1, ::-1],
    8: lambda f: f.swapaxes(0, 1)[::-1],
}
"""What makes a frame upright, by EXIF's orientation."""


def eight_bit(frame: np.ndarray) -> np.ndarray:
    """uint8 as it is, uint16 rounded to uint8.

    :raises ValueError: it is neither.
    """
    if frame.dtype == np.uint8:
        return frame
    if frame.dtype != np.uint16:
        raise ValueError(f'a frame is uint8 or uint16, not {frame.dtype}')
    return ((frame.astype(np.uint32) + 128) // 257).astype(np.uint8)


@dataclass
class Picture:
    """A picture, upright, and what else its file says."""

    frame: np.ndarray
    """(H, W, 3) RGB, uint8 or uint16."""
    exif: bytes = b''
    """As Pillow takes it; its orientation is 1."""
    icc: bytes = b''
    grey: bool = False
    """The file has no colour: written again, it has none either."""


def read(path: Path) -> Picture:
    """A picture of a file; transparency is left out.

    :raises ValueError: the file is no picture of 8 or 16 bit, is cut short, or needs a library.
    """
    from PIL import Image, UnidentifiedImageError

    _prepare(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of broken EXIF; the pixels count
            image = Image.open(path)
            deep, stored = _has_16_bit(image), _orientation(image)
            exif = _exif(image)
            image.load()
            # Pillow may turn TIFF itself, when it is loaded.
            left = _orientation(image) if image.format == 'TIFF' else stored
    except (UnidentifiedImageError, ImportError):
        # ImportError: where ultralytics is loaded, it puts an opener of its own before Pillow's,
        # which looks for a further library before it gives up.
        return Picture(_pixels(path))
    except Image.DecompressionBombError as error:
        raise ValueError(f'{path} cannot be read as a picture: {error}') from None
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise ValueError(f'{path} cannot be read as a picture: {error}') from None
    grey = image.mode in ('1', 'L', 'LA', 'I', 'F') or image.mode.startswith('I;16')
    if deep:
        frame = _TURNS[stored](_deep(path))
    elif image.mode == 'F':
        raise ValueError(f'{path} cannot be read as a picture of 8 or 16 bit')
    else:
        frame = _TURNS[left](np.asarray(image.convert('RGB')))
    icc = image.info.get('icc_profile') or b''
    if icc[16:20] != (b'GRAY' if grey else b'RGB '):
        icc = b''  # of CMYK, say: it does not describe these pixels
    return Picture(np.ascontiguousarray(frame), exif, icc, grey)


def write(path: Path, picture: Picture) -> None:
    """Write a picture; the suffix decides the format, and whether 16 bit stay 16.

    The file appears under its name when it is complete.

    :raises ValueError: this format cannot be written here.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f'{path} cannot be written: use one of {", ".join(SUFFIXES)}')
    _prepare(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.part-{path.name}')
    grey = picture.grey or suffix == '.pgm'
    try:
        if picture.frame.dtype == np.uint16 and suffix in _DEEP:
            _write_deep(part, picture, grey)
        else:
            _write_shallow(part, eight_bit(picture.frame), picture, grey)
        part.replace(path)
    except (cv2.error, OSError, KeyError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # no room, no permission: the system's words say it
        raise ValueError(f'{path} cannot be written: {error}') from None
    finally:
        part.unlink(missing_ok=True)


def _write_shallow(part: Path, frame: np.ndarray, picture: Picture, grey: bool) -> None:
    from PIL import Image

    image = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if grey else frame)
    format = Image.registered_extensions()[part.suffix.lower()]
    known = {'exif': picture.exif, 'icc_profile': picture.icc}
    words = _SAVE.get(format, {}) | {name: value for name, value in known.items() if value}
    if format == 'TIFF' and picture.exif:
        del words['compression']  # Pillow compresses by libtiff, which takes no EXIF
    image.save(part, format, **words)


def _write_deep(part: Path, picture: Picture, grey: bool) -> None:
    code = cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR
    image = cv2.cvtColor(picture.frame, code)
    metadata = {}
    if part.suffix.lower() == '.png' and hasattr(cv2, 'imwriteWithMetadata'):  # since 4.12
        metadata[cv2.IMAGE_METADATA_EXIF] = picture.exif.removeprefix(b'Exif\0\0')
        metadata[cv2.IMAGE_METADATA_ICCP] = picture.icc
    metadata = {kind: np.frombuffer(of, np.uint8) for kind, of in metadata.items() if of}
    if metadata:
        cv2.imwriteWithMetadata(str(part), image, list(metadata), list(metadata.values()))
    else:
        cv2.imwrite(str(part), image)


def _prepare(path: Path) -> None:
    """Have Pillow know the format of a file.

    :raises ValueError: it needs a library that is not there.
    """
    from PIL import Image

    suffix = path.suffix.lower()
    if suffix in _HEIF:
        try:
            import pillow_heif
        except ImportError as error:
            raise ValueError(
                f"{path} is HEIF, which needs pillow-heif: pip install 'dap_led_ros[heif]' "
                f'({error})'
            ) from None
        pillow_heif.register_heif_opener()
    Image.init()
    if suffix not in Image.registered_extensions():
        raise ValueError(f'{path} is {suffix}, which this Pillow lacks: pip install -U pillow')


def _orientation(image: Any) -> int:
    """EXIF's orientation, 1 to 8; also where ImageMagick wrote it as a text."""
    found = image.getexif().get(_ORIENTATION) or image.info.get('exif:Orientation') or 1
    with contextlib.suppress(ValueError, TypeError):
        return int(found) if int(found) in _TURNS else 1
    return 1


def _exif(image: Any) -> bytes:
    """What to write of a picture that is upright: the same, with orientation 1."""
    from PIL import Image

    exif = image.getexif()
    if not exif:
        return b''
    if image.format == 'TIFF':
        kept = Image.Exif()
        kept.update({tag: exif[tag] for tag in _WORDS if tag in exif})
        for directory in _SUB_DIRECTORIES:
            if found := exif.get_ifd(directory):
                kept.get_ifd(directory).update(found)
        exif = kept
    elif exif.get(_ORIENTATION, 1) == 1 and image.info.get('exif'):
        return image.info['exif']
    if _ORIENTATION in exif:
        exif[_ORIENTATION] = 1
    try:
        return exif.tobytes()
    except Exception:  # tags of a kind that nobody can write
        return b''


def _has_16_bit(image: Any) -> bool:
    """Whether a file, not loaded yet, has more than 8 bit."""
    words = str(image.tile)
    return image.mode.startswith('I') or ';16' in words or ', 65535)' in words


def _deep(path: Path) -> np.ndarray:
    """(H, W, 3) RGB uint16 as it is stored.

    :raises ValueError: OpenCV cannot read it.
    """
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    found = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if found is None or found.dtype != np.uint16:
        raise ValueError(f'{path} cannot be read as a picture of 8 or 16 bit')
    return cv2.cvtColor(found, cv2.COLOR_GRAY2RGB if found.ndim == 2 else cv2.COLOR_BGR2RGB)


def _pixels(path: Path) -> np.ndarray:
    """What OpenCV reads of a file that Pillow does not know.

    :raises ValueError: it reads nothing either.
    """
    image = cv2.imread(os.fspath(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f'{path} cannot be read as a picture of 8 or 16 bit')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
