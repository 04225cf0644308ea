"""`dlcli runs verify`: everything in a run that can rot is compared with its checksum, and damage is never silent."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core.files import with_checksum, write_json
from dlcli.core.reading import read_json
from tests.conftest import Dlcli


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run 1: trained, measured and exported."""
    root = tmp_path_factory.mktemp("verify")
    for words in (
        ["train", "linear", "--epochs", "2", "--data", "make-regression", "--quiet"],
        ["eval", "1"],
        ["export", "1", "--format", "safetensors"],
    ):
        assert CliRunner().invoke(app, [*words, "--runs-dir", str(root)]).exit_code == 0
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs")
    return Path("runs/1")


def verify(*words: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["runs", "verify", *(words or ("1",))])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def flip(file: Path, *, old: bytes = b"", new: bytes = b"") -> None:
    """Another digit, or another bit in the middle."""
    content = file.read_bytes()
    if old:
        assert old in content
        file.write_bytes(content.replace(old, new, 1))
    else:
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def test_a_sound_run(run: Path) -> None:
    assert verify() == ("run  parts  result\n  1      9  sound\n", "")
    assert json.loads(verify("1", "--json")[0]) == [
        {"checked": 9, "unproven": [], "damage": [], "run": 1, "sound": True}
    ]


@pytest.mark.parametrize("name", ["config.json", "data.json", "run.json", "eval/test.json", "export/safetensors.json"])
def test_a_flipped_digit_is_found(run: Path, name: str) -> None:
    digit = next(byte for byte in (run / name).read_bytes()[80:] if byte in b"123456789")
    content = (run / name).read_bytes()
    place = content.index(bytes([digit]), 80)
    (run / name).write_bytes(content[:place] + (b"8" if digit != ord("8") else b"7") + content[place + 1 :])
    json.loads((run / name).read_text())  # still JSON
    out, err = verify(code=4)
    assert out == "run  parts  result\n  1      9  damaged\n"
    assert err == (
        f"error: runs/1/{name} is damaged: its content does not match its checksum; if you changed it yourself, delete "
        "that line\n"
    )


def test_files_without_documents(run: Path) -> None:
    last = max(run.glob("checkpoints/last-*"))
    (artifact,) = [path for path in run.glob("export/*") if path.suffix != ".json"]
    flip(last / "state.json")
    flip(artifact)
    with open(run / "metrics.csv", "a") as file:
        file.write("what?\n")
    out, err = verify(code=4)
    assert out == "run  parts  result\n  1      9  damaged\n"
    first, second, third = sorted(err.removesuffix("\n").replace("error: ", "").split("\n"))
    assert first == f"{last}/state.json is damaged: its sha256 is not the recorded one"
    assert second == f"{artifact} is damaged: its sha256 is not the recorded one"
    assert third.startswith("runs/1/metrics.csv is damaged: ")


def test_an_older_checkpoint_that_no_command_reads(run: Path) -> None:
    """`best` is intact, so eval works; the damage is found all the same."""
    weights = max(run.glob("checkpoints/last-*")) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()  # best may share the file
    weights.write_bytes(content)
    assert CliRunner().invoke(app, ["eval", "1"]).exit_code == 0
    assert verify(code=4)[1] == f"error: {weights} is damaged: its sha256 is not the recorded one\n"


def test_a_run_without_its_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    assert verify(code=4)[1] == "error: runs/1/checkpoints holds no checkpoint\n"


def test_a_run_of_an_older_version_can_be_read(run: Path) -> None:
    for name in ("config.json", "data.json", "run.json"):
        document = json.loads((run / name).read_text())
        del document["checksum"]
        (run / name).write_text(json.dumps(document))
    out, err = verify()
    assert out == "run  parts  result\n  1      9  sound\n"
    assert err == "3 documents have no checksum, as an older dlcli wrote them: they could be read\n"
    assert CliRunner().invoke(app, ["eval", "1"]).exit_code == 0


@pytest.mark.parametrize(
    ("name", "old", "new", "command"),
    [
        ("config.json", b'"epochs": 2', b'"epochs": 3', "resume"),
        ("data.json", b'"target_std": ', b'"target_std": 1', "eval"),
        ("data.json", b'"target_std": ', b'"target_std": 1', "predict"),
        ("run.json", b'"epochs": 2', b'"epochs": 9', "show"),
    ],
)
def test_no_command_uses_a_wrong_number(run: Path, name: str, old: bytes, new: bytes, command: str) -> None:
    flip(run / name, old=old, new=new)
    words = {"show": ["runs", "show", "1"], "predict": ["predict", "1", "0"]}.get(command, [command, "1"])
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 4
    assert f"runs/1/{name} is damaged: its content does not match its checksum" in result.stderr


def test_settings_are_taken_from_the_file_of_a_run(run: Path, dlcli: Dlcli) -> None:
    dlcli("train", "--config", "runs/1/config.json", "--quiet")
    flip(run / "config.json", old=b'"epochs": 2', new=b'"epochs": 3')
    done = dlcli("train", "--config", "runs/1/config.json", check=2)
    assert done.stderr == (
        "error: config file runs/1/config.json is damaged: its content does not match its checksum; if you changed it "
        "yourself, delete that line\n"
    )


def test_a_document_and_its_checksum(tmp_path: Path) -> None:
    value = {"a": 1, "ü": [1.5, None], "text": 'x\n"y"'}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert (tmp_path / "x.json").read_bytes() == with_checksum(value)
    assert list(json.loads(with_checksum(value))) == ["checksum", "a", "ü", "text"]
