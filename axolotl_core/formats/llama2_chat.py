"""`llama2_chat`: conversations as Llama 2 Chat has them, with Meta's own system text where a row brings none.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
>>> print(load(Dataset(path="x"), None).read(row).marked)
[INST] <<SYS>>
Be kind.
<</SYS>>
<BLANKLINE>
Hi [/INST]⟦ Hello! ◼⟧
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.conversation import conversation_of
from axolotl_core.prompts.example import Example, Format, Row
from axolotl_core.prompts.messages import conversation, trained
from axolotl_core.prompts.wrap import no_style

COLUMNS = ("conversations",)
SYSTEM = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. Your answers should "
    "not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure that your responses are "
    "socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something not correct. If "
    "you don't know the answer to a question, please don't share false information."
)


def load(data: Dataset, style: str | None) -> Format:
    """Field `conversations`: a list of {"from", "value"} of `human` and `gpt`, the first may be `system`."""
    no_style("llama2_chat", style)
    template = conversation_of("llama-2")
    roles = {data.field_human or "human": "user", data.field_model or "gpt": "assistant"}
    train = trained(data.roles_to_train, roles)

    def read(row: Row) -> Example:
        system, turns = conversation(row, "from", "value", roles)
        turns = [(role, text.strip()) for role, text in turns]
        while turns and turns[-1][0] == "user":
            turns.pop()  # nobody answers it
        return template.write(system or SYSTEM, turns, train=train, train_prefix=data.train_role_prefix)

    return Format("llama2_chat", COLUMNS, read)
