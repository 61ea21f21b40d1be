"""Makes what a Debian package has beside the program, from the program itself, so that it is true:

generate.py manual             mnagent(8), from the command line's parser
generate.py configuration      mnagent.toml(5), from the reference of the configuration
generate.py completion         completion for bash, from the parser
generate.py copyright FOLDER   copyright file, with the licences of the packages in a folder

Each prints to standard output; the package's rules say where it goes.
"""

from __future__ import annotations

import argparse
import email.parser
import re
import sys
from pathlib import Path

from mnagent import __version__
from mnagent.cli.main import build_parser

REFERENCE = Path("mnagent/config/reference.toml")
FILES = {
    "/etc/mnagent/ROLE.toml": (
        "Configuration of the service mnagent-ROLE, see mnagent.toml(5): mobile-node, home-agent "
        "or correspondent. A service does not start without its file; examples are in "
        "/usr/share/doc/mnagent/examples."
    ),
    "/etc/mnagent/keys": "Key files, readable by root alone.",
    "/var/lib/mnagent": "What must survive a restart: bindings, sequence numbers.",
    "/run/mnagent/control.sock": "Where a running agent is asked for its status.",
}
STATUS = {
    "0": "It was done.",
    "1": "It could not be done, or a check found an error.",
    "2": "The command line, a configuration or a key file is wrong; one line says what.",
    "3": "Another agent runs already (run).",
    "4": "The agent crashed (run).",
    "130": "It was interrupted.",
}
_SAFE = {"\\": "\\e", "-": "\\-"}


def commands(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Help and parser of each subcommand, those of subcommands of theirs by their full names."""
    found: dict[str, tuple[str, argparse.ArgumentParser]] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, sub in action.choices.items():
                inner = commands(sub)
                if inner:
                    found |= {f"{name} {own}": value for own, value in inner.items()}
                else:
                    found[name] = (helps.get(name, ""), sub)
    # The package comes without the rig.
    return {name: each for name, each in found.items() if name.split()[0] not in ("demo", "rig")}


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a subcommand takes, its help aside."""
    return [action for action in parser._actions if action.dest not in ("help", "version")]


def _roff(text: str) -> str:
    escaped = "".join(_SAFE.get(character, character) for character in text)
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def _head(name: str, section: int, purpose: str) -> str:

    return (
        f'.TH {name.upper()} {section} "" "mnagent {__version__}"\n'
        f".SH NAME\n{_roff(name)} \\- {_roff(purpose)}\n"
    )


def _usage(action: argparse.Action) -> str:
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if not action.option_strings:
        return f"\\fI{_roff(str(value))}\\fR"
    names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in action.option_strings)
    return names if action.nargs == 0 else f"{names} \\fI{_roff(str(value))}\\fR"


def manual() -> str:
    """mnagent(8)."""
    parser = build_parser()
    lines = [_head("mnagent", 8, "Mobile IPv6 agent: one address for a device that moves")]
    lines.append(".SH SYNOPSIS\n.B mnagent\n.I COMMAND\n.RI [ OPTION ...]\n")
    lines.append(
        ".SH DESCRIPTION\nKeeps a device reachable at one IPv6 address, its home address, while it "
        "roams between networks (RFC 6275). It runs as mobile node, home agent or correspondent, "
        "as its configuration says.\n.SH COMMANDS\n"
    )
    for name, (purpose, sub) in commands(parser).items():
        lines.append(f".SS {_roff(name)}\n{_roff(purpose[:1].upper() + purpose[1:])}.\n")
        for action in options(sub):
            text = (action.help or "").replace("%(default)s", str(action.default))
            lines.append(f".TP\n{_usage(action)}\n{_roff(text)}\n")
    lines.append(".SH FILES\n")
    lines += [f".TP\n.I {_roff(path)}\n{_roff(text)}\n" for path, text in FILES.items()]
    lines.append(".SH EXIT STATUS\n")
    lines += [f".TP\n.B {value}\n{_roff(text)}\n" for value, text in STATUS.items()]
    lines.append(".SH SEE ALSO\n.BR mnagent.toml (5),\n.BR systemctl (1)\n")
    return "".join(lines)


def configuration() -> str:
    """mnagent.toml(5): the reference as it is, for there is no second truth."""
    reference = REFERENCE.read_text(encoding="utf-8")
    return (
        _head("mnagent.toml", 5, "configuration of mnagent")
        + ".SH DESCRIPTION\nThe agent reads one file in TOML when it starts. These are all keys, "
        "with units and defaults. The same text is in /usr/share/doc/mnagent/reference.toml.\n"
        f".PP\n.nf\n{_roff(reference)}.fi\n.SH SEE ALSO\n.BR mnagent (8)\n"
    )


def completion() -> str:
    """Completion of commands, their options, and files where files are meant."""
    parser = build_parser()
    words: dict[str, list[str]] = {}
    for name, (_, sub) in commands(parser).items():
        first, _, second = name.partition(" ")
        if second:
            words.setdefault(first, []).append(second)
        taken = [name for action in options(sub) for name in action.option_strings]
        words.setdefault(first, []).extend(name for name in taken if name not in words[first])
    cases = "".join(
        f'        {name}) words="{" ".join([*own, "--help"])}" ;;\n' for name, own in words.items()
    )
    values = "".join(
        f'        {"|".join(names)}) words="{" ".join(choices)}" ;;\n'
        for names, choices in _values(parser).items()
    )
    return f"""\
# bash completion for mnagent; made from its command line.
_mnagent() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{" ".join([*words, "--help", "--version"])}"
    else
        case ${{COMP_WORDS[1]}} in
{cases}        esac
    fi
    case $before in
{values}    esac
    if [ -n "$words" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    fi
}}
complete -o bashdefault -o default -F _mnagent mnagent
"""


def _values(parser: argparse.ArgumentParser) -> dict[tuple[str, ...], list[str]]:
    """Options that take a value, and what it can be; nothing where that is a file or free."""
    return {
        tuple(action.option_strings): list(map(str, action.choices or ()))
        for _, sub in commands(parser).values()
        for action in options(sub)
        if action.option_strings and action.nargs != 0
    }


def copyright_file(folder: Path) -> str:
    """The copyright file, machine-readable, of mnagent and of what it carries along."""
    parts = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        "Upstream-Name: mnagent\n"
        "Comment: Python packages that Debian lacks, or has too old, are in /usr/lib/mnagent.\n",
        "Files: *\nCopyright: the mnagent developers\nLicense: Apache-2.0\n"
        " On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n",
    ]
    for metadata in sorted(folder.glob("*.dist-info/METADATA")):
        if not metadata.parent.name.startswith("mnagent-"):
            parts.append(_stanza(folder, metadata))
    return "\n".join(parts)


def _stanza(folder: Path, metadata: Path) -> str:
    about = email.parser.Parser().parsestr(metadata.read_text(encoding="utf-8"), headersonly=True)
    name, version = about["Name"], about["Version"]
    kind = about["License-Expression"] or about["License"] or "see the text"
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(metadata.parent.rglob("*"))
        if re.match(r"(LICEN[CS]E|COPYING|NOTICE)", path.name)
    ]
    if not texts:
        raise SystemExit(f"{name} {version} comes without the text of its licence ({kind})")
    whole = "\n".join(texts)
    holders = re.findall(r"^\s*(Copyright (?:\(c\)|©)?\s*.*\d{4}.*)$", whole, re.MULTILINE | re.I)
    short = re.sub(r"[^A-Za-z0-9.+-]+", "-", kind.splitlines()[0]).strip("-")
    body = "".join(f" {line}\n" if line.strip() else " .\n" for line in whole.splitlines())
    return (
        f"Files: usr/lib/mnagent/{name}/*\n"
        f"Comment: {name} {version}, from https://pypi.org/project/{name}\n"
        f"Copyright: {'; '.join(dict.fromkeys(map(str.strip, holders))) or 'see the text below'}\n"
        f"License: {short}-of-{name}\n{body}"
    )


def main() -> int:
    """Print one of them."""
    kinds = {"manual": manual, "configuration": configuration, "completion": completion}
    kind = sys.argv[1]
    print(copyright_file(Path(sys.argv[2])) if kind == "copyright" else kinds[kind](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
