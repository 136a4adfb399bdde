"""Which form of the sources is under test: what is compiled is compiled whole, and what is not is pure."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

from workers import identity

ROOT = Path(__file__).resolve().parents[1]
COMPILED = bool(os.environ.get("MILLPOND_COMPILED"))  # set by `make test-compiled`


def compiled_modules() -> list[str]:
    spec = importlib.util.spec_from_file_location("setup_of_millpond", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[str] = module.compiled_modules(ROOT)
    return found


def test_the_form_under_test_is_the_one_that_was_asked_for() -> None:
    names = compiled_modules()
    assert len(names) > 60
    for name in names:
        found = importlib.util.find_spec(name.removesuffix(".py").replace("/", "."))
        assert found is not None, name
        assert found.origin is not None, name
        assert Path(found.origin).is_relative_to(ROOT), found.origin
        assert found.origin.endswith(".so") == COMPILED, found.origin


def test_the_server_says_which_form_it_is() -> None:
    shown = subprocess.run([sys.executable, "-m", "smbd", "--version"], capture_output=True, text=True, timeout=30, cwd=ROOT, check=True)
    assert shown.stdout.strip().endswith("compiled" if COMPILED else "pure Python")


def test_what_must_stay_pure_is_left_out() -> None:
    names = compiled_modules()
    assert not any(name.startswith("pools/port") for name in names)
    assert "workers/main.py" not in names
    assert {"workers/engine.py", "smbd/smb2/connection.py", "pools/pool.py"} <= set(names)


def test_what_is_a_threads_own_is_not_compiled() -> None:
    """mypyc gives a class derived from threading.local one set of attributes for all threads, and says nothing."""
    compiled = set(compiled_modules())
    for package in ("pools", "smbd", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            names = {base.attr for base in bases(path) if isinstance(base, ast.Attribute)}
            names |= {base.id for base in bases(path) if isinstance(base, ast.Name)}
            assert "local" not in names or path.relative_to(ROOT).as_posix() not in compiled, path


def bases(path: Path) -> list[ast.expr]:
    """What the classes of a module derive from."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]


def test_an_identity_is_a_threads_own() -> None:
    """In the form under test: what one thread assumes, no other is taken to have."""
    ours = identity.current()
    somebody = identity.Identity(ours.uid + 1, ours.gid + 1)
    seen = []

    def other() -> None:
        identity._state.current = somebody
        seen.append(identity.current())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [somebody]
    assert identity.current() == ours
