"""A registry that images can be pulled from: the read-only half of the distribution API, over files."""

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT = 5000
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

_MANIFEST = re.compile(r"/v2/library/(?P<name>[a-z0-9-]+)/manifests/(?P<reference>[\w.:-]+)")
_BLOB = re.compile(r"/v2/library/[a-z0-9-]+/blobs/sha256:(?P<digest>[0-9a-f]{64})")


def found(images: Path, path: str) -> tuple[Path, str, str] | None:
    """File, content type and digest of what *path* names; None when it is not there."""
    if (match := _MANIFEST.fullmatch(path)) is not None:
        reference = match["reference"]
        digest = reference.removeprefix("sha256:")
        if digest == reference:
            tag = images / "tags" / f"{match['name']}:{reference}"
            digest = tag.read_text() if tag.is_file() else ""
        kind = MANIFEST
    elif (match := _BLOB.fullmatch(path)) is not None:
        digest, kind = match["digest"], "application/octet-stream"
    else:
        return None
    blob = images / "blobs" / digest
    return (blob, kind, f"sha256:{digest}") if digest and blob.is_file() else None


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    protocol_version = "HTTP/1.1"
    images = Path("/srv/images")

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """Answer with the file."""
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        if self.path == "/v2/":
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        answer = found(self.images, self.path)
        if answer is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        file, kind, digest = answer
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(file.stat().st_size))
        self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if with_body:
            with file.open("rb") as content:
                while piece := content.read(1 << 20):
                    self.wfile.write(piece)


if __name__ == "__main__":
    Handler.images = Path(sys.argv[1])
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
