"""DeepSpeed's ZeRO 1, 2 and 3, through accelerate."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from torch import Tensor, nn
from torch.optim import Optimizer

from axolotl_core.batches.batch import Inputs
from axolotl_core.distributed.layers import layers
from axolotl_core.distributed.optimizer_state import full_tensor, is_plain, unwrap_optimizer
from axolotl_core.distributed.sharded_files import Part, ShardedFiles
from axolotl_core.distributed.strategy import STATES, States, Strategy
from axolotl_core.errors import MachineError
from axolotl_core.models.precision import Precision
from axolotl_core.models.skeleton import BaseWeights


class DeepSpeed(Strategy):
    """Weights in the dtype of the forward pass, master weights in fp32 in DeepSpeed's optimizer, which scales fp16 losses itself."""

    name = "deepspeed"
    can_generate = False

    def __init__(self, accelerator: Accelerator, precision: Precision, max_grad_norm: float, notes: list[str]) -> None:
        super().__init__(accelerator, precision, max_grad_norm, notes)
        self.scaler = None

    @property
    def sharding(self) -> str:
        return f"zero{self.accelerator.state.deepspeed_plugin.zero_stage}"

    @property
    def shards_weights(self) -> bool:  # type: ignore[override]
        """ZeRO 3 does; with 1 and 2 each process has all weights."""
        return int(self.accelerator.state.deepspeed_plugin.zero_stage) == 3

    def prepare(self, objective: nn.Module, make_optimizer: Callable[[], Optimizer], weights: BaseWeights | None = None) -> None:
        if weights:
            import deepspeed

            config = self.accelerator.state.deepspeed_plugin.deepspeed_config
            dtype = self.precision.autocast or self.precision.frozen
            model: Any = objective.model
            for name, module in (*layers(model), ("", model)):
                weights.fill(module, name, self.device, send=False)  # zero.Init sends
                for parameter in module.parameters():
                    if not hasattr(parameter, "ds_id"):
                        parameter.data = parameter.data.to(dtype)
                deepspeed.zero.Init(module=module, config_dict_or_path=config, dtype=dtype)
            weights.end()
        super().prepare(objective, make_optimizer)

    @property
    def autocast(self) -> None:
        """None: DeepSpeed keeps the weights in the dtype of the forward pass."""
        return

    def clip(self, max_norm: float) -> Any:
        norm = self.accelerator.clip_grad_norm_([parameter for _, parameter in self.parameters()], max_norm)
        return 0.0 if norm is None else norm

    def update(self, finite: Tensor) -> None:  # noqa: ARG002
        """DeepSpeed has made the update with the backward pass."""
        self.optimizer.step()

    def init_optimizer_state(self, inputs: Inputs) -> None:
        """DeepSpeed has no state before its first step, so it gets one that changes nothing."""
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        with self.micro_batch(last=True):
            self.backward(self.objective(inputs.untrained()))
        self.step()

    def end_prefetch(self) -> None:
        """ZeRO 3 may be fetching weights ahead, which can neither be gathered nor partitioned until they are there."""
        self.objective.empty_partition_cache()

    @torch.no_grad()
    def round_weights(self, dtype: torch.dtype) -> None:
        self.end_prefetch()
        for _, parameter in self.parameters():
            with _gathered(parameter):
                parameter.copy_(parameter.to(dtype))

    def full_weights(self, *, frozen: bool = False, patient: bool = False) -> Iterator[tuple[str, Tensor]]:
        self.end_prefetch()
        yield from super().full_weights(frozen=frozen, patient=patient)

    def full_weight(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        if (master := safe_get_full_fp32_param(parameter)) is not None:
            return master.detach()
        with _gathered(parameter):  # a frozen one
            return parameter.detach().clone()

    @property
    def shards_state(self) -> bool:  # type: ignore[override]
        """Each stage of ZeRO does."""
        return True

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        return getattr(parameter, "ds_shape", parameter.shape)

    def local_range(self, parameter: nn.Parameter) -> tuple[int, int]:
        whole: Any = parameter
        if hasattr(parameter, "ds_id"):  # ZeRO 3: parts of one length, of which the last ones may reach beyond the end
            length = whole.partition_numel()
            start = min(self.rank * length, whole.ds_numel)
            return start, min(length, whole.ds_numel - start)
        if whole._hp_mapping is None:  # ZeRO 1 and 2: parts of many parameters one behind the other
            return 0, 0
        return whole._hp_mapping.lp_fragment_address.start, whole._hp_mapping.lp_fragment_address.numel

    def local_weight(self, parameter: nn.Parameter) -> Tensor:
        return self._master(parameter, None)

    def _master(self, parameter: Any, key: str | None) -> Tensor:
        """1-D, what this process has in fp32: the weights, or the optimizer's state of them."""
        _, length = self.local_range(parameter)
        if hasattr(parameter, "ds_id"):
            zero = parameter._z3_optimizer  # whose own function for this copies what is offloaded to the GPU
            local, _ = zero._get_fp32_opt_state_partition(parameter, release_swap_buffers=True, optim_state_key=key)
            return (local.detach().clone() if zero.swap_optimizer else local.detach())[:length]
        if not length:
            return torch.empty(0)
        return parameter._hp_mapping.get_hp_fragment(key).detach()

    def _set_master(self, parameter: Any, key: str | None, numbers: Tensor) -> None:
        if not hasattr(parameter, "ds_id"):
            self._master(parameter, key).copy_(numbers)
            return
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        padded = torch.zeros(parameter.partition_numel())
        padded[: len(numbers)] = numbers
        if key:
            safe_set_local_optimizer_state(parameter, padded, key)
        else:
            safe_set_local_fp32_param(parameter, padded)

    def load_weights(self, files: ShardedFiles) -> None:
        self.end_prefetch()
        super().load_weights(files)

    def set_weight(self, parameter: nn.Parameter, numbers: Tensor) -> None:
        self._set_master(parameter, None, numbers)
        whole = self.full_weight(parameter)
        with _gathered(parameter):
            parameter.copy_(whole)

    def state_parts(self) -> tuple[dict[str, Part], States]:
        step = next((state["step"] for state in unwrap_optimizer(self.optimizer).state.values() if "step" in state), None)
        parts = {
            f"{STATES}{name}/{key}": self.part(parameter, self._master(parameter, key))
            for name, parameter in self.parameters()
            for key in self._state_keys()
        }
        return parts, {name: {} if step is None else {"step": full_tensor(step)} for name, _ in self.parameters()}

    def _state_keys(self) -> list[str]:
        """Of the optimizer's state that has a number for each weight."""
        states = unwrap_optimizer(self.optimizer).state.items()
        return list(
            dict.fromkeys(key for flat, state in states for key, value in state.items() if is_plain(value) and value.shape == flat.shape)
        )

    def load_states(self, files: ShardedFiles, rest: States) -> None:
        for name, parameter in self.parameters():
            for key in files.below(f"{STATES}{name}/"):
                self._set_master(parameter, key, files.read(f"{STATES}{name}/{key}", *self.local_range(parameter)))
            if "step" in rest[name]:
                self._set_step(rest[name]["step"])

    def _set_step(self, step: Any) -> None:
        for state in unwrap_optimizer(self.optimizer).state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"].copy_(step)
            else:
                state["step"] = step


def _gathered(parameter: nn.Parameter) -> Any:
    """The parameter is gathered in this block and partitioned again after it, as rank 0 has changed it: ZeRO 3 only."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


def plugin(settings: dict[str, Any], precision: Precision, max_grad_norm: float, model: Any) -> DeepSpeedPlugin:
    """accelerate's settings. Every `auto` of the file is replaced: bucket sizes by the model's width, as transformers does, the
    rest by params.yaml. Raises MachineError where the package is missing."""
    width = model.config.get_text_config().hidden_size
    zero = dict(settings["zero_optimization"])
    sizes = {
        "reduce_bucket_size": width * width,
        "stage3_prefetch_bucket_size": int(0.9 * width * width),
        "stage3_param_persistence_threshold": 10 * width,
    }
    zero |= {key: size for key, size in sizes.items() if zero.get(key) == "auto"}
    config = {
        **settings,
        "zero_optimization": zero,
        "bf16": {"enabled": torch.bfloat16 in (precision.autocast, precision.trained)},
        "fp16": {**settings.get("fp16", {}), "enabled": precision.scaled},
        "gradient_clipping": max_grad_norm,
        "gradient_accumulation_steps": 1,
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    try:
        return DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=False)
    except ImportError as error:
        raise MachineError(f"machine.deepspeed: the package is missing ({error}); pip install 'axolotl[deepspeed]'") from None
