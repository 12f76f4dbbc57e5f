"""Messages of the library, which name arguments of Python, in the words of a command line: `overwrite=True` is
`--overwrite` there.
"""

import re
from collections.abc import Collection

# What is called otherwise here, or is said without an argument.
_WORDS = {
    "pass calibration=FILE": "name a file with --calibration-texts",
    "pass Calibration.of_texts(texts)": "name a file with --calibration-texts",
    "pass validation=0.05 to set a share aside": "set a share aside with --set-aside 0.05",
    "pass train=FILE": "name files with --train-data",
    "name local files": "name local files with --data",
}
_CALL = re.compile(r"(?<![\w/])[A-Z]\w*\((\w+=[^()]*)\)")  # Budget(uniform=True, keep_heads=True)
_GIVEN = re.compile(r"(?<![\w/.\"'-])(\w+)=(True|False|…|[A-Z]+\b|\d[\d.]*\d|\d+)(?![\w/])")
_NAME = re.compile(r"(?<![\w/.\"'=-])([a-z]+(?:_[a-z]+)+)(?![\w/\"'=(-])(?!\.\w)")


def in_flags(message: str, names: Collection[str]) -> str:
    """`message` with flags in place of arguments whose names are `names`; one that names flags already stays as it is.

    A setting and its value become a flag; a name alone does where it has an underscore, so that it is no plain word.
    """
    if re.search(r"(?<!\w)--[a-z]", message):
        return message
    for words, ours in _WORDS.items():
        message = message.replace(words, ours)
    message = _CALL.sub(lambda call: call[1].replace(", ", " ") if _all_known(call[1], names) else call[0], message)
    message = _GIVEN.sub(lambda given: _flag(given[1], given[2]) if given[1] in names else given[0], message)
    return _NAME.sub(lambda name: _dashed(name[1]) if name[1] in names else name[0], message)


def _all_known(given: str, names: Collection[str]) -> bool:
    return all(entry.partition("=")[0] in names for entry in given.split(", "))


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")


def _flag(name: str, value: str) -> str:
    if value == "True":
        return _dashed(name)
    return f"--no-{name.replace('_', '-')}" if value == "False" else f"{_dashed(name)} {value}"
