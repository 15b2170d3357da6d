import pytest

from libs.docker_runner.queries.frames import REQUEST_BYTES, STREAMS, Frame, FrameKind, FrameReader, RelayConfused

FRAMES = [
    Frame(FrameKind.DATA, 0, b"abc"),
    Frame(FrameKind.END, STREAMS - 1),
    Frame(FrameKind.CRASHED, 3, b"x" * REQUEST_BYTES),
]


@pytest.mark.parametrize("step", [1, 5, 100_000])
def test_frames_are_read_from_pieces_of_any_size(step: int) -> None:
    data = b"".join(bytes(frame) for frame in FRAMES)
    reader = FrameReader()

    found = [frame for at in range(0, len(data), step) for frame in reader.feed(data[at : at + step])]

    assert found == FRAMES


@pytest.mark.parametrize("data", [b"?\0\0\0\0\0\0\0", b"D\x10\0\0\0\0\0\0", b"D\0\0\0\x01\0\x01\0", b"HTTP/1.1 200 OK"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(RelayConfused):
        list(FrameReader().feed(data))
