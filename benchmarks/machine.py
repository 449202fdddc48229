"""What the benchmarks share: one thread, the machine and its versions, alternated rounds, peak
memory, tables, and results that are written whole or not at all.
"""

import datetime
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

THREADS = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'NUMBA_NUM_THREADS')


def one_thread():
    "One thread for everything that computes; call it before numpy and torch are imported"
    os.environ.update(dict.fromkeys(THREADS, '1'))
    # the profiler is talkative
    os.environ.update(TORCH_CPP_LOG_LEVEL='ERROR', KINETO_LOG_LEVEL='99')


def cpu_model():
    try:
        return next(
            line.split(':', 1)[1].strip()
            for line in open('/proc/cpuinfo')
            if line.startswith('model name')
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def has_bf16():
    "Whether the processor multiplies bfloat16 by itself; unknown counts as no"
    try:
        return bool({'avx512_bf16', 'amx_bf16'} & set(Path('/proc/cpuinfo').read_text().split()))
    except OSError:
        return False


def about(*packages, **more):
    "What every row of a result carries: settings, machine, versions, date"
    return dict(
        **more,
        threads=1,
        load=round(os.getloadavg()[0], 1),
        cpu=cpu_model(),
        python=platform.python_version(),
        **{
            p.replace('-', '_'): importlib.metadata.version(p)
            for p in packages
            if has_distribution(p)
        },
        date=datetime.date.today().isoformat(),
    )


def has_distribution(name):
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def peer(module):
    "Whether a library to compare with is here; a printed line where it is not"
    if importlib.util.find_spec(module):
        return True
    if multiprocessing.parent_process() is None:
        print(f"{module} is not installed and left out; pip install 'clef_nb[bench]'")
    return False


def alternate(ways, rounds, least=0.05):
    """Time {name: function} in alternated rounds, in each of which what is short is repeated until
    it takes about `least` seconds: {name: (median CPU s, median wall s)} of one call
    """
    times, taken = dict.fromkeys(ways, 1), {k: [] for k in ways}
    for name, step in ways.items():
        # very slow, or a trial: not worth a call that is not counted
        if rounds == 1:
            break
        # the first call may load or compile
        start = time.perf_counter()
        step()
        if time.perf_counter() - start < least:
            start = time.perf_counter()
            step()
        times[name] = max(1, int(least / max(time.perf_counter() - start, 1e-6)))
    for _ in range(rounds):
        for name, step in ways.items():
            w, c = time.perf_counter(), time.process_time()
            for _ in range(times[name]):
                step()
            taken[name].append(
                ((time.process_time() - c) / times[name], (time.perf_counter() - w) / times[name])
            )
    return {k: tuple(map(statistics.median, zip(*v))) for k, v in taken.items()}


def tensor_peak(step):
    """Most MiB that tensors made during `step()` hold at one time: torch's own record of its CPU
    allocator, exact and the same in every run.

    Work space of the matrix library is not in it
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        record.export_chrome_trace(file := f'{folder}/trace.json')
        events = sorted(
            (e['ts'], e['args']['Bytes'])
            for e in json.loads(Path(file).read_text())['traceEvents']
            if e.get('name') == '[memory]'
        )
    now = most = 0
    for _, b in events:
        now += b
        most = max(most, now)
    return most / 2**20


def peak():
    """Highest resident memory of this process since `forget_peak`, MiB; on other systems than Linux
    since its start
    """
    try:
        return (
            next(
                int(line.split()[1])
                for line in open('/proc/self/status')
                if line.startswith('VmHWM')
            )
            / 1024
        )
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            1024**2 if sys.platform == 'darwin' else 1024
        )


def forget_peak():
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        pass


def _grown(pipe, make, arguments):
    step = make(*arguments)
    forget_peak()
    before = peak()
    result = step()
    pipe.send((peak() - before, result))


def resident_peak(make, *arguments):
    """What a fresh process grows by at its highest, MiB, while it runs the function that
    `make(*arguments)` returns, and what that returned (simple values or numpy arrays)
    """
    context = multiprocessing.get_context('spawn')
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_grown, args=(there, make, arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise RuntimeError(
            f'the process that measures {make.__name__}{arguments} ended without a result'
        ) from None
    finally:
        process.join()


def show(table):
    "Print a DataFrame, empty where there is no value"
    print(
        table.to_string(
            index=False,
            na_rep='',
            float_format=lambda v: f'{v:.3g}' if abs(v) < 100 else f'{v:,.0f}',
        )
    )


def save(table, out):
    "Write a DataFrame as CSV"
    out.parent.mkdir(exist_ok=True)
    part = out.with_suffix('.part')
    table.to_csv(part, index=False)
    os.replace(part, out)
