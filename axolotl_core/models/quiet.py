"""transformers without its progress bars and without the notices that are not for our users. Imported for its effect."""

import warnings

from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()
# peft reads the old name of a property that transformers 5.23 has renamed
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
# transformers 5.23 has renamed it, and versions before know the old name only
warnings.filterwarnings("ignore", message="`gradient_checkpointing_enable` is deprecated", category=FutureWarning)
# torchao's states are tensors of a class of their own, which torch.compile caches without
warnings.filterwarnings("ignore", message="OptimState.* does not implement _stable_hash_for_caching", category=UserWarning)
# DeepSpeed calls torch.distributed by its old names
warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
# peft translates names of a mixture's experts into patterns, and not each of them is in each model
warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys", category=RuntimeWarning)
# a GPTQ base says how it is quantised, we say with which kernels
warnings.filterwarnings("ignore", message="You passed `quantization_config`", category=UserWarning)
