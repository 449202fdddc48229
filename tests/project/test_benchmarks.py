"The benchmarks run, at sizes that measure nothing, and what they measure with is right"

import math
import os
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    "Scripts set the environment, the threads and the import path of a process of their own"
    threads, before = torch.get_num_threads(), dict(os.environ)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    torch.set_num_threads(threads)
    os.environ.clear()
    os.environ.update(before)
    for name in ('machine', 'losses', 'step', 'distributed', 'data'):
        sys.modules.pop(name, None)


def test_tensor_peak_counts_what_is_held_at_one_time():
    import machine

    x = torch.zeros(256, 1024)  # 1 MiB

    def step():
        a = x + 1
        b = a + 1
        del a
        c = b + 1
        return b, c

    assert machine.tensor_peak(step) == pytest.approx(2, abs=0.01)
    assert machine.tensor_peak(lambda: [x + 1 for _ in range(5)]) == pytest.approx(5, abs=0.01)


def test_alternate_takes_turns_and_repeats_what_is_short():
    import machine

    calls = []
    times = machine.alternate(
        {'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, 3, least=0
    )
    assert ''.join(calls[-6:]) == 'ababab' and set(times) == {'a', 'b'}
    calls.clear()
    machine.alternate({'a': lambda: calls.append('a')}, 3)
    assert len(calls) > 1000


def test_losses(tmp_path):
    import losses
    import pandas as pd

    losses.main(1, (64,), 128, (64,), tmp_path / 'losses.csv')
    table = pd.read_csv(tmp_path / 'losses.csv')
    exact = table[table['gradient_error'].notna()].set_index(['loss', 'method'])['gradient_error']
    assert exact[~exact.index.get_level_values('method').str.contains('bfloat16')].max() < 2e-4
    assert ('supcon', 'clef_nb') in exact.index and ('clip_loss', 'clef_nb') in exact.index
    assert (table['ratio'] > 0).all() and (
        table.loc[table['method'] == 'floor', 'ratio'] == 1
    ).all()


def test_the_mask_formula_is_the_formula():
    import losses

    z, labels = losses.batch(24)
    z = z.double()
    s = z @ z.T / losses.TEMPERATURE
    each = []
    for i in range(24):
        others = [j for j in range(24) if j != i]
        top = math.log(sum(math.exp(s[i, j]) for j in others))
        own = [s[i, j].item() - top for j in others if labels[j] == labels[i]]
        each.append(-sum(own) / len(own))
    assert losses.with_mask(z, labels).item() == pytest.approx(sum(each) / 24, rel=1e-10)


def test_steps():
    import step

    step.add_vit()
    rows = step.measure_steps(1, 32, 1)
    assert len(rows) == 8 and all(r['ratio'] > 0 for r in rows)
    assert step.measure_parts(1, 16)[1]['difference'] <= 1e-5


def test_data(tmp_path):
    import pandas as pd

    import data

    data.main(1, 16, 2, 2, tmp_path / 'data.csv')
    assert (pd.read_csv(tmp_path / 'data.csv')['ratio'].dropna() > 0).all()


def test_distributed_compares_the_same_losses():
    pytest.importorskip('pytorch_metric_learning')
    import distributed

    g = {
        k: distributed.gradient(loss, *distributed.batch())
        for k, loss in distributed.losses(processes=0).items()
    }

    def difference(a, b):
        return ((g[a] - g[b]).norm() / g[b].norm()).item()

    assert difference('clef_nb supcon', 'pytorch-metric-learning SupConLoss, wrapped') < 1e-4
    assert difference('clef_nb clip_loss', 'open_clip ClipLoss') < 1e-4
    assert difference('clef_nb clip_loss', 'clef_nb image_text') > 0.1
    parts = [distributed.part(distributed.batch(), rank, 3) for rank in range(3)]
    assert all(
        torch.equal(torch.cat(x), y) for x, y in zip(list(zip(*parts))[:3], distributed.batch())
    )
