"""`sharegpt`, `sharegpt.load_role`, `sharegpt.load_guanaco`: conversations of `human` and `gpt`, the first may be `system`.

`conversation` chooses the template, `field_human` and `field_model` rename the roles, `roles_to_train` and
`train_role_prefix` say what is trained besides the answers and their ends. `load_role` reads `role` and `value`,
`load_guanaco` `role` (prompter, assistant) and `text`.

>>> from axolotl_core.params.datasets import Dataset
>>> row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
>>> print(load(Dataset(path="x", conversation="chatml"), None).read(row).marked)
<|im_start|>system
You are a helpful assistant.<|im_end|>
<|im_start|>user
Hi<|im_end|>
<|im_start|>assistant
⟦Hello!<|im_end|>⟧
<BLANKLINE>
"""

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.conversation import Conversation, conversation_of
from axolotl_core.prompts.example import Example, Format, Row, Vocabulary
from axolotl_core.prompts.messages import conversation, messages_of, trained
from axolotl_core.prompts.wrap import no_style

COLUMNS = ("conversations",)
ROLE_TOKENS = ("<|USER|>", "<|ASSISTANT|>")
"""StableLM's; where the vocabulary has both, they stand for the roles' names."""


def load(data: Dataset, style: str | None) -> Format:
    """Field `conversations`: a list of {"from", "value"}."""
    return _format("sharegpt", data, style, "from", "value", "human", "gpt")


def load_role(data: Dataset, style: str | None) -> Format:
    """Field `conversations`: a list of {"role", "value"}."""
    return _format("sharegpt.load_role", data, style, "role", "value", "human", "gpt")


def load_guanaco(data: Dataset, style: str | None) -> Format:
    """Field `conversations`: a list of {"role", "text"}, or {"from", "value"}, of `prompter` and `assistant`."""
    return _format("sharegpt.load_guanaco", data, style, "role", "text", "prompter", "assistant", others=("from", "value"))


def _format(
    name: str, data: Dataset, style: str | None, role: str, content: str, human: str, model: str, others: tuple[str, str] | None = None
) -> Format:
    if style != "chat":  # `sharegpt:chat` is the old spelling of sharegpt
        no_style(name, style, "choose the template with `conversation`")
    roles = {data.field_human or human: "user", data.field_model or model: "assistant"}
    train = trained(data.roles_to_train, roles)

    def written(template: Conversation) -> Format:
        def read(row: Row) -> Example:
            keys = others if others and _has(row, others[0]) else (role, content)
            system, turns = conversation(row, *keys, roles)
            return template.write(system, turns, train=train, train_prefix=data.train_role_prefix)

        return Format(name, COLUMNS, read, fit=fit)

    def fit(vocabulary: Vocabulary) -> Format:
        has_both = data.conversation is None and all(vocabulary.has(token) for token in ROLE_TOKENS)
        return written(template.with_role_tokens(*ROLE_TOKENS) if has_both else template)

    template = conversation_of(data.conversation)
    return written(template)


def _has(row: Row, key: str) -> bool:
    messages = messages_of(row, "conversations", '{"role", "text"}', 1)
    return key in messages[0]
