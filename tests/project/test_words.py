"""One word for one thing, and the field's word: what the project once called otherwise stays away.

The table is that of the style guide. Notebooks (prose and code), modules, tools, tests, benchmarks
and the pages of the repository are read; kept outputs are not.
"""

import json
import re

import pytest
from browser import ROOT

INSTEAD = {
    r'pictures?': 'image',
    r'without colou?r|mirror images?|mirrored': 'grayscale, horizontal flip',
    r'supervised contrast': 'supervised contrastive loss (SupCon)',
    r'surprise of|surprisal': 'negative log-likelihood',
    r'ways? of (stage 1|making pairs|pairing)': 'pairing strategy, variant',
    r'turn(s|ed)? (it|them|him|her)? ?round': 'reverses',
    r'stands? still|standing still': 'frozen',
    r'power cuts?|after a kill|goes on where it was|go on where it was': 'resumes',
    r'to the (last )?bit': 'bit-exact',
    r'whole numbers?': 'integer',
    r'drawn evenly|draws evenly': 'samples',
    r'persons|strangers?': 'subjects, held-out subjects',
    r'tells? apart|told apart': 'distinguishes',
    r'hold(s|ing)? against|held against': 'compared with, checked against',
    r'reversed gradients?': 'gradient reversal',
    r'miniatures?': 'synthetic twin',
    r'AU[ _-]forms?': 'AU loss',
    r'bad days?': 'invalid input',
    r'stumps?': 'short final batch',
    r'how picky': 'how peaked',
    r'asks (an|the|your) embeddings?': 'evaluates an embedding',
    r'Recognisers?': 'Classifier',
}
WORDS = re.compile('|'.join(rf'\b(?:{words})\b' for words in INSTEAD), re.I)
HERE = 'tests/project/test_words.py'
# names of others, and a column of the results that were kept
ALLOWED = ('<picture', 'au_form')


def texts():
    "Path -> what a reader of the file reads"
    for path in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        if not any(part.startswith(('.', '_')) for part in path.relative_to(ROOT).parts):
            cells = json.loads(path.read_text(encoding='utf-8'))['cells']
            yield path, '\n'.join(''.join(cell['source']) for cell in cells)
    for pattern in (
        '*.md',
        'Makefile',
        'data/*.md',
        'data/datasets.csv',
        'benchmarks/*.md',
        '*/*.py',
    ):
        for path in sorted(ROOT.glob(pattern)):
            yield path, path.read_text(encoding='utf-8')
    for folder in ('tests', 'nbs/playground'):
        for path in sorted((ROOT / folder).rglob('*')):
            if path.suffix in ('.py', '.js', '.css') and path.relative_to(ROOT).as_posix() != HERE:
                yield path, path.read_text(encoding='utf-8')


def found(text):
    "(word, where it stands) of each old word of a text"
    for m in WORDS.finditer(text):
        line = text[text.rfind('\n', 0, m.start()) + 1 : m.end() + 40].partition('\n')[0]
        if not any(word in line for word in ALLOWED):
            yield m[0], line.strip()


def test_old_words_stay_away():
    bad = {}
    for path, text in texts():
        if path.name != 'CHANGELOG.md' and (old := list(found(text))):
            bad[path.relative_to(ROOT).as_posix()] = old
    assert not bad, '\n'.join(
        f'{path}: {word!r} in {line!r}' for path, old in bad.items() for word, line in old
    )


@pytest.mark.parametrize(
    'text, words',
    [
        ('One picture, two Miniatures.', ['picture', 'Miniatures']),
        ('It resumes; the towers are frozen.', []),
        ('supervised contrastive loss; supervised contrast', ['supervised contrast']),
        ('a person, personal', []),
    ],
)
def test_what_is_found(text, words):
    assert [word for word, _ in found(text)] == words
