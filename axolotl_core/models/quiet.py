"""transformers without its progress bars and without the notices that are not for our users. Imported for its effect."""

import warnings

from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()
# peft reads the old name of a property that transformers 5.23 has renamed
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
# DeepSpeed calls torch.distributed by its old names
warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
