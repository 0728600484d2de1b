"""All sections of params.yaml side by side, and the table of which option lives where."""

from functools import cache

from pydantic import Field

from axolotl_core.params.adapter import Adapter
from axolotl_core.params.datasets import Dataset
from axolotl_core.params.evaluation import Evaluation
from axolotl_core.params.export import Export
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.params.packing import Packing
from axolotl_core.params.prompt import Prompt
from axolotl_core.params.section import Section
from axolotl_core.params.tokenizer import Tokenizer
from axolotl_core.params.tracking import Tracking
from axolotl_core.params.training import Training


class Params(Section):
    """A full params.yaml. Functions take a section or the values they need, never this."""

    datasets: dict[str, Dataset] = Field(min_length=1)
    tokenizer: Tokenizer = Tokenizer()
    prompt: Prompt = Prompt()
    packing: Packing = Packing()
    model: Model
    adapter: Adapter = Adapter()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    export: Export = Export()
    machine: Machine = Machine()
    tracking: Tracking = Tracking()


SECTIONS: dict[str, type[Section]] = {
    name: Dataset if name == "datasets" else field.annotation  # type: ignore[misc]
    for name, field in Params.model_fields.items()
}


@cache
def section_of() -> dict[str, str]:
    """Option name → section. Names are unique over all sections but `datasets` (a test holds that)."""
    return {option: name for name, kind in SECTIONS.items() if name != "datasets" for option in kind.model_fields}
