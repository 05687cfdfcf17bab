"""``xinfer keygen`` and ``trust``: signing keys, and whose engines may be loaded."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from xinfer import signing, trust
from xinfer.cli import output
from xinfer.cli.command import Command, UsageError, add_json, did_you_mean, names


def configure_keygen(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("private_key", type=Path, metavar="PRIVATE", help="must not exist; keep it secret")
    parser.add_argument("public_key", type=Path, metavar="PUBLIC", help="must not exist; give it to others")
    add_json(parser)


def run_keygen(arguments: argparse.Namespace) -> int:
    """Makes a key."""
    signing.generate_key(arguments.private_key, arguments.public_key)
    fingerprint = signing.key_fingerprint(arguments.public_key.read_bytes())
    if arguments.json:
        output.print_json(
            {
                "private_key": arguments.private_key,
                "public_key": arguments.public_key,
                "fingerprint": fingerprint,
            }
        )
    else:
        print(f"private key {arguments.private_key} (keep it secret), public key {arguments.public_key}")
        print(f"fingerprint {fingerprint}")
    return 0


def configure_trust(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="trust a publisher's key for some models", allow_abbrev=False)
    add.add_argument("name", metavar="NAME", help="what you call the publisher")
    add.add_argument("key", type=Path, metavar="PEM", help="their public key")
    add.add_argument(
        "--models",
        type=names,
        default=("*",),
        metavar="LIST",
        help="shell patterns: acme-*,gravel; default: *",
    )
    add.add_argument("--until", type=_date, metavar="DATE", help="trusted until this day: 2027-01-31")
    remove = actions.add_parser("remove", help="trust a publisher no longer", allow_abbrev=False)
    remove.add_argument("name", metavar="NAME")
    show = actions.add_parser("list", help="whom you trust", allow_abbrev=False)
    revoke = actions.add_parser("revoke", help="let a key count for nothing, for good", allow_abbrev=False)
    revoke.add_argument("key", metavar="FINGERPRINT|PEM", help="sha256:..., or the public key's file")
    for action in (add, remove, show, revoke):
        action.add_argument("--policy", type=Path, metavar="FILE", help="trust policy; default: yours")
        add_json(action)


def run_trust(arguments: argparse.Namespace) -> int:
    """Changes or shows the trust policy."""
    action = {"add": _add, "remove": _remove, "list": _list, "revoke": _revoke}[arguments.action]
    return action(arguments)


def _add(arguments: argparse.Namespace) -> int:
    publisher = trust.add_publisher(
        arguments.name,
        arguments.key,
        models=arguments.models,
        not_after=arguments.until,
        path=arguments.policy,
    )
    return _show((publisher,), (), arguments)


def _remove(arguments: argparse.Namespace) -> int:
    known = [publisher.name for publisher in trust.list_publishers(path=_existing(arguments))]
    if not trust.remove_publisher(arguments.name, path=arguments.policy):
        hint = did_you_mean(arguments.name, known) or "xinfer trust list"
        raise UsageError(f"no publisher is called {arguments.name!r}", value=arguments.name, hint=hint)
    if arguments.json:
        output.print_json({"removed": arguments.name})
    else:
        print(f"{arguments.name} is no longer trusted")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    policy = trust.TrustPolicy.load(_existing(arguments))
    return _show(policy.publishers, policy.revoked, arguments)


def _revoke(arguments: argparse.Namespace) -> int:
    path = Path(arguments.key)
    fingerprint = signing.key_fingerprint(path.read_bytes()) if path.is_file() else arguments.key
    policy = trust.revoke_key(fingerprint, path=arguments.policy)
    if arguments.json:
        output.print_json({"revoked": policy.revoked})
    else:
        print(f"{fingerprint.lower()} is revoked")
    return 0


def _existing(arguments: argparse.Namespace) -> Path | None:
    """A policy that was named must exist; the user's own may not."""
    path: Path | None = arguments.policy
    if path is not None and not path.is_file():
        raise UsageError(f"there is no trust policy {path}", value=str(path))
    return path


def _show(
    publishers: tuple[trust.Publisher, ...], revoked: tuple[str, ...], arguments: argparse.Namespace
) -> int:
    rows = [
        {
            "name": publisher.name,
            "models": publisher.models,
            "keys": [key.fingerprint for key in publisher.keys],
            "not_before": publisher.not_before and publisher.not_before.isoformat(),
            "not_after": publisher.not_after and publisher.not_after.isoformat(),
        }
        for publisher in publishers
    ]
    if arguments.json:
        output.print_json({"publishers": rows, "revoked": revoked})
        return 0
    if not publishers:
        print("nobody is trusted")
    for publisher in publishers:
        until = f", until {publisher.not_after:%Y-%m-%d}" if publisher.not_after else ""
        print(f"{publisher.name}: {', '.join(publisher.models)}{until}")
        for key in publisher.keys:
            print(f"  {key.fingerprint}")
    for fingerprint in revoked:
        print(f"revoked {fingerprint}")
    return 0


def _date(text: str) -> datetime:
    """The end of a day."""
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date; write 2027-01-31") from None
    return day.replace(hour=23, minute=59, second=59)


COMMANDS = (
    Command(name="keygen", help="make a signing key", configure=configure_keygen, run=run_keygen),
    Command(
        name="trust",
        help="say whose engines may be loaded",
        configure=configure_trust,
        run=run_trust,
    ),
)
