"""Views by name. Rollout, student, teacher, planner and evaluation all ask here."""

import functools
import importlib
import pkgutil

from common.errors import ConfigError
from common.views import kinds
from common.views.view import Role, View


@functools.cache
def views() -> dict[str, View]:
    """All views by name, each from its module of `common.views.kinds`."""
    names = sorted(module.name for module in pkgutil.iter_modules(kinds.__path__))
    return {name: importlib.import_module(f"{kinds.__name__}.{name}").VIEW for name in names}


def names_for(role: Role) -> list[str]:
    return [name for name, view in views().items() if role in view.roles]


def view_named(name: str, role: Role | None = None) -> View:
    """Find a view by its name.

    Args:
        role: for which it must be meant; None means any.

    Raises:
        ConfigError: there is none.
    """
    view = views().get(name)
    if view is None or (role is not None and role not in view.roles):
        names = list(views()) if role is None else names_for(role)
        raise ConfigError(f"there is no view {name!r}. Fix: choose one of {', '.join(names)}")
    return view
