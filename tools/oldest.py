"""Print the oldest allowed version of each requirement in settings.ini, as constraints for pip.

`oldest.py > oldest.txt`, then `pip install -c oldest.txt -e '.[all,dev]'`.
"""

import re
from configparser import ConfigParser

LISTS = 'requirements', 'plots_requirements', 'widgets_requirements', 'notebooks_requirements'


def oldest(path='settings.ini'):
    "Name -> oldest allowed version"
    config = ConfigParser()
    config.read(path, encoding='utf-8')
    found = {}
    for name in LISTS:
        for requirement in config['DEFAULT'][name].split():
            package, version = re.fullmatch(r'([\w-]+)>=([\d.]+)', requirement).groups()
            found[package] = version
    return found


if __name__ == '__main__':
    # `~=` takes the last patch of the oldest version, which has its mended faults
    for package, version in oldest().items():
        print(f'{package}~={version}' + ('.0' if version.count('.') < 2 else ''))
