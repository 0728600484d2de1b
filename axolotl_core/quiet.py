"""Libraries without the notices that are not for our users. Imported for its effect, before them: peft and accelerate import
bitsandbytes, DeepSpeed and torchao wherever they are installed.
"""

import logging

for name in ("bitsandbytes", "DeepSpeed", "torch.distributed", "torchao", "torch.utils._pytree"):
    logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)  # DeepSpeed sets its own level on import
