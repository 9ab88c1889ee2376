"""What a file is that was given for one of weights, told from its first bytes, before a library stumbles over it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from nst.errors import NstError

BEGINNINGS = {
    b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"GIF8": "a GIF picture",
    b"\x89HDF": "an HDF5 file, as Keras writes it", b"%PDF": "a PDF file", b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip archive", b"version https://git-lfs": "a pointer of Git LFS: git lfs pull brings the file",
    b"<": "a web page", b"{": "a JSON file",
}  # fmt: skip
VALID = "a .safetensors file, or a .pth file of tensors"


def require_weights(path: Path) -> None:
    """Raises NstError where a file is known to be something else than weights; what it does not know passes."""
    if (kind := _other_kind(path)) is not None:
        raise NstError(
            f"{path} is no file of weights", got=kind, valid=VALID, next="name the file of weights, or the run itself"
        )


def unreadable(path: Path, reason: str, next: str = "copy or download it again") -> NstError:
    return NstError(
        f"{path} is not a whole network file",
        got=f"{path.stat().st_size} bytes; {reason}",
        valid=VALID.replace("a ", "a complete ", 1),
        next=next,
    )


def damaged(path: Path, error: Exception) -> NstError:
    """What a library could not read, by the system's reason where there is one; its own words help nobody."""
    return unreadable(path, getattr(error, "strerror", None) or "it is cut short or damaged")


def _other_kind(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(32)
        if start.startswith(b"PK"):
            return _kind_of_zip(path)
    except OSError:  # which whoever reads it says
        return None
    # an ONNX file begins with its version and the name of its maker, and a .safetensors file with the header's length
    if path.suffix.lower() == ".onnx" or (start[:1] == b"\x08" and start[2:3] == b"\x12" and start[8:9] != b"{"):
        return "an ONNX file"
    if start[8:9] == b"{":
        return None
    return next((kind for sign, kind in BEGINNINGS.items() if start.startswith(sign)), None)


def _kind_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:  # cut short
        return None
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program"
    return None if any(name.endswith("data.pkl") for name in names) else "a zip archive"
