"What the benchmarks share: the machine, and results that are written whole or not at all."
import os, platform

def cpu_model():
    try: return next(line.split(':', 1)[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name'))
    except (OSError, StopIteration): return platform.processor() or platform.machine()

def save(table, out):
    "Write a DataFrame as CSV"
    out.parent.mkdir(exist_ok=True); part = out.with_suffix('.part')
    table.to_csv(part, index=False); os.replace(part, out)
