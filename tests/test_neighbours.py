"""What else uses the machine is seen, and named where a run is slow or its memory is taken; once, in a sentence."""

import logging
import re
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import untrained

from streamline import Device, Disturbed, Job, Plan, Receipt, Rehash, Step, detect, predict, run
from streamline.commands.report import Progress
from streamline.hardware.neighbours import Moment, cause_of_slowness, look, shortage
from streamline.running.watching import NOTABLE_SECONDS, Watch
from ui.work import _Reporter

GIB, MIB = 2**30, 2**20
CPU = detect("cpu")
GPU = Device("cuda", 0, "a card", 8 * GIB, 4 * GIB, GIB, 512 * MIB, ("float32",))
QUIET = Moment(100.0, GPU, 3 * GIB, 0, 50.0, 4)
LATER = replace(QUIET, seconds=110.0, busy_seconds=51.0)


def with_device(moment, **changes):
    return replace(moment, device=replace(moment.device, **changes))


def test_a_cause_is_named_by_what_has_changed():
    said = {
        "nothing": cause_of_slowness(QUIET, QUIET, LATER),
        "spill": cause_of_slowness(QUIET, QUIET, replace(LATER, held_bytes=5 * GIB)),
        "swap": cause_of_slowness(QUIET, QUIET, replace(LATER, swapped_bytes=200 * MIB)),
        "taken": cause_of_slowness(QUIET, QUIET, with_device(LATER, used_by_others_bytes=3 * GIB, free_bytes=2 * GIB)),
        "busy": cause_of_slowness(QUIET, QUIET, replace(LATER, busy_seconds=50 + 35.0)),
    }
    assert said["nothing"] == "nothing else that this machine does explains it"
    assert said["spill"] == "1.0 GiB of what this run holds were moved from a card to main memory"
    assert said["swap"].startswith("main memory is short, and 200.0 MiB were read back")
    assert said["taken"] == "another program has begun to use a card, and holds 2.0 GiB of it"
    assert said["busy"] == "other programs keep 3.5 of 4 processors busy"


def test_a_little_of_each_is_no_cause():
    little = replace(LATER, swapped_bytes=MIB, busy_seconds=50 + 20.0, held_bytes=4 * GIB)
    little = with_device(little, used_by_others_bytes=GIB + MIB)
    assert cause_of_slowness(QUIET, QUIET, little).startswith("nothing else")


def test_memory_that_others_take_is_missed_only_where_it_is_needed():
    crowded = with_device(LATER, used_by_others_bytes=4 * GIB, free_bytes=GIB)
    assert shortage(QUIET, LATER, 7 * GIB) is None, "nobody took any"
    assert shortage(QUIET, crowded, 4 * GIB) is None, "there is enough all the same"
    sentence = shortage(QUIET, crowded, 6 * GIB)
    assert sentence.startswith(
        "Other programs have taken 3.0 GiB of the memory of a card since this run began: it lacks"
    )


def animatediff(steps=6):
    pipe = untrained.animatediff()
    pipe.set_progress_bar_config(disable=True)
    return pipe, Job.for_model(pipe, prompt="a cat", num_frames=2, num_inference_steps=steps, height=32, width=32)


def test_a_slow_step_is_told_once_everywhere(caplog, capsys):
    """In the events, and so on the page and the command line; in the log; and in the receipt."""
    pipe, job = animatediff()
    events, progress, notes = [], Progress(), []
    reporter = _Reporter(pipe, notes.append, 0, None)
    reporter._preview = lambda step: ()

    def listen(event):
        events.append(event)
        progress(event)
        reporter(event)
        if isinstance(event, Step) and event.index in (3, 4):
            time.sleep(NOTABLE_SECONDS + 0.2)  # two slow steps, one sentence

    with caplog.at_level(logging.WARNING):
        result = run(pipe, job, Plan(), on_event=listen)
    progress.close()
    (message,) = [event.sentence for event in events if isinstance(event, Disturbed)]
    assert re.fullmatch(r"Step 5 took [23]\.\d s instead of about \d\.\d s: .*\.", message)
    assert result.disturbances == (message,) == tuple(result.to_dict()["disturbances"])
    assert [event.sentence for event in notes if hasattr(event, "sentence")] == [message]
    assert caplog.messages.count(message) == 1 and capsys.readouterr().err.count(message) == 1
    receipt = Receipt.of(pipe, result)
    assert receipt.disturbances == (message,) and Receipt.from_json(receipt.to_json()) == receipt


def test_a_run_at_its_usual_pace_says_nothing():
    pipe, job = animatediff(3)
    assert run(pipe, job, Plan()).disturbances == ()


def test_a_run_slower_than_predicted_from_its_beginning_is_told_too():
    pipe, job = animatediff(3)
    prediction = predict(pipe, job, Plan(), device="cpu")
    assert run(pipe, job, Plan(), prediction=prediction).disturbances == ()
    watch = Watch(CPU, Plan(), prediction, None, 0)
    assert watch.step([5.0], 0) == [], "the first step loads things"
    assert watch.step([5.0, 0.1], 0) == []
    ((said,), again) = watch.step([5.0, 0.1, 9.0], 0), watch.decoded(9.0, 0)
    assert said.sentence.startswith("Step 3 took 9.0 s instead of about") and again == []
    (late,) = Watch(CPU, Plan(), prediction, None, 0).decoded(9.0, 0)
    assert late.sentence.startswith("Decoding took 9.0 s")


def test_steps_in_full_are_not_slow_beside_those_that_reuse():
    watch = Watch(CPU, Plan(rehash=Rehash((0, 3, 5), "paper")), None, None, 0)
    assert watch.step([9.0, 1.0, 1.0, 8.0], 0) == []
    assert watch.step([9.0, 1.0, 1.0, 8.0, 6.0], 0) != []


def test_a_tighter_plan_is_not_judged_by_the_one_before_it():
    watch = Watch(CPU, Plan(), None, None, 0)
    steps = [1.0, 1.0, 1.0, 9.0, 9.0, 9.0]  # from the fourth on in smaller pieces
    watch.replanned(3)
    assert [watch.step(steps[: count + 1], 0) for count in (3, 4, 5)] == [[], [], []]
    assert watch.step([*steps, 40.0], 0) != [], "beside its own steps it is slow"


def test_a_neighbour_that_takes_memory_is_seen():
    """A program that holds a GiB. Others may let go of some at the same moment, so it is tried again."""
    for _ in range(3):
        first = look(CPU, 0)
        with neighbour("held = bytearray(b'x' * 2**30)"):
            now = look(CPU, 0)
        sentence = shortage(first, now, first.device.free_bytes - 300 * MIB)
        if sentence is not None:
            break
    assert sentence.startswith("Other programs have taken ") and CPU.name in sentence


def test_neighbours_that_compute_are_seen():
    busy = (
        "import time\nuntil = time.monotonic() + 30\nprint('ready', flush=True)\nwhile time.monotonic() < until: pass"
    )
    count = psutil.cpu_count()
    before = look(CPU, 0)
    programs = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(count)]
    try:
        time.sleep(1.5)
        now = look(CPU, 0)
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert f"of {count} processors busy" in cause_of_slowness(before, before, now)


class neighbour:
    """A program that runs some lines and then waits."""

    def __init__(self, lines):
        self._program = subprocess.Popen(
            [sys.executable, "-c", f"{lines}\nprint('ready', flush=True)\ninput()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self):
        assert self._program.stdout.readline() == "ready\n"

    def __exit__(self, *error):
        self._program.communicate("\n", timeout=60)


@pytest.mark.parametrize("bad", ["x", [1], ["a"] * 9, ["a" * 501], {"a": 1}])
def test_a_strangers_receipt_brings_no_more_than_a_few_sentences(bad):
    from test_fuzz import RECEIPT

    data = RECEIPT.to_dict()
    assert Receipt.from_dict(data | {"disturbances": ["It was slow."]}).disturbances == ("It was slow.",)
    with pytest.raises(ValueError, match="disturbances"):
        Receipt.from_dict(data | {"disturbances": bad})
