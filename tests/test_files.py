from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcgan_infer.contract.errors import OutputError
from dcgan_infer.contract.files import lock, new_folder, owned, replacing, sha256_of


def test_success_leaves_the_file_alone_in_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    with replacing(target) as temporary:
        assert temporary.name == "out.txt"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def fail_halfway() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_an_output_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def fill_the_disk() -> None:
        with replacing(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"can't write .*out\.txt: no space left on device"):
        fill_the_disk()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "real.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.parametrize("target", ["missing/out.txt", ".", "/dev/null", "x" * 300])
def test_impossible_targets_are_said_before_the_work(tmp_path: Path, target: str) -> None:
    with pytest.raises(OutputError, match="can't write"), replacing(tmp_path / target):
        pytest.fail("the block must not run")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from dcgan_infer.contract.files import replacing\n"
    code += (
        "with replacing(Path(sys.argv[1])) as t: t.write_text('half'); print(t.parent, flush=True); sys.stdin.read()"
    )
    target = tmp_path / "out.txt"
    command = [sys.executable, "-c", code, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with replacing(target) as temporary:  # its owner is at work
            assert temporary.parent != left
            temporary.write_text("mine")
        assert left.exists()
        process.kill()
    with replacing(target) as temporary:
        assert temporary.parent == left
        assert list(left.iterdir()) == []
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_in_the_place_of_a_temporary_folder_is_not_followed(tmp_path: Path) -> None:
    """Its name can be foretold; in /tmp somebody else may have taken it."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "dear").write_text("dear")
    (tmp_path / ".out.txt.0.tmp").symlink_to(mine)
    with replacing(tmp_path / "out.txt") as temporary:
        assert temporary.parent.name == ".out.txt.1.tmp"
        temporary.write_text("new")
    assert (mine / "dear").read_text() == "dear"


@pytest.mark.parametrize("kind", ["pipe", "file", "loop"])
def test_what_has_the_name_of_a_temporary_folder_is_passed_over(kind: str, tmp_path: Path) -> None:
    """A pipe would hang whoever opens it."""
    path = tmp_path / ".out.txt.0.tmp"
    {"pipe": os.mkfifo, "file": Path.touch, "loop": lambda path: path.symlink_to(path)}[kind](path)
    with replacing(tmp_path / "out.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "out.txt").read_text() == "new"


def test_a_link_to_itself_is_said(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OutputError, match="too many levels of symbolic links"), replacing(tmp_path / "loop"):
        pytest.fail("the block must not run")


def test_a_folder_with_leftovers_alone_is_filled(tmp_path: Path) -> None:
    (tmp_path / "new" / ".old.0.tmp").mkdir(parents=True)
    with new_folder(tmp_path / "new") as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "new" / "a").read_text() == "new"


def test_an_owned_folder_is_refused_in_time(tmp_path: Path) -> None:
    with owned(tmp_path):
        start = time.monotonic()
        with pytest.raises(OutputError, match="another command is at work in"), owned(tmp_path, patience=0.2):
            pytest.fail("the block must not run")
        assert 0.2 <= time.monotonic() - start < 5.0
    with owned(tmp_path):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_another_user_s_temporary_folder_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / ".out.txt.0.tmp"
    theirs.mkdir()
    (theirs / "dear").write_text("dear")
    os.chown(theirs, 65534, 65534)
    with replacing(tmp_path / "out.txt") as temporary:
        temporary.write_text("new")
    assert (theirs / "dear").read_text() == "dear"


def test_many_writers_of_one_file_each_own_what_they_write(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"

    def write(number: int) -> None:
        for _ in range(20):
            with replacing(target) as temporary:
                assert list(temporary.parent.iterdir()) == []
                temporary.write_text(str(number) * 1000)
                assert temporary.read_text() == str(number) * 1000

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set(target.read_text())) == 1
    assert list(tmp_path.iterdir()) == [target]


def test_abandoned_work_is_removed_and_goes_no_further(tmp_path: Path) -> None:
    """While another thread writes, as fast as it can."""
    code = """
import sys, threading
from pathlib import Path
from dcgan_infer.contract import files
begun = threading.Event()
def work():
    with files.new_folder(Path(sys.argv[1])) as folder:
        for number in range(1000_000):
            (folder / str(number)).write_text("x")
            begun.set()
threading.Thread(target=work, daemon=True).start()
begun.wait()
files.abandon()
import os
os._exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "new")], check=False).returncode == 7
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_the_permissions_of_an_older_file_are_kept(mode: int, tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    target.chmod(mode)
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert (target.stat().st_mode & 0o777, target.read_text()) == (mode, "new")


@pytest.mark.parametrize("name", ["é" * 127 + "x", "日" * 85, "x" * 255])
def test_the_longest_names_can_be_written(name: str, tmp_path: Path) -> None:
    assert len(name.encode()) == 255  # NAME_MAX
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).unlink()
    with new_folder(tmp_path / name) as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / name / "a").read_text() == "new"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL])
def test_where_there_are_no_locks_work_goes_on(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert lock(tmp_path) is None
    for _ in range(2):
        with replacing(tmp_path / "out.txt") as temporary, replacing(tmp_path / "out.txt") as second:
            assert temporary != second
            temporary.write_text("new")
            second.write_text("newer")
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.ENOSYS, errno.EBADF])
def test_a_folder_that_can_not_be_flushed_does_no_harm(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[bool] = []
    real = os.fsync

    def refuse(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append(folder)
        if folder:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with replacing(tmp_path / "out.txt") as temporary:
        temporary.write_text("new")
    assert flushed == [False, True]
    assert (tmp_path / "out.txt").read_text() == "new"


def test_a_disk_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="input/output error"), replacing(tmp_path / "out.txt") as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == []


def in_a_mount_namespace(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script where it may mount; `$1` is a Python that knows files.py."""
    can = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False)
    if can.returncode:
        pytest.skip("mounting is not permitted here")
    line = ["unshare", "-m", "sh", "-ec", script, "sh", sys.executable]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)


WRITE = "from pathlib import Path; from dcgan_infer.contract.files import *\n"
WRITE_FILE = WRITE + "with replacing(Path('out')) as t: t.write_text('new')"
WRITE_FOLDER = WRITE + "with new_folder(Path('out')) as t: (t / 'a').write_text('new')"


@pytest.mark.parametrize("parent", ["writable", "read-only"])
def test_a_file_that_is_mounted_is_written_in_place(parent: str, tmp_path: Path) -> None:
    """As `docker run -v $PWD/out:/data/out` does, also with `--read-only`."""
    for name in ("out", "source"):
        (tmp_path / name).write_text("old")
    read_only = "mount -o remount,bind,ro . ; cd $PWD ;" if parent == "read-only" else ""
    script = f'mount --bind . . ; cd $PWD ; mount --bind source out ; {read_only} "$1" -c "{WRITE_FILE}"'
    finished = in_a_mount_namespace(script, tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert ((tmp_path / "out").read_text(), (tmp_path / "source").read_text()) == ("old", "new")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("parent", ["writable", "read-only"])
def test_a_folder_that_is_mounted_is_filled(parent: str, tmp_path: Path) -> None:
    for name in ("out", "source"):
        (tmp_path / name).mkdir()
    read_only = "mount -o remount,bind,ro . ; cd $PWD ;" if parent == "read-only" else ""
    script = f'mount --bind . . ; cd $PWD ; mount --bind source out ; {read_only} "$1" -c "{WRITE_FOLDER}"'
    finished = in_a_mount_namespace(script, tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert [(path.name, path.read_text()) for path in (tmp_path / "source").iterdir()] == [("a", "new")]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A real one, of 64 KiB."""
    script = f'mount -t tmpfs -o size=64k none . ; cd $PWD ; echo old > out ; "$1" -c "{WRITE_FILE}" ; cat out ; ls -A'
    finished = in_a_mount_namespace(script.replace("'new'", "'x' * 100_000"), tmp_path)
    assert "no space left on device" in finished.stderr
    script = script.replace('"$1"', '! "$1"')
    finished = in_a_mount_namespace(script.replace("'new'", "'x' * 100_000"), tmp_path)
    assert finished.stdout == "old\nout\n"


def test_a_folder_that_may_be_written_but_not_read(tmp_path: Path) -> None:
    """Permissions 0333: its list of names can't be flushed, and the file is in place."""
    code = WRITE_FILE.replace("with ", "import os; os.getuid() or os.setuid(65534)\nwith ")  # root may all
    tmp_path.chmod(0o333)
    for folder in tmp_path.parents:
        if folder.stat().st_uid == os.getuid() and folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)
    finished = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    tmp_path.chmod(0o755)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "new")]
