"""Where images come from that the user names: a file, a folder, or a data set of torchvision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError

TORCHVISION = "torchvision:"


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet:
    """One part of a data set of torchvision that lies on disk; nothing is downloaded.

    Attributes:
        name: of its class, such as `CIFAR10`.
        folder: with its files, as torchvision unpacks them.
        training: whether its training part is meant; where it has none, all of it is.
    """

    name: str
    folder: Path
    training: bool

    def __str__(self) -> str:
        """As the command line names it, which does not say the part."""
        return f"{TORCHVISION}{self.name}:{self.folder}"

    def exists(self) -> bool:
        """Whether there is such a folder."""
        return self.folder.is_dir()

    def resolve(self) -> TorchvisionSet:
        """The same by the absolute path of its folder."""
        return replace(self, folder=self.folder.resolve())


ImageSource = Path | TorchvisionSet


def parse_source(text: str, *, training: bool) -> ImageSource:
    """What names images: the path of a folder or `.npz`, or `torchvision:NAME:FOLDER`.

    Args:
        text: as the user wrote it.
        training: which part of a torchvision data set.

    Raises:
        InputError: it names no folder of the data set.
    """
    if not text.startswith(TORCHVISION):
        return Path(text)
    name, _, folder = text.removeprefix(TORCHVISION).partition(":")
    if not name or not folder:
        raise InputError(
            f"{text}: expected torchvision:NAME:FOLDER, such as torchvision:CIFAR10:/data, with "
            "the files of the data set in FOLDER; nothing is downloaded"
        )
    return TorchvisionSet(name=name, folder=Path(folder), training=training)


def default_test(data: ImageSource | None, test: ImageSource | None) -> ImageSource | None:
    """What is tested on: what was named, or else the test part of the data; None: it has none."""
    if test is None and isinstance(data, TorchvisionSet):
        from .torchvision_sets import has_parts

        return replace(data, training=False) if has_parts(data) else None
    return test


def content_hash(source: ImageSource | None, *, most_bytes: int | None = None) -> str:
    """SHA-256 of a file, of the names and files of a folder, or of a data set; empty for None.

    Of a folder, its files and those of the folders in it are hashed: images lie nowhere else.

    Args:
        source: of images.
        most_bytes: that its files may have together; None: any number.

    Raises:
        InputError: the data set cannot be read, or the files have more bytes.
        OSError: a folder cannot be read.
    """
    from .files import sha256_of
    from .torchvision_sets import hash_of_set

    if source is None:
        return ""
    if isinstance(source, TorchvisionSet):
        return hash_of_set(source)
    files = [source] if source.is_file() else sorted(_files_in(source))
    if most_bytes is not None:
        size = sum(one.stat().st_size for one in files)
        if size > most_bytes:
            raise InputError(f"{source}: expected at most {most_bytes:,} bytes, got {size:,}")
    if files == [source]:
        return sha256_of(source)
    lines = [f"{one.relative_to(source)} {sha256_of(one)}" for one in files]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()


def _files_in(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_file():
            yield entry
        elif entry.is_dir() and not entry.is_symlink():
            yield from (one for one in entry.iterdir() if one.is_file())


def require_source(source: ImageSource, option: str) -> None:
    """Make sure that images are there.

    Args:
        source: of the images.
        option: by which they were named.

    Raises:
        InputError: they are not.
    """
    if source.exists():
        return
    if isinstance(source, TorchvisionSet):
        raise InputError(
            f"{source}: {source.folder} is not there: expected torchvision:{source.name}:FOLDER "
            f"with the files of {source.name} in FOLDER; nothing is downloaded ({option})"
        )
    raise InputError(f"{source} does not exist; name an existing file or folder ({option})")
