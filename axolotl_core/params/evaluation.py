"""`evaluation`: what is measured on the finished model. An edit re-runs at most evaluate."""

from typing import Annotated

from pydantic import Field

from axolotl_core.params.section import Section, Supported


class Evaluation(Section):
    """What is measured on the finished model."""

    eval_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Rows a forward pass; unset: machine.micro_batch_size."""
    eval_table_size: Annotated[int, Field(ge=0)] = 3
    """Validation prompts that are answered by the model before and after."""
    eval_table_max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """Length of these replies, in tokens."""
    do_bench_eval: Annotated[bool, Supported()] = False
    """Multiple-choice benchmark."""
    bench_dataset: Annotated[str | None, Supported()] = None
    """Its dataset."""

    def without_effect(self) -> frozenset[str]:
        """Sums over tokens do not depend on how many rows are summed at once."""
        return frozenset({"eval_batch_size"})
