"""``millpond user``: who may log on.

Owns: asking for passwords. The database itself is authd's.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import time
from typing import TYPE_CHECKING

from authd.users import User, UserDatabase
from smbd.cli import place
from smbd.instance import StartError

if TYPE_CHECKING:
    from smbd.cli.command import Run

_USER = """\
Add, remove and list those who may log on. A user with the name of a Unix account acts as that account; any other gets a number of its own.
Changes count at the next logon; the server need not be told.

examples:
  millpond user add ann                               asks for the password twice
  printf %s "$PASSWORD" | millpond user password ann --password-stdin
  millpond user import /var/lib/samba/private/smbpasswd
  millpond user list --json
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """user add, remove, list, password, import."""
    user = commands.add_parser(
        "user", help="add, remove, list users; set passwords", description=_USER, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = user.add_subparsers(dest="verb", metavar="add|remove|list|password|import", required=True)
    for verb, about, action in (
        ("add", "let a new user in", _add),
        ("password", "set a user's password", _password),
        ("remove", "let a user in no longer", _remove),
    ):
        one = verbs.add_parser(verb, help=about)
        one.add_argument("name", metavar="NAME")
        if verb != "remove":
            one.add_argument("--password-stdin", action="store_true", help="read the password from standard input instead of asking")
        place.add_options(one)
        one.set_defaults(action=action)
    listing = verbs.add_parser("list", help="show the users")
    listing.add_argument("--json", action="store_true", help="for programs")
    place.add_options(listing)
    listing.set_defaults(action=_list)
    taking = verbs.add_parser("import", help="take over the users of an smbpasswd file")
    taking.add_argument("file", metavar="FILE", help="a file as 'pdbedit -e smbpasswd:FILE' writes it")
    place.add_options(taking)
    taking.set_defaults(action=_import)


def _database(arguments: argparse.Namespace) -> UserDatabase:
    return UserDatabase(place.locate(arguments).smb_passwd_file)


def _ask_password(arguments: argparse.Namespace) -> str:
    if arguments.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif not sys.stdin.isatty():
        raise StartError("there is no terminal to ask for the password on: pipe it in with --password-stdin")
    else:
        try:
            password = getpass.getpass(f"password for {arguments.name}: ")
            again = getpass.getpass("once more: ")
        except EOFError:
            raise StartError("no password given: nothing was changed") from None
        if password != again:
            raise StartError("the two passwords differ: nothing was changed")
    if not password:
        raise StartError("an empty password lets nobody in: nothing was changed")
    return password


def _add(arguments: argparse.Namespace, _run: Run) -> int:
    database = _database(arguments)
    user = database.add(arguments.name, _ask_password(arguments))
    print(f"user {user.name} added (uid {user.uid})")
    return 0


def _password(arguments: argparse.Namespace, _run: Run) -> int:
    database = _database(arguments)
    user = database.set_password(arguments.name, _ask_password(arguments))
    print(f"password of {user.name} changed")
    return 0


def _remove(arguments: argparse.Namespace, _run: Run) -> int:
    user = _database(arguments).remove(arguments.name)
    print(f"user {user.name} removed")
    return 0


def _import(arguments: argparse.Namespace, _run: Run) -> int:
    found = _database(arguments).import_file(arguments.file)
    print(f"{len(found)} users taken over: {', '.join(user.name for user in found)}")
    return 0


def _list(arguments: argparse.Namespace, _run: Run) -> int:
    database = _database(arguments)
    found = database.users()
    if arguments.json:
        print(json.dumps([_as_json(user) for user in found], indent=2))
    elif not found:
        print(f"no users in {database.path}; 'millpond user add NAME' makes one")
    else:
        for user in found:
            state = "disabled" if user.disabled else "enabled" if user.nt_hash else "no password"
            print(f"{user.name:<24} uid {user.uid:<12} {state:<12} password of {_day(user.changed)}")
    return 0


def _as_json(user: User) -> dict[str, object]:
    return {
        "name": user.name,
        "uid": user.uid,
        "enabled": not user.disabled,
        "password": bool(user.nt_hash),
        "password_changed": user.changed,
    }


def _day(stamp: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(stamp)) if stamp else "an unknown day"
