import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.docker_runner.queries.http_exchange import HEAD_BYTES, AnswerFault, AnswerReader, request

OK = b"HTTP/1.1 200 OK\r\n"


def read(*pieces: bytes, limit: int = 100, ended: bool = True) -> bytes | AnswerFault | None:
    reader = AnswerReader(limit)
    for piece in pieces:
        reader.feed(piece)
    if ended:
        reader.end()
    return reader.fault if reader.fault is not None else reader.body


@pytest.mark.parametrize(
    ("path", "parameters", "target"),
    [
        ("/status", "{}", "/status"),
        ("/a", '{"s": "BTC/USD & more", "n": 10, "f": true, "z": null, "o": {"k": [1]}}',
         "/a?s=BTC%2FUSD%20%26%20more&n=10&f=true&z=null&o=%7B%22k%22%3A%20%5B1%5D%7D"),
        ("/ä b?c#d", "{}", "/%C3%A4%20b%3Fc%23d"),
        ("/\ud800", '{"\\ud800": "\\ud800"}', "/%3F?%3F=%3F"),
    ],
)  # fmt: skip
def test_request_has_the_path_and_the_parameters(path: str, parameters: str, target: str) -> None:
    assert request(path, parameters).split(b"\r\n")[0] == f"GET {target} HTTP/1.1".encode()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n{}", b"{}"),
        (b"HTTP/1.0 404\r\n\r\n{}", b"{}"),
        (OK + b"Content-Length: 2\r\n\r\n{}trailing", b"{}"),
        (OK + b"content-length:0\r\n\r\n", b""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n", b"{}"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nTrailer: x\r\n\r\n", b"{}"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\n{}", b"{}"),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_answer_is_read_in_pieces_of_any_size(answer: bytes, body: bytes, step: int) -> None:
    assert read(*(answer[at : at + step] for at in range(0, len(answer), step))) == body


def test_answer_with_a_length_is_complete_before_the_connection_ends() -> None:
    assert read(OK + b"Content-Length: 2\r\n\r\n{}", ended=False) == b"{}"


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"", AnswerFault.INCOMPLETE),
        (b"HTTP/1.1 200 OK\r\n", AnswerFault.INCOMPLETE),
        (OK + b"Content-Length: 3\r\n\r\n{}", AnswerFault.INCOMPLETE),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", AnswerFault.INCOMPLETE),
        (b"SSH-2.0-OpenSSH\r\n", AnswerFault.NOT_HTTP),
        (b"HTTP/1.1\r\n\r\n", AnswerFault.NOT_HTTP),
        (b"HTTP/1.1 abc\r\n\r\n", AnswerFault.NOT_HTTP),
        (OK + b"X: " + b"x" * HEAD_BYTES, AnswerFault.NOT_HTTP),
        (OK + b"Content-Length: -1\r\n\r\n", AnswerFault.NOT_HTTP),
        (OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", AnswerFault.NOT_HTTP),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", AnswerFault.NOT_HTTP),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, AnswerFault.NOT_HTTP),
        (b"HTTP/1. 1\r\n\r\n" * 1260, AnswerFault.NOT_HTTP),
        (OK + b"\r\n" + b"x" * 101, AnswerFault.TOO_LARGE),
        (OK + b"Content-Length: 101\r\n\r\n", AnswerFault.TOO_LARGE),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n", AnswerFault.TOO_LARGE),
    ],
)
def test_answer_that_cannot_be_read_has_a_fault(answer: bytes, fault: AnswerFault) -> None:
    assert read(answer) is fault


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 100\r\n"])
def test_answer_of_exactly_the_limit_is_read(framing: bytes) -> None:
    assert read(OK + framing + b"\r\n" + b"x" * 100) == b"x" * 100


def test_many_tiny_chunks_of_the_limit_are_read_in_linear_time() -> None:
    chunks = b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n"
    reader = AnswerReader(50_000)

    reader.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)

    assert reader.body == b"x" * 50_000


@given(st.binary(max_size=300), st.integers(1, 50))
def test_hostile_bytes_raise_nothing(data: bytes, step: int) -> None:
    reader = AnswerReader(100)
    for begin in (b"", OK + b"Transfer-Encoding: chunked\r\n\r\n"):
        for at in range(0, len(data), step):
            reader.feed(begin + data[at : at + step])

    reader.end()

    assert reader.is_done
    assert reader.body is None or len(reader.body) <= 100
