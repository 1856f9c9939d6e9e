"""Phoenix: teach an open model another language, in five notebooks.

Importing this package is cheap on purpose; torch and its friends load in the stage that needs them.
"""

__version__ = "0.1.0"
