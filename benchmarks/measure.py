"""How work is measured: time for all sides in turn in one process, memory for one side alone in a fresh process."""

import ctypes
import gc
import itertools
import os
import platform
import resource
import time
import tracemalloc
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
THREADS = 2
AT_MOST = 31  # turns
STATUS = Path("/proc/self/status")


def prepare():
    """The same conditions for every measurement."""
    torch.set_num_threads(THREADS)
    torch.backends.cudnn.allow_tf32 = False  # results are compared, so the two sides round alike
    torch.manual_seed(0)


def machine():
    """What the figures depend on besides the code."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    names = ("torch", "torchvision", "datasets", "pillow", "numpy")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if CUDA else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load": [round(load, 2) for load in os.getloadavg()],
        "date": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
    }


def timed(work):
    """Wall and CPU seconds of one call."""
    if CUDA:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
    cpu, wall = _cpu_seconds(), time.perf_counter()
    work()
    if CUDA:
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000, _cpu_seconds() - cpu
    return time.perf_counter() - wall, _cpu_seconds() - cpu


def _cpu_seconds():
    """Of this process with all its threads, and of the processes that it started and that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def take_turns(sides, at_least=7, budget=4.0):
    """Time the sides one after the other, again and again, in alternating order.

    Parameters
    ----------
    sides : dict
        The work of each side, a callable without arguments.
    at_least : int
        How many turns; more, up to 31, if they fit into the budget.
    budget : float
        Seconds for all sides together.

    Returns
    -------
    dict
        For each side the raw `wall` and `cpu` seconds, in the order of the turns.
    """
    warm_up = [timed(work)[0] for work in sides.values()]
    if sum(warm_up) < 2:
        warm_up = [timed(work)[0] for work in sides.values()]
    turns = max(at_least, min(int(budget / sum(warm_up)), AT_MOST))
    samples = {name: {"wall": [], "cpu": []} for name in sides}
    gc.collect()
    gc.disable()
    for turn in range(turns):
        for name in sides if turn % 2 == 0 else reversed(sides):
            wall, cpu = timed(sides[name])
            samples[name]["wall"].append(round(wall, 6))
            samples[name]["cpu"].append(round(cpu, 6))
    gc.enable()
    return samples


def peak_memory(work):
    """Bytes that one call needs, after one to warm up.

    `held` is resident before the call (interpreter, libraries, weights, inputs), `peak` the most that was resident
    during it, `work` the difference: activations, gradients and buffers. Freed memory that the allocator kept from the
    first call is given back before, so that the call pays for all it uses. On CUDA the allocator's own figures.
    """
    work()
    gc.collect()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        peak = torch.cuda.max_memory_allocated()
    elif STATUS.exists():
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        held = _status("VmRSS")
        work()
        peak = _status("VmHWM")
    else:  # macOS: the peak of the whole life, in bytes
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"held": held, "peak": peak, "work": max(peak - held, 0)}


def ten_steps(work):
    """What `peak_memory` says of a call, and the seconds of ten more, in a process that does nothing else."""
    memory = peak_memory(work)
    wall, cpu = zip(*(timed(work) for _ in range(10)), strict=True)
    return {"memory": memory, "wall": wall, "cpu": cpu}


def peak_allocated(work):
    """Bytes that one call allocates, after one to warm up, at their most: to the byte, where pages are too coarse.

    `tensors` are PyTorch's, inside of operators too, as its profiler reports them; `objects` are Python's. `work` is
    the sum of the two peaks, which is at least the peak of the sum.
    """
    work()
    gc.collect()
    if CUDA:
        tensors = peak_memory(work)["work"]
    else:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            work()
        changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes.sort(key=lambda event: event.start_ns())
        tensors = max(itertools.accumulate((event.nbytes() for event in changes), initial=0))
    tracemalloc.start()
    work()
    objects = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"tensors": tensors, "objects": objects, "work": tensors + objects}


def _status(field):
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def hot_spots(work, top=6):
    """Share of the time that the costliest operators take themselves."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if CUDA else activity.CPU]) as profile:
        work()
    field = "self_device_time_total" if CUDA else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda event: -getattr(event, field))
    total = sum(getattr(event, field) for event in events)
    return [{"name": e.key, "share": round(getattr(e, field) / total, 4), "calls": e.count} for e in events[:top]]
