"""An index of packages on loopback, for pip (simple API) and npm (registry), and a proxy for itself.

It serves only what a test has put into it, so that no test needs the internet. A request in the form that clients send
to a proxy (`GET http://name/path`) is answered like one without a host.
"""

import base64
import hashlib
import io
import json
import ssl
import tarfile
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.certificates import Files


@dataclass
class PackageIndex:
    """Made by :func:`package_index`.

    Attributes:
        address: as `https://127.0.0.1:8443`.
        requested: the paths of all requests, and the hosts that they name.
    """

    address: str = ""
    requested: list[tuple[str, str]] = field(default_factory=list)
    _files: dict[str, bytes] = field(default_factory=dict)
    _pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def add_wheel(self, name: str, source: str, *, tag: str = "py3-none-any") -> None:
        """Add version 1.0 of a Python package that is one module with this source."""
        file = f"{name}-1.0-{tag}.whl"
        self._files[file] = wheel(name, source, tag=tag)
        self._pages[f"/simple/{name.replace('_', '-')}/"] = (
            "text/html",
            f'<a href="/files/{file}">{file}</a>'.encode(),
        )

    def add_module(self, name: str, source: str) -> dict[str, Any]:
        """Add version 1.0.0 of a Node module with this source; return its entry in a lockfile."""
        file = f"{name}-1.0.0.tgz"
        package = {"name": name, "version": "1.0.0", "main": "index.js"}
        self._files[file] = _tarball({"package.json": json.dumps(package), "index.js": source})
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(self._files[file]).digest()).decode()
        return {"version": "1.0.0", "resolved": f"{self.address}/files/{file}", "integrity": integrity}

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request."""
        self.requested.append((request.path, request.host))
        if (page := self._pages.get(request.path)) is not None:
            return web.Response(content_type=page[0], body=page[1])
        if (content := self._files.get(request.path.removeprefix("/files/"))) is not None:
            return web.Response(content_type="application/octet-stream", body=content)
        return web.Response(status=404)


@asynccontextmanager
async def package_index(certificate: Files | None = None) -> AsyncIterator[PackageIndex]:
    """An empty index; over TLS with *certificate*, which must be for 127.0.0.1."""
    index = PackageIndex()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", index.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.certificate, certificate.key)
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        host, port = runner.addresses[0][:2]
        index.address = f"{'http' if context is None else 'https'}://{host}:{port}"
        yield index
    finally:
        await runner.cleanup()


def wheel(name: str, source: str, *, tag: str = "py3-none-any") -> bytes:
    """Return version 1.0 of a Python package that is one module with this source."""
    info = f"{name}-1.0.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{name}.py", source)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return buffer.getvalue()


def _tarball(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()
