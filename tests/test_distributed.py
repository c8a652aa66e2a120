"""What processes exchange; and two of them on this machine train as one process does."""

import json
import os
import subprocess
import sys

import pytest
import torch

from frcnn_common.distributed import gather, join_processes, mean_count, mean_over_ranks, process_rank


def test_alone_everything_is_as_it_was(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    join_processes()
    assert not torch.distributed.is_initialized()
    assert process_rank() == (0, 1) and gather({"a": 1}) == [{"a": 1}]
    assert mean_over_ranks(torch.tensor([2.0, -3.0])).tolist() == [2, -3]
    assert mean_count(torch.tensor([0.0, 0.5, 7.0])).tolist() == [1, 1, 7]


def start(root, folder, job, processes=2):
    """What each process returns from a job of `ranks.py`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, root / "tests" / "ranks.py", job, folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    subprocess.run(command, check=True, timeout=3600, env=environment)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_two_processes_exchange_values_and_means(root, tmp_path):
    first, second = start(root, tmp_path, "exchange")
    assert (first.pop("rank"), second.pop("rank")) == ([0, 2], [1, 2])
    assert first.pop("passed") == [[1, 10], [0, 0, 0.5]] and second.pop("passed") == [[2, 20], [0, 3, 0.5]]
    assert first == second  # by hand: of the counts 0, 3 and 1 in all, the first is taken as 1
    assert first["gathered"] == ["first", ["another", 1]]
    assert first["mean_over_ranks"] == [1.5, 15] and first["mean_count"] == [0.5, 1.5, 0.5]


@pytest.mark.slow
def test_gradients_are_those_of_one_process(root, tmp_path):
    (alone,) = start(root, tmp_path, "gradients", processes=1)
    first, second = start(root, tmp_path, "gradients")
    expected, *both = (torch.load(tmp_path / f"gradients_{n}.pt") for n in ("0_of_1", "0_of_2", "1_of_2"))
    assert expected.keys() == both[0].keys() and any(grad is not None for grad in expected.values())
    for name, grad in expected.items():
        for other in both:
            if grad is None:
                assert other[name] is None
            else:
                assert (other[name] - grad).norm() <= 1e-4 * grad.norm(), name
    for name in ("lr", "loss", "rpn_cls", "rpn_box", "roi_cls", "roi_box", "grad_norm"):
        assert first[name] == pytest.approx(alone[name], rel=1e-4) and first[name] == second[name]


@pytest.mark.slow
def test_each_image_comes_to_one_process(root, tmp_path):
    first, second = start(root, tmp_path, "epoch")
    assert sorted(first + second) == list(range(7)) and first and second


@pytest.mark.slow
def test_uneven_shares_neither_hang_nor_part(root, tmp_path):
    first, second = start(root, tmp_path, "run")
    assert first["weights"] == second["weights"]
    assert first["last"]["step"] == 12 and first["last"]["AP"] == second["last"]["AP"]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(1, 13))
    checkpoint = torch.load(tmp_path / "run" / "step_00000012.pt", weights_only=True)
    assert len(checkpoint["ranks"]) == 2 and checkpoint["run"]["ranks"] == 2
