"""How many faces one core renders in a second: medians over rounds, CPU time of one thread.

python benchmarks/render.py
"""

import statistics
import time

import numpy as np

from clef_nb.faces.people import sample_subject
from clef_nb.faces.render import render, sample_shot


def rate(size, images, people):
    "Images a second of CPU time"
    rng = np.random.default_rng(0)
    shots = [sample_shot(rng) for _ in range(images)]
    start = time.process_time()
    for i, shot in enumerate(shots):
        render(people[i % len(people)], {1: 2, 6: 3, 12: 4, 25: 3}, shot, size)
    return images / (time.process_time() - start)


def main(rounds=5):
    people = [sample_subject(np.random.default_rng([0, i]), 'F001') for i in range(8)]
    render(people[0])  # numba compiles, or reads its cache
    for size, images in ((64, 200), (112, 100), (224, 40)):
        print(
            f'{size:4d} px:'
            f' {statistics.median(rate(size, images, people) for _ in range(rounds)):6.0f} images/s'
            ' a core'
        )
    start = time.process_time()
    for i in range(40):
        sample_subject(np.random.default_rng([1, i]), 'M001')
    print(f'a subject: {(time.process_time() - start) / 40 * 1e3:.0f} ms')


if __name__ == '__main__':
    main()
