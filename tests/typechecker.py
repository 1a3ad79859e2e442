"""beartype for the import hook of conftest.py, with Python's own rule that an int will do for a float (PEP 484)."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
