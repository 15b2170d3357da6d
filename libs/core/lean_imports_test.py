import importlib
import ssl
import sys

import pytest

from libs.core.lean_imports import absent, hollow, trusting_nobody


@pytest.fixture
def unused(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    return "colorsys"


def test_the_package_is_not_found_in_the_block_and_found_afterwards(unused: str) -> None:
    with absent(unused), pytest.raises(ImportError):
        importlib.import_module(unused)

    assert importlib.import_module(unused).__name__ == unused


def test_a_package_that_is_in_use_stays() -> None:
    with absent("pytest"):
        assert importlib.import_module("pytest") is pytest


def test_a_hollow_module_stands_in_for_the_true_one_in_the_block_alone(unused: str) -> None:
    with hollow(unused, "rgb_to_hsv"):
        inside = importlib.import_module(unused)

    assert vars(inside)["rgb_to_hsv"] is None
    assert callable(importlib.import_module(unused).rgb_to_hsv)


def test_a_tls_context_of_the_block_verifies_and_trusts_nobody() -> None:
    usual = ssl.create_default_context

    with trusting_nobody():
        context = ssl.create_default_context()

    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.cert_store_stats()["x509_ca"] == 0
    assert ssl.create_default_context is usual
