"""Phoenix: teach an open model another language, in five notebooks.

Importing this package is cheap on purpose; torch and its friends load in the stage that needs them.
"""

import logging

__version__ = "0.1.0"

# PEFT imports bitsandbytes wherever it is installed, which then tells every CPU user of an optional faster kernel; the
# notice would stand in each notebook. It comes at import, so it has to be silenced before anything else is imported.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
