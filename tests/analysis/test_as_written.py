"""Networks run by their own code: whatever threads overlap, PyTorch compiles again afterwards."""

from __future__ import annotations

import threading

import torch
import torch._dynamo
from torch._dynamo import eval_frame

from striate.analysis.examples import as_written


def test_overlapping_threads_leave_the_stance_as_it_was() -> None:
    network = torch.nn.Linear(2, 2)
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
    seen = []

    def first() -> None:
        with as_written(network):
            first_is_in.set()
            second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(10)
        with as_written(network):
            second_is_in.set()
            first_is_out.wait(10)
            seen.append(eval_frame._stance.stance)

    before = eval_frame._stance.stance
    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["force_eager"]
    assert eval_frame._stance.stance == before
