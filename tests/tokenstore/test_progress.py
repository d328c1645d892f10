"""Progress goes to its own stream: plain lines now and then, or a live bar on a terminal."""

from io import StringIO

from tokenstore.progress import WorkProgress


class Clock:
    """Seconds that pass only when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_off_a_terminal_a_line_comes_every_half_minute_and_not_more_often() -> None:
    stream, clock = StringIO(), Clock()
    with WorkProgress("tokenizing", 400, stream=stream, clock=clock) as progress:
        for _ in range(6):
            clock.now += 10
            progress.advance(20)
    assert stream.getvalue().splitlines() == [
        "tokenizing: 60 of 400 images, 2.0/s, 170 s left",
        "tokenizing: 120 of 400 images, 2.0/s, 140 s left",
    ]


def test_quick_work_says_nothing_off_a_terminal() -> None:
    stream = StringIO()
    with WorkProgress("packing", 2, stream=stream, clock=Clock()) as progress:
        progress.advance(2)
    assert stream.getvalue() == ""


def test_skipped_units_count_as_done_but_not_for_the_rate() -> None:
    clock = Clock()
    with WorkProgress("tokenizing", 400, stream=StringIO(), clock=clock) as progress:
        progress.skip(200)
        clock.now += 10
        progress.advance(100)
        assert progress.line() == "tokenizing: 300 of 400 images, 10.0/s, 10 s left"
        assert (progress.done, progress.fresh) == (300, 100)


def test_an_unknown_total_gives_a_rate_without_time_left() -> None:
    clock = Clock()
    progress = WorkProgress("listing", None, "files", stream=StringIO(), clock=clock)
    clock.now += 2
    progress.advance(10)
    assert progress.line() == "listing: 10 files, 5.0/s"


def test_work_that_counts_by_itself_sets_done_and_total() -> None:
    progress = WorkProgress("verifying", None, stream=StringIO(), clock=Clock())
    progress.reach(3, 10)
    progress.reach(7, 10)
    assert (progress.done, progress.total) == (7, 10)


def test_a_terminal_gets_a_bar_and_spoken_lines_unchanged() -> None:
    stream = Terminal()
    with WorkProgress("tokenizing", 2, stream=stream) as progress:
        progress.say("rejected [a/b].jpg: no image")
        progress.advance(2)
    assert "rejected [a/b].jpg: no image" in stream.getvalue()
    assert "tokenizing" in stream.getvalue()
