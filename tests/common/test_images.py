import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from common.errors import DataError
from common.images import ImageStore
from common.types import ImageRef


def save(folder: Path, name: str, colour: int = 0, size: tuple[int, int] = (8, 6)) -> ImageRef:
    buffer = io.BytesIO()
    Image.new("RGB", size, (colour, 0, 0)).save(buffer, "PNG")
    (folder / name).write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return ImageRef(sha256=digest, path=name, width=size[0], height=size[1])


def test_opens_what_the_reference_names(tmp_path: Path) -> None:
    ref = save(tmp_path, "a.png", colour=7)
    picture = ImageStore(tmp_path).open(ref)
    assert picture.size == (8, 6) and picture.getpixel((0, 0)) == (7, 0, 0)


def test_other_content_is_refused(tmp_path: Path) -> None:
    ref = save(tmp_path, "a.png", colour=7)
    save(tmp_path, "a.png", colour=8)
    with pytest.raises(DataError, match="sha256"):
        ImageStore(tmp_path).open(ref)


def test_a_path_out_of_the_dataset_folder_is_refused(tmp_path: Path) -> None:
    ref = save(tmp_path, "a.png")
    (tmp_path / "inner").mkdir()
    escaping = ref.model_copy(update={"path": "../a.png"})
    with pytest.raises(DataError, match="outside"):
        ImageStore(tmp_path / "inner").read_bytes(escaping)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_broken_pictures_are_data_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match="decoded"):
        ImageStore(tmp_path).open(ImageRef(sha256=digest, path="a.png", width=1, height=1))


def test_missing_file_and_wrong_size_are_data_errors(tmp_path: Path) -> None:
    ref = save(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"is \(8, 6\), not \(9, 6\)"):
        ImageStore(tmp_path).open(ref.model_copy(update={"width": 9}))
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="Fix"):
        ImageStore(tmp_path).open(ref)


def test_the_cache_is_bounded_in_bytes(tmp_path: Path) -> None:
    refs = [save(tmp_path, f"{i}.png", colour=i) for i in range(5)]
    store = ImageStore(tmp_path, cache_bytes=2 * 8 * 6 * 3)
    for ref in refs:
        store.open(ref)
    for ref in refs:
        (tmp_path / ref.path).unlink()
    assert store.open(refs[4]).size == (8, 6)  # still cached
    with pytest.raises(DataError):
        store.open(refs[0])  # was dropped
