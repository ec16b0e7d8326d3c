"""An extension of griffe: references of Sphinx in docstrings become links between the API pages."""

import re

import griffe

_ROLE = re.compile(r":(?:mod|class|func|meth|attr|data|exc):`(~?)([^`]+?)(?:\(\))?`")
_CODE = re.compile(r"(``.+?``|(?<!:)`[^`]+`)", re.S)


class Roles(griffe.Extension):
    """The rewriter of docstrings: a role with the name of a public object becomes a link to that object."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        """Rewrites the docstrings of a package once all of its modules are read."""
        _rewrite(pkg)


def _rewrite(scope: griffe.Object) -> None:
    if scope.docstring:
        scope.docstring.value = "".join(
            part if part.startswith("`") else _rewritten(scope, part)
            for part in _CODE.split(scope.docstring.value)
        )
    for member in scope.members.values():
        if not member.is_alias and isinstance(member, griffe.Object):
            _rewrite(member)


def _rewritten(scope: griffe.Object, text: str) -> str:
    # the shape [layers][heads] is no link
    return _ROLE.sub(lambda match: _link(scope, match), text.replace("][", "]\\["))


def _link(scope: griffe.Object, match: re.Match[str]) -> str:
    short, name = match.groups()
    path = _resolve(scope, name)
    shown = name.rsplit(".", 1)[-1] if short else name
    if any(part.startswith("_") and not part.endswith("__") for part in path.split(".")):
        return f"`{shown}`"  # private: on no page
    return f"[`{shown}`][{path}]"


def _resolve(scope: griffe.Object, name: str) -> str:
    # the order is Python's own: the class, the module, then an absolute name
    module = scope if isinstance(scope, griffe.Module) else scope.module
    if name.startswith("."):
        package = module if module.is_init_module else module.parent
        level = len(name) - len(name.lstrip("."))
        for _ in range(level - 1):
            package = package.parent if package is not None else None
        if package is None:
            return name
        return f"{package.path}.{name[level:]}"
    holder = scope if isinstance(scope, griffe.Class) else scope.parent
    first, _, rest = name.partition(".")
    for place in (holder, module):
        if isinstance(place, griffe.Object) and first in place.members:
            found = place.members[first]
            path = found.target_path if isinstance(found, griffe.Alias) else found.path
            return f"{path}.{rest}" if rest else path
    return name
