import io
import re

from autoshard.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(stream: io.StringIO, *, quiet: bool = False) -> str:
    progress = Progress(stream, quiet=quiet)
    progress.stage("compile", total=2)
    progress.step("1D")
    progress.step()
    progress.note("tier skipped")
    progress.close()
    return re.sub(r"\[ *\d+\.\d s\]", "[T]", stream.getvalue())


def test_a_log_gets_one_line_each() -> None:
    assert report(io.StringIO()) == "[T] compile\n[T] compile 1/2: 1D\n[T] compile 2/2\ntier skipped\n"


def test_a_terminal_gets_one_line_over_and_over() -> None:
    erase = "\r\x1b[2K"
    text = report(Terminal())
    assert text == (
        f"{erase}[T] compile{erase}[T] compile 1/2: 1D{erase}[T] compile 2/2{erase}tier skipped\n{erase}"
    )


def test_an_unknown_total_is_left_out() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.stage("search")
    progress.step("mesh x=4")
    assert stream.getvalue().splitlines()[-1].endswith("] search 1: mesh x=4")


def test_quiet_is_silent() -> None:
    assert report(io.StringIO(), quiet=True) == ""
    assert report(Terminal(), quiet=True) == ""
