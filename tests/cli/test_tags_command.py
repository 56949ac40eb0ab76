"""`partimento tags`, and what `partimento pack` does with labels."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from partimento.cli.main import main
from partimento.tokens.pack import Pack
from partimento.tokens.spec import CodecSpec
from partimento.tokens.writer import PackWriter

SPEC = CodecSpec("toy", "0" * 64, 8000, Fraction(50), (16, 16))


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, args)))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def ask(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    status, out, err = run(capsys, *args, "--json")
    assert status == 0, err
    return json.loads(out)


def sound(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(100, np.float32), 8000)
    return path


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "music"
    for name in ("song_00", "song_01", "song_02", "other_1", "other_2", "sub/lone"):
        sound(root / f"{name}.wav")
    put(root / "codes" / "x.pt", "codes")
    put(root / "song_00.txt", "vocals, piano")
    put(root / "song_01.txt", "voice, piano")
    put(root / "other_1.txt", "no vocals")
    put(root / "other_2.json", '{"caption": "the second"}')
    put(root / "sub" / "prompts" / "lone.txt", " , ")
    return root


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    writer = PackWriter(tmp_path / "pack", SPEC, clips_per_shard=4)
    rng = np.random.default_rng(0)
    for i in range(12):
        tags = [["vocals", "piano"], ["no vocals"], ["voice"], []][i % 4]
        licence = ["CC BY 4.0", "CC BY-NC 4.0", None][i % 3]
        writer.add(rng.integers(0, 16, (5, 2)), clip=f"{i}.wav", source=f"s{i // 2}", tags=tags, licence=licence)
    return writer.finish().path


def test_list(capsys: pytest.CaptureFixture[str], folder: Path, pack: Path) -> None:
    found = ask(capsys, "tags", "list", folder)
    assert found["tags"] == {"piano": 2, "no vocals": 1, "vocals": 1, "voice": 1} and found["recordings"] == 7
    assert [(pair["other"], pair["tag"]) for pair in found["alike"]] == [("voice", "vocals")]
    aliases = put(folder / "a.toml", '[aliases]\n"voice" = "vocals"\n')
    again = ask(capsys, "tags", "list", folder, "--aliases", aliases)
    assert again["tags"] == {"piano": 2, "vocals": 2, "no vocals": 1} and again["alike"] == []
    assert ask(capsys, "tags", "list", pack)["tags"] == {"no vocals": 3, "piano": 3, "vocals": 3, "voice": 3}
    assert ask(capsys, "tags", "list", pack, "--aliases", aliases)["tags"]["vocals"] == 6
    status, out, _ = run(capsys, "tags", "list", folder)
    assert status == 0 and "piano" in out and "spelt alike" in out


def test_audit(capsys: pytest.CaptureFixture[str], folder: Path, pack: Path) -> None:
    found = ask(capsys, "tags", "audit", folder)
    assert found["sources"] == {"full": 1, "partial": 1, "none": 2} and found["without"] == 3
    assert found["missing"] == {"codes/x": ["codes/x.pt"], "song": ["song_02.wav"], "sub/lone": ["sub/lone.wav"]}
    assert found["kinds"] == {"json": 1, "none": 3, "prompt": 3}
    rows = [{"file": "song_00.wav", "tags": ["a"], "source": "A"}, {"file": "song_01.wav", "source": "A"}]
    rows += [{"file": "other_1.wav", "tags": [], "caption": "x", "source": "B"}]
    put(folder / "tags.jsonl", "\n".join(map(json.dumps, rows)))
    labelled = ask(capsys, "tags", "audit", folder)["missing"]
    assert labelled["A"] == ["song_01.wav", "song_02.wav"]  # the third is of the same song as the others
    assert ask(capsys, "tags", "audit", pack)["sources"] == {"full": 3, "partial": 3, "none": 0}
    status, out, _ = run(capsys, "tags", "audit", pack)
    assert status == 0 and "s1" in out and "3.wav" in out
    assert run(capsys, "tags", "audit", folder / "nowhere")[0] == 3
    (folder / "empty").mkdir()
    assert "AUDIO001" in run(capsys, "tags", "audit", folder / "empty")[2]


def test_rebuild_shows_first_and_then_only_adds(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    put(one / "song_02.txt", "slow,piano")
    put(one / "song_00.txt", "something else")  # that file has a prompt
    put(two / "prompts" / "song_02_prompt.txt", "slow, piano")  # the same again
    put(two / "metadata.json", '{"x.pt": {"text": "lost, found", "sr": 44100}}')
    put(two / "sub" / "lone.txt", " ")
    before = '{"file": "other_2.wav", "tags": ["kept"]}'
    put(folder / "tags.jsonl", before)  # without a newline at its end
    ask_for = ("tags", "rebuild", folder, "--from", one, "--from", two)
    found = ask(capsys, *ask_for)
    assert {row["file"]: row["tags"] for row in found["rows"]} == {
        "codes/x.pt": ["lost", "found"],
        "song_02.wav": ["slow", "piano"],
    }
    assert found["missing"] == ["sub/lone.wav"] and found["conflicts"] == {} and found["kept"] == 4
    assert (folder / "tags.jsonl").read_text() == before and not found["written"]
    assert "run it again with --apply" in run(capsys, *ask_for)[1]

    assert ask(capsys, *ask_for, "--apply")["written"]
    lines = (folder / "tags.jsonl").read_text().splitlines()
    assert lines[0] == before and len(lines) == 3
    assert ask(capsys, "tags", "audit", folder)["without"] == 1
    assert not ask(capsys, *ask_for, "--apply")["written"]
    assert (folder / "tags.jsonl").read_text().splitlines() == lines


def test_rebuild_never_guesses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root, prompts = tmp_path / "music", tmp_path / "prompts"
    for name in ("a", "b/x", "c/x", "d/y", "e/y", "told"):
        sound(root / f"{name}.wav")
    put(root / "tags.jsonl", '{"file": "told.wav", "tags": []}\n')
    put(prompts / "a.txt", "one")
    put(prompts / "a_prompt.txt", "two")
    put(prompts / "x.txt", "of which x?")
    put(prompts / "d" / "y.txt", "of d")
    put(prompts / "e" / "y.txt", "of e")
    put(prompts / "told.txt", "has tags")
    found = ask(capsys, "tags", "rebuild", root, "--from", prompts, "--apply")
    assert {row["file"]: row["tags"] for row in found["rows"]} == {"d/y.wav": ["of d"], "e/y.wav": ["of e"]}
    assert set(found["conflicts"]) == {"a.wav", "b/x.wav", "c/x.wav", "told.wav"} and found["missing"] == []
    assert "SYS004" in run(capsys, "tags", "rebuild", root, "--from", prompts / "none")[2]


def test_edit_what_labels_wrote(capsys: pytest.CaptureFixture[str], pack: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    assert ask(capsys, "pack", "labels", pack, "--to", labels)["clips"] == 12
    edit = ("pack", "edit", pack, "--labels", labels, "--why", "licences were wrong")
    unchanged = ask(capsys, *edit)
    assert unchanged["clips"] == 0 and not unchanged["written"]
    labels.write_text(labels.read_text().replace("CC BY 4.0", "CC BY-SA 4.0").replace("CC BY-NC 4.0", "ask me"))
    was = Pack.open(pack).fingerprint
    dry = ask(capsys, *edit, "--dry-run")
    assert dry["changes"] == {"licence": 8} and dry["licences_not_understood"] == ["ask me"] and not dry["written"]
    assert dry["first"][0] == "0.wav: licence 'CC BY 4.0' -> 'CC BY-SA 4.0'" and len(dry["first"]) == 5
    assert Pack.open(pack).clips.licence[0] == "CC BY 4.0"
    assert ask(capsys, *edit)["fingerprint"] == was  # licences are no training data
    after = Pack.open(pack)
    assert after.clips.share_alike[0] is True and after.clips.share_alike[1] is None
    assert after.content["history"][-1]["why"] == "licences were wrong"

    aliases = put(tmp_path / "a.toml", '[aliases]\n"voice" = "vocals"\n')
    found = ask(capsys, "pack", "edit", pack, "--aliases", aliases, "--why", "one name")
    assert found["changes"] == {"tags": 3} and found["fingerprint"] != was
    assert "vocals" in run(capsys, "tags", "list", pack)[1]
    assert run(capsys, "pack", "edit", pack, "--why", "x")[0] == 2
    assert run(capsys, "pack", "edit", pack, "--labels", labels)[0] == 2


def test_select(capsys: pytest.CaptureFixture[str], pack: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    ask_for = ("pack", "select", pack, "--without-tag", "vocals", "--licence", "attribution")
    dry = ask(capsys, *ask_for, "--dry-run")
    assert dry["clips"] == 3 and dry["left_out"] == {"LICENCE002": 3, "LICENCE003": 3, "TAGS004": 3}
    assert run(capsys, *ask_for)[0] == 2  # where to?
    made = ask(capsys, *ask_for, "--to", new)
    assert made["fingerprint"] == Pack.open(new, verify="full").fingerprint and made["clips"] == 3
    assert "TAGS009" in run(capsys, *ask_for, "--to", new)[2]
    assert "LICENCE004" in run(capsys, "pack", "select", pack, "--licence", "fre", "--dry-run")[2]
    status, out, _ = run(capsys, *ask_for, "--dry-run")
    assert status == 0 and "left out (LICENCE003)" in out and "it has no licence" in out


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; import partimento.cli.tags, partimento.cli.packs.edit, partimento.cli.packs.select;"
    code += "import partimento.cli.packs.labels; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(out) & {"torch", "numpy", "pyarrow", "soundfile"}
