"""The training loop when the power goes, when its checkpoint does not fit, in micro-batches, and
with frozen parts
"""

import functools
import io
import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from test_stages import study
from torch import nn
from torchvision.transforms import v2

from clef_nb.datasets.frames import FrameTable
from clef_nb.datasets.sampling import ShuffledBatches
from clef_nb.model import training
from clef_nb.model.augment import Augmentation
from clef_nb.model.stages import align, pretrain
from clef_nb.model.towers import load_model
from clef_nb.model.training import TrainSettings, check_micro_batch, in_micro_batches, train

START = 'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
if START == 'forkserver':
    multiprocessing.get_context(START).set_forkserver_preload(['clef_nb.model.stages'])

# ---- kill -9


class Dropped(nn.Module):
    "A tower with dropout and batch norm: random states and buffers must come back too"

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Linear(48, 16)
            self.norm = nn.BatchNorm1d(16)
            self.drop = nn.Dropout(0.5)
            self.last = nn.Linear(16, 3)

    def forward(self, x):
        return self.last(self.drop(F.relu(self.norm(self.first(x)))))


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)


def of_dropped(module):
    def losses(batch):
        y = module(
            batch.images.flatten(1) / 255.0
            + 0.1 * torch.randn(batch.size, 1, generator=batch.generator)[batch.part]
        )
        return dict(a=F.cross_entropy(y, batch.rows % 3), b=y.square().mean())

    return losses


SHORT = TrainSettings(steps=7, checkpoint_every=2, progress=False, seed=5)


def short(checkpoint, module=None, losses=None, images=IMAGES, batches=None, name=None, **changes):
    "A training of 7 steps with the small tower"
    module = module or Dropped()
    same_run = changes.pop('same_run', None)
    return module, train(
        module,
        images,
        batches or ShuffledBatches(20, 8, 3),
        losses or of_dropped(module),
        replace(SHORT, checkpoint=checkpoint, **changes),
        same_run,
        name or 'training',
    )


def stage_1(checkpoint, augmentation=None):
    "A training of 4 steps with the towers of CLIP's kind"
    model = load_model(pretrained=None)
    settings = TrainSettings(4, 8, progress=False, checkpoint=checkpoint, checkpoint_every=2)
    return model, pretrain(
        model, *study(), settings=settings, augmentation=augmentation or Augmentation()
    )


def rotated(x):
    "An augmentation of torchvision, which draws from torch's own generator"
    return v2.RandomRotation(20)(x)


def stage_1_rotated(checkpoint):
    return stage_1(checkpoint, rotated)


WORK = dict(short=short, stage_1=stage_1, stage_1_rotated=stage_1_rotated)


def stop_here(told):
    "Say that the moment has come, and wait for the end"
    Path(told).touch()
    time.sleep(120)
    os._exit(9)


def arm(moment, told):
    """Make this process stop at a moment: ('step', k) in the middle of step k, ('save', k) when
    half of the k-th checkpoint is on the disk, ('rename', k) when all of it is
    """
    what, k = moment
    calls = []
    if what == 'step':
        # called in the middle of a step: gradients are there, weights have not moved
        backward = torch.Tensor.backward

        def half_a_step(*args, **kw):
            backward(*args, **kw)
            calls.append(1)
            if len(calls) == k + 1:
                stop_here(told)

        torch.Tensor.backward = half_a_step
    elif what == 'save':
        real = training.torch.save

        def save(x, f):
            calls.append(1)
            if len(calls) < k:
                return real(x, f)
            whole = io.BytesIO()
            real(x, whole)
            whole = whole.getvalue()
            f.write(whole[: len(whole) // 2])
            f.flush()
            stop_here(told)

        training.torch.save = save
    else:
        real_replace = os.replace

        def rename(*args):
            calls.append(1)
            if len(calls) == k:
                stop_here(told)
            real_replace(*args)

        os.replace = rename


def command(work, checkpoint, result, moment=None, told=None):
    torch.set_num_threads(1)
    if moment:
        arm(moment, told)
    module, log = WORK[work](checkpoint)
    torch.save(
        (
            module.state_dict(),
            log[[c for c in log if c.startswith('loss') or c in 'ab']].to_dict('list'),
            log['step'].tolist(),
        ),
        result,
    )


def child(*args):
    return multiprocessing.get_context(START).Process(target=command, args=args, daemon=True)


def run(*args):
    p = child(*args)
    p.start()
    p.join(100)
    if p.is_alive():
        p.kill()
        raise TimeoutError(args)
    assert p.exitcode == 0
    return torch.load(args[2], weights_only=False)


def wait_for(told, alive, seconds=100):
    end = time.monotonic() + seconds
    while not told.exists():
        assert alive() and time.monotonic() < end, 'the moment did not come'
        time.sleep(0.02)


def killed(folder, work, moment):
    "Run until the moment, kill -9, and say which files are left"
    told = folder / 'told'
    p = child(work, folder / 'run' / 'c.pt', folder / 'result', moment, told)
    p.start()
    try:
        wait_for(told, p.is_alive)
    finally:
        p.kill()
        p.join(20)
    assert p.exitcode == -signal.SIGKILL and not (folder / 'result').exists()
    return sorted(f.name for f in (folder / 'run').iterdir()) if (folder / 'run').exists() else []


def equal(a, b):
    return (
        a[0].keys() == b[0].keys()
        and all(torch.equal(v, b[0][k]) for k, v in a[0].items())
        and json.dumps(a[1:]) == json.dumps(b[1:])
    )


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('undisturbed')
    return {w: run(w, None, folder / w) for w in WORK}


MOMENTS = {  # what is left behind, and the step to resume from
    'in a step, before the first checkpoint': (('step', 1), [], 0),
    'between checkpoints': (('step', 3), ['c.pt'], 2),
    'while the first checkpoint is written': (('save', 1), ['.c.part.pt'], 0),
    'while the second checkpoint is written': (('save', 2), ['.c.part.pt', 'c.pt'], 2),
    'before the second checkpoint is renamed': (('rename', 2), ['.c.part.pt', 'c.pt'], 2),
}


@pytest.mark.parametrize(
    'work, moment',
    [
        *(('short', m) for m in MOMENTS),
        *(
            ('stage_1', m)
            for m in (
                'in a step, before the first checkpoint',
                'between checkpoints',
                'while the second checkpoint is written',
            )
        ),
    ],
)
def test_killed_and_resumed(tmp_path, undisturbed, work, moment):
    moment, left, step = MOMENTS[moment]
    assert killed(tmp_path, work, moment) == left
    file = tmp_path / 'run' / 'c.pt'
    assert step == (torch.load(file, weights_only=True)['step'] if file.exists() else 0)
    assert equal(run(work, file, tmp_path / 'result'), undisturbed[work])
    # what was left behind is gone
    assert [f.name for f in file.parent.iterdir()] == ['c.pt']


def test_killed_twice(tmp_path, undisturbed):
    assert killed(tmp_path, 'short', ('step', 3)) == ['c.pt']
    (tmp_path / 'told').unlink()
    # counted from where the second run began, at 2
    assert killed(tmp_path, 'short', ('step', 3)) == ['c.pt']
    assert torch.load(tmp_path / 'run' / 'c.pt', weights_only=True)['step'] == 4
    assert equal(run('short', tmp_path / 'run' / 'c.pt', tmp_path / 'result'), undisturbed['short'])


@pytest.mark.slow
@pytest.mark.parametrize('work', ['stage_1', 'stage_1_rotated'])
def test_the_same_command_in_a_new_python(tmp_path, undisturbed, work):
    """Nothing that changes from one start of Python to the next, such as the order of a set or the
    address of a function, matters
    """
    code = (
        'import sys; sys.path.insert(0, sys.argv[1]); import test_training as t;'
        ' t.command(sys.argv[4], t.Path(sys.argv[2]), sys.argv[3], *((("save", 2), sys.argv[5]) if'
        ' len(sys.argv) > 5 else ()))'
    )
    args = [
        sys.executable,
        '-c',
        code,
        str(Path(__file__).parent),
        str(tmp_path / 'run' / 'c.pt'),
        str(tmp_path / 'result'),
        work,
    ]

    def env(seed):
        return {
            **os.environ,
            'PYTHONHASHSEED': seed,
            'PYTHONPATH': os.pathsep.join(
                [str(Path(training.__file__).parents[2]), os.environ.get('PYTHONPATH', '')]
            ),
        }

    p = subprocess.Popen([*args, str(tmp_path / 'told')], env=env('1'))
    try:
        wait_for(tmp_path / 'told', lambda: p.poll() is None)
    finally:
        os.kill(p.pid, signal.SIGKILL)
        p.wait(20)
    assert p.returncode == -signal.SIGKILL
    subprocess.run(args, env=env('2'), timeout=100, check=True)
    assert equal(torch.load(tmp_path / 'result', weights_only=False), undisturbed[work])


def test_a_run_that_is_over_stays_as_it_is(tmp_path):
    file = tmp_path / 'c.pt'
    first, log = short(file)
    bytes = file.read_bytes()
    time_ = file.stat().st_mtime_ns
    again, log2 = short(file, losses=lambda batch: pytest.fail('a step too many'))
    assert (
        all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())
        and log2.equals(log)
        and file.read_bytes() == bytes
        and file.stat().st_mtime_ns == time_
    )


# ---- checkpoints that do not fit


def cut(file, module=None, **kw):
    "A run that ended after its first checkpoint"
    module = module or Dropped()
    losses = of_dropped(module)

    def ends(batch):
        if file.exists():
            raise KeyboardInterrupt
        return losses(batch)

    with pytest.raises(KeyboardInterrupt):
        short(file, module, ends, **kw)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (str(Bomb.folder),)


OTHER = {
    'lr': (dict(lr=2e-3), 'lr: 0.001 there, 0.002 here'),
    'steps': (dict(steps=9), 'steps: 7 there, 9 here'),
    'seed': (dict(seed=6), 'seed: 5 there, 6 here'),
    'weight decay': (dict(weight_decay=0.1), 'weight_decay'),
    'frozen parts': (dict(freeze=('batch_norm',)), 'freeze'),
    'stage': (dict(name='x'), "stage: 'training' there, 'x' here"),
    'what else makes a run the same': (dict(same_run=dict(batch_size=9)), 'batch_size'),
    'images': (dict(images=255 - IMAGES), 'images'),
    'fewer images': (dict(images=IMAGES[:-1], batches=ShuffledBatches(19, 8, 3)), 'images'),
}


@pytest.mark.parametrize('name', OTHER)
def test_the_checkpoint_of_another_run(tmp_path, name):
    how, says = OTHER[name]
    file = tmp_path / 'c.pt'
    cut(file)
    module = Dropped()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    bytes = file.read_bytes()
    with pytest.raises(
        ValueError,
        match=f'c.pt is the checkpoint of another run .*{says}.*remove it, or give another path',
    ):
        short(file, module, **how)
    assert (
        all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
        and file.read_bytes() == bytes
    )


def test_other_first_weights(tmp_path):
    cut(tmp_path / 'c.pt')
    module = Dropped()
    with torch.no_grad():
        module.last.weight[0, 0] += 0.01
    with pytest.raises(ValueError, match='another run .first weights'):
        short(tmp_path / 'c.pt', module)
    with pytest.raises(ValueError, match='another run .first weights'):
        short(tmp_path / 'c.pt', nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), lambda b: {})


def test_another_table(tmp_path):
    images, t = study()
    settings = TrainSettings(2, 8, progress=False, checkpoint=tmp_path / 'c.pt', checkpoint_every=1)

    def run(stage=pretrain, table=t, **kw):
        return stage(load_model(pretrained=None), images, table, settings=settings, **kw)

    run()
    swapped = t.df.copy()
    swapped.loc[[4, 35], 'activity'] = swapped.loc[[35, 4], 'activity'].to_numpy()
    for other in (
        FrameTable(swapped, 'nowhere', activities=t.activities),
        FrameTable(t.df, 'nowhere', activities={**t.activities, 'T0': 'Something else'}),
    ):
        with pytest.raises(ValueError, match='another run .table'):
            run(table=other)
    with pytest.raises(ValueError, match='another run .positives'):
        run(positives='subject')
    with pytest.raises(ValueError, match='another run .stage'):
        run(align)
    for augmentation in None, rotated, Augmentation(rotate=1.0):
        with pytest.raises(ValueError, match='another run .augmentation'):
            run(augmentation=augmentation)
    settings = replace(settings, temperature=0.2)
    with pytest.raises(ValueError, match='another run .temperature'):
        run()


def test_settings_are_written_without_addresses():
    layered = [v2.Lambda(rotated), rotated]
    for value in rotated, layered, functools.partial(rotated, x=3), Dropped().forward:
        assert '0x' not in training._written(value)
    assert training._written(Augmentation(hue=0)) != training._written(Augmentation())
    assert training._written(v2.RandomRotation(5)) != training._written(v2.RandomRotation(6))


def test_damaged_checkpoints(tmp_path):
    file = tmp_path / 'c.pt'
    cut(file)
    good = file.read_bytes()
    Bomb.folder = tmp_path / 'bomb'
    other = io.BytesIO()
    torch.save([1, 2], other)
    code = io.BytesIO()
    torch.save(dict(key={}, step=Bomb()), code)
    for bad in (
        good[: len(good) // 2],
        good[:-30],
        b'',
        b'no checkpoint',
        other.getvalue(),
        code.getvalue(),
        pickle.dumps(Bomb()),
        pickle.dumps(dict(key={}, step=1)),
    ):
        file.write_bytes(bad)
        module = Dropped()
        with pytest.raises(ValueError, match=r'c\.pt'):
            short(file, module)
        assert file.read_bytes() == bad and not Bomb.folder.exists() and not module.training
    # it would have gone off
    pickle.loads(pickle.dumps(Bomb()))
    assert Bomb.folder.exists()
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match='cannot be read'):
        short(file)


# ---- in micro-batches


def vit():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.CLIP(
            embed_dim=16,
            vision_cfg=dict(image_size=16, layers=2, width=32, head_width=16, patch_size=8),
            text_cfg=dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=1),
        )


def gradients(model):
    return {k: w.grad.clone() for k, w in model.named_parameters() if w.grad is not None}


def one_step(monkeypatch, model, **settings):
    "(log, gradients of one step, by which AdamW is kept from going)"
    found = {}
    real = training.sum_gradients
    settings = TrainSettings(1, 11, progress=False, **settings)
    with monkeypatch.context() as m:
        m.setattr(training, 'sum_gradients', lambda x: (real(x), found.update(gradients(x))))
        log = pretrain(model, *study(), settings=settings)
    return log, found


@pytest.mark.parametrize('micro_batch', [1, 4, 22, 100])
@pytest.mark.parametrize('tower', ['vit', 'residual, batch norm frozen'])
def test_micro_batches_give_the_gradients_of_the_whole_batch(monkeypatch, micro_batch, tower):
    make = vit if tower == 'vit' else functools.partial(load_model, pretrained=None)
    freeze = () if tower == 'vit' else ('batch_norm',)
    log, whole = one_step(monkeypatch, make(), freeze=freeze)
    log2, parts = one_step(monkeypatch, make(), freeze=freeze, micro_batch=micro_batch)
    assert log2['loss'][0] == pytest.approx(log['loss'][0], rel=1e-6)
    assert whole.keys() == parts.keys() and len(whole) > 20
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in whole.values()))
    far = math.sqrt(sum(float((parts[k] - g).double().square().sum()) for k, g in whole.items()))
    assert far < 1e-5 * norm


def test_micro_batches_hold_the_activations_of_one():
    tower = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 4))
    x = torch.randn(60, 8)

    def held(micro_batch):
        count = []

        def keep(t):
            count.append(t.numel() if t.shape[0] in (60, 6) else 0)
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = in_micro_batches(tower, micro_batch, x)
        y.sum().backward()
        assert y.shape == (60, 4)
        return sum(count)

    assert held(6) < held(None) / 5


def test_dropout_in_micro_batches_is_drawn_alike_both_times():
    drop = nn.Dropout(0.5)
    w = torch.ones(40, requires_grad=True)
    x = torch.ones(40, 40)
    y = in_micro_batches(lambda x: drop(x * w), 7, x)
    torch.rand(3)
    y.sum().backward()
    assert torch.equal(w.grad, y.detach().sum(0)) and 0 < (y == 0).float().mean() < 1


def test_batch_norm_in_micro_batches_is_refused():
    for freeze in (), ('token_embedding',):
        settings = TrainSettings(1, 8, progress=False, micro_batch=4, freeze=freeze)
        with pytest.raises(
            ValueError, match='batch norm, whose statistics differ from micro-batch to micro-batch'
        ):
            pretrain(load_model(pretrained=None), *study(), settings=settings)
    check_micro_batch(vit(), TrainSettings(micro_batch=4))
    check_micro_batch(load_model(pretrained=None), TrainSettings())
    for micro_batch in 0, -3:
        with pytest.raises(ValueError, match=f'micro_batch is {micro_batch}'):
            in_micro_batches(lambda x: x, micro_batch, torch.ones(3))


# ---- settings


@pytest.mark.parametrize(
    'name, values, says',
    [
        ('steps', (0, -1, 1.5, True, None, '3'), 'an integer, 1 or more'),
        ('batch_size', (1, 2.0, None), 'an integer, 2 or more'),
        ('seed', (-1, 0.5), 'an integer, 0 or more'),
        ('checkpoint_every', (0, None), 'an integer, 1 or more'),
        ('micro_batch', (0, -3, 2.5), 'an integer, 1 or more, or None'),
        ('activities_per_batch', (1, 0), 'an integer, 2 or more, or None'),
        ('lr', (-1e-3, math.nan, math.inf), '0 or more, and finite'),
        ('weight_decay', (-1, math.nan), '0 or more, and finite'),
        ('temperature', (0, -0.1, math.nan), 'above 0, and finite'),
        ('freeze', ('batch_norm', ('head',), 'x'), 'a tuple of parts, from token_embedding, batch'),
    ],
)
def test_settings_that_cannot_be(name, values, says):
    for value in values:
        with pytest.raises(ValueError, match=f'{name} is .*; it must be {says}'):
            TrainSettings(**{name: value})


def test_settings_of_numpy_will_do():
    settings = TrainSettings(np.int64(3), np.int32(4), np.float32(1e-3), seed=np.uint8(1))
    assert settings.steps == 3 and hash(settings) == hash(replace(settings))


# ---- frozen parts


@pytest.mark.parametrize('stage', [pretrain, align])
def test_frozen_parts(stage):
    m = load_model(pretrained=None)
    start = {k: v.clone() for k, v in m.state_dict().items()}
    settings = TrainSettings(2, 8, progress=False)
    stage(m, *study(), settings=replace(settings, freeze=('token_embedding', 'batch_norm')))
    changed = {k for k, v in m.state_dict().items() if not torch.equal(v, start[k])}
    assert 'token_embedding.weight' not in changed and len(changed) > 20
    assert not any('running' in k or 'num_batches' in k for k in changed)
    assert all(w.requires_grad for w in m.parameters()) and not any(x.training for x in m.modules())
    m = load_model(pretrained=None)
    stage(m, *study(), settings=settings)
    changed = {k for k, v in m.state_dict().items() if not torch.equal(v, start[k])}
    assert 'token_embedding.weight' in changed and any('running' in k for k in changed)


def test_what_was_frozen_thaws_after_an_error(tmp_path):
    m = load_model(pretrained=None)
    m.positional_embedding.requires_grad_(False)
    text = m.token_embedding
    (tmp_path / 'c.pt').write_bytes(b'x')
    frozen = TrainSettings(1, 8, progress=False, freeze=('token_embedding',))
    for kw in dict(lr=1e30, steps=3), dict(checkpoint=tmp_path / 'c.pt'):
        with pytest.raises(ValueError):
            pretrain(m, *study(), settings=replace(frozen, **kw))
        assert text.weight.requires_grad and not m.training
        assert not m.positional_embedding.requires_grad
    m = load_model(pretrained=None)
    text = m.token_embedding
    text.weight.requires_grad_(False)
    pretrain(m, *study(), settings=replace(frozen, lr=0.0))
    # it was not ours to thaw
    assert not text.weight.requires_grad


# ---- the loop


def test_waited_is_a_share(monkeypatch):
    module, log = short(None)
    assert (
        log['waited'].between(0, 1).all()
        and (log['images_per_s'] > 0).all()
        and log['step'].tolist() == list(range(7))
    )
    real = training.fetch
    monkeypatch.setattr(training, 'fetch', lambda *a: (time.sleep(0.05), real(*a))[1])
    slow = short(None)[1]['waited']
    # nobody reads ahead of the first batch
    assert slow.between(0, 1).all() and slow.iloc[0] > 0


def test_an_error_while_loading_ends_the_run(monkeypatch):
    real, calls = training.fetch, []

    def fetch(*a):
        calls.append(1)
        if len(calls) == 4:
            raise OSError('the disk is gone')
        return real(*a)

    monkeypatch.setattr(training, 'fetch', fetch)
    module = Dropped()
    steps = []
    losses = of_dropped(module)
    with pytest.raises(OSError, match='the disk is gone'):
        short(None, module, lambda b: steps.append(1) or losses(b))
    assert len(steps) == 3 and not module.training


def test_more_processes_than_rows(monkeypatch):
    from clef_nb.model import distributed

    for where in training, distributed:
        monkeypatch.setattr(where, 'rank_and_world_size', lambda: (0, 9))
    for name in 'broadcast_parameters', 'sum_gradients':
        monkeypatch.setattr(training, name, lambda module: None)
    monkeypatch.setattr(training, 'all_reduce_sum', lambda x: 9 * x)
    # 20 rows in batches of 7, 7 and 6
    with pytest.raises(
        ValueError, match='a batch of 7 rows cannot be shared by 9 processes; raise batch_size'
    ):
        short(None)


def test_the_generators_of_others_are_left_alone():
    torch.manual_seed(1)
    a = torch.rand(1)
    torch.manual_seed(1)
    short(None)
    assert torch.rand(1) == a
    one = short(None)[1]
    torch.rand(5)
    two = short(None)[1]
    assert one['loss'].equals(two['loss']) and not one['loss'].equals(
        short(None, seed=6)[1]['loss']
    )


def test_every_step_draws_its_own_noise():
    draws = []
    module = nn.Linear(1, 1)

    def losses(batch):
        draws.append((torch.rand(1).item(), torch.rand(1, generator=batch.generator).item()))
        return dict(a=module.weight.sum())

    short(None, module, losses)
    assert len(set(sum(draws, ()))) == 14
    with pytest.raises(ValueError, match='stopped at step 0, lr 0.001: the loss is nan'):
        short(None, module, lambda b: dict(a=module.weight.sum() * math.nan))


def test_single_precision_can_be_asked_for_at_any_time(monkeypatch):
    monkeypatch.setattr(training, '_multiplies_in_bf16', lambda device: True)
    cpu = torch.device('cpu')
    for value, expected in ((None, True), ('0', False), ('1', True)):
        monkeypatch.delenv('CLEF_BF16', raising=False)
        if value is not None:
            monkeypatch.setenv('CLEF_BF16', value)
        assert training.has_bf16(cpu) is expected
