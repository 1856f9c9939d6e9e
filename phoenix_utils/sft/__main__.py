"""The SFT stage as a module, for `accelerate launch`: one process for each device, the same settings and result.

accelerate launch --config_file profiles/accelerate/fsdp.yaml -m phoenix_utils.sft paper --out runs/paper

The arguments are those of `phoenix sft`.
"""

import sys

from phoenix_utils.cli import main

sys.argv[1:1] = ["sft"]
main()
