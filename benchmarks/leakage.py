"""How long the leakage suite takes on 6,560 embeddings of 128 dimensions: 41 subjects x 8
activities x 20 frames, 12 AUs.

    python benchmarks/leakage.py [--rounds 3] [--quick]

The embeddings are made up (`make_embeddings`), with identity, activity, sequences and AUs in them.
Each measure runs alone through `leakage_report`, with its intervals (1,000 resamples), and 'whole
report' is all of them in one call. For comparison, the probe that most people would use for one
measure: ID accuracy with scikit-learn's discriminant and with its logistic regression, same
rotation, without intervals. `cpu_s` is CPU time on one thread, the median of alternated rounds;
`target` is the most it should be.
"""

import argparse
from pathlib import Path

from machine import about, alternate, one_thread, save, show

one_thread()
import numpy as np
import pandas as pd
import torch

torch.set_num_threads(1)
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from clef_nb.measure.leakage import leakage_report
from clef_nb.measure.measures import make_embeddings

HERE = Path(__file__).resolve().parent
MEASURES = [
    'id_accuracy',
    'selectivity',
    'v_information',
    'v_information_given_activity',
    'knn_id',
    'variance',
    'id_preference',
    'au_auroc',
    'amnesic_difference',
    'split_gap',
]


def rotated(probe, z, s, a):
    "ID accuracy by a probe of scikit-learn"
    group, right = np.unique(a, return_inverse=True)[1] % 4, np.zeros(len(z))
    for g in range(4):
        scale = z[group != g].std(0)
        right[group == g] = (
            probe.fit(z[group != g] / scale, s[group != g]).predict(z[group == g] / scale)
            == s[group == g]
        )
    return right.mean()


def main(
    rounds=3,
    n_subjects=41,
    frames=20,
    dim=128,
    aus=12,
    n_boot=1000,
    out=HERE / 'results' / 'leakage.csv',
):
    z, table = make_embeddings(
        identity=0.4,
        activity=0.4,
        sequence=0.3,
        au=0.4,
        n_subjects=n_subjects,
        frames=frames,
        dim=dim,
        aus=aus,
    )
    s, a = table['subject'].to_numpy(), table['activity'].to_numpy()
    au = (table.filter(like='AU') >= 1).astype(float)
    variants = {'whole report': lambda: leakage_report(z, s, a, au, n_boot=n_boot)}
    variants |= {
        m: lambda m=m: leakage_report(z, s, a, au, measures=[m], n_boot=n_boot) for m in MEASURES
    }
    variants |= {
        'id_accuracy, scikit-learn discriminant': lambda: rotated(
            LinearDiscriminantAnalysis(solver='lsqr', shrinkage=0.1), z, s, a
        ),
        'id_accuracy, scikit-learn logistic regression': lambda: rotated(
            LogisticRegression(C=0.1, max_iter=300), z, s, a
        ),
    }
    rows = [
        dict(what=k, cpu_s=cpu, wall_s=wall, target=10.0 if k == 'whole report' else None)
        for k, (cpu, wall) in alternate(variants, rounds).items()
    ]
    result = pd.DataFrame(rows)
    show(result)
    facts = about(
        'numpy',
        'scipy',
        'scikit-learn',
        'torch',
        rounds=rounds,
        frames=len(z),
        dim=dim,
        subjects=n_subjects,
        aus=aus,
        n_boot=n_boot,
    )
    if out:
        save(result.assign(**facts), out)
    print('\n' + ', '.join(f'{k} {v}' for k, v in facts.items()))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument(
        '--quick', action='store_true', help='few subjects and frames, one round, nothing saved'
    )
    args = parser.parse_args()
    if args.quick:
        main(1, 6, 4, 16, 2, 20, None)
    else:
        main(args.rounds)
