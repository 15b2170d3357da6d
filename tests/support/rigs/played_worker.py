"""A backtest worker played by a thread: it completes announced backtests by a function of their configs."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minio import Minio
from pymongo import MongoClient

from services.backtest_runner.objects import analysis_key, logs_key
from tools.stack.s3 import S3Server

Main = Callable[[dict[str, Any]], dict[str, Any] | None]


class PlayedWorker:
    """Completes each backtest with what *main* returns for its config; None leaves it open.

    Attributes:
        documents: the backtests in the order in which they were first seen.
        most_open: the largest number that were open at once.
    """

    def __init__(self, mongo: MongoClient[dict[str, Any]], storage: Minio, bucket: str, main: Main) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.most_open = 0
        self._backtests = mongo["backtest_runner"]["backtests"]
        self._storage = storage
        self._bucket = bucket
        self._main = main

    def look(self) -> None:
        """Complete the oldest open backtest that has a result."""
        found = list(self._backtests.find().sort("_id", 1))
        self.most_open = max(self.most_open, len(found))
        for document in found:
            self.documents.setdefault(document["id"], document)
        for document in found:
            if (result := self._main(document["config"])) is not None:
                self.complete(document["id"], result)
                return

    def complete(self, backtest_id: str, result: dict[str, Any]) -> None:
        """Store the result, and remove the document."""
        for key, content in ((analysis_key(backtest_id), json.dumps(result).encode()), (logs_key(backtest_id), b"")):
            self._storage.put_object(self._bucket, key, io.BytesIO(content), len(content))
        self._backtests.delete_one({"id": backtest_id})


@contextmanager
def played_worker(
    mongo: MongoClient[dict[str, Any]], s3_server: S3Server, bucket: str, main: Main
) -> Iterator[PlayedWorker]:
    """A worker that runs during the block."""
    storage = Minio(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, secure=False)
    if not storage.bucket_exists(bucket):
        storage.make_bucket(bucket)
    worker = PlayedWorker(mongo, storage, bucket, main)
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.02):
            worker.look()

    thread = threading.Thread(target=work, name="played worker")
    thread.start()
    try:
        yield worker
    finally:
        ended.set()
        thread.join()
