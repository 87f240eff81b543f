"""A hub that cannot be reached: everything that asks one says so at once, and uses what its cache holds."""

import datasets
import pytest
from huggingface_hub import constants, errors, file_download

from diffcse.connection import hub_or_cache
from diffcse.errors import UserError
from diffcse.evaluation.fetch import download
from diffcse.persistence import hub
from diffcse.text.dataset import read_texts

CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    """An address where nothing listens, and empty caches."""
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    monkeypatch.setattr("diffcse.evaluation.fetch.ENDPOINT", CLOSED)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def waits(seconds):
        raise AssertionError(f"the client waits {seconds} s for another try")

    monkeypatch.setattr("time.sleep", waits)


ASKED = {
    "a model": lambda place: hub.locate("someone/model"),
    "a dataset": lambda place: read_texts("someone/dataset:test", cache_dir=place),
    "SentEval": lambda place: download("senteval.tar", place / "senteval.tar"),
}


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a model", "model someone/model must be .* hub.* got nothing in the cache, and {}.*hf download someone/model"),
        ("a dataset", "someone/dataset must be an existing file or a Hub dataset .* got nothing in the cache, and {}"),
        ("SentEval", "senteval.tar must be in the cache, or on a Hub that can be reached; got {}.*by hand"),
    ],
)
def test_it_is_said_at_once_with_what_to_do(what, message, tmp_path):
    with pytest.raises(UserError, match="(?i)" + message.format(rf"no connection to {CLOSED} \(Connection refused\)")):
        ASKED[what](tmp_path)
    assert not constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE  # only while it was asked


@pytest.mark.usefixtures("unreachable")
def test_what_the_cache_holds_needs_no_connection(tmp_path):
    snapshot = tmp_path / "hub" / "models--someone--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "model.safetensors").touch()
    assert hub.locate("someone/model") == snapshot


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize(("address", "reason"), [("http://no.such.host.invalid", "no connection"), ("http://a:b", "")])
def test_an_address_that_is_none_is_a_reason_too(address, reason):
    with hub_or_cache(address) as problem:
        assert problem is not None and reason in problem
        with pytest.raises(errors.LocalEntryNotFoundError):
            file_download.hf_hub_download("someone/model", "config.json")


def test_offline_mode_is_not_left_by_it(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub_or_cache() as problem:
        assert problem == "HF_HUB_OFFLINE is set"
    assert constants.HF_HUB_OFFLINE


def test_a_proxy_is_left_to_the_client(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with hub_or_cache("http://example.invalid") as problem:
        assert problem is None and not constants.HF_HUB_OFFLINE
