"""Draw what the front page shows: nbs/images/method.svg and nbs/images/headline.png.

The method is an SVG with rendered faces in it; the headline is study 30 as a plot, from the kept
results in data/studies/. Run it from the project's root after a change of either.
"""

import base64
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from clef_nb.datasets.files import write_atomically
from clef_nb.datasets.texts import activity_texts, name_texts
from clef_nb.faces.people import sample_subject
from clef_nb.faces.render import Shot, render
from clef_nb.figures.plots import plot_pareto
from clef_nb.measure.intervals import resampled_t_intervals

IMAGES = Path('nbs/images')
STUDY = Path('data/studies/30_pairing.parquet')
STRATEGIES = ['no stage 1', 'subject', 'instance', 'sequence', 'texts only', 'activity', 'CLEF']

PAIN = {4: 3.5, 6: 3, 7: 4, 10: 2.5, 25: 2}
MORE_PAIN = {4: 4.5, 6: 4, 7: 4.5, 9: 3, 25: 3.5, 26: 2}
WHO, WHAT, INK = '#b34700', '#0a6aa8', '#444'
ABOUT = (
    'Two views of one image, or two frames of one video, share the subject. Two subjects in one'
    ' activity share what they do. Stage 1 draws images of one activity together and to the'
    ' sentence of the activity. Stage 2 compares an image with names of action units; descriptions'
    ' shape the names.'
)

# ------------------------------------------------------------------ pieces of the drawing


def jpeg(who, pose, flip, shot):
    "A rendered face as the text of a JPEG"
    image = render(who, pose, Shot(**shot), 120)
    image = np.ascontiguousarray(image[:, ::-1] if flip else image)
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'jpeg', quality=82)
    return base64.b64encode(file.getvalue()).decode()


def face(x, y, edge, who, pose, flip=False, size=88, **shot):
    "A rendered face in a frame"
    place = f'x="{x}" y="{y}" width="{size}" height="{size}"'
    return (
        f'<image {place} href="data:image/jpeg;base64,{jpeg(who, pose, flip, shot)}"/>'
        f'<rect {place} rx="3" fill="none" stroke="{edge}" stroke-width="4"/>'
    )


def text(x, y, words, size=19, colour='#222', anchor='middle', weight=400):
    "A line of text"
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
        f' font-weight="{weight}">{words}</text>'
    )


def heading(y, words):
    "The title of a part"
    return text(24, y, words, 23, anchor='start', weight=700)


def tower(x, y, kind, width=112, height=60):
    "A box that says which tower it is"
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="#eef2f6"'
        f' stroke="{INK}"/>'
        + text(x + width / 2, y + height / 2 - 4, kind)
        + text(x + width / 2, y + height / 2 + 18, 'tower')
    )


def arrow(x1, y1, x2, y2, colour=INK, both=False):
    "An arrow, with a head at one end or at both"
    tip = 'ink' if colour == INK else 'what'
    start = f' marker-start="url(#{tip})"' if both else ''
    return (
        f'<path d="M{x1} {y1}L{x2} {y2}" stroke="{colour}" stroke-width="3"'
        f' marker-end="url(#{tip})"{start}/>'
    )


def arrow_head(name, colour):
    "The definition of a head"
    return (
        f'<marker id="{name}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="5"'
        ' markerHeight="5" orient="auto-start-reverse">'
        f'<path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
    )


# ------------------------------------------------------------------ the three parts


def pairs(ann, bob):
    "Three kinds of pairs, and what each shares"
    kinds = [
        ('one image,', 'two views', WHO, (ann, PAIN), (ann, PAIN, True)),
        ('one subject,', 'one video', WHO, (ann, PAIN), (ann, MORE_PAIN)),
        ('two subjects,', 'one activity', WHAT, (ann, PAIN), (bob, MORE_PAIN)),
    ]
    parts = [heading(38, 'Pairs: what may attract each other?')]
    for i, (first, second, colour, left, right) in enumerate(kinds):
        x = 20 + 205 * i
        other_view = dict(zoom=1.15, exposure=1.15) if i == 0 else {}
        shared = 'share: who' if colour == WHO else 'share: what'
        parts += [
            face(x, 56, colour, *left),
            face(x + 98, 56, colour, *right, **other_view),
            text(x + 93, 172, first),
            text(x + 93, 194, second),
            text(x + 93, 220, shared, colour=colour, weight=700),
        ]
    return parts


def stage_1(ann, bob):
    "Images of one activity attract each other and its sentence"
    sentence = activity_texts('bp4d')['T6'].split('. ')[0].split(' for ')[0]
    return [
        heading(276, 'Stage 1: what people were doing'),
        face(24, 294, WHAT, ann, PAIN),
        face(24, 396, WHAT, bob, MORE_PAIN),
        arrow(116, 338, 172, 366),
        arrow(116, 440, 172, 412),
        tower(180, 359, 'image'),
        text(490, 316, f'“{sentence}”'),
        arrow(490, 326, 490, 354),
        tower(434, 359, 'text'),
        arrow(300, 389, 426, 389, WHAT, True),
        text(363, 376, 'attract', colour=WHAT, weight=700),
        text(400, 452, 'All images of one activity attract each'),
        text(400, 476, 'other and its sentence, whoever it is.'),
    ]


def stage_2(bob):
    "A face is compared with the name of an action unit"
    before, after = name_texts(['AU4'])[0].split('with')
    return [
        heading(544, 'Stage 2: what faces show'),
        face(24, 588, WHAT, bob, MORE_PAIN),
        arrow(116, 632, 172, 632),
        tower(180, 602, 'image'),
        tower(434, 602, 'text'),
        arrow(300, 632, 426, 632, WHAT, True),
        text(363, 619, 'compare', colour=WHAT, weight=700),
        text(490, 542, f'“{before}'),
        text(490, 566, f'with{after}”'),
        arrow(490, 574, 490, 597),
        arrow(490, 704, 490, 668),
        text(490, 726, 'descriptions shape the names', 18),
        text(24, 706, 'Similarity says which', 18, anchor='start'),
        text(24, 728, 'action units are there.', 18, anchor='start'),
    ]


def method():
    "The method as an SVG"
    rng = np.random.default_rng((2023, 14))
    ann, bob = sample_subject(rng, 'F001'), sample_subject(rng, 'M001')
    parts = [
        f'<title>CLEF: pairs, stage 1, stage 2</title><desc>{ABOUT}</desc>',
        f'<defs>{arrow_head("ink", INK)}{arrow_head("what", WHAT)}</defs>',
        '<rect x="1" y="1" width="638" height="758" rx="12" fill="#fff" stroke="#ccc"/>',
        *pairs(ann, bob),
        '<path d="M24 240H616M24 508H616" stroke="#ccc"/>',
        *stage_1(ann, bob),
        *stage_2(bob),
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 760" width="640" height="760"'
        ' role="img" font-family="system-ui, Helvetica, Arial, sans-serif" fill="none">'
        f'{"".join(parts)}</svg>\n'
    )


# ------------------------------------------------------------------ the headline


def headline():
    "Identity preference against AU recognition, for each pairing strategy of study 30"
    found = resampled_t_intervals(pd.read_parquet(STUDY), ['pairs', 'measure'], overlap=14 / 27)
    found = found.set_index(['pairs', 'measure'])
    points = {}
    for strategy in STRATEGIES:
        x, y = found.loc[(strategy, 'id_preference')], found.loc[(strategy, 'au_auroc')]
        points[strategy] = dict(
            x=x['value'], x_low=x['low'], x_high=x['high'],
            y=y['value'], y_low=y['low'], y_high=y['high'],
        )  # fmt: skip
    return plot_pareto(
        pd.DataFrame(points).T,
        title='Pairs across subjects that share an activity leak least',
        ylabel='AU AUROC of a linear probe',
    )


def main():
    "Write both"
    with write_atomically(IMAGES / 'method.svg') as part:
        part.write_text(method(), encoding='utf-8')
    figure = headline()
    with write_atomically(IMAGES / 'headline.png') as part:
        figure.savefig(part, dpi=100)
    plt.close(figure)


if __name__ == '__main__':
    main()
