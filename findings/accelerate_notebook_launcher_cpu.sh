#!/usr/bin/env bash
# accelerate 1.15.0 with torch 2.14.1, two processes of notebook_launcher on a machine without a GPU.
#
# Expected: the two processes train one model. Accelerator says that there are two, and after
# backward() both have the same, averaged gradient, as under torchrun.
# Seen: two processes start, RANK and WORLD_SIZE are set and torch.distributed has its process group,
# but a plain Accelerator() says num_processes 1 and DistributedType.NO, prepare() wraps nothing, and
# each process keeps the gradient of its own rows. No warning, no error: two models drift apart.
#
# Output seen:
#   rank 0: world size 2, process group True, num_processes 1, DistributedType.NO, gradient 1.0
#   rank 1: world size 2, process group True, num_processes 1, DistributedType.NO, gradient 2.0
#
# Until then: take gradients together with torch.distributed, or start the script by torchrun.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet accelerate==1.15.0 torch==2.14.1 numpy
cat > two.py <<'PYTHON'
import os

import torch
from accelerate import Accelerator, notebook_launcher


def work():
    accelerator = Accelerator()
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    model = accelerator.prepare(model)
    rank = int(os.environ['RANK'])
    # averaged over both processes, the gradient is 1.5
    accelerator.backward(model(torch.full((1, 1), rank + 1.0)).sum())
    print(
        f'rank {rank}: world size {os.environ["WORLD_SIZE"]},'
        f' process group {torch.distributed.is_initialized()},'
        f' num_processes {accelerator.num_processes}, {accelerator.distributed_type},'
        f' gradient {next(model.parameters()).grad.item():.1f}',
        flush=True,
    )


if __name__ == '__main__':
    notebook_launcher(work, num_processes=2)
PYTHON
CUDA_VISIBLE_DEVICES= env/bin/python two.py 2>/dev/null | grep '^rank' | sort > seen.txt
cat seen.txt
cat > expected.txt <<'TEXT'
rank 0: world size 2, process group True, num_processes 1, DistributedType.NO, gradient 1.0
rank 1: world size 2, process group True, num_processes 1, DistributedType.NO, gradient 2.0
TEXT
diff expected.txt seen.txt && echo 'as described'
