"""The real server answers through gradio's client, refuses what it should, and shows its pictures in a browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from diffcse.errors import MissingExtra, UserError
from diffcse.explore.app import check_address, import_gradio, is_loopback
from tests import tiny


def free_port():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    pytest.importorskip("gradio", reason="needs gradio: pip install 'diffcse[explore]'")
    place, port = tmp_path_factory.mktemp("server"), free_port()
    text = tiny.write_sentences(place / "text.txt", 40)
    command = [sys.executable, "-m", "diffcse", "explore", str(trained), "--corpus", str(text), "--port", str(port)]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, place / "log")
        yield url, place / "log"
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url, process, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            urlopen(url, timeout=5).close()
            return
        except URLError:
            time.sleep(0.5)
    raise AssertionError("the server did not start")


def status(request):
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


def test_every_button_answers_and_nothing_typed_is_logged(server):
    from gradio_client import Client

    url, log = server
    client = Client(url, verbose=False, analytics_enabled=False)
    assert "The cat sat on the mat" in client.predict("The cat sat.", "", 3, api_name="/search")
    assert "dc-map" in client.predict("The cat sat.\nThey ate fish.", api_name="/heat_map")
    assert "dc-pair" in client.predict("The cat sat.", "They ate fish.", 1, api_name="/sees")
    for arguments, name in (
        (("secretword " * 500, "", 3), "/search"),
        (("secretword",), "/heat_map"),
        (("", "secretword", 1), "/sees"),
    ):
        assert 'role="alert"' in client.predict(*arguments, api_name=name)
    output = log.read_text()
    assert "secretword" not in output
    assert "Traceback" not in output


def test_foreign_names_uploads_and_long_requests_are_refused(server):
    url, _ = server
    assert status(url) == 200
    assert status(Request(url, headers={"Host": "attacker.example"})) == 400
    assert status(Request(f"{url}/gradio_api/upload", data=b"x")) == 404
    # Refused by its stated length, before the body is read: a client that still sends may find the connection closed.
    long = Request(f"{url}/gradio_api/queue/join", data=b"x", headers={"Content-Length": "1000000"})
    assert status(long) == 413
    with urlopen(url) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_browser_shows_the_picture(server, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium or google-chrome")
    url, _ = server
    quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command = [chromium, *quiet, "--virtual-time-budget=60000", "--dump-dom", url]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert 'class="dc-hits"' in shown
    assert 'role="tab"' in shown


def test_a_taken_or_foreign_address_is_reported():
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        with pytest.raises(UserError, match=r"address 127\.0\.0\.1:\d+ must be free on this machine; .*choose another"):
            check_address("127.0.0.1", occupied.getsockname()[1])
    with pytest.raises(UserError, match="must be free on this machine"):
        check_address("no.such.host.invalid", 7860)


def test_only_this_machine_is_loopback():
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.168.0.7", "name")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_gradio_is_an_extra_without_telemetry(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtra, match=r"gradio must be installed; .*pip install 'diffcse\[explore\]'"):
        import_gradio()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
