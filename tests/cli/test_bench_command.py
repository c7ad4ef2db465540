"""What the suite's own commands do when something is wrong."""

import subprocess
import sys

import pytest

from fused_sampler.benchmarks import command
from fused_sampler.views.files import writing


def stop():
    raise KeyboardInterrupt


def fail():
    raise ValueError("two\nlines")


@pytest.mark.parametrize(
    ("function", "status"),
    [(lambda: None, None), (lambda: 0, 0), (lambda: 1, 1), (stop, 130), (fail, 1)],
)
def test_exit_status(function, status, capsys):
    with pytest.raises(SystemExit) as left:
        command.run(function)
    assert left.value.code == status
    assert capsys.readouterr().err == ("two lines\n" if function is fail else "")


def test_a_folder_that_cannot_be_made(tmp_path):
    command.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot make the folder .*file' \(.+\); .* --out"):
        command.make_folder(tmp_path / "file")


def test_a_file_that_cannot_be_written(tmp_path):
    with (
        pytest.raises(ValueError, match=r"cannot write .*taken' \(.+\); .* folder with --out"),
        writing(tmp_path, command.OTHER_FOLDER),
    ):
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken").write_text("")


def test_an_error_is_one_line_and_no_traceback(tmp_path):
    run = [sys.executable, "-m", "fused_sampler.benchmarks.estimate", "--measured", "none.json"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "--measured 'none.json' is no results.json that fused-sampler bench wrote"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_traceback():
    code = "from fused_sampler.benchmarks import command; command.run(lambda: print('x' * 2**20))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.wait(timeout=120) == 1
        assert process.stderr.read() == ""
