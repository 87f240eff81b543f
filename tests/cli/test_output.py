"""What comes out of the command line."""

import io

import pytest

from diffcse import cli


def test_a_character_that_the_output_lacks_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setattr("sys.argv", ["diffcse", "encode", "größe.txt", "-o", "größe.npy"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert err.buffer.getvalue().startswith(b"diffcse: gr??e.txt must be an existing file")  # type: ignore[attr-defined]
    out.write("größe")
    assert out.buffer.getvalue() == b"gr??e"  # type: ignore[attr-defined]
