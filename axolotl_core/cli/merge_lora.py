"""`python -m axolotl_core.cli.merge_lora`, as Axolotl was started."""

import sys

from axolotl_core.cli.old import answer

if __name__ == "__main__":
    sys.exit(answer("merge-lora"))
