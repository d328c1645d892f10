"""Memory shared by name: one copy a machine, filled once, and nothing left whoever dies."""

import gc
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from tokenstore.shared_memory import SharedMemory, memory_left

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="shared on Linux only")

ASK = """
import os, sys, time
from tokenstore.shared_memory import SharedMemory
def fill(memory):
    print("filling", flush=True)
    {during}
    memory[:] = int(sys.argv[2])
memory = SharedMemory(sys.argv[1], 8, fill)
print(memory.content.tolist(), flush=True)
{after}
"""


@pytest.fixture
def name():
    return uuid.uuid4().hex


def numbered(number):
    def fill(memory):
        memory[:] = number

    return fill


def refuse(memory):
    raise AssertionError("somebody has filled it already")


def started(name, number, during="pass", after="pass"):
    program = ASK.format(during=during, after=after)
    command = [sys.executable, "-c", program, name, str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_the_second_gets_what_the_first_has_filled(name):
    first = SharedMemory(name, 100, numbered(7))
    second = SharedMemory(name, 100, refuse)
    assert first.content.tolist() == second.content.tolist() == [7] * 100


def test_two_names_are_two_memories(name):
    first, second = SharedMemory(name, 4, numbered(1)), SharedMemory(name + "b", 4, numbered(2))
    assert (first.content[0], second.content[0]) == (1, 2)


def test_another_process_shares_it(name):
    memory = SharedMemory(name, 8, numbered(5))
    other = started(name, 9)
    assert other.communicate(timeout=60)[0].split("\n")[0] == str([5] * 8)
    assert memory.content[0] == 5


def test_what_a_fill_raises_is_raised_and_the_next_may_try(name):
    def broken(memory):
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        SharedMemory(name, 8, broken)
    assert SharedMemory(name, 8, numbered(3)).content[0] == 3


def test_it_is_gone_with_its_last_object(name):
    memory = SharedMemory(name, 8, numbered(1))
    del memory
    gc.collect()
    assert SharedMemory(name, 8, numbered(2)).content[0] == 2


def test_it_stays_with_those_who_have_it_when_its_maker_goes(name):
    maker = SharedMemory(name, 8, numbered(1))
    user = SharedMemory(name, 8, refuse)
    del maker
    gc.collect()
    assert user.content.tolist() == [1] * 8


def test_who_waits_for_a_process_that_is_killed_takes_its_place(name):
    shared = set(Path("/dev/shm").iterdir())
    other = started(name, 9, during="time.sleep(100)")
    assert other.stdout.readline() == "filling\n"
    got = []
    waiting = threading.Thread(target=lambda: got.append(SharedMemory(name, 8, numbered(4))))
    waiting.start()
    waiting.join(0.3)
    assert not got, "it must wait while somebody fills"
    other.send_signal(signal.SIGKILL)
    waiting.join(30)
    assert got[0].content[0] == 4
    other.communicate()
    assert {path for path in Path("/dev/shm").iterdir() if "tokenstore" in path.name} <= shared


def test_a_forked_child_reads_it_and_keeps_no_name(name):
    memory = SharedMemory(name, 8, numbered(6))
    child = os.fork()
    if child == 0:
        right = memory.content[0] == 6
        signal.pause() if right else os._exit(1)
    try:
        del memory
        gc.collect()
        assert SharedMemory(name, 8, numbered(2)).content[0] == 2, "the child holds the name"
    finally:
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_machine_has_some_memory_left():
    assert 0 < memory_left() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
