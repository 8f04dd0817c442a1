"""Archives of pictures, whole and in parts."""

import io
import tarfile
from pathlib import Path


def tar_gz(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member, io.BytesIO(b"x" * member.size))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return content.getvalue()


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def split(content: bytes, folder: Path, stem: str, parts: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    size = len(content) // parts + 1
    paths = [folder / f"{stem}.part-a{chr(97 + n)}" for n in range(parts)]
    for number, path in enumerate(paths):
        path.write_bytes(content[number * size : (number + 1) * size])
    return paths
