"""``module:function``: the only way in which an experiment names code."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from pdo_search.base.errors import InputError
from pdo_search.base.user_code import is_foreign, surroundings_kept, told, user_code

__all__ = ["call_factory", "is_factory", "load_factory", "load_local_factory", "source_digest"]

log = logging.getLogger(__name__)

NEEDED = frozenset(
    {
        *("numpy", "optuna", "pandas", "PIL", "pyarrow", "pydantic", "ray", "rich", "safetensors"),
        *("scipy", "sklearn", "torch", "torchvision", "typer", "yaml"),
    }
)
"""Packages that are imported here, some of them late: a file of such a name would be taken."""


def is_factory(name: str) -> bool:
    """Whether a name is written ``module:function``."""
    return ":" in name


def load_factory(name: str, path: str, base_dir: Path | None) -> Callable[..., Any]:
    """Import a function that the user named.

    Args:
        name: ``package.module:function``.
        path: where the name stands in the experiment, for messages.
        base_dir: the experiment's folder, searched first.

    Raises:
        InputError: the module or the function does not exist, or the import raises.
    """
    folder = Path.cwd() if base_dir is None else base_dir
    module_name, _, function_name = name.rpartition(":")
    refused = functools.partial(InputError, path=path, value=name)
    _refuse_file_names(module_name, function_name, folder, refused)
    if not module_name or not function_name.isidentifier():
        shown = f"{module_name or 'module'}:{function_name.partition('(')[0] or 'function'}"
        raise refused("does not name a function", remedy=f"write {shown}")
    if base_dir is not None:
        _search_first(base_dir)
        _refuse_other_modules(module_name, function_name, folder, refused)
    log.info("running code named by the experiment: %s", name)
    module = _imported(module_name, folder, refused)
    function = getattr(module, function_name, None)
    if not callable(function) or isinstance(function, nn.Module):
        raise _no_function(module, function_name, refused)
    return _callable(function, module, refused)


Refused = Callable[..., InputError]
"""An ``InputError`` that knows the name and where it stands."""


def _file_of(module: str, folder: Path) -> Path | None:
    """The file of a folder that a module's name means, if it has one."""
    place = folder.joinpath(*module.split("."))
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file for file in files if file.is_file()), None)


def _refuse_file_names(module: str, function: str, folder: Path, refused: Refused) -> None:
    """Refuse the path of a file where a module is wanted, and say what to write.

    Raises:
        InputError: it is one.
    """
    is_path = module.startswith(".") or any(c in module for c in "/\\:~")
    if not is_path and (not module.endswith(".py") or _file_of(module, folder) is not None):
        return
    given = folder / Path(module).expanduser()
    files = [f for f in (given, given.with_name(f"{given.name}.py")) if f.suffix == ".py"]
    file = next((f.resolve() for f in files if f.is_file()), None)
    if file is None:
        raise refused(
            f"names a file, not a module, and there is no {files[-1]}",
            remedy="write folders with dots and without .py, such as src.mine:load",
        )
    if file.is_relative_to(folder.resolve()):
        parts = file.relative_to(folder.resolve()).with_suffix("").parts
        move = ""
    else:
        parts, move = (file.stem,), f"copy {file} beside the experiment file, and "
    if "." in "".join(parts):
        parts = tuple(part.replace(".", "_") for part in parts)
        move = f"rename the file to {'/'.join(parts)}.py, since dots mean folders, and "
    if parts[0] in sys.stdlib_module_names | NEEDED:
        move = f"rename it to my_{parts[0]}, since there is another {parts[0]}, and "
        parts = (f"my_{parts[0]}", *parts[1:])
    raise refused("names a file, not a module", remedy=f"{move}write {'.'.join(parts)}:{function}")


def _search_first(folder: Path) -> None:
    """Let modules of a folder be found before all others, whatever came before it meanwhile."""
    if sys.path[0] != str(folder):
        sys.path[:] = [str(folder), *(p for p in sys.path if p != str(folder))]
    importlib.invalidate_caches()


def _refuse_other_modules(module: str, function: str, folder: Path, refused: Refused) -> None:
    """See that the folder's module is imported, and not another one of the same name.

    A module of the same name that another experiment's folder gave is forgotten.

    Raises:
        InputError: an installed one would be.
    """
    top = module.partition(".")[0]
    inside = _file_of(module, folder)
    file = _file_of(top, folder) or (None if inside is None else folder / top)
    if file is None:
        return
    if file.name == "__init__.py":
        file = file.parent
    loaded = sys.modules.get(top)
    elsewhere = None if loaded is None else _other_place(loaded, file)
    if loaded is not None and elsewhere is None:
        return
    if top in sys.stdlib_module_names:
        owner = "Python's own module"
    elif top in NEEDED:
        owner = "a package that this program needs"
    elif elsewhere is not None and is_foreign(elsewhere):
        owner = f"a package that is in use already, {elsewhere}"
    else:
        if elsewhere is not None:
            for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
                del sys.modules[name]
        return
    rest = module.removeprefix(top)
    raise refused(
        f"{top} is {owner}, and would be taken instead of {file}",
        remedy=f"rename {file.name} to my_{file.name} and write my_{top}{rest}:{function}",
    )


def _other_place(module: ModuleType, file: Path) -> str | None:
    """Where a loaded module lies, if it is neither a file nor in its folder; else None."""
    origin = getattr(module, "__file__", None)
    places = [origin] if origin else list(getattr(module, "__path__", ["built in"]))
    mine = file.resolve()
    if any(Path(p).resolve() == mine or Path(p).resolve().is_relative_to(mine) for p in places):
        return None
    return str(places[0]) if places else None


def _imported(module: str, folder: Path, refused: Refused) -> ModuleType:
    """Import a module in the surroundings of a script.

    Raises:
        InputError: it does not exist, or something that it does at once fails.
    """
    try:
        # What a module draws when it is first imported would change what is drawn after it.
        with torch.random.fork_rng(devices=[]), surroundings_kept(module):
            return importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if f"{module}.".startswith(f"{missing}.") and missing:
            raise _no_module(module, folder, refused, error) from error
        beside = folder.joinpath(*module.split(".")).parent / f"{missing}.py"
        raise refused(
            f"module {module!r} cannot be imported: {told(error)}",
            remedy=f"import it as .{missing}, since {beside} lies beside it"
            if "." in module and beside.is_file()
            else f"install it, such as by `pip install {missing.partition('.')[0]}`, or put"
            f" {missing.replace('.', '/')}.py beside the experiment file",
        ) from error
    except SystemExit as stop:
        raise refused(
            f"module {module!r} ended the program when it was imported: {told(stop)}",
            remedy='put what a script does below `if __name__ == "__main__":`',
        ) from stop
    except BaseException as error:
        raise refused(
            f"module {module!r} cannot be imported: {told(error)}",
            remedy=f"see that `python -c 'import {module}'` works in {folder}",
        ) from error


def _no_module(
    module: str, folder: Path, refused: Refused, error: ModuleNotFoundError
) -> InputError:
    file = _file_of(module, folder)
    if file is not None:
        top = module.partition(".")[0]
        other = getattr(sys.modules.get(top), "__file__", None)
        return refused(
            f"module {module!r} cannot be imported from {file}: {top} is {other}",
            remedy=f"rename the folder, or put an empty __init__.py into {folder / top}",
        )
    known = [f.stem for f in folder.glob("*.py")]
    near = difflib.get_close_matches(module, known, n=1)
    near = near or [k for k in known if k.lower() == module.lower()]
    return refused(
        f"module {module!r} cannot be imported: {told(error)}",
        remedy=f"did you mean {near[0]}?"
        if near
        else f"put {module.replace('.', '/')}.py beside the experiment file, or install it",
    )


def _no_function(module: ModuleType, function: str, refused: Refused) -> InputError:
    found = getattr(module, function, None)
    if isinstance(found, nn.Module):
        return refused(
            f"{function!r} is a model that is built already",
            remedy=f"write a function that returns it: def build(): return {function}",
        )
    if found is not None:
        return refused(
            f"{function!r} is no function but a value, {_kind(found)}",
            remedy=f"write a function that returns it: def load(): return {function}",
        )
    own = [
        n
        for n, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    near = difflib.get_close_matches(function, own, n=1) or own[:6]
    return refused(
        f"module {module.__name__!r} has no function {function!r}",
        remedy=f"did you mean {', '.join(near)}?" if near else "write module:function",
    )


def _callable(
    function: Callable[..., Any], module: ModuleType, refused: Refused
) -> Callable[..., Any]:
    """A function whose arguments are known and whose result is there when it returns.

    Raises:
        InputError: it has none such.
    """
    plain = inspect.unwrap(function)
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise refused("the function is asynchronous", remedy="write `def`, not `async def`")
    if inspect.isgeneratorfunction(plain):
        raise refused("the function is a generator", remedy="use `return` in it, not `yield`")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise refused(
            f"its arguments are not known: {error}", remedy="write a function around it"
        ) from None
    if inspect.isroutine(function) or inspect.isclass(function):
        return function

    # A partial, or an object that can be called: of the module that has it, whose text its
    # artifacts depend on, not of the one that has its class.
    def call(**arguments: Any) -> Any:
        return function(**arguments)

    call.__module__ = module.__name__
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def call_factory(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    name: str,
    path: str,
    offered: Iterable[str] = (),
) -> Any:
    """Call a user's function by keyword arguments; what it returns.

    Args:
        function: as ``load_factory`` gave it.
        arguments: what it gets.
        name: ``module:function``.
        path: where the name stands in the experiment, for messages.
        offered: arguments that it would get if it took them.

    Raises:
        InputError: it does not take the arguments, or it raises.
    """
    where = f"{path.rpartition('.')[0]}.args"
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes = [p.name for p in named]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for argument in arguments:
            if argument not in takes:
                near = difflib.get_close_matches(argument, takes, n=1) or takes
                raise InputError(
                    f"{name} takes no argument {argument!r}",
                    path=where,
                    value=dict(arguments),
                    remedy=f"did you mean {', '.join(near)}?" if near else "it takes none",
                )
    missing = [p.name for p in named if p.default is p.empty and p.name not in arguments]
    if missing:
        also = f", or name it as one that it is offered: {', '.join(offered)}" if offered else ""
        raise InputError(
            f"{name} needs the argument {missing[0]!r}",
            path=where,
            value=dict(arguments),
            remedy=f"give it: {where.rpartition('.')[2]}: {{{missing[0]}: …}}{also}",
        )
    with user_code(name, path):
        return function(**arguments)


def _kind(value: object) -> str:
    """A value's class, for messages."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def load_local_factory(name: str, path: str, folder: Path | None) -> Callable[..., Any]:
    """Import a function that a file names which somebody else may have made.

    ``os:system`` is a ``module:function`` too: so only a module that lies in the folder which the
    caller gave is imported, and only a function that was defined there is returned.

    Args:
        name: ``package.module:function``.
        path: where the name stands in the file, for messages.
        folder: whose modules may be run; None for no folder's.

    Raises:
        InputError: the module does not lie there, or see ``load_factory``.
    """
    refused = InputError(
        "was made by a function, and code that a file names runs only from a folder that you give",
        path=path,
        value=name,
        remedy="if you trust it: load_model(…, base_dir=FOLDER), the folder that holds the module",
    )
    if folder is None:
        raise refused
    module = name.rpartition(":")[0]
    top, there = module.partition(".")[0], _file_of(module, folder)
    if there is None or top in sys.stdlib_module_names:
        raise refused
    function = load_factory(name, path, folder)
    homes = [sys.modules.get(str(n)) for n in (module, getattr(function, "__module__", None))]
    if not all(_lies_in(home, folder, top) for home in homes):
        raise refused
    return function


def _lies_in(module: ModuleType | None, folder: Path, top: str) -> bool:
    """Whether a loaded module is of a folder's ``top``, and no other place's."""
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__.partition(".")[0] != top:
        return False
    return Path(file).resolve().is_relative_to(folder.resolve())


def source_digest(function: Callable[..., Any]) -> str:
    """The source text of a factory's module: an edit makes other artifacts."""
    module = inspect.getmodule(function)
    try:
        return inspect.getsource(module) if module is not None else inspect.getsource(function)
    except (OSError, TypeError):
        return getattr(function, "__qualname__", repr(function))
