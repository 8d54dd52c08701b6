"""Who is measured: a folder each under `peers/`, as the README describes them."""

import json
import shutil
import socket
import string
from pathlib import Path

from lab import run, wait_for

HERE = Path(__file__).parent


class Peer:
    """A program between clients and PostgreSQL, or nothing in between."""

    def __init__(self, folder, places):
        about = json.loads((folder / "peer.json").read_text())
        self.key = folder.name
        self.name = about["name"]
        self.command = about.get("command")
        self.variants = about.get("variants", {})
        self.templates = [path for path in folder.iterdir() if path.name != "peer.json"]
        self.cases = about.get("cases")
        self.version_command = about.get("version")
        self.program = None
        if self.command:
            first = string.Template(self.command[0]).safe_substitute(places)
            self.program = shutil.which(first) or shutil.which(first, path="/usr/sbin:/usr/local/sbin")

    def is_here(self):
        return self.command is None or self.program is not None

    def version(self):
        if not self.version_command or not self.program:
            return ""
        return run(self.program, *self.version_command).splitlines()[0]

    def serves(self, case, variant):
        return (self.cases is None or case in self.cases) and (not self.variants or variant in self.variants)


class Running:
    """A peer at work."""

    def __init__(self, lab, peer, variant):
        self.lab, self.peer = lab, peer
        self.child, self.pid = None, None
        if peer.command is None:
            self.host, self.port = lab.host, lab.port
            return
        folder = lab.dir / f"{peer.key}-{variant}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        self.host, self.port = str(folder), 5432
        self.path = folder / ".s.PGSQL.5432"
        values = {"dir": folder, "socket": self.path, "db_host": lab.host, "db_port": lab.port}
        values.update(peer.variants.get(variant, {}))
        for template in peer.templates:
            text = string.Template(template.read_text()).substitute(values)
            (folder / template.name).write_text(text)
        arguments = [string.Template(word).substitute(values) for word in peer.command[1:]]
        extra = [string.Template(word).substitute(values) for word in values.get("arguments", [])]
        command = [*lab.owner, peer.program, *arguments, *extra]
        self.child = lab.start(command, peer.key, (), values.get("environment", {}))
        wait_for(self.accepts, peer.name, lab.dir / f"{peer.key}.log")
        self.pid = self.child.pid

    def accepts(self):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.path))
                return True
            except OSError:
                return False

    def address(self):
        return ["-h", self.host, "-p", str(self.port)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child:
            self.lab.stop(self.child)


def all_peers(places):
    """The peers that are on this machine."""
    peers = [Peer(folder, places) for folder in sorted((HERE / "peers").iterdir()) if folder.is_dir()]
    return [peer for peer in peers if peer.is_here()]
