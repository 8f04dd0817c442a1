import hashlib
import io
import os
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

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


@pytest.mark.parametrize("path", ["../a.png", "inner/../../a.png", "/a.png", "a\0.png", "a" * 5000])
def test_a_path_that_leads_elsewhere_is_a_data_error(tmp_path: Path, path: str) -> None:
    ref = save(tmp_path, "a.png")
    (tmp_path / "inner").mkdir()
    with pytest.raises(DataError, match="image "):
        ImageStore(tmp_path / "inner").read_bytes(ref.model_copy(update={"path": path}))


def test_links_in_the_folder_are_followed(tmp_path: Path) -> None:
    """The hub's cache has them: snapshots/COMMIT/a.png -> ../../blobs/DIGEST."""
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    ref = save(tmp_path / "blobs", "a.png", colour=7)
    (tmp_path / "blobs" / "a.png").rename(tmp_path / "blobs" / ref.sha256)
    (snapshot / "a.png").symlink_to(f"../../blobs/{ref.sha256}")
    assert ImageStore(snapshot).open(ref).getpixel((0, 0)) == (7, 0, 0)
    absolute = ref.model_copy(update={"path": str(snapshot / "a.png")})
    assert ImageStore(snapshot).open(absolute).size == (8, 6)
    (tmp_path / "link").symlink_to(snapshot)
    assert ImageStore(tmp_path / "link").open(absolute).size == (8, 6)


def test_nothing_but_a_file_is_opened(tmp_path: Path) -> None:
    ref = save(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "none"):
        with pytest.raises(DataError, match=r"there is no such file\. Fix: restore it"):
            ImageStore(tmp_path).read_bytes(ref.model_copy(update={"path": name}))


def test_a_picture_of_another_size_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = save(tmp_path, "a.png", size=(80, 60))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda file: 1 / 0)
    with pytest.raises(DataError, match=r"the picture is \(80, 60\), not \(8, 6\)\. Fix: give"):
        ImageStore(tmp_path).open(ref.model_copy(update={"width": 8, "height": 6}))


@pytest.mark.parametrize("kind", ["PPM", "EPS", "ICO", "TGA", "PCX"])
def test_only_the_formats_in_use_are_tried(tmp_path: Path, kind: str) -> None:
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, kind)
    (tmp_path / "a").write_bytes(content.getvalue())
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    with pytest.raises(DataError, match=r"it is no PNG, JPEG, .* file\. Fix: save it as"):
        ImageStore(tmp_path).open(ImageRef(sha256=digest, path="a", width=16, height=16))


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
