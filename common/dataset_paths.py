"""Which paths a row of a dataset may name."""

from pathlib import Path, PurePosixPath


def leaves(path: str, folder: Path) -> bool:
    """Whether a path, as it is written, leads out of a folder. Links on the disk are not looked at.

    Who owns the folder decides where its links lead: the hub's cache consists of them.
    """
    if ".." in path and ".." in path.split("/"):
        return True
    if not path.startswith("/"):
        return False
    pure = PurePosixPath(path)
    return not any(pure.is_relative_to(inside) for inside in (folder.absolute(), folder.resolve()))
