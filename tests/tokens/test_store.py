"""A far store behind fsspec: what it gives is hashed, and whatever it does ends soon, in one coded error."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from partimento.errors import PartimentoError
from partimento.tokens.store import Store, is_far, url_of

CONTENT = bytes(range(256)) * 2000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Naughty(BaseHTTPRequestHandler):
    """Serves CONTENT at /<how>/file, well or badly. `asked` counts requests for the body."""

    asked: dict[str, int] = {}  # noqa: RUF012
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        how = self.path.split("/")[1]
        count = Naughty.asked[how] = Naughty.asked.get(how, 0) + body
        if how == "gone":
            self.send_error(404)
            return
        if how == "refuses":
            self.send_error(403)
            return
        if how == "errors" or (how == "errors-once" and body and count == 1):
            self.send_error(503)
            return
        if how == "stalls" and body:
            time.sleep(3)
        whole = CONTENT[:-1] if how == "short" else CONTENT
        first, last = 0, len(whole)
        if (span := self.headers.get("Range")) and how != "no-ranges":
            low, _, high = span.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high) + 1 if high else len(whole), len(whole))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(whole)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first))
        self.end_headers()
        if not body:
            return
        part = whole[first:last]
        if how == "flips" or (how == "flips-once" and count == 1):
            part = b"\xff" + part[1:]
        if how == "truncates" or (how == "truncates-once" and count == 1):
            part = part[: len(part) // 2]
            self.close_connection = True
        self.wfile.write(part)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Naughty)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()


def store(server: str, how: str) -> Store:
    Naughty.asked.pop(how, None)
    return Store(f"{server}/{how}", stall_seconds=0.4, pause=0.01)


@pytest.mark.parametrize("how", ["well", "no-ranges", "errors-once", "truncates-once", "flips-once"])
def test_what_arrives_is_what_was_recorded(server: str, tmp_path: Path, how: str) -> None:
    store(server, how).bring("file", tmp_path / "x", len(CONTENT), SHA)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("gone", "FAR001"),
        ("refuses", "FAR005"),
        ("errors", "FAR003"),
        ("truncates", "FAR003"),
        ("stalls", "FAR003"),
        ("flips", "FAR004"),
        ("short", "FAR004"),
    ],
)
def test_a_bad_store_is_one_coded_error_and_no_file(server: str, tmp_path: Path, how: str, code: str) -> None:
    with pytest.raises(PartimentoError) as caught:
        store(server, how).bring("file", tmp_path / "x", len(CONTENT), SHA)
    assert caught.value.code == code
    assert f"/{how}/file" in (caught.value.where or "")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_not_there() -> None:
    with pytest.raises(PartimentoError) as caught:
        Store("http://127.0.0.1:9/pack", stall_seconds=1, pause=0.01).size("pack.json")
    assert caught.value.code == "FAR003"


def test_an_unknown_kind_of_url() -> None:
    with pytest.raises(PartimentoError) as caught:
        Store("gopher://x/y")
    assert caught.value.code == "FAR002"


def test_urls_and_folders_are_told_apart() -> None:
    assert is_far("s3://bucket/pack") and is_far(Path("s3://bucket/pack")) and is_far("https://a.b/c")
    assert not is_far("packs/mine") and not is_far("/abs/pack") and not is_far("C:/packs") and not is_far(".")
    assert url_of(Path("s3://bucket/pack/")) == "s3://bucket/pack"
    assert url_of("memory://x/") == "memory://x"


def test_missing_credentials_are_a_refusal_and_not_tried_again(tmp_path: Path) -> None:
    class NoCredentialsError(Exception):
        """As botocore's."""

    asked = []

    def info(path: str) -> None:
        asked.append(path)
        raise NoCredentialsError("Unable to locate credentials")

    place = Store("memory://x", pause=0.01)
    place._fs = type("Driver", (), {"info": staticmethod(info)})()
    with pytest.raises(PartimentoError) as caught:
        place.size("pack.json")
    assert caught.value.code == "FAR005" and len(asked) == 1
