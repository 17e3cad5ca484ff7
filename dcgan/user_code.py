"""Somebody's own code: run it under a private name, and make the `nn.Module` that it is asked for.

Whatever goes wrong in it is said in one line, with the place in their files.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import io
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcgan_infer.contract.errors import CheckpointError, first_line


def load_module(name: str) -> nn.Module:
    """Make somebody's module.

    Args:
        name: `PATH.py:NAME` or `package.module:NAME`: a class or function without arguments, or a module.
    Raises:
        CheckpointError: there is no such thing, or its code fails.
    """
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute:
        raise CheckpointError(f"--module {name}: write FILE.py:NAME or package.module:NAME")
    is_file = where.endswith(".py") or Path(where).is_file()
    path = Path(where)
    if is_file and not path.is_file():
        raise CheckpointError(f"--module {name}: there is no file {where}")
    with _as_script(path.resolve() if is_file else None):
        module = _guarded(
            name, lambda: _run_file(path.resolve()) if is_file else importlib.import_module(where), is_import=True
        )
        made: Any = module
        for part in attribute.split("."):
            if not hasattr(made, part):
                there = [
                    key
                    for key, value in vars(module).items()
                    if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
                ]
                raise CheckpointError(
                    f"--module {name}: {where} has no {attribute}; its modules are {', '.join(there) or 'none'}"
                )
            made = getattr(made, part)
        if not isinstance(made, nn.Module):
            if not callable(made):
                raise CheckpointError(f"--module {name}: {attribute} is {type(made).__name__}, no class or function")
            needed = _needed(made)
            if needed:
                raise CheckpointError(
                    f"--module {name}: {attribute} needs {', '.join(needed)}; write a function without arguments that "
                    f"makes it, as in def generator(): return {attribute}(...), and give its name"
                )
            factory = made
            made = _guarded(name, factory)
    if not isinstance(made, nn.Module):
        raise CheckpointError(f"--module {name}: it gives {type(made).__name__}, and an nn.Module was expected")
    made = getattr(made, "_orig_mod", made)  # torch.compile's
    made = made.module if isinstance(made, nn.DataParallel) else made
    assert isinstance(made, nn.Module)
    return made.cpu().float().eval()


def user_error(error: BaseException) -> str:
    """An exception of somebody's code as one line: what, and where in their files."""
    message = first_line(error, 160)
    kind = type(error).__name__
    text = kind if message == kind else f"{kind}: {message}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{kind}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = (
        str(Path(torch.__file__).parent),
        str(Path(__file__).parent),
        "<frozen",
        str(Path(importlib.__file__).parent),
    )
    theirs = [frame for frame in frames if not frame.filename.startswith(own)]
    return f"{text} ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else text


def _run_file(path: Path) -> Any:
    # A name of its own: a file may be called dcgan.py, or like any module that is imported already.
    private = f"_dcgan_module_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    found = importlib.util.spec_from_loader(private, importlib.machinery.SourceFileLoader(private, str(path)))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[private] = module  # dataclasses and pickle look there
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[private]
        raise
    return module


@contextlib.contextmanager
def _as_script(path: Path | None) -> Iterator[None]:
    """As if Python ran the file: its folder comes first on the path, and there are no arguments but its name.

    Args:
        path: of the file; None for an importable module, found from the current folder too.
    """
    paths, arguments = list(sys.path), sys.argv
    sys.path.insert(0, str(path.parent if path else Path.cwd()))
    sys.argv = [str(path)] if path else arguments[:1]
    try:
        yield
    finally:
        sys.path[:], sys.argv = paths, arguments


def _guarded(name: str, call: Callable[[], Any], is_import: bool = False) -> Any:
    """What somebody's code returns; what it prints goes to stderr, and not at all if it ends the program.

    Raises:
        CheckpointError: it fails or ends the program.
    """
    said = io.StringIO()
    doing = "imported" if is_import else "made"
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            result = call()
    except SystemExit as error:
        if isinstance(error.code, str):  # Python would print it, and exit with 1
            said.write(f"\n{error.code}")
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        last = f" ({lines[-1].strip()[:160]})" if lines else ""
        raise CheckpointError(
            f"--module {name}: it ends the program when it is {doing}{last}, as scripts do that parse arguments and "
            "train; put the class into a file of its own"
        ) from None
    except Exception as error:
        hint = "; if it trains when it is imported, put the class into a file of its own" if is_import else ""
        if "relative import" in str(error):
            hint = "; a module of a package is given as package.module:NAME"
        raise CheckpointError(f"--module {name} fails when it is {doing}: {user_error(error)}{hint}") from error
    sys.stderr.write(said.getvalue())
    return result


def _needed(factory: Callable[..., Any]) -> list[str]:
    """Arguments that it can't be called without."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    empty = inspect.Parameter.empty
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is empty and each.kind not in optional]
