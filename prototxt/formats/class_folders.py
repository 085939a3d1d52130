"""A folder with a folder of images per class, as torchvision's ImageFolder reads it.

    photos/train/cat/1.jpg
    photos/train/cat/summer/2.jpg
    photos/train/dog/1.jpg

The classes are these folders, sorted by name as text: `cat` is class 0 and `dog` class 1. Their images may lie at any
depth. Hidden files and folders are left out. Nothing is opened: 50,000 images are listed in half a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

# Of the formats that are decoded.
IMAGE_SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_DATABASE_FILES: Final = ("data.mdb", "CURRENT")  # of LMDB and LevelDB

FileId = tuple[int, int]  # device and inode


def is_database(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder is an LMDB or a LevelDB."""
    return any(os.path.exists(os.path.join(path, name)) for name in _DATABASE_FILES)


def is_image_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether the path is a folder and no database, so that it stands for the images in its class folders."""
    return os.path.isdir(path) and not is_database(path)


def class_folders(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names of the class folders, class 0 first. Raises: OSError."""
    with os.scandir(path) as entries:
        return tuple(sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()))


def images_beside_folders(path: str | os.PathLike[str]) -> list[str]:
    """Return the images that lie in the folder itself, in none of its class folders, sorted. Raises: OSError."""
    with os.scandir(path) as entries:
        return sorted(entry.path for entry in entries if _is_image(entry.name) and not entry.is_dir())


def images_below(path: str | os.PathLike[str]) -> list[str]:
    """Return all images below a folder, sorted by folder and then by name, each path beginning with `path`.

    Links to folders are followed, except into a folder that holds the link.

    Raises: OSError for a folder that cannot be read.
    """
    found = list(_walk(os.fspath(path)))
    return [os.path.join(folder, name) for folder, name in sorted(found)]


def first_image(path: str | os.PathLike[str]) -> str:
    """Return the first image of a folder of class folders. Raises: OSError, IndexError if there is none."""
    return images_below(os.path.join(path, class_folders(path)[0]))[0]


def _walk(top: str) -> Iterator[tuple[str, str]]:
    """Yield the folder and the name of each image."""
    todo: list[tuple[str, frozenset[FileId]]] = [(top, frozenset())]  # with the folders above each
    while todo:
        folder, above = todo.pop()
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    todo.append((entry.path, above | {here}))
                elif _is_image(entry.name):
                    yield folder, entry.name


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
