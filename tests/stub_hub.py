"""A stand-in for the Hugging Face hub on the loopback: as much of it as pushing and pulling takes.

It keeps repositories in memory, knows who may do what by the token, and fails as it is told. As a
program, ``python stub_hub.py PORT_FILE``, it writes its port to a file and serves until it is
ended.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

# who may write, and who may only read
WRITES, READS = "hf_may_write_everything", "hf_may_only_read"
LARGE_BYTES = 2500
_API = re.compile(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(\w+)/([^/?]+))?(/.*)?")
_FILE = re.compile(r"/(?:(datasets)/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")
_BATCH = re.compile(r"/(?:(datasets)/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Who asked is gone: it was killed."""


class StubHub:
    """The server, and what it holds.

    `repositories` maps (kind, name) to what is there at each commit, the newest last; `requests`
    are those that were served. `fault` is asked for each request what goes wrong with it: None, a
    status, ``"hang"``, ``"hang up"``, or ``"wrong bytes"``.
    """

    def __init__(self):
        self.repositories, self.private, self.blobs, self.requests = {}, set(), {}, []
        self.fault = lambda method, path: None
        self.said, self.end = "", threading.Event()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def files(self, name, kind="datasets"):
        """What a repository holds now, by name."""
        history = self.repositories[kind, name]
        return history[list(history)[-1]]

    def put(self, name, files, kind="datasets"):
        """Make a commit."""
        history = self.repositories.setdefault((kind, name), {})
        history[hashlib.sha1(f"{name} {len(history)}".encode()).hexdigest()] = dict(files)

    def close(self):
        self.end.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: StubHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def _serve(self):
        path = unquote(urlsplit(self.path).path)
        self.body = self._read()
        if len(self.body) < int(self.headers.get("Content-Length") or 0):
            # who asked was killed in the middle of it
            self.close_connection = True
            return
        self.hub.requests.append((self.command, path))
        fault = self.hub.fault(self.command, path)
        if fault == "hang":
            self.hub.end.wait(30)
            self.close_connection = True
            return
        if fault == "hang up":
            self.connection.close()
            self.close_connection = True
            return
        self.wrong = fault == "wrong bytes"
        if isinstance(fault, int):
            self._answer(fault, {"error": self.hub.said.format(token=self._token())})
            return
        for pattern, serve in (
            (_BATCH, self._batch), (_API, self._api), (_FILE, self._file),
        ):  # fmt: skip
            if (match := pattern.fullmatch(path)) is not None:
                serve(match)
                return
        if path == "/api/repos/create":
            self._create()
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.startswith("/blobs/") and self.command == "PUT":
            self.hub.blobs[path] = self.body
            self._answer(200, {})
        elif path == "/verify":
            self._answer(200, {})
        else:
            self._answer(404, {"error": f"no {path}"})

    def _read(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _may(self, *, write, name=None):
        """Whether who asks may do that; where not, it is said."""
        token = self._token()
        if token and token not in (WRITES, READS):
            self._answer(401, {"error": f"Invalid token {token}"})
        elif write and token != WRITES:
            said = {"error": f"{token or 'nobody'} may not write"}
            self._answer(403 if token else 401, said)
        elif name in self.hub.private and not token:
            self._missing()
        else:
            return True
        return False

    def _missing(self):
        headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        self._answer(404 if self._token() else 401, {"error": "Repository not found"}, headers)

    def _create(self):
        if not self._may(write=True):
            return
        given = json.loads(self.body)
        name, kind = f"{given['organization']}/{given['name']}", f"{given.get('type', 'model')}s"
        there = (kind, name) in self.hub.repositories
        if not there:
            self.hub.put(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, kind)
            if given.get("private") or given.get("visibility") == "private":
                self.hub.private.add(name)
        self._answer(409 if there else 200, {"url": f"{self.hub.address}/{kind}/{name}"})

    def _api(self, match):
        kind, name, what, revision, _ = match.groups()
        history = self.hub.repositories.get((kind, name))
        if not self._may(write=what in ("preupload", "commit"), name=name):
            return
        if history is None:
            self._missing()
            return
        newest = list(history)[-1]
        if revision not in (None, "main", *history):
            self._answer(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
            return
        commit = revision if revision in history else newest
        if what == "preupload":
            self._preupload()
        elif what == "commit":
            self._commit(kind, name, history[newest])
        elif what == "tree":
            files = [{"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                     for n, c in history[commit].items()]  # fmt: skip
            self._answer(200, files)
        else:
            siblings = [{"rfilename": name} for name in history[commit]]
            self._answer(200, {"id": name, "sha": commit, "siblings": siblings, "private": False})

    def _preupload(self):
        files = [
            {
                "path": file["path"], "shouldIgnore": False,
                "uploadMode": "lfs" if file["size"] > LARGE_BYTES else "regular",
            }
            for file in json.loads(self.body)["files"]
        ]  # fmt: skip
        self._answer(200, {"files": files})

    def _batch(self, match):
        if not self._may(write=True):
            return
        objects = []
        for one in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": self.hub.address + self._blob(match[2], one["oid"])},
                "verify": {"href": f"{self.hub.address}/verify"},
            }
            there = self._blob(match[2], one["oid"]) in self.hub.blobs
            objects.append({**one, **({} if there else {"actions": actions})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _blob(self, name, oid):
        """Where the content of a large file goes to: each repository has its own."""
        return f"/blobs/{name}/{oid}"

    def _commit(self, kind, name, before):
        files = dict(before)
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[self._blob(name, value["oid"])]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.put(name, files, kind)
        commit = list(self.hub.repositories[kind, name])[-1]
        self._answer(200, {"commitUrl": f"{self.hub.address}/c/{commit}", "commitOid": commit})

    def _file(self, match):
        prefix, name, revision, path = match.groups()
        history = self.hub.repositories.get((prefix or "models", name))
        if not self._may(write=False, name=name):
            return
        if history is None:
            self._missing()
            return
        commit = list(history)[-1] if revision == "main" else revision
        if path not in history.get(commit, {}):
            self._answer(404, {"error": "no file"}, {"X-Error-Code": "EntryNotFound"})
            return
        content = history[commit][path]
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if self.wrong:
            content = bytes(len(content))
        self._answer(200, content, headers)

    def _answer(self, status, content, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


for _method in ("GET", "HEAD", "POST", "PUT"):
    setattr(_Handler, f"do_{_method}", _Handler._serve)


if __name__ == "__main__":
    served = StubHub()
    Path(sys.argv[1]).write_text(str(served.port), "utf-8")
    while True:
        time.sleep(1)
