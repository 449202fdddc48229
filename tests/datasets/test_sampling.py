"The promises of the samplers, on tables made up at random"

import numpy as np
import pandas as pd
import pytest
import torch

from clef_nb.datasets.frames import FrameTable
from clef_nb.datasets.sampling import ActivityBatches, ShuffledBatches


def made(counts):
    "A table without images: counts[activity][subject] frames"
    rows = [
        dict(path=f'{s}/{a}/{i}.jpg', subject=s, activity=a, frame=i)
        for a, c in counts.items()
        for s, n in c.items()
        for i in range(n)
    ]
    return FrameTable(pd.DataFrame(rows), 'nowhere')


# ---- samplers


def fuzzed(seed):
    rng = np.random.default_rng(seed)
    A, S = rng.integers(2, 7), rng.integers(2, 9)
    counts = {
        f'T{a}': {
            f's{s}': int(rng.integers(1, 12)) for s in rng.permutation(S)[: rng.integers(2, S + 1)]
        }
        for a in range(A)
    }
    want = int(rng.integers(2, A + 1))
    most = min(sum(c.values()) for c in counts.values()) * want
    return (
        made(counts),
        counts,
        int(rng.integers(2 * want, most + 1)) if most > 2 * want else 2 * want,
        want,
    )


@pytest.mark.parametrize('seed', range(40))
def test_every_batch_keeps_its_promises(seed):
    table, counts, size, want = fuzzed(seed)
    if min(sum(c.values()) for c in counts.values()) < -(-size // want):
        pytest.skip('no such batch')
    b = ActivityBatches(table, size, want, seed)
    used = dict.fromkeys(counts, 0)
    assert len(list(b.set_epoch(0))) == len(b) == -(-len(table) // size)
    for rows in b.set_epoch(0):
        d = table.df.iloc[rows]
        assert len(rows) == size and d['activity'].nunique() == want
        per = d['activity'].value_counts()
        assert per.max() - per.min() <= 1
        for a, g in d.groupby('activity'):
            used[a] += 1
            n = g['subject'].value_counts().reindex(list(counts[a]), fill_value=0)
            assert n.max() - n.min() <= 1
            # a frame comes twice only where a subject's share is larger than its frames
            for s, rows_of in g.groupby('subject').groups.items():
                assert pd.Series(rows_of).value_counts().max() <= -(-len(rows_of) // counts[a][s])
    assert max(used.values()) - min(used.values()) <= 1


@pytest.mark.parametrize('seed', range(5))
def test_every_frame_is_shown_in_time(seed):
    table, counts, size, want = fuzzed(seed)
    b = (
        ActivityBatches(table, size, want)
        if min(sum(c.values()) for c in counts.values()) >= -(-size // want)
        else ActivityBatches(table, 2 * want, want)
    )
    seen = set()
    for _ in range(60):
        seen.update(np.concatenate(list(b)).tolist())
    assert seen == set(range(len(table))) and b.epoch == 60


def test_even_tables_are_covered_exactly():
    table = made({f'T{a}': {f's{s}': 6 for s in range(5)} for a in range(4)})
    for epoch in range(3):
        assert sorted(
            np.concatenate(list(ActivityBatches(table, 20, 2).set_epoch(epoch))).tolist()
        ) == list(range(120))


def epochs(batches, n):
    return [np.concatenate(list(batches)).tolist() for _ in range(n)]


def test_seed_and_epoch_decide():
    table = made({f'T{a}': {f's{s}': 6 for s in range(5)} for a in range(4)})
    for make in (
        (lambda seed: ActivityBatches(table, 20, 2, seed)),
        (lambda seed: ShuffledBatches(table, 20, seed)),
    ):
        first = epochs(make(0), 3)
        assert (
            first == epochs(make(0), 3)
            and first[0] != first[1]
            and first[0] != epochs(make(1), 1)[0]
        )
        assert first[2] == epochs(make(0).set_epoch(2), 1)[0]
        # a pass that was broken off counts as one
        b = make(0)
        next(iter(b))
        assert epochs(b, 1)[0] == first[1]
        state = np.random.get_state()[1].copy()
        torch_state = torch.get_rng_state()
        epochs(make(0), 1)
        # nobody else's randomness is touched
        assert (np.random.get_state()[1] == state).all() and torch.equal(
            torch.get_rng_state(), torch_state
        )


def test_impossible_samplers():
    ok = {f'T{a}': {'s0': 4, 's1': 4} for a in range(3)}
    for args, words in [
        ((12, 4), 'has 3 activities'),
        ((5, 3), 'batch_size=6 or more'),
        ((60, 3), 'T0 has 8 frames, fewer than its share of 20'),
        ((0, 3), 'batch_size is 0'),
        ((12, 1), 'activities_per_batch is 1'),
        ((12.5, 3), 'batch_size is 12.5'),
        ((12, True), 'activities_per_batch is True'),
        ((12, 3, -1), 'seed is -1'),
    ]:
        with pytest.raises(ValueError, match=words):
            ActivityBatches(made(ok), *args)
    with pytest.raises(ValueError, match='activity T9 has frames of one subject only'):
        ActivityBatches(made(ok | {'T9': {'s0': 8}}), 8, 2)
    for c in 'subject', 'activity':
        t = made(ok)
        t.df.loc[5, c] = pd.NA
        with pytest.raises(ValueError, match=f'row 5 .* has no {c}'):
            ActivityBatches(t, 6, 3)
    with pytest.raises(ValueError, match='epoch is -1'):
        ActivityBatches(made(ok), 6, 3).set_epoch(-1)


@pytest.mark.parametrize('n, size', [(1, 1), (1, 256), (7, 3), (100, 33), (256, 256)])
def test_shuffled(n, size):
    b = ShuffledBatches(n, size)
    parts = list(b)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n)) and len(parts) == len(b)
    assert max(map(len, parts)) <= size and max(map(len, parts)) - min(map(len, parts)) <= 1
